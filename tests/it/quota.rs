//! Project quotas: a bound of scratch folders that the kernel keeps where the file system has them, and samples where
//! not.
//!
//! The tests put the scratch folders on an ext4 of their own that has such quotas. Where the kernel lacks them, or the
//! tests may not mount, the platform must say that it samples, and the samples must keep the limit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::instance::{Instance, need, run, signal};

/// Prints the project of the file at a path, or the projects from 2^30 on that have limits or files.
const LOOK: &str = "import ctypes, fcntl, os, struct, sys
fd = os.open(sys.argv[2], os.O_RDONLY)
if sys.argv[1] == 'project':
    print(struct.unpack('7I', fcntl.ioctl(fd, 0x801c581f, bytes(28)))[3])
found = 1 << 30
while sys.argv[1] == 'limited':
    block = ctypes.create_string_buffer(72)
    if ctypes.CDLL(None).syscall(443, fd, ctypes.c_uint32(0x80000902), ctypes.c_uint32(found), block) < 0: break
    found = struct.unpack('I', block[68:])[0] + 1
    print(found - 1)
";

/// A file system in a file, mounted as long as this lives.
struct Disk {
    folder: PathBuf,
    has_quotas: bool,
}

impl Disk {
    /// With project quotas if the kernel has them. `None` if nothing can be mounted.
    fn mount(folder: &Path, image: &Path) -> Option<Disk> {
        fs::write(image, "").unwrap();
        fs::File::options().write(true).open(image).unwrap().set_len(256 << 20).unwrap();
        let features = ["-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota"];
        assert!(run(Command::new("/sbin/mkfs.ext4").args(features).arg(image)).status.success());
        let mount = |options| run(Command::new("mount").args(["-o", options]).args([image, folder])).status.success();
        let has_quotas = mount("loop,prjquota");
        if !has_quotas {
            assert!(run(Command::new("/sbin/mkfs.ext4").args(["-q", "-F"]).arg(image)).status.success());
        }
        (has_quotas || mount("loop")).then(|| Disk { folder: folder.to_path_buf(), has_quotas })
    }

    fn look(&self, what: &str, path: &Path) -> String {
        let output = run(Command::new("python3").args(["-c", LOOK, what]).arg(path));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_string()
    }

    /// Projects of the platform that have limits or files.
    fn limited(&self) -> String {
        self.look("limited", &self.folder)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.folder));
    }
}

fn prepared() -> (Instance, Option<Disk>) {
    let instance = Instance::prepare(&[("FAAS_WORKERS", "1")]);
    instance.init();
    let disk = Disk::mount(&instance.path("spool"), &instance.path("disk"));
    (instance, disk)
}

/// How an attempt of hostile.c ended at `target`: by an error's name or `ok`, or by the kind of problem.
fn attempt(instance: &Instance, target: &str, attempt: &str) -> String {
    let answer = instance.post(target, format!("{attempt}\n"));
    match answer.status {
        200 => answer.text().trim_end().rsplit(": ").next().unwrap().to_string(),
        _ => answer.json()["type"].as_str().unwrap().to_string(),
    }
}

#[test]
fn the_kernel_bounds_scratch_folders_by_project_quotas_where_it_has_them() {
    need(&["cc"]);
    let (mut instance, disk) = prepared();
    let has_quotas = disk.as_ref().is_some_and(|disk| disk.has_quotas);
    instance.launch();
    instance.wait_until_ready();
    let status = instance.status();
    let rows = status["sandbox"]["promises"].as_array().unwrap();
    let row = rows.iter().find(|row| row["promise"] == "Functions keep to their scratch space.").unwrap();
    assert_eq!(row["level"], if has_quotas { "kernel" } else { "watched" }, "{row}");
    assert_eq!(row["kept_by"].as_str().unwrap().contains("project quotas"), has_quotas, "{row}");
    let program = instance.compile("hostile", include_str!("hostile.c"));
    let row = |scratch| json!({"runtime": "native", "module": program, "scratch": scratch, "timeout": 20});
    instance.install(&[("POST:/16", row(16)), ("POST:/32", row(32))]);
    if !has_quotas {
        for how in ["plain", "deleted"] {
            instance.post("/16", format!("fill {how} 1000\n")).problem(500, "scratch-limit");
        }
        return;
    }
    // The folder that was filled serves the next call, if at all, without what was in it.
    for how in ["fill plain 60", "fill deleted 60", "fill buried 60", "in-flight 4"] {
        // A sample may find the excess before the function has ended.
        let outcome = attempt(&instance, "/16", how);
        assert!(outcome == "EDQUOT" || outcome == "urn:faas:scratch-limit", "{how}: {outcome}");
        assert_eq!(attempt(&instance, "/16", "fill deleted 15"), "ok", "after {how}");
        assert_eq!(attempt(&instance, "/32", "fill plain 31"), "ok", "the limit is the row's, after {how}");
    }
    for (path, script) in [
        ("/bytes", "head -c 60000000 /dev/zero >$TMPDIR/file"),
        ("/entries", "cd $TMPDIR && seq 20000 | xargs touch"),
        ("/php", "<?php exit(file_put_contents(getenv('TMPDIR') . '/f', str_repeat('x', 60 << 20)) ? 0 : 1);"),
    ] {
        let runtime = if path == "/php" { "php" } else { "native" };
        let script = if path == "/php" { script.into() } else { format!("#!/bin/sh\n{script}") };
        instance.function(&format!("GET:{path}"), runtime, &script, json!({"scratch": 16, "timeout": 60, "write": []}));
        instance.get(path).problem(500, "scratch-limit");
    }
}

#[test]
fn a_file_that_may_leave_a_scratch_folder_is_in_no_project() {
    let (mut instance, Some(disk)) = prepared() else { return };
    let kept = disk.folder.join("kept");
    fs::create_dir(&kept).unwrap();
    run(Command::new("chmod").arg("777").arg(&kept));
    instance.launch();
    instance.wait_until_ready();
    let script = format!("echo x >$TMPDIR/file && mv $TMPDIR/file {}/$FAAS_REQUEST_ID && ls {0}", kept.display());
    instance.script_with("GET:/keep", &script, json!({"write": [kept]}));
    instance.script_with("GET:/bounded", "echo x >$TMPDIR/file && ls $TMPDIR", json!({"write": []}));
    assert_eq!(instance.get("/bounded").text(), "file\n");
    assert_eq!(instance.get("/keep").status, 200);
    for file in fs::read_dir(&kept).unwrap() {
        assert_eq!(disk.look("project", &file.unwrap().path()), "0");
    }
    assert_eq!(instance.get("/bounded").text(), "file\n");
}

#[test]
fn limits_of_a_killed_gateway_are_removed_and_none_stay_at_the_end() {
    let (mut instance, Some(disk)) = prepared() else { return };
    instance.launch();
    instance.wait_until_ready();
    instance.script_with("GET:/file", "echo x >$TMPDIR/file && ls $TMPDIR", json!({"write": []}));
    assert_eq!(instance.get("/file").text(), "file\n");
    assert_eq!(disk.limited().is_empty(), !disk.has_quotas, "its folder has a limit");
    signal("KILL", instance.gateway_pid());
    instance.wait();
    instance.launch();
    instance.wait_until_ready();
    assert_eq!(instance.get("/file").text(), "file\n");
    instance.stop();
    assert_eq!(disk.limited(), "");
}
