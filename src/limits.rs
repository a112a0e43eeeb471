//! The bounds that several files share, and those that tests make smaller, each with its unit and its reason.
//!
//! Nothing in this program waits, grows or repeats without a bound. A bound that one file alone uses stands in that file.
//! A value that a user may change is a setting (settings.rs); its default or permitted range stands here.

use std::ops::RangeInclusive;
use std::time::Duration;

// ---- Bodies of requests and responses ---------------------------------------------------------------------------

/// Bytes of a body that stay in memory; a longer one waits in an unlinked file (spool.rs). A pipe holds 64 KiB, so a
/// function gets a body of that size without a thread that feeds it.
pub const SPOOL_MEMORY_MAX: usize = 64 * 1024;
/// Bytes of a request body, default of FAAS_BODY_MAX. More gets 413.
pub const BODY_MAX_DEFAULT: u64 = 64 << 20;
/// Bytes of a response body, default of FAAS_ANSWER_MAX. More becomes 502.
pub const RESPONSE_MAX_DEFAULT: u64 = 1 << 30;
/// Bytes of all bodies that wait in files, default of FAAS_SPOOL_MAX. Over it: 503.
pub const SPOOL_MAX_DEFAULT: u64 = 4 << 30;

// ---- The HTTP server --------------------------------------------------------------------------------------------

/// Connections at once. Each costs a thread (about 20 KB of real memory while idle) and one descriptor, two while a
/// request is being served. Above it: 503 with Retry-After, at once.
pub const CONNECTIONS_MAX: usize = 4096;
/// Calls of functions at once, waiting or running: each can hold a slot and files. Enough for all slots of 16 workers of 8
/// and the default queue, with a quarter to spare.
pub const CALLS_MAX: usize = 512;
/// Bytes of a request head: request line and header lines. 64 KiB is four times the maximum that browsers and proxies
/// send (8 to 16 KiB of cookies); more gets 431.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Header lines in one head; more gets 431. Apache's default, LimitRequestFields, is the same 100.
pub const HEAD_FIELDS_MAX: usize = 100;
/// Bytes of the request target; more gets 414. RFC 9110 4.1 asks for at least 8,000.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Bytes of the method; the longest registered one, UPDATEREDIRECTREF, has 17. More gets 400.
pub const METHOD_BYTES_MAX: usize = 32;
/// Bytes of a client's X-Request-Id that stays the request's id; a W3C traceparent has 55.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// From a request's first byte to the end of its head; later gets 408.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A connection without a request is closed after this time.
pub const IDLE_MAX: Duration = Duration::from_secs(60);
/// Least rate of a body in bytes per second, after a grace of [`RATE_GRACE`]. Only time spent waiting for the client counts.
/// A slower client is cut off (408 while it sends). A 56k modem does 7,000. A client that was faster may pause for longer,
/// up to [`IDLE_MAX`].
pub const RATE_MIN_BYTES_PER_S: u64 = 1024;
/// A client may pause this long before the least rate applies.
pub const RATE_GRACE: Duration = Duration::from_secs(10);
/// After its last response a connection is half-closed, and further bytes of the client are discarded, so that a reset
/// does not destroy the response on its way: at most this many bytes, for at most this time. Many clients read nothing
/// before they have sent their whole body, so a 413 reaches them only if a body somewhat over the default maximum is
/// read.
pub const LINGER_BYTES_MAX: usize = 256 << 20;
pub const LINGER_MAX: Duration = Duration::from_secs(2);
/// One chunk-size line, extensions included, and all trailers of a chunked body together.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Time that `gateway --healthz` waits for a response.
pub const HEALTH_WAIT_MAX: Duration = Duration::from_secs(2);
/// A client that closes its sending side may have left, or may wait for the response (nc, ncat and socat do that): the
/// two look the same. The response may take this much longer; then the client counts as gone and its invocation is
/// cancelled.
pub const HALF_CLOSE_GRACE: Duration = Duration::from_millis(500);
/// Bytes that a connection's buffers start with: most heads and many responses fit. They grow to [`HEAD_BYTES_MAX`]
/// where reads fill them. The allocator keeps the memory that idle connections free, so this size, not their peak, is
/// their cost.
pub const RELAY_BYTES: usize = 4 * 1024;
/// An idle connection keeps its buffers this long, so that a busy one does not allocate for each request.
pub const BUFFERS_KEPT: Duration = Duration::from_secs(1);
/// Connections that the kernel holds until they are accepted (it cuts this to net.core.somaxconn). A client whose
/// connection does not fit tries again after a second, so this holds a burst of [`CONNECTIONS_MAX`].
pub const BACKLOG_MAX: i32 = 4096;
/// Pause before accepting again, after descriptors or memory ran out.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Rejected connections that stay until the client has had time to read its 503; the oldest goes first.
pub const REJECTED_MAX: usize = 128;
/// A client that connected just before the end of service has this long to send its first byte.
pub const DRAIN_FIRST_BYTE_MAX: Duration = Duration::from_millis(250);
/// Pause before the next request of a connection whose client was told to retry later (Retry-After). Each such client then
/// asks ten times a second, not thousands of times.
pub const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Descriptors that one call can need: two for its bodies in files, three towards the worker. And the number that the
/// gateway needs besides calls and connections. A low limit of open files lowers the bounds above.
pub const DESCRIPTORS_PER_CALL: usize = 5;
pub const DESCRIPTORS_RESERVED: usize = 128;
/// Stack of a connection's thread. The deepest call is a relay with two buffers on the heap.
pub const CONNECTION_STACK_BYTES: usize = 256 * 1024;

