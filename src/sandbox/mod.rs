//! The sandbox of functions: the user that they run as, the files that they may write, and the rules that this machine
//! can enforce.
//!
//! | what | how |
//! |---|---|
//! | user | FAAS_USER where the gateway runs as root: its functions can then read neither registry nor sockets |
//! | files | Landlock: read what the user may but registry and run dir, write only the invocation's scratch folder and what `write` lists |
//! | other processes | Landlock: no signals to, and no reading the memory of, processes outside of the invocation |
//! | network | all, or with `"net": false` none but Unix sockets (seccomp, and Landlock for TCP) |
//! | what stays | seccomp: no shared memory, queues or keys of System V or POSIX, which would outlive the invocation; no process whose parent is not its maker, no namespaces |
//! | memory | seccomp: no files that lie in memory only, unless the row has `"memfd": true` |
//! | processes | RLIMIT_NPROC, counted in a user namespace for each invocation if functions run as our own user, or the worker cannot run ahead of a fork bomb (namespaces.rs) |
//! | permissions | seccomp: no chmod, chown and the like if functions run as our own user: Landlock does not restrict these calls |
//!
//! Gateway and workers find out the same on their own, from the same settings: the workers to apply it, the gateway to
//! report it in the log and in the console (promises.rs). A feature that the kernel lacks is left out and reported
//! there. The platform runs all the same, unless FAAS_REQUIRE_SANDBOX forbids that.

pub mod groups;
pub mod namespaces;
pub(crate) mod orphans;
pub mod probe;
pub mod processes;
pub mod promises;
pub(crate) mod protected;
pub mod quota;
pub(crate) mod readable;
pub(crate) mod stopped;

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use self::namespaces::{Namespace, Namespaces};
use self::processes::ProcessesMax;
use self::quota::Projects;
use self::readable::Readable;
use crate::error::shell_word;
use crate::error::start::{Result, StartError};
use crate::limits::{FORK_SERVER_DATA_MIB, FUNCTION_FILES_MAX, HIDDEN_LOOK_PERIOD};
use crate::procfs;
use crate::settings::Settings;
use crate::sys::{self, Confinement, Pid, Rights, SystemCalls, Urgency};

/// The version of Landlock from which on a function cannot truncate what it may not write (landlock(7)).
const LANDLOCK_TRUNCATES: u32 = 3;

pub struct Sandbox {
    /// The user that functions run as; `None`: this process's own.
    pub user: Option<User>,
    /// The name of this process's own user.
    own_name: String,
    pub processes_max: ProcessesMax,
    /// True if this process may run before all of ordinary priority. Then it can end a fork bomb at any size. Otherwise
    /// functions give way to it.
    pub runs_ahead: bool,
    landlock_version: u32,
    /// Devices that every user may write to.
    devices: Vec<File>,
    readable: Readable,
    /// The last time that permissions were seen to hide the protected files. Held to read or write that time.
    seen_hidden: Mutex<Option<Instant>>,
    /// System calls that functions give up beyond the common filter: without network, and with it; each without files
    /// in memory, and with them.
    system_calls: [[SystemCalls; 2]; 2],
    /// Warnings shown in the log and in the console.
    pub remarks: Vec<String>,
}

/// A user of the system, with the group of its entry in /etc/passwd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// True if FAAS_USER named it.
    pub is_explicit: bool,
}

impl Sandbox {
    /// For the functions of the process `gateway`. `namespaces` are those that they may enter, in a worker.
    ///
    /// # Errors
    /// [`StartError::Setting`] if FAAS_USER is unknown, or names another user than our own and we are not root.
    pub fn new(settings: &Settings, gateway: Pid, namespaces: Option<Namespaces>) -> Result<Sandbox> {
        let user = functions_user(settings)?;
        let remarks = Vec::from_iter(remark_on(user.as_ref(), settings));
        let landlock_version = sys::landlock_version();
        let devices = ["/dev/null", "/dev/zero", "/dev/full"];
        let permissions = user.is_some();
        let sandbox = Sandbox {
            own_name: user_named(&sys::own_uid().to_string()).map_or_else(|_| String::new(), |user| user.name),
            processes_max: ProcessesMax::new(settings, user.as_ref(), gateway, namespaces),
            runs_ahead: Urgency::is_allowed(),
            landlock_version,
            devices: devices.iter().filter_map(|path| File::open(path).ok()).collect(),
            readable: Readable::new(settings),
            seen_hidden: Mutex::default(),
            system_calls: [false, true].map(|network| {
                [false, true].map(|memory_files| {
                    SystemCalls::further(Rights { network, permissions, memory_files, namespaces: false })
                })
            }),
            remarks,
            user,
        };
        let is_registry_open =
            sandbox.user.is_some() && settings.db.exists() && may_read(sandbox.user.as_ref(), &settings.db).is_ok();
        if landlock_version == 0 && is_registry_open {
            let text = format!("functions can read the registry; try: chmod o-r {}", shell_word(settings.db.display()));
            return Ok(Sandbox { remarks: [sandbox.remarks, vec![text]].concat(), ..sandbox });
        }
        Ok(sandbox)
    }

