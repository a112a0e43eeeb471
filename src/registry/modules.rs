//! The code of `db:` modules, as files that functions can run.
//!
//! The gateway writes each bundle of the registry to a folder of its own in the code dir, named by a SHA-256 of its
//! files' names and contents. It fills the folder under another name and renames it when it is complete; nothing in it
//! ever changes. So a change of code is a new folder, and the routes that name it come into service after it exists.
//! Routes and calls hold their folder; the gateway removes a folder that neither has held for a while. If another
//! program removes a folder, such as a cleaner of /tmp, the gateway writes it again.
//!
//! Only the gateway can list the code dir, and functions cannot write in it: they run as another user, or Landlock
//! prevents it (protected.rs). Folders and files are read-only as well.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::tables::{Mark, ModuleFile, Tables};
use crate::log;
use crate::sys;

/// Functions may enter the code dir, but not list it.
const CODE_DIR_MODE: u32 = 0o711;
const FOLDER_MODE: u32 = 0o555;
const FILE_MODE: u32 = 0o444;
const PROGRAM_MODE: u32 = 0o555;

/// First bytes of files that can be started: a script with an interpreter, ELF, WASM.
const PROGRAM_HEADS: [&[u8]; 3] = [b"#!", b"\x7fELF", b"\0asm"];

/// An unused folder is kept this long, for a rollback or for a process that outlived its call.
const UNUSED_KEPT: Duration = Duration::from_secs(60);

/// Time between two looks for lost files and for folders to remove.
const CHECK_PERIOD: Duration = Duration::from_secs(2);

/// One version of a bundle on the disk.
#[derive(Debug)]
pub struct CodeFolder {
    path: PathBuf,
    /// Names and sizes of its files, by name.
    files: Vec<(String, u64)>,
    /// False where the file system is mounted noexec.
    pub can_execute: bool,
}

impl CodeFolder {
    fn is_whole(&self) -> bool {
        let is_there = |(name, bytes): &(String, u64)| {
            fs::symlink_metadata(self.path.join(name)).is_ok_and(|found| found.is_file() && found.len() == *bytes)
        };
        self.files.iter().all(is_there)
    }
}

/// The bundles in service, by name.
#[derive(Debug, Default)]
pub struct Bundles(HashMap<String, (Mark, Arc<CodeFolder>)>);

impl Bundles {
    /// The path of a module's file, and the folder that must stay for it.
    pub fn module(&self, name: &str) -> Result<(PathBuf, Arc<CodeFolder>), String> {
        let (_, folder) = self.0.get(bundle_of(name)).filter(|(_, folder)| folder.has(name)).ok_or_else(|| {
            format!("module is db:{name}; it must be a module that the registry has, or the path of a file")
        })?;
        Ok((folder.path.join(name), folder.clone()))
    }
}

impl CodeFolder {
    fn has(&self, name: &str) -> bool {
        self.files.binary_search_by(|(other, _)| other.as_str().cmp(name)).is_ok()
    }
}

/// The first folder of a module's name, with the slash; without a folder the name itself.
pub fn bundle_of(name: &str) -> &str {
    name.find('/').map_or(name, |slash| &name[..=slash])
}

/// The code dir of one gateway.
pub struct CodeDir {
    /// Possible places, in order; the gateway takes the first that it can create.
    candidates: Vec<PathBuf>,
    root: Option<PathBuf>,
    /// Folders of no bundle in service, and the time since when they are unused.
    retired: Vec<(Arc<CodeFolder>, Option<Instant>)>,
    checked: Instant,
    /// True if no other gateway uses the code dir: otherwise that gateway may need a folder that this one does not.
    pub is_alone: bool,
}

impl CodeDir {
    pub fn new(candidates: Vec<PathBuf>) -> CodeDir {
        CodeDir { candidates, root: None, retired: Vec::new(), checked: Instant::now(), is_alone: true }
    }

