//! The file of the log, and its reopening at SIGHUP, as logrotate requests it.
//!
//! The programs write to stdout, which the starter of the gateway directs to a file. Once that file is renamed, its new
//! name is useless, so the gateway notes its path at the start. It hands the path to its programs, since one of them
//! may start right after the renaming. A stdout that is no regular file, such as a terminal or a pipe, is never
//! reopened.

use std::fs::{self, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::log;
use crate::log::flush;
use crate::sys::{self, Signal};

/// The variable in which the gateway hands its programs the path.
pub(crate) const VARIABLE: &str = "FAAS_LOG_PATH";

const STDOUT: &str = "/proc/self/fd/1";
const STDERR: &str = "/proc/self/fd/2";

static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Notes the path of stdout's file: that of [`VARIABLE`], or the target of stdout itself.
pub fn note() {
    let is_file = fs::metadata(STDOUT).is_ok_and(|stdout| stdout.is_file());
    let own = || fs::read_link(STDOUT).ok().filter(|path| is_same(path, Path::new(STDOUT)));
    let path = std::env::var_os(VARIABLE).map(PathBuf::from).or_else(own);
    PATH.get_or_init(|| path.filter(|_| is_file));
}

/// The noted path.
pub(crate) fn path() -> Option<&'static Path> {
    PATH.get()?.as_deref()
}

/// Opens the path again, as stdout, and as stderr if that was the same file. Returns false where stdout is no file. If
/// the path cannot be opened, the log continues in the old file, with a line about it.
pub(crate) fn reopen() -> bool {
    let Some(path) = path() else { return false };
    flush();
    let file = match OpenOptions::new().append(true).create(true).open(path) {
        Ok(file) => file,
        Err(error) => {
            log!("log: could not reopen {}: {error}; going on with the old file", path.display());
            return true;
        }
    };
    let is_stderr_too = is_same(Path::new(STDOUT), Path::new(STDERR));
    match sys::replace_output(file.as_fd(), is_stderr_too) {
        Ok(()) => log!("log: reopened {}", path.display()),
        Err(error) => log!("log: could not reopen {}: {error}", path.display()),
    }
    true
}

/// Reopens the log at each SIGHUP, on a thread of its own. For a program that blocks the signal and has no other use
/// for it.
pub fn reopen_at_hangup() {
    let waiting = std::thread::Builder::new().name("hangup".into());
    let started = waiting.spawn(|| {
        loop {
            sys::wait_for_signal(&[Signal::Hangup]);
            reopen();
        }
    });
    if let Err(error) = started {
        log!("log: it will not be reopened: could not start a thread: {error}");
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    identity(one).is_some() && identity(one) == identity(other)
}
