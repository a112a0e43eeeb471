//! Attempts, from inside of the sandbox, everything that a function must not be able to do: once, when the gateway
//! starts.
//!
//! ```text
//! gateway ── worker --sandbox          a worker's view of the machine, unconfined; prints the table of promises
//!               ├─ worker --attempt    confined as a function is: waits, so that the next one has somebody to look at
//!               └─ worker --attempt …  confined as a function is: prints what it could do
//! ```

use std::ffi::{CString, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Sandbox;
use super::namespaces::Namespace;
use super::quota::Projects;
use crate::settings::Settings;
use crate::sys::{self, Pid, Spawn, Spawned, Watched};

/// Time for the attempts; they take some milliseconds.
const ATTEMPTS_MAX: Duration = Duration::from_secs(10);
/// MiB of a process that makes attempts.
const MEMORY_MIB: u64 = 64;
/// MiB that it tries to write: more than the grace of a quota.
const SCRATCH_MIB: usize = 4;
/// Bytes of its output.
const SAYS_BYTES_MAX: u64 = 4096;

/// The attempts that succeeded in a confined process.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Attempts(Vec<String>);

impl Attempts {
    pub fn succeeded(&self, attempt: &str) -> bool {
        self.0.iter().any(|other| other == attempt)
    }

    /// Lets confined processes make their attempts.
    ///
    /// # Errors
    /// If a step of confining fails, or the attempts take too long.
    pub fn make(sandbox: &Sandbox, settings: &Settings) -> io::Result<Attempts> {
        let (mut release, wait) = (io::pipe()?, io::pipe()?);
        let namespaces = [sandbox.namespace()?, sandbox.namespace()?];
        let [of_sibling, of_prober] = namespaces.each_ref().map(Option::as_ref);
        let sibling = confined(sandbox, of_sibling, &[], None, (release.0.as_fd(), wait.1.as_fd()))?;
        // Without one, such as on a full disk, samples count as the bound.
        let scratch = Scratch::new(sandbox, settings).ok();
        let folder = scratch.as_ref().map(|scratch| &*scratch.folder);
        let arguments = [
            std::process::id().to_string().into(),
            sibling.pid.to_string().into(),
            settings.run_dir.clone().into_os_string(),
            settings.db.clone().into_os_string(),
            settings.spool_dir.clone().into_os_string(),
            folder.map(OsString::from).unwrap_or_default(),
        ];
        let (mut said, says) = io::pipe()?;
        let null = File::open("/dev/null")?;
        let outcome = confined(sandbox, of_prober, &arguments, folder, (null.as_fd(), says.as_fd()))
            .and_then(|prober| finish(&prober));
        drop(says);
        let _ = release.1.write_all(b"\n");
        let ended = finish(&sibling);
        outcome.and(ended)?;
        let mut text = String::new();
        said.by_ref().take(SAYS_BYTES_MAX).read_to_string(&mut text)?;
        match text.strip_suffix("done\n") {
            Some(text) => Ok(Attempts(text.lines().map(str::to_string).collect())),
            None => Err(io::Error::other("the attempts were cut short")),
        }
    }
}

/// A scratch folder that may hold nothing. The drop removes it.
struct Scratch {
    folder: PathBuf,
    projects: Option<Projects>,
}

impl Scratch {
    fn new(sandbox: &Sandbox, settings: &Settings) -> io::Result<Scratch> {
        let folder = settings.probe_dir();
        let _ = fs::remove_dir_all(&folder);
        DirBuilder::new().mode(0o700).create(&folder)?;
        let scratch = Scratch { projects: sandbox.projects(&folder), folder };
        let project = scratch.projects.as_ref().and_then(|projects| Some((projects, projects.take(&scratch.folder)?)));
        if let Some((projects, mut project)) = project {
            projects.bound(&mut project, 0)?;
        }
        if let Some(user) = &sandbox.user {
            chown(&scratch.folder, Some(user.uid), Some(user.gid))?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        if let Some(projects) = &self.projects {
            projects.sweep();
        }
    }
}

/// Waits for a process, and kills it if that takes too long.
fn finish(process: &Spawned) -> io::Result<()> {
    let has_ended = sys::poll(&mut [Watched::read(process.pidfd.as_fd())], Some(ATTEMPTS_MAX))? > 0;
    if !has_ended {
        sys::kill_process(process.pidfd.as_fd());
        sys::poll(&mut [Watched::read(process.pidfd.as_fd())], Some(ATTEMPTS_MAX))?;
    }
    sys::reap(process.pid)?;
    if has_ended { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

fn confined(
    sandbox: &Sandbox,
    namespace: Option<&Namespace<'_>>,
    arguments: &[OsString],
    scratch: Option<&Path>,
    (stdin, stdout): (BorrowedFd<'_>, BorrowedFd<'_>),
) -> io::Result<Spawned> {
    let program = File::open("/proc/self/exe")?;
    let c_string = |text: &OsString| CString::new(text.as_bytes()).expect("settings hold no NUL");
    let mut all = vec![c"worker".to_owned(), c"--attempt".to_owned()];
    all.extend(arguments.iter().map(c_string));
    let ruleset = sandbox.ruleset(scratch, &[], None, true)?;
    let readable = sandbox.readable()?;
    let rulesets = [ruleset.as_ref().map(AsFd::as_fd), readable.as_ref().map(|it| it.landlock.as_fd())];
    sys::spawn(&Spawn {
        program: c"worker",
        arguments: &all,
        environment: &[],
        folder: Some(c"/"),
        stdin,
        stdout,
        stderr: io::stderr().as_fd(),
        control: None,
        confinement: Some(sandbox.confinement(Some(&program), MEMORY_MIB, false, false, rulesets, namespace)),
        group: None,
    })
    .map_err(|error| io::Error::other(format!("could not {}: {}", error.step, error.cause)))
}

/// The life of a confined process: prints the names of the attempts that succeeded. Without arguments it waits for a
/// line.
pub fn attempt(arguments: &[String]) {
    let [outside, sibling, run_dir, db, spool_dir, scratch] = arguments else {
        let _ = io::stdin().read(&mut [0]);
        return;
    };
    let pid = |text: &String| text.parse::<Pid>().unwrap_or(Pid::MAX);
    let (outside, sibling) = (pid(outside), pid(sibling));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let has_line = |line: &str| status.lines().any(|other| other == line);
    let is_unprivileged =
        has_line("CapEff:\t0000000000000000") && has_line("CapPrm:\t0000000000000000") && has_line("NoNewPrivs:\t1");
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = files.and_then(|rest| rest.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let sees = |pid: Pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok();
    let folders = [spool_dir, run_dir, "/tmp", "/var/tmp", "/dev/shm"].map(Path::new);
    let folders = folders.into_iter().chain(Path::new(db).parent());
    for (name, has_succeeded) in [
        ("privileges", !is_unprivileged),
        ("bounding set", !has_line("CapBnd:\t0000000000000000")),
        ("read", File::open(db).is_ok() || File::open(format!("{run_dir}/gateway.pid")).is_ok()),
        ("write", folders.map(Path::to_path_buf).any(write)),
        ("signal", sys::try_signal(outside).is_ok() || sys::try_signal(sibling).is_ok()),
        ("see", sees(outside) || sees(sibling)),
        ("namespace", sys::try_user_namespace().is_ok()),
        ("socket", sys::try_internet_socket().is_ok()),
        ("memfd", sys::try_memory_file().is_ok()),
        ("quota", exceeds_quota(Path::new(scratch))),
        ("files", files.is_none_or(|files| files > crate::limits::FUNCTION_FILES_MAX)),
        ("oom", score.trim() != "1000"),
    ] {
        if has_succeeded {
            println!("{name}");
        }
    }
    println!("done");
}

/// True unless the kernel refuses to let a file grow without end, deleted as it is, even after an attempt to have the
/// folder leave its project. ext4 refuses with EDQUOT. XFS answers ENOSPC, which means a full disk unless the file has
/// reached its limit.
fn exceeds_quota(scratch: &Path) -> bool {
    let path = scratch.join("file");
    let _ = File::open(scratch).and_then(|folder| sys::set_project(folder.as_fd(), 0));
    let Ok(mut file) = File::options().write(true).create_new(true).open(&path) else { return true };
    let _ = fs::remove_file(path);
    let refused = (0..SCRATCH_MIB).find_map(|_| file.write_all(&[0; 1 << 20]).err());
    // The limit is the grace of a quota, 1 MiB; the first blocks of the folder may be part of that.
    let has_filled = file.metadata().is_ok_and(|file| (1 << 19..=1 << 20).contains(&file.len()));
    refused.is_none_or(|error| match error.raw_os_error() {
        Some(libc::EDQUOT) => false,
        Some(libc::ENOSPC) => !has_filled,
        _ => true,
    })
}

/// True if a file could be made in this folder; the file is removed again.
fn write(folder: PathBuf) -> bool {
    let mut name = b".faas-probe-".to_vec();
    name.extend_from_slice(std::process::id().to_string().as_bytes());
    let path = folder.join(OsString::from_vec(name));
    let was_made = File::options().write(true).create_new(true).open(&path).is_ok();
    if was_made {
        let _ = fs::remove_file(path);
    }
    was_made
}