    /// Writes the bundles that changed since `bundles`, and returns them with the names of those that were removed or
    /// changed; an empty list where all are the same.
    ///
    /// # Errors
    /// One sentence. The bundles in service stay as they were.
    pub fn update(&mut self, tables: &Tables, bundles: &Bundles) -> Result<Vec<(String, Option<Entry>)>, String> {
        let named = tables.named_bundles().map_err(|cause| cause.to_string())?;
        let mut changes = Vec::new();
        for (name, mark) in &named {
            if bundles.0.get(name).is_some_and(|(known, _)| known == mark) {
                continue;
            }
            let folder = self.write(tables, name).map_err(|cause| {
                let root = self.root.as_ref().or(self.candidates.last()).expect("a code dir has candidates");
                format!("could not write the code of db:{name} to {}: {cause}", root.display())
            })?;
            changes.push((name.clone(), Some((*mark, folder))));
        }
        if named.len() < bundles.0.len() + changes.len() {
            let named: HashSet<&String> = named.iter().map(|(name, _)| name).collect();
            changes.extend(bundles.0.keys().filter(|name| !named.contains(name)).map(|name| (name.clone(), None)));
        }
        Ok(changes)
    }

    /// Applies the result of [`CodeDir::update`] to `bundles`.
    pub fn apply(&mut self, changes: Vec<(String, Option<Entry>)>, bundles: &mut Bundles) {
        for (name, entry) in changes {
            let old = match entry {
                Some(entry) => bundles.0.insert(name, entry),
                None => bundles.0.remove(&name),
            };
            self.retired.extend(old.map(|(_, folder)| (folder, None)));
        }
    }

    /// Removes folders that are no longer needed. Forgets bundles that lost files, and returns true if one did: the
    /// next reading writes them again.
    pub fn check(&mut self, bundles: &mut Bundles) -> bool {
        if self.checked.elapsed() < CHECK_PERIOD {
            return false;
        }
        self.checked = Instant::now();
        let in_service: HashSet<&Path> = bundles.0.values().map(|(_, folder)| folder.path.as_path()).collect();
        self.retired.retain_mut(|(folder, unused_since)| {
            if in_service.contains(folder.path.as_path()) {
                return false;
            }
            if Arc::strong_count(folder) > 1 || !self.is_alone {
                *unused_since = None;
                return true;
            }
            let is_over = unused_since.get_or_insert_with(Instant::now).elapsed() >= UNUSED_KEPT;
            if is_over {
                let _ = remove_folder(&folder.path);
            }
            !is_over
        });
        let lost: Vec<String> =
            bundles.0.iter().filter(|(_, (_, folder))| !folder.is_whole()).map(|(name, _)| name.clone()).collect();
        for name in &lost {
            bundles.0.remove(name);
            log!("registry: files of db:{name} are gone from the code dir; they are written again");
        }
        !lost.is_empty()
    }

    /// Writes one bundle.
    fn write(&mut self, tables: &Tables, name: &str) -> io::Result<Arc<CodeFolder>> {
        let root = self.root()?;
        let files = tables.files_of(name).map_err(io::Error::other)?;
        let unfinished = root.join(format!(".new-{}", std::process::id()));
        remove_folder(&unfinished)?;
        let written = write_files(tables, &files, &unfinished);
        let placed = written.and_then(|hash| self.place(&root, &unfinished, &hash, &files));
        if placed.is_err() {
            let _ = remove_folder(&unfinished);
        }
        placed
    }

    /// Gives a complete folder its name, unless a complete folder has that name already.
    fn place(&self, root: &Path, unfinished: &Path, hash: &str, files: &[ModuleFile]) -> io::Result<Arc<CodeFolder>> {
        let path = root.join(hash);
        let files = files.iter().map(|file| (file.name.clone(), file.bytes)).collect();
        let can_execute = !sys::is_noexec(root)?;
        let folder = Arc::new(CodeFolder { path, files, can_execute });
        if folder.is_whole() {
            remove_folder(unfinished)?;
        } else {
            remove_folder(&folder.path)?;
            fs::rename(unfinished, &folder.path)?;
        }
        // Not a folder that an earlier gateway left: only its path is known.
        let is_same = |other: &CodeFolder| other.path == folder.path && other.files == folder.files;
        let retired = self.retired.iter().find(|(other, _)| is_same(other));
        Ok(retired.map_or(folder, |(other, _)| other.clone()))
    }

