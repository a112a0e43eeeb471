//! Errors, by who has to deal with them.
//!
//! | type | is dealt with by |
//! |---|---|
//! | [`RequestError`](request::RequestError) | a client: it becomes a response; its status comes from one exhaustive match |
//! | [`StartError`](start::StartError) | whoever starts a program: it ends it; its exit code comes from one exhaustive match |
//!
//! Errors that one folder makes and deals with itself stand there. A variant is one true sentence about one step: the step,
//! its subject, the cause, and the remedy where there is one.

pub mod request;
pub mod start;