    /// The name of the user that functions run as, for USER.
    pub fn user_name(&self) -> &str {
        self.user.as_ref().map_or(&self.own_name, |user| &user.name)
    }

    /// True if functions could write to the files of control groups: they share our user, and there is no Landlock.
    pub fn may_leave_groups(&self) -> bool {
        self.user.is_none() && self.landlock_version == 0
    }

    /// The project quotas of the file system of `folder`; `None` where functions could leave them, or there are none.
    pub fn projects(&self, folder: &Path) -> Option<Projects> {
        let keeps_functions_in = self.landlock_version > 0 && sys::CAN_RESTRICT_SYSTEM_CALLS;
        keeps_functions_in.then(|| Projects::new(folder)).flatten()
    }

    /// For the operator: the functions' user, Landlock's version, the remarks, and the table of promises (promises.rs).
    pub fn describe(&self, promises: serde_json::Value) -> serde_json::Value {
        let user = self.user.as_ref().map_or("the gateway's own", |user| &user.name);
        serde_json::json!({"user": user, "landlock": self.landlock_version, "remarks": self.remarks, "promises": promises})
    }

    /// The Landlock ruleset for an invocation that may write beneath `scratch` and `listed`, and plain files in
    /// `sessions`; `None` if the kernel has no Landlock. Skips a listed path that does not exist, since nothing can be
    /// written to it. Also skips one that leads to a protected path, by a link that was made after its row was checked.
    pub fn ruleset(
        &self,
        scratch: Option<&Path>,
        listed: &[PathBuf],
        sessions: Option<&Path>,
        cut_network: bool,
    ) -> std::io::Result<Option<OwnedFd>> {
        if self.landlock_version == 0 {
            return Ok(None);
        }
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        if let Some(scratch) = scratch {
            folders.push(File::open(scratch)?);
        }
        for path in listed {
            // Opened without any right: to open a pipe for reading would block until a process writes to it.
            let file = match sys::refer_to(path, 0) {
                Ok(file) => file,
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => return Err(error),
                Err(_) => continue,
            };
            // The path of the open file, so that no link can be put in between.
            let real = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            if self.readable.protected.overlaps(&real) {
                continue;
            }
            let is_folder = file.metadata().is_ok_and(|metadata| metadata.is_dir());
            if is_folder { folders.push(file) } else { files.push(file) }
        }
        let sessions = sessions.map(File::open).transpose()?;
        let folders: Vec<BorrowedFd<'_>> = folders.iter().map(|file| file.as_fd()).collect();
        let files: Vec<BorrowedFd<'_>> = files.iter().chain(&self.devices).map(|file| file.as_fd()).collect();
        let sessions = sessions.as_ref().map(File::as_fd);
        sys::landlock_ruleset(self.landlock_version, &folders, sessions, &files, cut_network).map(Some)
    }

    /// The Landlock ruleset for reading, beside that of [`Sandbox::ruleset`]. `None` if permissions already hide the
    /// protected files: that takes less time, and a file made a moment ago can be read.
    pub fn readable(&self) -> std::io::Result<Option<Arc<readable::Ruleset>>> {
        if self.landlock_version == 0 || self.user.as_ref().is_some_and(|user| self.is_hidden_from(user)) {
            return Ok(None);
        }
        self.readable.ruleset().map(Some)
    }

