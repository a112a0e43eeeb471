//! The run dir: its owners, and the places in it.
//!
//! Each gateway works in a folder of its own, run/N/. It holds the sockets and a gateway.pid: the gateway locks the
//! first byte, its workers lock the bytes after it. One gateway is the current one: the link run/current leads to its
//! folder, run/gateway.pid holds its process id, and it has locked the first byte of that file. During an upgrade a
//! successor runs as well, and becomes the current gateway when it is ready (handover.rs). It gets the lock on
//! run/gateway.pid when the old one has ended.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::start::{Result, StartError};
use crate::limits::INSTANCES_MAX;
use crate::registry::files::remove_database;
use crate::settings::Settings;
use crate::{log, sys};

/// Interval at which a successor checks if the old gateway has ended.
const LOCK_LOOK: Duration = Duration::from_millis(100);

/// Rights that only one gateway of a run dir has. Shared with the threads that use them.
#[derive(Debug)]
pub struct Tenure {
    /// True where this gateway is the current one: it has the console, and trims the ledger.
    pub is_current: AtomicBool,
    /// True where no other gateway runs in this run dir: then files that this one does not need, no process needs.
    pub is_alone: AtomicBool,
}

impl Tenure {
    pub fn new(is_current: bool) -> Tenure {
        Tenure { is_current: AtomicBool::new(is_current), is_alone: AtomicBool::new(is_current) }
    }
}

/// The run dir while this gateway uses it. Dropping it removes this gateway's files, and the current gateway's files if
/// this gateway still is the current one.
pub struct RunDir {
    settings: Settings,
    /// run/gateway.pid. Stays open while its lock must hold.
    current: File,
    /// run/N/gateway.pid, likewise.
    _own: File,
}

impl RunDir {
    /// Takes the run dir as its only gateway, and sets the folder in it.
    ///
    /// # Errors
    /// [`StartError::AlreadyRuns`] where another gateway uses it.
    pub fn take(settings: &mut Settings) -> Result<RunDir> {
        let folder = settings.run_dir.clone();
        let failed = |step| StartError::io(step, folder.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed("create the run dir"))?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).map_err(failed("make private the run dir"))?;
        let current = open_pid_file(&settings.current_pid_file())?;
        // The current gateway may be a successor that does not hold the lock yet.
        let heir = settings.current_instance().map(|number| settings.instance_dir_of(number).join("gateway.pid"));
        let heir = heir.and_then(|path| sys::lock_holder(&File::open(path).ok()?, 0).ok().flatten());
        if heir.is_some() || !lock(&current, &settings.current_pid_file())? {
            let holder = heir.or_else(|| sys::lock_holder(&current, 0).ok().flatten());
            let holder = holder.map_or("a gateway".to_string(), |pid| format!("a gateway, process {pid},"));
            return Err(StartError::AlreadyRuns { run_dir: folder, holder });
        }
        let own = claim_folder(settings)?;
        remove_left_folders(settings);
        // Left by a gateway that was killed: another program could listen there by now, and would be shown the token.
        let _ = fs::remove_file(settings.console_address_file());
        let run_dir = RunDir { settings: settings.clone(), current, _own: own };
        run_dir.make_current().map_err(failed("write the process id to"))?;
        Ok(run_dir)
    }

    /// Joins the run dir as the successor of its current gateway, and sets the folder in it.
    pub fn join(settings: &mut Settings) -> Result<RunDir> {
        let current = open_pid_file(&settings.current_pid_file())?;
        let own = claim_folder(settings)?;
        Ok(RunDir { settings: settings.clone(), current, _own: own })
    }

    /// Makes this gateway the current one for all readers of the run dir.
    pub fn make_current(&self) -> io::Result<()> {
        let number = self.settings.instance.expect("a gateway has claimed a folder").to_string();
        let draft = self.settings.run_dir.join("current.new");
        let _ = fs::remove_file(&draft);
        symlink(number, &draft)?;
        fs::rename(draft, self.settings.current_link())?;
        let pid = format!("{}\n", std::process::id());
        // Never empty, since another process may read it at this moment.
        self.current.write_all_at(pid.as_bytes(), 0)?;
        self.current.set_len(pid.len() as u64)
    }

    /// Writes the public address, which the kernel may have chosen, to its file.
    pub fn write_address(&self, address: SocketAddr) -> Result<()> {
        let path = self.settings.gateway_address_file();
        fs::write(&path, format!("{address}\n")).map_err(StartError::io("write", path.display()))
    }

    /// True if another gateway runs here.
    fn has_others(&self) -> bool {
        let is_used =
            |number| File::open(self.settings.instance_dir_of(number).join("gateway.pid")).is_ok_and(is_locked);
        (1..=INSTANCES_MAX).any(|number| self.settings.instance != Some(number) && is_used(number))
    }

    fn is_current(&self) -> bool {
        self.settings.instance.is_some() && self.settings.current_instance() == self.settings.instance
    }
}

