//! An invocation leaves no processes behind, and no files in its scratch folder.
//!
//! A fork server and its waiting children belong to no invocation. By runtimes/README.md, a fork server leads its
//! session, has the control socket at descriptor 3, and has no request in its environment. Waiting children are in its
//! session. A child leaves that session first of all when its invocation arrives.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::instance::{GATEWAY, Instance, WORKER};

/// Traces of an invocation may last this long after its response, on a machine that is busy with other tests.
const GONE_MAX: Duration = Duration::from_secs(2);

/// Call this after a response, while no other invocation runs.
pub fn assert_nothing_stays(instance: &Instance) {
    let answered = Instant::now();
    loop {
        let (processes, files) = (processes_of_invocations(instance), scratch_files(instance));
        if processes.is_empty() && files.is_empty() {
            return;
        }
        assert!(answered.elapsed() < GONE_MAX, "there stay processes {processes:?} and files {files:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Process {
    parent: u32,
    session: u32,
}

/// Descendants of the gateway that are neither a worker, nor a fork server, nor a waiting child.
pub fn processes_of_invocations(instance: &Instance) -> Vec<(u32, String)> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: HashMap<u32, Process> = pids.filter_map(|pid| Some((pid, process(pid)?))).collect();
    let gateway = instance.gateway_pid();
    let descends = |pid: u32| {
        let mut at = pid;
        while let Some(process) = all.get(&at).filter(|process| process.parent != at) {
            if process.parent == gateway {
                return true;
            }
            at = process.parent;
        }
        false
    };
    let is_left = |pid: &u32| descends(*pid) && !is_platform(instance, *pid) && !is_fork_server(all[pid].session);
    all.keys().copied().filter(is_left).map(|pid| (pid, command_line(pid))).collect()
}

fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let words: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some(Process { parent: words[1].parse().ok()?, session: words[3].parse().ok()? })
}

fn is_platform(instance: &Instance, pid: u32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let copies = [instance.path("gateway"), instance.path("worker")];
    program == Path::new(GATEWAY) || program == Path::new(WORKER) || copies.contains(&program)
}

fn is_fork_server(pid: u32) -> bool {
    let is_leader = process(pid).is_some_and(|process| process.session == pid);
    let control = fs::read_link(format!("/proc/{pid}/fd/3")).unwrap_or_default();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let has_request = environment.split(|byte| *byte == 0).any(|pair| pair.starts_with(b"FAAS_REQUEST_ID="));
    is_leader && control.to_string_lossy().starts_with("socket:") && !has_request
}

fn command_line(pid: u32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ")
}

/// Files in scratch folders, spool/faas-…/worker_N/NAME/FILE; the folders themselves may wait, empty, for the next
/// call.
fn scratch_files(instance: &Instance) -> Vec<PathBuf> {
    let within = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    within(instance.path("spool"))
        .flat_map(within)
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("worker_")))
        .flat_map(within)
        .flat_map(within)
        .collect()
}
