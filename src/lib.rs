//! A function platform for one machine.
pub mod clock;
pub mod error;
pub mod gateway;
pub mod limits;
pub mod log;
pub mod orphans;
pub mod procfs;
pub mod protocol;
pub mod sandbox;
pub mod scheduler_config;
pub mod settings;
pub mod sys;
pub mod worker;
