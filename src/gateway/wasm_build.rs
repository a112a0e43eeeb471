//! The build of faas-wasm and faas-wasm-component that start.sh runs in the background, for the response to a call that
//! needs one of them meanwhile.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whole minutes since start.sh began to build them; `None` if no build runs.
pub fn minutes(run_dir: &Path) -> Option<u64> {
    let pid_file = run_dir.join("wasm-build.pid");
    let file = fs::metadata(&pid_file).ok()?;
    let pid: u32 = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    // As in start.sh: the id counts only while that process holds the very file open.
    let is_file = |other: fs::Metadata| (other.dev(), other.ino()) == (file.dev(), file.ino());
    let mut open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let is_open = open.any(|entry| fs::metadata(entry.path()).is_ok_and(is_file));
    let age = file.modified().ok()?.elapsed().unwrap_or_default();
    is_open.then_some(age.as_secs() / 60)
}
