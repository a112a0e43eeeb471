//! Cold and warm processes differ in nothing but speed. A cold process is executed, a warm one is forked from a fork
//! server. Each case states its expectation once, and it holds for both.
//!
//! A case is a row of a table: the function's code, the request, the expectation. `run.rs` registers each function
//! twice, once with `"start":"cold"`, and calls it cold and warm. It compares both calls with the expectation and with
//! one another: status, head, body, log lines, and leftovers, which must be none. `together.rs` tests calls that run at
//! once, and `edits.rs` files that change: neither fits into a table.
//!
//! A call was warm if its response says so: `Server-Timing: …, spawn;dur=0.4;desc="warm", …`.

mod bodies;
mod case;
mod edits;
mod ends;
mod files;
mod languages;
mod processes;
mod run;
mod state;
mod together;
mod traces;
mod wasm;
mod world;
