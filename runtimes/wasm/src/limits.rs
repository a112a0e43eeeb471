//! Every bound of this program, with its unit and its reason. Time is bounded by the worker, but for preparing.

/// A packet on the control socket, in bytes: an order to prepare names two paths of at most 4 KiB each.
pub const PACKET_BYTES_MAX: usize = 16 << 10;

/// Modules prepared at a time. Each adds six mappings to every fork and to every child's end, some 9 µs together; a child
/// that loads a module itself takes 250 µs more (two shared cores of a virtual machine, 2026).
pub const PREPARED_MAX: usize = 8;

/// Processor time to prepare one module, in ms. Mapping and instantiating takes less than one; the compiler bounds what
/// an artifact can ask for, and this bounds what it does not.
pub const PREPARE_CPU_MS_MAX: u32 = 2000;

/// Memory that a prepared module begins with, in MiB. One that needs more is loaded by each child.
pub const PREPARE_MEMORY_MIB_MAX: usize = 64;

/// The settings of an invocation, in bytes. They keep a wrong length from being taken for an order to reserve 4 GiB, and
/// are far above what a descriptor holds.
pub const SETTINGS_BYTES_MAX: usize = 1 << 20;

/// The environment of an invocation, in bytes. Far above what a request can bring (headers are bounded by the gateway).
pub const ENVIRONMENT_BYTES_MAX: usize = 4 << 20;

/// Descriptors that come with an invocation: three streams, and rulesets, of which the kernel takes 16 at most; the worker
/// sends two.
pub const DESCRIPTORS_MAX: usize = 8;

/// The stack of WebAssembly frames, in bytes. wasmtime's own value, 512 KiB, ends recursive programs earlier than
/// elsewhere; the main thread has 8 MiB (RLIMIT_STACK), and what is not used costs nothing.
pub const WASM_STACK_BYTES_MAX: usize = 2 << 20;

/// Bytes that one element of a table takes.
pub const TABLE_ELEMENT_BYTES: usize = 8;

/// Buffers of one read or write of the module that are looked at, as many as the kernel takes (UIO_MAXIOV). A shorter
/// read or write than asked for is nothing that a caller may not see.
pub const BUFFERS_MAX: u32 = 1024;

/// Subscriptions of one poll_oneoff. A program has no more files open than RLIMIT_NOFILE lets it, and a clock for each.
pub const SUBSCRIPTIONS_MAX: u32 = 4096;

/// Length of a path that a module passes, in bytes: the kernel's own bound (PATH_MAX).
pub const PATH_BYTES_MAX: u32 = 4096;

/// Buffer for directory entries, in bytes: about a hundred names for one system call.
pub const ENTRIES_BYTES: usize = 4096;