    /// True if permissions keep `user` from registry and run dir.
    fn is_hidden_from(&self, user: &User) -> bool {
        let seen_hidden = || self.seen_hidden.lock().expect("nothing panics under this lock");
        let last = *seen_hidden();
        if last.is_some_and(|at| at.elapsed() < HIDDEN_LOOK_PERIOD) {
            return true;
        }
        let now = Instant::now();
        let is_hidden = self.readable.protected.hidden.iter().all(|path| !user.can_look_at(path));
        *seen_hidden() = is_hidden.then_some(now);
        is_hidden
    }

    /// The user namespace of one invocation; `None` where it needs none, or there are none.
    ///
    /// # Errors
    /// If as many run as a worker has connections.
    pub fn namespace(&self) -> std::io::Result<Option<Namespace<'_>>> {
        match &self.processes_max {
            ProcessesMax::Each(namespaces) => namespaces.take().map(Some),
            ProcessesMax::None | ProcessesMax::Fixed(_) | ProcessesMax::Shared { .. } => Ok(None),
        }
    }

    /// The limits and permissions of a function's process; the rulesets are for [`Confinement::landlock`], the namespace
    /// is from [`Sandbox::namespace`]. `memfd` allows files in memory.
    pub fn confinement<'a>(
        &'a self,
        program_file: Option<&'a File>,
        data_mib_max: u64,
        net: bool,
        memfd: bool,
        landlock: [Option<BorrowedFd<'a>>; 2],
        namespace: Option<&'a Namespace<'_>>,
    ) -> Confinement<'a> {
        Confinement {
            program_file: program_file.map(|file| file.as_fd()),
            data_bytes_max: data_mib_max << 20,
            open_files_max: FUNCTION_FILES_MAX,
            namespace: namespace.map(Namespace::as_fd),
            processes_max: self.processes_max.now(),
            gives_way: !self.runs_ahead,
            user: self.user.as_ref().map(|user| (user.uid, user.gid)),
            landlock,
            system_calls: &self.system_calls[usize::from(net)][usize::from(memfd)],
            collects_orphans: true,
        }
    }

    /// The system calls that a fork server gives up, and its children with it. `starts_processes` lets them enter the
    /// user namespaces of their invocations.
    pub fn system_calls_of_fork_server(&self, memory_files: bool, starts_processes: bool) -> SystemCalls {
        let namespaces = starts_processes && matches!(self.processes_max, ProcessesMax::Each(_));
        SystemCalls::further(Rights { network: true, permissions: self.user.is_some(), memory_files, namespaces })
    }

    /// Like [`Sandbox::confinement`], for a fork server, whose children apply limits and rulesets to themselves. This
    /// process ends their orphans.
    pub fn confinement_of_fork_server<'a>(
        &'a self,
        program_file: Option<&'a File>,
        system_calls: &'a SystemCalls,
    ) -> Confinement<'a> {
        Confinement {
            processes_max: self.processes_max.of_fork_server(),
            system_calls,
            collects_orphans: false,
            ..self.confinement(program_file, FORK_SERVER_DATA_MIB, true, false, [None, None], None)
        }
    }
}

/// Checks, as far as permission bits tell, that functions may read `path`. They run as `user`, or else as our own user.
///
/// # Errors
/// The obstacle and its remedy, in one sentence.
pub fn may_read(user: Option<&User>, path: &Path) -> std::result::Result<(), String> {
    let Some(user) = user else { return Ok(()) };
    let refuse = |path: &Path, what: &str, mode: &str| {
        let word = shell_word(path.display());
        Err(format!("the user {} cannot {what} {}; try: chmod {mode} {word}", user.name, path.display()))
    };
    for folder in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
        if !user.may(folder, 0o1) {
            return refuse(folder, "enter", "o+x");
        }
    }
    if user.may(path, 0o4) { Ok(()) } else { refuse(path, "read", "o+r") }
}

