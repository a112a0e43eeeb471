//! Control groups: bounds that the kernel keeps where it lends the controllers, and samples where it does not.
//!
//! The tests make a group and mark it as delegated, as systemd's Delegate=yes does. Only root can. They work out on their
//! own which controls the kernel has there; the platform must find the same. For another user they test that the
//! platform uses no group.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::cases::each;
use crate::instance::{Instance, run, signal, start, wait_until};

/// Together its processes take twice its memory, each by itself a fraction.
const HOG: &str =
    "for part in 1 2 3 4 5 6 7 8; do (head -c 16000000 /dev/zero; sleep 1000) | tail -c 16000000 & done\nwait";
const BOMB: &str = "n=0\nwhile [ $n -lt 400 ]; do sleep 1000 & n=$((n + 1)); done\nwait";
/// Names its group, and leaves a process that has left its session.
const LEAVER: &str = "sed -n 's/^0:://p' /proc/self/cgroup\nsetsid sleep 1000 >/dev/null 2>&1 &";

/// A delegated group. The drop ends what a failed test has left there, frozen processes too, and removes the group with
/// all groups below it.
struct Delegated(PathBuf);

impl Delegated {
    /// `None` without the rights, or without a hierarchy of version 2.
    fn new(name: &str) -> Option<Delegated> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount =
            mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|words| words[2] == "cgroup2")?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let folder = Path::new(mount[1]).join(own).join(format!("it-{}-{name}", std::process::id()));
        fs::create_dir(&folder).ok()?;
        let group = Delegated(folder);
        let set = "import os, sys; os.setxattr(sys.argv[1], 'trusted.delegate', b'1')";
        run(Command::new("python3").args(["-c", set]).arg(&group.0)).status.success().then_some(group)
    }

    fn has(&self, controller: &str) -> bool {
        fs::read_to_string(self.0.join("cgroup.controllers")).unwrap().split_whitespace().any(|name| name == controller)
    }

    /// The names of the groups in it that belong to invocations.
    fn groups(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap().flatten().filter(|entry| entry.path().is_dir());
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name != "faas-programs").collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let below = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        for folder in below.filter(|path| path.is_dir()).chain([self.0.clone()]) {
            wait_until("the group is empty", || !folder.exists() || fs::remove_dir(&folder).is_ok());
        }
    }
}

fn promise(instance: &Instance, promise: &str) -> Value {
    let sandbox = instance.status()["sandbox"].clone();
    sandbox["promises"].as_array().unwrap().iter().find(|row| row["promise"] == promise).unwrap().clone()
}

/// By whatever mechanism.
fn assert_limits_hold(instance: &Instance) {
    instance.script_with("GET:/hog", HOG, json!({"memory": 64}));
    instance.script_with("GET:/bomb", BOMB, json!({"memory": 1024}));
    instance.get("/hog").problem(500, "memory-limit");
    instance.assert_process_limit("/bomb");
    wait_until("their processes are gone", || instance.functions().is_empty());
}

fn prepared(settings: &[(&str, &str)]) -> Instance {
    let instance = Instance::prepare(&[&[("FAAS_WORKERS", "1"), ("FAAS_FORK_SERVERS", "0")], settings].concat());
    instance.init();
    instance
}

#[test]
fn in_a_delegated_group_the_kernel_keeps_what_its_controllers_can_and_samples_the_rest() {
    let Some(delegated) = Delegated::new("kept") else { return assert_limits_hold(&Instance::start()) };
    let mut instance = prepared(&[]);
    instance.launch_in_group(&delegated.0);
    instance.wait_until_ready();
    let cases = [
        ("Functions keep to their memory.", delegated.has("memory"), "memory.max"),
        ("Functions have few threads, and leave others theirs.", delegated.has("pids"), "pids.max"),
        ("No process outlives its invocation.", delegated.0.join("cgroup.kill").exists(), "cgroup.kill"),
    ];
    each(cases, |(text, is_lent, mechanism)| {
        let row = promise(&instance, text);
        assert_eq!(row["level"], if is_lent { "kernel" } else { "watched" }, "{row}");
        assert_eq!(row["kept_by"].as_str().unwrap().contains(mechanism), is_lent, "{row}");
    });
    instance.script("GET:/leave", LEAVER);
    for _ in 0..3 {
        let group = instance.get("/leave").text();
        let name = group.trim_end().rsplit('/').next().unwrap();
        assert!(name.starts_with("faas-") && name != "faas-programs", "{group}");
        wait_until("what it has left is gone", || instance.functions().is_empty());
        let events = fs::read_to_string(delegated.0.join(name).join("cgroup.events")).unwrap_or_default();
        assert!(!events.contains("populated 1"), "{name}: {events}");
    }
    assert_limits_hold(&instance);
    instance.script("GET:/well", "echo well");
    assert_eq!(instance.get("/well").text(), "well\n", "a group serves after one that was killed");
    instance.stop();
    assert_eq!(delegated.groups(), Vec::<String>::new());
}

