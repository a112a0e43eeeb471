//! ./test.sh itself, with programs in place of cargo and start.sh: it is never silent for long, and leaves nothing behind.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use crate::instance::{wait_for, wait_until};

/// The first test has ended, and the second one ends once the file `release` exists.
const CARGO: &str = "#!/bin/sh\necho 'running 2 tests'; echo 'test first ... ok'\n\
    while [ ! -e release ]; do sleep 0.1; done\n\
    echo 'test second ... FAILED'; echo\n\
    echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s'; echo\n\
    echo 'running 3 tests'; exit 101\n";
/// Prepares, and starts nothing.
const START: &str = "#!/bin/sh\n[ \"$1\" = --prepare ]\n";

struct Run {
    folder: tempfile::TempDir,
    script: Child,
}

impl Run {
    /// The run, while its second test does not end.
    fn start() -> Run {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        place("cargo", CARGO);
        place("start.sh", START);
        place("test.sh", include_str!("../../test.sh"));
        let output = File::create(folder.path().join("output")).unwrap();
        let path = std::env::var("PATH").unwrap();
        // A shell cannot trap a signal that it was started to ignore, as SIGINT is in what a script runs in the background.
        let script = Command::new("env")
            .arg("--default-signal=INT")
            .arg(folder.path().join("test.sh"))
            .env("PATH", format!("{}:{path}", folder.path().display()))
            .env("TMPDIR", folder.path())
            .env_remove("CI")
            .env_remove("FAAS_TEST_STRICT")
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap();
        let run = Run { folder, script };
        wait_until("the script says how far the silent program is", || {
            run.output().lines().any(|line| line.ends_with(" s so far: cargo test: 1 of 2 tests have ended"))
        });
        run
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn output(&self) -> String {
        fs::read_to_string(self.path("output")).unwrap()
    }

    /// Sends a signal to all processes of the run; false if none is left.
    fn signal(&self, signal: &str) -> bool {
        let group = format!("-{}", self.script.id());
        // As in instance.rs, the shell's own.
        Command::new("sh").args(["-c", "kill \"$0\" \"$1\"", signal, &group]).output().unwrap().status.success()
    }

    /// Waits for the end of the run, and returns its last line.
    fn end(&mut self) -> String {
        wait_for("the script ends", || self.script.try_wait().unwrap());
        wait_until("its processes are gone", || !self.signal("-0"));
        let folders = fs::read_dir(self.folder.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
        assert_eq!(folders.count(), 0, "its temporary folder stays");
        self.output().lines().last().unwrap().to_string()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.signal("-KILL");
        let _ = self.script.wait();
    }
}

#[test]
fn the_script_says_how_far_a_silent_test_program_is_and_adds_up_the_results() {
    let mut run = Run::start();
    File::create(run.path("release")).unwrap();
    // One passed; one failed, as have the three that never ended, and the instance that did not start.
    assert_eq!(run.end(), "1 passed, 5 failed", "{}", run.output());
}

#[test]
fn an_interrupted_script_leaves_nothing_behind() {
    let mut run = Run::start();
    run.signal("-INT");
    assert_eq!(run.end(), "0 passed, 1 failed", "{}", run.output());
}
