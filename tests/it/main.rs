//! The platform from outside: a real gateway with real workers, real php, wasmer and sqlite3, a port and a folder of
//! its own for every test.
//!
//! Each file holds the tests of one subject, and the name of each test is a sentence about it. Tests wait for
//! conditions (`wait_until`), never for a time. The bounds of their waits are generous, since a slow machine is no
//! fault. Benchmarks measure exact figures.
//!
//! Tests that take the whole machine are in another binary, alone.rs.
//!
//! A test whose program is missing fails, and names the command that installs it. Tests that need a program which Debian
//! lacks, or which few machines have, are marked as ignored; .ci/run installs these programs and runs them. Only a test
//! that the user or the kernel cannot run is skipped, by `skip`.

#[path = "../../src/cases.rs"]
mod cases;
mod cgi;
mod cli;
mod compilation;
mod conformance;
mod console;
mod console_api;
mod corpus;
mod ending;
mod examples;
mod failures;
mod faults;
mod followers;
mod fork_servers;
mod groups;
mod hangup;
mod hostile_clients;
mod http;
mod instance;
mod kills;
mod large;
mod ledger;
mod log;
mod lost_workers;
mod modules;
mod php;
mod quota;
mod registry;
mod registry_sql;
mod sandbox;
mod scheduling;
mod service;
mod settings;
mod slots;
mod smuggling;
mod soak;
mod test_script;
mod upgrade;
