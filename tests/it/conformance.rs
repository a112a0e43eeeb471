//! No difference but speed: what a function can do, done by a process that was started anew (cold) and by one that was forked
//! from a fork server (warm). Each case says once what is expected, and that holds for both.
//!
//! A case is a row of a table: what the function does, the request, the expectation. `run.rs` registers each function twice,
//! once with `"start":"cold"`, calls it cold and warm, and holds the two against the expectation and against one another:
//! status, header, body, what is in the log, and what is left behind, which is nothing. What does not fit into a table (what
//! several calls do to one another, changed files) is in `together.rs` and `edits.rs`.
//!
//! A call was warm when its answer says so: `Server-Timing: …, spawn;dur=0.4;desc="warm", …`.

mod bodies;
mod case;
mod edits;
mod ends;
mod files;
mod headers;
mod languages;
mod processes;
mod run;
mod state;
mod together;
mod traces;
mod wasm;
mod world;
