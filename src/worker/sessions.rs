//! The folders for sessions of PHP functions: one per path, owned by the functions' user. Rows of one path that differ in
//! their method share it, as the browser's cookies do: a login by POST counts for GET.
//!
//! Other functions run as the same user. They cannot write there, since no ruleset of theirs allows it. They cannot
//! read there, since they cannot know the folder's name: it is made out of the function's path and a key in the run
//! dir, and the folder above may be entered, but not listed. Every worker of the run dir computes the same names.
//!
//! A folder is bounded: a sweep removes files that have not been written for as long as PHP keeps a session, and then
//! the oldest beyond the bound. As far as the kernel has Landlock, functions make only plain files there.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::error::start::{Result, StartError};
use crate::procfs;
use crate::sandbox::User;
use crate::settings::Settings;

/// Of the folder of all sessions. Not even its owner may list it without privileges: functions may run as that user.
const MODE: u32 = 0o311;
/// session.gc_maxlifetime, PHP's default: 24 minutes since the last request.
const KEPT: Duration = Duration::from_secs(24 * 60);
/// Bytes of one function's sessions: some 100,000 logins.
const BYTES_MAX: u64 = 64 << 20;
/// Files of one function's sessions that a sweep counts; it removes all further ones.
const FILES_MAX: usize = 200_000;
/// Functions whose folder is known to exist. At this number, all are forgotten and looked for again.
const KNOWN_MAX: usize = 4096;

pub struct Sessions {
    folder: PathBuf,
    key: String,
    /// Paths whose folder exists. Guards the map; held for a look or an insertion.
    known: Mutex<HashMap<String, Arc<Path>>>,
}

impl Sessions {
    /// Makes the folder of all sessions if it is missing; its parent must be the worker's own.
    pub fn new(settings: &Settings) -> Result<Sessions> {
        let folder = settings.sessions_dir();
        let failed = || StartError::io("make the folder for sessions", folder.display().to_string());
        match DirBuilder::new().mode(MODE).create(&folder) {
            // An earlier version may have made it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                fs::set_permissions(&folder, Permissions::from_mode(MODE)).map_err(failed())?;
            }
            made => made.map_err(failed())?,
        }
        let file = settings.session_key_file();
        let key = key(&file).map_err(StartError::io("make the key for sessions", file.display()))?;
        Ok(Sessions { folder, key, known: Mutex::default() })
    }

    /// The folder of the function with this route.
    pub fn folder_of(&self, route: &str, user: Option<&User>) -> io::Result<Arc<Path>> {
        let known = || self.known.lock().expect("nothing panics under this lock");
        let path = route.split_once(':').map_or(route, |(_, path)| path);
        if let Some(folder) = known().get(path) {
            return Ok(folder.clone());
        }
        let folder: Arc<Path> = self.folder.join(name_of(&self.key, path)).into();
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
        if let Some(user) = user {
            chown(&folder, Some(user.uid), Some(user.gid))?;
        }
        let mut known = known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(path.to_string(), folder.clone());
        Ok(folder)
    }

    /// Removes sessions that are old, or beyond the bound: as root of all functions, else of those that this worker has
    /// run.
    pub fn sweep(&self) {
        let known = || self.known.lock().expect("nothing panics under this lock").values().cloned().collect();
        let folders: Vec<Arc<Path>> = match fs::read_dir(&self.folder) {
            Ok(entries) => entries.flatten().map(|entry| entry.path().into()).collect(),
            Err(_) => known(),
        };
        folders.iter().for_each(|folder| sweep(folder, SystemTime::now()));
    }
}

/// The key of this run dir. The first worker that asks makes it; a later one needs no room on the disk for it.
fn key(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        read => return read,
    }
    let random = || RandomState::new().build_hasher().finish();
    let unfinished = file.with_extension(format!("unfinished-{}", procfs::outer_pid()));
    let mut options = OpenOptions::new();
    let mut new = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    new.write_all(format!("{:016x}{:016x}", random(), random()).as_bytes())?;
    // In one step, and never over an existing key.
    let linked = fs::hard_link(&unfinished, file);
    fs::remove_file(&unfinished)?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => fs::read_to_string(file),
    }
}