/// Checks, as far as permission bits tell, that functions may write to or beneath `path`. They run as `user`, or else
/// as our own user.
///
/// # Errors
/// The obstacle and its remedy, in one sentence.
pub fn may_write(user: Option<&User>, path: &Path) -> std::result::Result<(), String> {
    let (shown, word) = (path.display(), shell_word(path.display()));
    if !path.exists() {
        let chown = user.map(|user| format!(" && chown {} {word}", shell_word(&user.name))).unwrap_or_default();
        return Err(format!("write names {shown}, and nothing is there; try: mkdir -p {word}{chown}"));
    }
    let Some(user) = user else {
        if sys::may_access(path, 0o2) {
            return Ok(());
        }
        let own = sys::own_uid();
        return Err(format!(
            "write names {shown}, but functions run as the gateway's own user, who cannot write there; root can change that: chown {own} {word}"
        ));
    };
    let closed = path.ancestors().skip(1).find(|folder| !user.may(folder, 0o1));
    match closed {
        Some(folder) => {
            let (shown, word) = (folder.display(), shell_word(folder.display()));
            Err(format!(
                "write names {0}, but the user {1} cannot enter {shown}; try: chmod o+x {word}",
                path.display(),
                user.name
            ))
        }
        None if !user.may(path, 0o2) => {
            let name = &user.name;
            Err(format!(
                "write names {shown}, but the user {name} cannot write there; try: chown {} {word}",
                shell_word(name)
            ))
        }
        None => Ok(()),
    }
}

impl User {
    /// True if a file or folder exists at `path` that this user could read, or enter.
    fn can_look_at(&self, path: &Path) -> bool {
        self.has(path, |bits| bits & 0o5 != 0).unwrap_or(false)
            && path.ancestors().skip(1).all(|folder| self.may(folder, 0o1))
    }

    /// True if the permission bits of `path` let this user do `what`: 4 read, 2 write, 1 execute or enter. A missing
    /// path is no obstacle.
    fn may(&self, path: &Path, what: u32) -> bool {
        self.has(path, |bits| bits & what == what).unwrap_or(true)
    }

    /// True if this user's permission bits of `path` are `as_wanted`; `None` if the path does not exist.
    fn has(&self, path: &Path, as_wanted: impl Fn(u32) -> bool) -> Option<bool> {
        let metadata = fs::metadata(path).ok()?;
        let mode = metadata.permissions().mode();
        Some(as_wanted(match () {
            () if metadata.uid() == self.uid => mode >> 6,
            () if metadata.gid() == self.gid => mode >> 3,
            () => mode,
        }))
    }
}

/// A worker calls this before it starts anything. It applies to the worker all that its functions inherit: a /proc that
/// shows them no process but their own, an empty capability bounding set, and the common filter of system calls
/// (seccomp.rs). `namespaces` allows them to enter a user namespace. Returns true if processes are hidden.
///
/// # Errors
/// If the kernel does not take the filter, or if the worker is the first process of a PID namespace and gets no /proc
/// for it.
pub fn confine_worker(namespaces: bool) -> Result<bool> {
    let has_own_namespace = procfs::has_own_namespace();
    let hides_processes = hide_processes();
    if has_own_namespace && !hides_processes {
        return Err(StartError::io("mount", "a /proc for the worker's PID namespace")(
            std::io::ErrorKind::PermissionDenied.into(),
        ));
    }
    // Another user than root may not, and needs it less: no_new_privs alone keeps it from gaining a capability.
    let _ = sys::empty_bounding_set();
    let restricted = sys::restrict_own_system_calls(&SystemCalls::common(namespaces));
    restricted.map_err(StartError::io("restrict", "the system calls of the worker"))?;
    Ok(hides_processes)
}

/// Makes functions see no process but their own, and returns true if that works. The worker must be root for it, and
/// able to look into the processes of its functions itself.
fn hide_processes() -> bool {
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = capabilities.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    capabilities.is_some_and(|set| set & CAP_SYS_PTRACE != 0) && sys::hide_processes().is_ok()
}

/// The user that functions run as; `None`: our own. If we are root, it is the user "nobody" or the one that FAAS_USER
/// names: never root, unless FAAS_USER names root.
///
/// # Errors
/// [`StartError::Setting`] if FAAS_USER is unknown, or names another user than our own and we are not root.
pub fn functions_user(settings: &Settings) -> Result<Option<User>> {
    match (sys::own_uid(), &settings.user) {
        (0, Some(name)) if user_named(name)?.uid == 0 => Ok(None),
        (0, Some(name)) => Ok(Some(User { is_explicit: true, ..user_named(name)? })),
        (0, None) => {
            let unnamed = || User { name: NOBODY.to_string(), uid: NOBODY, gid: NOBODY, is_explicit: false };
            Ok(Some(user_named("nobody").unwrap_or_else(|_| unnamed())))
        }
        (_, None) => Ok(None),
        (own, Some(name)) if user_named(name)?.uid == own => Ok(None),
        (_, Some(name)) => {
            let want = "your own name, or not set, unless the gateway runs as root".to_string();
            Err(StartError::Setting { name: "FAAS_USER", value: name.clone(), want })
        }
    }
}

