//! Every bound of this program, with its unit and its reason. The worker bounds all time except that of preparing.

/// A packet on the control socket, in bytes: an order to prepare names two paths of at most 4 KiB each.
pub const PACKET_BYTES_MAX: usize = 16 << 10;

/// Modules prepared at a time. Each adds six mappings to every fork and to every child's end, some 9 µs together. A
/// child that loads a module itself takes 250 µs more (two shared cores of a virtual machine, 2026).
pub const PREPARED_MAX: usize = 8;

/// Processor time to prepare one module, in ms. Mapping and instantiating takes less than one. The compiler bounds most
/// demands of an artifact, and this bounds the rest.
pub const PREPARE_CPU_MS_MAX: u32 = 2000;

/// Initial memory of a prepared module, in MiB. Each child itself loads a module that needs more.
pub const PREPARE_MEMORY_MIB_MAX: usize = 64;

/// The settings of an invocation, in bytes: far above those of any descriptor. Without this bound a wrong length could
/// reserve 4 GiB.
pub const SETTINGS_BYTES_MAX: usize = 1 << 20;

/// The environment of an invocation, in bytes: far above that of any request (the gateway bounds headers).
pub const ENVIRONMENT_BYTES_MAX: usize = 4 << 20;

/// Descriptors that come with an invocation: three streams, and rulesets. The kernel takes 16 rulesets at most; the
/// worker sends two.
pub const DESCRIPTORS_MAX: usize = 8;

/// The stack of WebAssembly frames, in bytes. wasmtime's own value, 512 KiB, ends recursive programs earlier than
/// elsewhere. The main thread has 8 MiB (RLIMIT_STACK), and unused stack costs nothing.
pub const WASM_STACK_BYTES_MAX: usize = 2 << 20;

/// Bytes that one element of a table takes.
pub const TABLE_ELEMENT_BYTES: usize = 8;

/// Buffers of one read or write of the module that are used, as many as the kernel takes (UIO_MAXIOV). Every caller
/// must expect a shorter read or write than asked for.
pub const BUFFERS_MAX: u32 = 1024;

/// Subscriptions of one poll_oneoff. A program can have no more files open than RLIMIT_NOFILE allows, and a clock for
/// each.
pub const SUBSCRIPTIONS_MAX: u32 = 4096;

/// Length of a path that a module passes, in bytes: the kernel's own bound (PATH_MAX).
pub const PATH_BYTES_MAX: u32 = 4096;

/// Buffer for directory entries, in bytes: about a hundred names for one system call.
pub const ENTRIES_BYTES: usize = 4096;
