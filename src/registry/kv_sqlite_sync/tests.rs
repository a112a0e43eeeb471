//! The registry under real writers: the changes that reach the map, and the faults that keep the last good version in
//! service.

mod changes;
mod damage;
mod writers;