// ---- The registry -----------------------------------------------------------------------------------------------

/// Routes that are read from the registry. At about 600 bytes each this is 60 MB.
pub const ROUTES_MAX: usize = 100_000;
/// Bytes of a key and of a descriptor in the registry.
pub const ROUTE_KEY_BYTES_MAX: usize = 2048;
pub const DESCRIPTOR_BYTES_MAX: usize = 64 * 1024;

// ---- Descriptors ------------------------------------------------------------------------------------------------

/// MiB of one invocation. Below 16 no runtime starts; above 64 GiB it is a typing error.
pub const MEMORY_MIB: RangeInclusive<u64> = 16..=65_536;
pub const MEMORY_MIB_DEFAULT: u64 = 128;
/// Seconds of one invocation, from its spawn.
pub const TIMEOUT_S: RangeInclusive<u64> = 1..=3600;
pub const TIMEOUT_S_DEFAULT: u64 = 30;
/// Invocations of one function at once, over all workers; the default is no limit but the number of slots.
pub const MAX_INFLIGHT: RangeInclusive<u64> = 1..=65_536;
/// Calls of one function over its `max_inflight` that may wait.
pub const FUNCTION_QUEUE: RangeInclusive<u64> = 0..=CALLS_MAX as u64;
/// Paths in `write`; each costs a system call per invocation.
pub const WRITE_PATHS_MAX: usize = 64;
/// Folders in `dirs`; each is a descriptor of the function's process.
pub const DIRS_MAX: usize = 32;
/// Strings in `args`, and directives in `ini`.
pub const ARGS_MAX: usize = 64;
pub const INI_DIRECTIVES_MAX: usize = 64;
/// Variables in `env`.
pub const ENV_VARIABLES_MAX: usize = 256;

// ---- Workers and scheduling -------------------------------------------------------------------------------------

/// Gateways in one run dir: one, its successor, and old gateways that still drain.
pub const INSTANCES_MAX: u32 = 16;