#[test]
fn groups_serve_again_and_those_of_a_killed_gateway_are_removed_at_the_next_start() {
    let Some(delegated) = Delegated::new("left") else { return };
    let mut instance = prepared(&[]);
    instance.launch_in_group(&delegated.0);
    instance.wait_until_ready();
    instance.script("GET:/group", "sed -n 's/^0:://p' /proc/self/cgroup");
    let first = instance.get("/group").text();
    wait_until("the group serves again", || instance.get("/group").text() == first);
    assert_eq!(delegated.groups().len(), 1);
    let inode = |name: &str| fs::metadata(delegated.0.join(name)).map(|group| group.ino()).ok();
    let name = delegated.groups().remove(0);
    let before = inode(&name);
    signal("KILL", instance.gateway_pid());
    instance.wait();
    instance.launch_in_group(&delegated.0);
    instance.wait_until_ready();
    assert_ne!(inode(&name), before, "{name}");
}

#[test]
fn groups_that_a_killed_gateway_or_somebody_else_has_left_stop_no_start() {
    let Some(delegated) = Delegated::new("others") else { return };
    let mut instance = prepared(&[]);
    instance.launch_in_group(&delegated.0);
    instance.wait_until_ready();
    instance.script("GET:/group", "sed -n 's/^0:://p' /proc/self/cgroup");
    let group = instance.get("/group").text();
    let name = group.trim_end().rsplit('/').next().unwrap();
    let (prefix, _) = name.rsplit_once('-').unwrap();
    let workers: Vec<u32> = (0..).map_while(|id| instance.worker(id).map(|_| instance.worker_pid(id))).collect();
    signal("KILL", instance.gateway_pid());
    instance.wait();
    // They remove groups of these names when they end. The command line of a dead process is empty.
    let has_ended = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty();
    wait_until("its workers have ended", || workers.iter().all(has_ended));
    let of_number = |number: u32| delegated.0.join(format!("{prefix}-{number}"));
    for number in 0..1000 {
        let _ = fs::create_dir(of_number(number));
    }
    // One with others in it, and a frozen one with a process.
    fs::create_dir_all(of_number(0).join("inner/innermost")).unwrap();
    let frozen = of_number(1);
    let join = "echo $$ >\"$0/cgroup.procs\" && echo 1 >\"$0/cgroup.freeze\" && exec sleep 1000";
    let mut sleeper = start(Command::new("sh").args(["-c", join]).arg(&frozen));
    wait_until("it is frozen", || fs::read_to_string(frozen.join("cgroup.events")).unwrap().contains("frozen 1"));
    instance.launch_in_group(&delegated.0);
    instance.wait_until_ready();
    assert!(!sleeper.wait().unwrap().success(), "it was killed");
    assert!(instance.get("/group").text().contains(prefix));
    wait_until("no group is left but those in use", || delegated.groups().len() <= 2);
    // A worker that starts finds a group that it cannot remove.
    fs::create_dir_all(of_number(0).join("inner")).unwrap();
    let mut holder = start(
        Command::new("sh")
            .args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec sleep 1000"])
            .arg(of_number(0).join("inner")),
    );
    signal("KILL", instance.worker_pid(0));
    instance.wait_until_ready();
    wait_until("a function has a group", || instance.get("/group").text().contains(prefix));
    let _ = holder.kill();
    holder.wait().unwrap();
}

#[test]
fn without_a_delegated_group_samples_keep_the_limits() {
    let delegated = Delegated::new("off");
    let mut instance = prepared(&[("FAAS_CGROUP", "0")]);
    match &delegated {
        Some(delegated) => instance.launch_in_group(&delegated.0),
        None => instance.launch(),
    }
    instance.wait_until_ready();
    each(["Functions keep to their memory.", "No process outlives its invocation."], |text| {
        let row = promise(&instance, text);
        assert!(row["level"] == "watched" && !row["kept_by"].as_str().unwrap().contains("cgroup"), "{row}");
    });
    assert_limits_hold(&instance);
    if let Some(delegated) = &delegated {
        assert_eq!(delegated.groups(), Vec::<String>::new());
    }
}