    /// The code dir, created on first use; folders that an earlier gateway left there count as retired.
    fn root(&mut self) -> io::Result<PathBuf> {
        if let Some(root) = self.root.as_ref().filter(|root| root.is_dir()) {
            return Ok(root.clone());
        }
        let mut made = Err(io::Error::from(ErrorKind::NotFound));
        let root = self.candidates.iter().find(|root| {
            made = make_code_dir(root);
            made.is_ok()
        });
        let root = root.cloned();
        made?;
        let root = root.expect("the last candidate was made");
        for entry in fs::read_dir(&root)?.flatten() {
            let folder = CodeFolder { path: entry.path(), files: Vec::new(), can_execute: true };
            if entry.file_name().to_string_lossy().starts_with(".new-") {
                if self.is_alone {
                    remove_folder(&folder.path)?;
                }
            } else if !self.retired.iter().any(|(other, _)| other.path == folder.path) {
                self.retired.push((Arc::new(folder), None));
            }
        }
        self.root = Some(root.clone());
        Ok(root)
    }
}

/// A bundle in service: its last change, and its folder.
pub type Entry = (Mark, Arc<CodeFolder>);

/// New folders on the way can be entered by everybody, whatever the umask; existing ones stay as they are.
fn make_code_dir(root: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = root.ancestors().take_while(|folder| !folder.is_dir()).collect();
    for folder in missing.into_iter().rev() {
        fs::create_dir(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(CODE_DIR_MODE))?;
    }
    // The folder may exist on a file system that is mounted read-only.
    let probe = root.join(format!(".new-{}", std::process::id()));
    remove_folder(&probe)?;
    fs::create_dir(&probe)?;
    fs::remove_dir(&probe)
}

/// Writes a bundle's files below `folder` and returns the hash of their names and contents, in hexadecimal.
fn write_files(tables: &Tables, files: &[ModuleFile], folder: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    fs::create_dir(folder)?;
    let mut folders = vec![folder.to_path_buf()];
    for file in files {
        let path = folder.join(&file.name);
        let above = path.parent().expect("a file lies in a folder");
        if folders.last().is_none_or(|last| last != above) && !above.is_dir() {
            fs::create_dir_all(above)?;
        }
        let new_folders = above.ancestors().take_while(|other| *other != folder);
        folders.extend(new_folders.map(Path::to_path_buf));
        for bytes in [&(file.name.len() as u64).to_le_bytes(), &file.bytes.to_le_bytes()] {
            hash.update(bytes);
        }
        hash.update(file.name.as_bytes());
        let mut to = HashedFile { file: BufWriter::new(create(&path)?), hash: &mut hash, head: Vec::new() };
        tables.copy_code(file, &mut to)?;
        let is_program = PROGRAM_HEADS.iter().any(|head| to.head.starts_with(head));
        let file = to.file.into_inner().map_err(|error| error.into_error())?;
        file.set_permissions(Permissions::from_mode(if is_program { PROGRAM_MODE } else { FILE_MODE }))?;
    }
    folders.sort_unstable();
    folders.dedup();
    // The deepest first: nothing can be added to a read-only folder.
    for folder in folders.iter().rev() {
        fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))?;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// A file that is hashed while it is written.
struct HashedFile<'a> {
    file: BufWriter<File>,
    hash: &'a mut Sha256,
    /// Its first bytes, as many as [`PROGRAM_HEADS`] need.
    head: Vec<u8>,
}

impl Write for HashedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        let missing = 4_usize.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..missing]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Removes a folder whose folders are read-only. A missing folder is no error.
fn remove_folder(path: &Path) -> io::Result<()> {
    fn make_writable(folder: &Path) -> io::Result<()> {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                make_writable(&entry.path())?;
            }
        }
        Ok(())
    }
    match fs::symlink_metadata(path) {
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(cause),
        Ok(found) if !found.is_dir() => return fs::remove_file(path),
        Ok(_) => make_writable(path)?,
    }
    fs::remove_dir_all(path)
}

#[cfg(test)]
mod tests;