/// A warning about the functions' user.
fn remark_on(user: Option<&User>, settings: &Settings) -> Option<String> {
    let user = match user {
        None if sys::own_uid() == 0 => {
            return Some("functions run as root, without its privileges, since FAAS_USER says so".into());
        }
        Some(user) if !user.is_explicit => user,
        _ => return None,
    };
    let must_enter: [&PathBuf; 2] = [&settings.module_root, &settings.spool_dir];
    let closed = must_enter.iter().flat_map(|path| path.ancestors()).find(|folder| !user.may(folder, 0o1))?;
    Some(format!(
        "the user nobody cannot enter {}: functions whose files lie there are answered 500; try: chmod o+x {}",
        closed.display(),
        shell_word(closed.display())
    ))
}

/// The number of the user "nobody" if /etc/passwd does not have it.
const NOBODY: u32 = 65_534;

/// A user by name or number, from /etc/passwd. A number need not be listed there; its group is then the same number.
fn user_named(name: &str) -> Result<User> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|entry| entry.len() >= 4 && (entry[0] == name || entry[2] == name));
    let numbers = match &entry {
        Some(entry) => entry[2].parse().ok().zip(entry[3].parse().ok()),
        None => name.parse().ok().map(|number: u32| (number, number)),
    };
    let (uid, gid) = numbers.ok_or_else(|| StartError::Setting {
        name: "FAAS_USER",
        value: name.into(),
        want: "a user in /etc/passwd, or a number".into(),
    })?;
    let name = entry.map_or(name.to_string(), |entry| entry[0].to_string());
    Ok(User { name, uid, gid, is_explicit: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let root = user_named("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(user_named("0").unwrap().name, "root");
        assert_eq!(user_named("123456").unwrap().gid, 123_456);
        assert!(user_named("no such user").is_err());
    }

    #[test]
    fn what_stands_in_the_way_is_named_with_its_remedy() {
        let folder = std::env::temp_dir().join(format!("faas-sandbox-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let module = folder.join("m.php");
        fs::write(&module, "").unwrap();
        let user = Some(User { name: "other".into(), uid: 123_456, gid: 123_456, is_explicit: true });
        let settings = Settings::from_lookup(|_| None).unwrap();
        let sandbox = Sandbox { user, ..Sandbox::new(&settings, procfs::outer_pid(), None).unwrap() };
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(&folder, 0o755);
        set(&module, 0o644);
        let reading = || may_read(sandbox.user.as_ref(), &module);
        assert_eq!(reading(), Ok(()));
        set(&module, 0o600);
        let remedy = format!("the user other cannot read {0}; try: chmod o+r {0}", module.display());
        assert_eq!(reading(), Err(remedy));
        set(&folder, 0o700);
        let remedy = format!("the user other cannot enter {0}; try: chmod o+x {0}", folder.display());
        assert_eq!(reading(), Err(remedy));
        let writing = |path: &Path| may_write(sandbox.user.as_ref(), path).unwrap_err();
        assert!(writing(&module).ends_with(&format!("try: chmod o+x {}", folder.display())));
        set(&folder, 0o755);
        assert!(writing(&module).ends_with(&format!("cannot write there; try: chown other {}", module.display())));
        let missing = folder.join("not there");
        let remedy = format!("nothing is there; try: mkdir -p '{0}' && chown other '{0}'", missing.display());
        assert!(writing(&missing).ends_with(&remedy), "{}", writing(&missing));
        assert!(may_write(None, &missing).unwrap_err().ends_with(&format!("mkdir -p '{}'", missing.display())));
        set(&module, 0o666);
        assert_eq!(may_write(sandbox.user.as_ref(), &module), Ok(()));
        fs::remove_dir_all(folder).unwrap();
    }
}
