//! What gateway and worker have in common: a function's settings, the frames of an invocation and the metric sample.
//! Nothing else is shared between the two, so each can be read, and replaced, alone.
pub mod function_spec;
pub mod metrics;
pub mod worker_protocol;
