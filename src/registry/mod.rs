//! The registry: the SQLite file that maps routes to functions, and its copy in memory.
//!
//! ```text
//! file ⇒ kv_sqlite_sync (looks) → stamps (moved?) → snapshot (copies) → tables (reads) → modules (writes code)
//!      → rows → config_loader (parses) → kv (one swap)
//! ```
//!
//! Only this folder, operator/ and cli/ know SQLite. The gateway never writes to an existing registry. `gateway --init`
//! does: [`create`] makes a new one, [`migrate`] updates an old one.

pub mod config_loader;
pub(crate) mod create;
mod fault_log;
pub(crate) mod files;
#[cfg(test)]
mod fixture;
pub mod kv;
pub(crate) mod kv_sqlite_sync;
mod last_good;
pub(crate) mod migrate;
mod modules;
pub(crate) mod pattern;
pub mod remarks;
pub mod routes;
mod rows;
pub(crate) mod snapshot;
pub(crate) mod stamps;
pub(crate) mod tables;
