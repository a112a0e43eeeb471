//! A function platform for one machine: an HTTP gateway that has worker processes run PHP, WASM and native functions, each
//! call in a process of its own.
//!
//! ```text
//!    client                                         operator
//!      │ TCP                                           │ TCP, token
//! ┌────▼──────────────── gateway ─────────────────┐ ┌──▼─────────── console ──┐
//! │ http_handler → gateway → kv, scheduler        │ │ tiny_http → status      │
//! │                   │                           │ └──▲──────────────────────┘
//! │                   ▼          status ──────────┼────┘ status.sock
//! │              worker_link     metrics_collector│
//! └───────────────────┼──────────────────▲────────┘   row ⇒ kv_sqlite_sync → config_loader → kv
//!       worker_N.sock │                  │ metrics.sock
//! ┌───────────────────▼──── worker ──────┴────────┐
//! │ connection → runtime → invocation             │
//! │ fork_servers             metrics_sender       │
//! └───────────────────┼───────────────────────────┘
//!                     │ stdin, stdout, stderr, environment
//!                  function
//! ```
//!
//! | module | is | C twin |
//! |---|---|---|
//! | [`http_handler`] | HTTP/1.x: receives whole, checked, bounded requests, sends responses, asks a `Handler` in between | http_handler.c |
//! | [`gateway`] | the gateway process: a request's way to a worker and back | gateway.c, metrics_collector.c |
//! | [`registry`] | the SQLite file of routes, code and history, and its copy in RAM | kv.c, kv_sqlite_sync.c, config_loader.c |
//! | [`ledger`] | the SQLite file of calls | |
//! | [`worker`] | the worker process: from a frame to a function's process and back | worker.c, metrics_reader.c, metrics_smoother.c |
//! | [`console`] | the console process: what the operator sees | |
//! | [`cli`] | the command `faas` | |
//! | `operator` | what console and `faas` share: reading and changing the registry, asking the gateway | |
//! | [`protocol`] | all that gateway and worker share: a function's settings, frames, samples | metrics.h |
//! | [`sandbox`] | what a function may do: user, files, network, system calls; and the end of its orphans | |
//! | [`sys`] | the system calls, and all that is `unsafe` | |
//! | [`settings`], [`networks`] | environment variables; lists of IP networks | the `#define`s |
//! | [`scheduler_config`] | weights of the score | scheduler_config.h |
//! | [`limits`] | bounds that several files share, with unit and reason; others stand where they are used | |
//! | [`error`] | errors of a request, errors of a start | |
//! | [`procfs`], [`shebang`], [`clock`] | /proc, scripts' first lines, times as text | |
//! | [`log`](mod@log), [`log_budget`], [`log_file`] | the log, bounds of those who can fill it, the file it goes to | |
//!
//! Dependencies run one way: `gateway`, `worker` and `console` use what is below them and never each other; `http_handler`
//! knows neither registry nor workers. docs/ARCHITECTURE.md follows a request, a row and a sample from file to file.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod cases_tests;
pub mod cli;
pub mod clock;
pub mod console;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub(crate) mod http_handler;
pub mod ledger;
pub mod limits;
pub mod log;
pub(crate) mod log_budget;
pub mod log_file;
pub(crate) mod networks;
mod operator;
pub mod procfs;
pub mod protocol;
pub mod registry;
pub mod sandbox;
pub(crate) mod scheduler_config;
pub mod settings;
pub(crate) mod shebang;
pub mod sys;
pub mod worker;