/// Waits on the calling thread until this gateway is alone, and takes the lock of the current gateway. The wait ends
/// when the older gateways have drained, or when a successor replaces this gateway.
pub fn take_over_lock(run_dir: &Weak<RunDir>, tenure: &Tenure) {
    while let Some(run_dir) = run_dir.upgrade().filter(|_| tenure.is_current.load(Ordering::SeqCst)) {
        if !run_dir.has_others() && sys::try_lock(&run_dir.current, 0).unwrap_or(false) {
            tenure.is_alone.store(true, Ordering::SeqCst);
            log!("gateway: the older ones have ended");
            return;
        }
        drop(run_dir);
        std::thread::sleep(LOCK_LOOK);
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let settings = &self.settings;
        // The workers have removed their own files; the next start removes those of a worker that was killed.
        let _ = fs::remove_dir_all(settings.compiled_dir());
        let _ = fs::remove_dir(settings.instance_scratch_dir());
        let is_current = self.is_current();
        let _ = fs::remove_dir_all(settings.instance_dir());
        if !is_current {
            return;
        }
        // The console is killed at any point, so its files may be left.
        remove_database(&settings.console_copy());
        let sessions = settings.sessions_dir();
        let _ = fs::set_permissions(&sessions, fs::Permissions::from_mode(0o700));
        let _ = fs::remove_dir_all(sessions);
        let _ = fs::remove_dir(settings.scratch_dir());
        for path in [
            settings.console_address_file(),
            settings.gateway_address_file(),
            settings.session_key_file(),
            settings.handover_socket(),
            settings.current_link(),
            settings.current_pid_file(),
        ] {
            let _ = fs::remove_file(path);
        }
    }
}

fn open_pid_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(StartError::io("open", path.display()))
}

fn lock(file: &File, path: &Path) -> Result<bool> {
    sys::try_lock(file, 0).map_err(StartError::io("lock", path.display()))
}

/// Takes the first folder that is free.
fn claim_folder(settings: &mut Settings) -> Result<File> {
    for number in 1..=INSTANCES_MAX {
        let folder = settings.instance_dir_of(number);
        let failed = |error: io::Error| StartError::io("create the folder", folder.display())(error);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let path = folder.join("gateway.pid");
        let own = open_pid_file(&path)?;
        if lock(&own, &path)? {
            settings.instance = Some(number);
            let write = || own.set_len(0).and_then(|()| writeln!(&own, "{}", std::process::id()));
            write().map_err(StartError::io("write the process id to", path.display()))?;
            return Ok(own);
        }
    }
    let holder = format!("gateways of {INSTANCES_MAX} upgrades drain still: one");
    Err(StartError::AlreadyRuns { run_dir: settings.run_dir.clone(), holder })
}

/// Removes the folders of gateways that were killed.
fn remove_left_folders(settings: &Settings) {
    for number in (1..=INSTANCES_MAX).filter(|number| settings.instance != Some(*number)) {
        let folder = settings.instance_dir_of(number);
        if File::open(folder.join("gateway.pid")).is_ok_and(|pid_file| !is_locked(pid_file)) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn is_locked(pid_file: File) -> bool {
    sys::lock_holder(&pid_file, 0).is_ok_and(|holder| holder.is_some())
}
