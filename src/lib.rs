//! A function platform for one machine: an HTTP gateway that has worker processes run PHP, WASM and native functions, each
//! call in a process of its own.
//!
//! ```text
//!    client
//!      │ TCP
//! ┌────▼───────────────── gateway ───────────────────┐
//! │ front_door → tiny_http → http_handler            │      row ⇒ kv_sqlite_sync → config_loader → kv
//! │                │ kv, scheduler                   │
//! │                ▼                                 │
//! │           worker_link       metrics_collector    │
//! └────────────────┼──────────────────▲──────────────┘
//!    worker_N.sock │                  │ metrics.sock
//! ┌────────────────▼────── worker ────┴──────────────┐
//! │ connection → runtime → process     metrics_sender│
//! │                 ▲ fork_servers                   │
//! └────────────────┼─────────────────────────────────┘
//!                  │ stdin, stdout, stderr, environment
//!               function
//! ```
//!
//! | module | is | C twin |
//! |---|---|---|
//! | [`gateway`] | the gateway process, from the public port to a worker and back | gateway.c, http_handler.c, kv.c, … |
//! | [`worker`] | the worker process, from a frame to a function's process and back | worker.c, metrics_reader.c, … |
//! | [`console`] | the console process: the state of the gateway, for its operator | the page of gateway.c |
//! | [`protocol`] | what both sides share: frames and samples | metrics.h |
//! | [`scheduler_config`] | weights of the score | scheduler_config.h |
//! | [`settings`] | environment variables | the `#define`s |
//! | [`limits`] | every bound, with unit and reason | |
//! | [`error`] | everything that can go wrong, with its HTTP status and exit code | |
//! | [`sandbox`] | the function's box: user, files, network | |
//! | [`protected`] | the places that are not for functions | |
//! | [`readable`] | what functions may read, where they share our user | |
//! | [`orphans`] | ends what dead processes leave behind | |
//! | [`procfs`], [`clock`], [`log`](mod@log) | /proc, times as text, the log | |
//! | [`sys`] | the system calls, and all that is `unsafe` | |
//!
//! Dependencies run one way: `gateway`, `worker` and `console` use everything below them and never each other.

pub mod clock;
pub mod console;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub mod http_handler;
pub mod limits;
pub mod log;
pub mod procfs;
pub mod protocol;
pub mod registry;
pub mod sandbox;
pub mod scheduler_config;
pub mod settings;
pub mod sys;
pub mod worker;