/// Worker processes, and the highest worker id plus one.
pub const WORKERS: RangeInclusive<u64> = 1..=256;
pub const WORKERS_DEFAULT: u64 = 4;
/// Invocations at once per worker.
pub const WORKER_SLOTS: RangeInclusive<u64> = 1..=1024;
pub const WORKER_SLOTS_DEFAULT: u64 = 8;
/// Workers that are tried for one request when they die before they start it.
pub const TRIES_MAX: usize = 3;
/// Requests that wait for a slot, and the longest wait; then 503.
pub const QUEUE_MAX_DEFAULT: u64 = 256;
pub const QUEUE_TIMEOUT_MS_DEFAULT: u64 = 5000;
/// Range of Retry-After in seconds: at least the header's grain, at most a time that a person waits.
pub const RETRY_AFTER_S: RangeInclusive<u64> = 1..=60;
/// A worker measures itself and reports this often (the C original's figure).
pub const METRICS_PERIOD: Duration = Duration::from_millis(500);
/// Processes that a worker measures as its load, itself included.
pub const TREE_PROCESSES_MAX: usize = 4096;
/// A worker whose last sample is older is chosen only when no other is left: four reports were missed.
pub const SAMPLE_STALE: Duration = Duration::from_secs(2);
/// A worker whose last sample is older counts as hung; the supervisor kills and restarts it.
pub const SAMPLE_DEAD: Duration = Duration::from_secs(10);
/// Bytes of one line on the metrics stream; a sample has about 200.
pub const METRICS_LINE_BYTES_MAX: usize = 4096;
/// The supervisor checks the workers at this interval when nothing wakes it.
pub const SUPERVISOR_PERIOD: Duration = Duration::from_millis(500);
/// A worker that dies before it has announced itself is restarted after this pause, doubled each time up to the second.
pub const RESTART_PAUSE: Duration = Duration::from_millis(100);
pub const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A worker whose gateway has died ends its invocations and exits, at the latest after this time.
pub const GATEWAY_GONE_GRACE: Duration = Duration::from_millis(1500);
/// Time that SIGTERM leaves to running requests, default of FAAS_DRAIN_MS.
pub const DRAIN_MS_DEFAULT: u64 = 10_000;

// ---- The wire between gateway and worker ------------------------------------------------------------------------

/// Bytes of one frame's payload: an INVOKE with a head of [`HEAD_BYTES_MAX`] turned into environment variables, a
/// descriptor's `env`, and a body of [`SPOOL_MEMORY_MAX`].
pub const FRAME_BYTES_MAX: usize = 512 * 1024;
/// A gateway or worker that moves no byte for this long, although it should, counts as dead.
pub const LINK_STALL_MAX: Duration = Duration::from_secs(10);

// ---- Invocations ------------------------------------------------------------------------------------------------

