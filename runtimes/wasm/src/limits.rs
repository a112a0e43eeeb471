//! Every bound of this program, with its unit and its reason. Time is not among them: who starts us ends us.

/// The environment of an invocation, in bytes. Far above what a request can bring (headers are bounded by the gateway);
/// it keeps a wrong length from being taken for an order to reserve 4 GiB.
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
