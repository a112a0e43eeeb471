//! The registry: the SQLite file that says which function serves which route, and its copy in RAM.
//!
//! ```text
//! row ⇒ kv_sqlite_sync (reads the file when it has changed) → config_loader (parses, checks) → kv (one swap)
//! ```

pub mod config_loader;
pub mod kv;
pub mod kv_sqlite_sync;
