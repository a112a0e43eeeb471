//! The registry under real writers: what reaches the map, and what keeps the last good version in service.

mod changes;
mod damage;
mod writers;
