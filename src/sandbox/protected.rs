//! Protected paths, existing or not: the registry, the ledger, the run dir, the files of the runtimes.
//!
//! The gateway rejects rows that would let a function write there (config_loader.rs). The worker ensures that no
//! function can, and that none can read the secret ones (sandbox.rs, readable.rs).

use std::fs;
use std::path::{Path, PathBuf};

use crate::ledger::FILE_SUFFIXES;
use crate::settings::Settings;

/// Absolute paths. They hold no symbolic link, as far as they exist when the platform starts.
#[derive(Debug, Default)]
pub struct ProtectedPaths {
    /// The files of the registry and of the ledger, and the run dir: no reading, no writing.
    pub hidden: Vec<PathBuf>,
    /// The folders of the runtimes' files, all scratch folders, and code out of the registry: reading, but no writing.
    kept: Vec<PathBuf>,
}

impl ProtectedPaths {
    pub fn new(settings: &Settings) -> ProtectedPaths {
        let registry = with_suffixes(&settings.db, &["", "-wal", "-shm", "-journal"]);
        let ledger = settings.ledger.iter().flat_map(|path| with_suffixes(path, &FILE_SUFFIXES));
        let paths = registry.into_iter().chain(ledger).chain([settings.run_dir.clone()]);
        let mut hidden: Vec<PathBuf> = paths.flat_map(|path| [beside(&path), resolved(&path)]).collect();
        hidden.sort();
        hidden.dedup();
        let kept =
            settings.code_dirs().into_iter().chain([settings.scratch_dir()]).map(|path| resolved(&path)).collect();
        ProtectedPaths { hidden, kept }
    }

    /// True if `path`, which is absolute and free of symbolic links, contains a protected path, or lies in one.
    pub fn overlaps(&self, path: &Path) -> bool {
        self.hidden.iter().chain(&self.kept).any(|other| other.starts_with(path) || path.starts_with(other))
    }
}

/// The files of a database: those beside the link, if the path is one, and those beside its target.
fn with_suffixes(path: &Path, suffixes: &[&str]) -> Vec<PathBuf> {
    let named = |path: &PathBuf, suffix: &str| {
        let mut path = path.clone().into_os_string();
        path.push(suffix);
        PathBuf::from(path)
    };
    let both = [path.to_path_buf(), resolved(path)];
    both.iter().flat_map(|path| suffixes.iter().map(|suffix| named(path, suffix))).collect()
}

/// The target of a path; if it does not exist, the place where it would be.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| beside(path))
}

/// A path whose folder is resolved, but not the path itself.
fn beside(path: &Path) -> PathBuf {
    let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
    folder.zip(path.file_name()).map_or_else(|| path.to_path_buf(), |(folder, name)| folder.join(name))
}