/// Interval at which the worker samples an invocation's memory, processes and scratch folder. The first sample comes
/// after [`SAMPLE_FIRST`], the next after twice that and so on, since a fork bomb grows fastest at the beginning.
pub const SAMPLE_FIRST: Duration = Duration::from_millis(10);
pub const SAMPLE_PERIOD: Duration = Duration::from_millis(100);
/// The kernel's limit (RLIMIT_DATA) lies this many MiB above `memory`. So the sampled sum ends an invocation, with a
/// clear answer, and the kernel's refusal is only the backstop for growth between two samples.
pub const MEMORY_GRACE_MIB: u64 = 32;
/// `wasmer run` hangs for ever, without an error, when its data limit is 16 MiB; 64 starts it with room to spare.
pub const MEMORY_FLOOR_WASM_MIB: u64 = 64;
/// Open files of a function's process.
pub const FUNCTION_FILES_MAX: u64 = 256;
/// Bytes of a function's CGI head: frameworks send cookies and policies of 20 KiB and more.
pub const CGI_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of stderr that one invocation may put into the log, and of one line; the rest is counted and dropped.
pub const STDERR_BYTES_MAX: usize = 64 * 1024;
pub const STDERR_LINE_BYTES_MAX: usize = 2048;
/// The worker holds back the output of a function that does not stream for this long. If the function ends meanwhile,
/// output and verdict go out in one piece, which spares the gateway a wake-up on nearly every call.
pub const OUTPUT_HOLD: Duration = Duration::from_millis(2);
/// Bytes that a pipe can hold at most without privileges (/proc/sys/fs/pipe-max-size), and so the most that an ended
/// function can have left in its stdout.
pub const PIPE_BYTES_MAX: usize = 1 << 20;
/// MiB that an invocation may have in its scratch folder, default and range of the descriptor's `scratch`.
pub const SCRATCH_MIB: RangeInclusive<u64> = 0..=65_536;
pub const SCRATCH_MIB_DEFAULT: u64 = 256;
/// Files and folders in the scratch folder: they may take no blocks, but they take inodes and time to remove.
pub const SCRATCH_ENTRIES_MAX: u64 = 16_384;
/// Folders in folders within the scratch folder. A look at all of them takes a time that grows with the square of their
/// depth: with 2,000 it took seconds, in which no other limit was kept.
pub const SCRATCH_DEPTH_MAX: usize = 128;
/// Looks at a folder that is being removed. Each look empties one level and moves the next one up. A level costs a
/// function at least one system call, so a folder can be far deeper than any use; this bound is deeper than it can get
/// between two samples.
pub const SCRATCH_LOOKS_MAX: u64 = 1_000_000;
/// Siblings along the path to a protected file (readable.rs). Above this number the path is unsuitable: at about 2 µs
/// each, walking it would take more than a tenth of a second.
pub const READABLE_ENTRIES_MAX: usize = 65_536;
/// A folder whose time is younger than this may change again without a new time.
pub const FOLDER_TIME_GRAIN: Duration = Duration::from_millis(100);
/// Time for which a path hidden by permissions counts as hidden without another check (sandbox.rs). A function that
/// already runs when the permissions change is not stopped either.
pub const HIDDEN_LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Threads of one invocation, over all its processes; more counts as a fork bomb.
pub const FUNCTION_PROCESSES_MAX: usize = 256;
/// Threads that a fork bomb can have above [`FUNCTION_PROCESSES_MAX`] before it is found. RLIMIT_NPROC has room for
/// them and for one invocation at its limit in each slot, so that one bomb makes no other invocation fail.
pub const BOMB_PROCESSES_MAX: u64 = 512;
/// RLIMIT_NPROC in the user namespace of each invocation; without namespaces, where functions share the user of the
/// gateway, of all together, on top of that user's other threads. It has room for one invocation at its limit, and for a
/// bomb to be noticed (guard.rs), and not for more: a worker that cannot run ahead of a bomb (`sys::Urgency`) has to
/// compete with it to end it.
pub const INVOCATION_PROCESSES_MAX: u64 = 320;
/// Time for the kernel to end a killed process; after that the log gets a line.
pub const KILL_WAIT_MAX: Duration = Duration::from_secs(8);
/// Pause between two looks at processes that are being ended: most end within it.
pub const KILL_PAUSE: Duration = Duration::from_millis(2);

// ---- The log ----------------------------------------------------------------------------------------------------

/// Lines that wait for a slow reader of stdout; more are dropped, and their number is logged.
pub const LOG_LINES_MAX: usize = 8192;
/// A line waits this long for others, so that under load one write carries many lines and wakes the writing thread
/// rarely.
pub const LOG_GATHER: Duration = Duration::from_millis(5);

// ---- The ledger -------------------------------------------------------------------------------------------------

/// Days for which the ledger keeps calls.
pub const LEDGER_DAYS: RangeInclusive<u64> = 1..=36_500;
pub const LEDGER_DAYS_DEFAULT: u64 = 90;
/// Bytes of the ledger's file, at about 200 a call.
pub const LEDGER_MAX: RangeInclusive<u64> = 1 << 20..=1 << 50;
pub const LEDGER_MAX_DEFAULT: u64 = 1 << 30;

// ---- Fork servers -----------------------------------------------------------------------------------------------

/// One for PHP, one for WASM modules, and one for components.
pub const FORK_SERVERS_PER_WORKER: u64 = 3;
/// MiB of a fork server's data (RLIMIT_DATA). Its children inherit it and lower it to their function's limit.
pub const FORK_SERVER_DATA_MIB: u64 = 2 * *MEMORY_MIB.end();
/// Time for a successor to become ready; then it ends, and the old gateway stays.
pub const SUCCESSION_MAX: Duration = Duration::from_secs(30);