/// 128 bits out of key and path. A function that knows the name of its own folder cannot derive another's.
fn name_of(key: &str, path: &str) -> String {
    let half = |salt: u8| {
        let mut hasher = std::hash::DefaultHasher::new();
        for part in [key.as_bytes(), &[salt], path.as_bytes(), &[salt], key.as_bytes()] {
            hasher.write(part);
        }
        hasher.finish()
    };
    format!("{:016x}{:016x}", half(0), half(1))
}

/// Follows no link: a function may put links there.
fn sweep(folder: &Path, now: SystemTime) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().enumerate();
    let mut files = Vec::new();
    for (number, entry) in entries {
        let Ok(metadata) = entry.metadata() else { continue };
        let is_file = metadata.is_file() && metadata.permissions().mode() & 0o7000 == 0;
        let age = metadata.modified().ok().and_then(|written| now.duration_since(written).ok()).unwrap_or_default();
        if metadata.is_dir() {
            // A folder can exist only where no Landlock forbids it. A filled one stays: a running function could
            // redirect the removal meanwhile.
            let _ = fs::remove_dir(entry.path());
        } else if !is_file || age > KEPT || number >= FILES_MAX {
            let _ = fs::remove_file(entry.path());
        } else {
            files.push((age, metadata.blocks() * 512, entry.path()));
        }
    }
    files.sort();
    let mut bytes = 0;
    for (_, size, path) in files {
        bytes += size;
        if bytes > BYTES_MAX {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_folders_of_their_own_and_workers_find_the_same() {
        let folder = std::env::temp_dir().join(format!("faas-sessions-{}", std::process::id()));
        let inside = |name: &str| folder.join(name).display().to_string();
        let settings = Settings::from_lookup(|name| match name {
            "FAAS_RUN_DIR" => Some(inside("run")),
            "FAAS_SPOOL_DIR" => Some(inside("spool")),
            _ => None,
        });
        let settings = settings.unwrap();
        fs::create_dir_all(&settings.run_dir).unwrap();
        fs::create_dir_all(settings.scratch_dir()).unwrap();
        let [one, other] = [(); 2].map(|()| Sessions::new(&settings).unwrap());
        let first = one.folder_of("GET:/a", None).unwrap();
        assert_eq!(one.folder_of("GET:/a", None).unwrap(), first);
        assert_eq!(other.folder_of("GET:/a", None).unwrap(), first);
        assert_eq!(other.folder_of("POST:/a", None).unwrap(), first);
        assert_ne!(other.folder_of("GET:/b", None).unwrap(), first);
        assert_eq!(fs::metadata(&*first).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::metadata(settings.sessions_dir()).unwrap().mode() & 0o777, 0o311);
        let session = first.join("sess_a");
        fs::write(&session, "").unwrap();
        OpenOptions::new().write(true).open(&session).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        one.sweep();
        assert!(!session.exists(), "a folder that cannot be listed is swept, too");
        fs::set_permissions(settings.sessions_dir(), Permissions::from_mode(0o700)).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_old_goes_and_of_too_much_the_oldest() {
        let folder = std::env::temp_dir().join(format!("faas-sweep-{}", std::process::id()));
        fs::create_dir_all(folder.join("made")).unwrap();
        let now = SystemTime::now();
        let make = |name: &str, mib: usize, age_s: u64| {
            fs::write(folder.join(name), vec![1; mib << 20]).unwrap();
            let file = OpenOptions::new().write(true).open(folder.join(name)).unwrap();
            file.set_modified(now - Duration::from_secs(age_s)).unwrap();
        };
        make("old", 0, 25 * 60);
        make("newest", 30, 1);
        make("newer", 30, 60);
        make("oldest", 30, 120);
        std::os::unix::fs::symlink("/etc", folder.join("link")).unwrap();
        sweep(&folder, now);
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["newer", "newest"]);
        assert!(fs::exists("/etc/passwd").unwrap());
        fs::remove_dir_all(folder).unwrap();
    }
}
