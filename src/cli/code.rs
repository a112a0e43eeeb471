//! Reads code from the disk for the registry: one file, or a folder as a bundle.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{CliError, Result, failed};
use crate::error::shell_word;
use crate::operator::code::{Bounds, Code};

/// Folders below this depth are a mistake, or a cycle.
const DEPTH_MAX: usize = 32;

/// Reads `source`. `name` is its name in the registry; without it, its own name.
pub fn read(source: &Path, name: Option<&str>, bounds: &Bounds) -> Result<Code> {
    let found = fs::metadata(source).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => CliError::NotFound(format!("no file or folder is at {}", source.display())),
        _ => CliError::Failed(format!("could not read {}: {cause}", source.display())),
    })?;
    let own = fs::canonicalize(source).map_err(failed(format!("find {}", source.display())))?;
    let own = own.file_name().and_then(|name| name.to_str());
    let name = name.or(own).ok_or_else(|| {
        CliError::Usage(format!("{} has no name that could be a module's; give one with --module", source.display()))
    })?;
    match found.is_dir() {
        true => folder(source, name, bounds),
        false => Ok(Code::file(name, file(source, bounds)?, is_executable(source))),
    }
}

fn folder(source: &Path, name: &str, bounds: &Bounds) -> Result<Code> {
    let mut files = Vec::new();
    collect(source, name, DEPTH_MAX, bounds, &mut files)?;
    let code = Code::folder(&source.display().to_string(), name, files)?;
    let path = source.join("run");
    if code.entry == format!("{name}/run") && !is_executable(&path) {
        return Err(CliError::Failed(format!(
            "{} is not executable; try: chmod +x {}",
            path.display(),
            shell_word(path.display())
        )));
    }
    Ok(code)
}

/// Collects the files below a folder. Skips a folder .git; follows a symbolic link to a file, but not to a folder.
fn collect(folder: &Path, name: &str, depth: usize, bounds: &Bounds, files: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let step = || failed(format!("list {}", folder.display()));
    if depth == 0 {
        return Err(CliError::Failed(format!("{} lies more than {DEPTH_MAX} folders deep", folder.display())));
    }
    for entry in fs::read_dir(folder).map_err(step())? {
        let entry = entry.map_err(step())?;
        let path = entry.path();
        let own = entry.file_name();
        let own = own.to_str().ok_or_else(|| CliError::Failed(format!("{} has no name in UTF-8", path.display())))?;
        let below = format!("{name}/{own}");
        if path.is_symlink() && path.is_dir() {
            return Err(CliError::Failed(format!("{} is a symbolic link to a folder", path.display())));
        }
        match path.is_dir() {
            true if own == ".git" => {}
            true => collect(&path, &below, depth - 1, bounds, files)?,
            false => files.push((below, file(&path, bounds)?)),
        }
        bounds.check_count(&folder.display().to_string(), files.len())?;
    }
    Ok(())
}

fn file(path: &Path, bounds: &Bounds) -> Result<Vec<u8>> {
    let found = fs::metadata(path).map_err(failed(format!("read {}", path.display())))?;
    if !found.is_file() {
        return Err(CliError::Failed(format!("{} is no regular file", path.display())));
    }
    bounds.check_file(&path.display().to_string(), found.len())?;
    fs::read(path).map_err(failed(format!("read {}", path.display())))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o111 != 0)
}
