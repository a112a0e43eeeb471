//! Three machines, as network namespaces, with a gateway in each and the files of deploy/ between them.
//!
//! ```text
//!            10.0.0.1: HAProxy, an SFTP server, the tests' clients
//!                         │ bridge
//!      ┌──────────────────┼──────────────────┐
//!   10.0.0.11          10.0.0.12          10.0.0.13
//!   writer             follower           follower
//! ```
//!
//! run.sh starts this program in namespaces that end with it, whatever happens. It needs root and programs that .ci/run
//! installs, so a plain `cargo test` leaves it out.

mod balancer;
mod carriers;
// The test programs share this harness, and none of them uses all of it.
#[allow(dead_code)]
#[path = "../it/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "../it/instance.rs"]
mod instance;
mod network;
mod nodes;
mod sessions;
mod traffic;
