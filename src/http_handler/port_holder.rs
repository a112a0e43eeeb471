//! Finds the process that holds a TCP port, for the error that the gateway cannot listen on it.
//!
//! /proc/net/tcp lists the inode of each listening socket, and a link in /proc/PID/fd shows which process has it open.
//! Only root sees the links of other users' processes; for others the holder stays unknown.

use std::fs;
use std::path::Path;

/// ` by NAME (pid PID)`, or nothing where the holder is unknown.
pub fn port_holder(port: u16) -> String {
    listening_inodes(port).iter().find_map(|inode| holder_of(inode)).unwrap_or_default()
}

/// Inodes of the sockets that listen on `port`, for both versions of IP (proc_pid_net(5)).
fn listening_inodes(port: u16) -> Vec<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines.filter_map(|line| listening_inode(line, port)).collect()
}

fn listening_inode(line: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, local_port) = words.get(1)?.rsplit_once(':')?;
    let listens = *words.get(3)? == LISTEN && u16::from_str_radix(local_port, 16).ok()? == port;
    listens.then(|| words.get(9).map(|inode| inode.to_string())).flatten()
}

fn holder_of(inode: &str) -> Option<String> {
    let link = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |path: &Path| fs::read_link(path).is_ok_and(|target| target.as_os_str() == link.as_str());
        if descriptors.flatten().any(|descriptor| holds(&descriptor.path())) {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!(" by {} (pid {pid})", command.trim_end()));
        }
    }
    None
}
