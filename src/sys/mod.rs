//! The system calls that std does not offer, behind safe functions. Only the files of this folder contain `unsafe`.
//!
//! | file | holds |
//! |---|---|
//! | [`poll`](mod@poll) | waiting for descriptors: poll(2), eventfd(2), non-blocking mode |
//! | [`inotify`] | notices of changes to the files of a folder |
//! | [`socket`] | additions to std's sockets: descriptor passing, peer credentials, sendfile(2) |
//! | [`file`](mod@file) | descriptors without rights, regular files, mount options, attributes, another stdout |
//! | [`lock`] | byte-range locks that name their holder |
//! | [`signal`] | signal sets and masks, SIGHUP, SIGINT and SIGTERM |
//! | [`process`] | pidfds, kill, wait |
//! | [`limits`] | resource limits, units of /proc, scheduling priority |
//! | [`spawn`](mod@spawn) | starting a process by vfork |
//! | `clone3` | the same, into a control group |
//! | [`confine`] | the rights that the new process gives up before its exec |
//! | [`landlock`] | Landlock rulesets: which files a process can use |
//! | [`seccomp`] | seccomp filters: which system calls a process can make |
//! | [`mounts`] | a /proc of its own |
//! | [`user_namespace`] | a count of processes of its own |
//! | [`quota`] | project quotas: the space that all files of a folder take |
//! | [`attempts`] | actions that must fail in the sandbox |
//! | [`activation`] | descriptors from a service manager: sockets, and the socket for notes to it |
//! | [`terminal`] | the width of a terminal, and a test for one |
//!
//! Rules for every function here:
//!
//! 1. It takes and returns `OwnedFd`, `BorrowedFd`, durations and Results.
//! 2. A descriptor is close-on-exec from birth. Another thread may start a process at any moment, and that process
//!    must not inherit it.
//! 3. An `unsafe` block holds one call, and its SAFETY comment names the fact that makes it sound.

pub mod activation;
pub mod attempts;
mod clone3;
pub mod confine;
pub mod file;
pub mod inotify;
pub mod landlock;
pub mod limits;
pub mod lock;
pub mod mounts;
pub mod poll;
pub mod process;
pub mod quota;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod terminal;
pub mod user_namespace;

pub use activation::{is_listening, notify, take_inherited_socket};
pub use attempts::{try_internet_socket, try_memory_file, try_signal, try_user_namespace};
pub use clone3::has_clone3;
pub use confine::{Confinement, confine_own_program, empty_bounding_set, restrict_own_system_calls};
pub use file::{attribute, is_in_memory, is_noexec, may_access, open_regular, refer_to, replace_output};
pub use inotify::FolderWatch;
pub use landlock::{allow_reading, landlock_readable, landlock_ruleset, landlock_version};
pub use limits::{
    Urgency, alarm, clock_ticks_per_s, fit_address_space, hasten_end, is_alarmed, join_alarm, lower_priority,
    own_thread, own_thread_cpu_time, page_bytes, raise_open_files_limit, set_urgent, threads_on_machine,
};
pub use lock::{lock_holder, try_lock};
pub use mounts::hide_processes;
pub use poll::{EventFd, Watched, poll, set_nonblocking};
pub use process::{
    Ended, EndedHow, Pid, become_subreaper, continue_process, cpu_time, group_of, hang_up_process, has_ended, is_there,
    kill_child, kill_group, kill_group_of, kill_process, open_process, own_uid, reap, stop_process,
};
pub use quota::{Quota, has_project_quotas, next_project_quota, project_quota, set_project, set_project_quota};
pub use seccomp::{CAN_RESTRICT_SYSTEM_CALLS, Rights, SystemCalls};
pub use signal::{Signal, block_signals, signal_name, wait_for_signal};
pub use socket::{packet_pair, peer, receive_with_fd, send_file, send_with_fds, set_backlog};
pub use spawn::{Spawn, SpawnError, Spawned, environment_of, spawn, spawn_in_namespace};
pub use terminal::{has_terminal, terminal_columns};
pub use user_namespace::make_user_namespace;

use std::ffi::c_int;
use std::io;

/// Turns the result of a system call into a Result: a negative one becomes the calling thread's errno.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Like [`check`], for calls that return a number of bytes.
fn check_count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
