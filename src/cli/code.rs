//! Code on the disk, on its way into the registry: one file, or a folder as a bundle.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{CliError, Result, failed};

/// Names that are an entry of a folder, the first one that is there.
const ENTRIES: [&str; 3] = ["index.php", "main.wasm", "run"];

/// Folders below this depth are a mistake, or a cycle.
const DEPTH_MAX: usize = 32;

/// Files and their contents, by the names that they get in the registry.
pub struct Code {
    pub files: Vec<(String, Vec<u8>)>,
    /// The one that a row names.
    pub entry: String,
    /// `php`, `wasm` or `native`, where the entry shows it.
    pub runtime: Option<&'static str>,
}

impl Code {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, code)| code.len() as u64).sum()
    }

    /// The first folder with its slash, or the name of the only file.
    pub fn bundle(&self) -> &str {
        self.entry.find('/').map_or(&self.entry, |slash| &self.entry[..=slash])
    }
}

/// Bounds that the registry sets.
pub struct Bounds {
    pub files_max: u64,
    pub file_bytes_max: u64,
}

/// Reads `source`. `name` is what it is called in the registry; without it, its own name.
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
        false => {
            let code = file(source, bounds)?;
            let runtime = runtime_of(name, &code, is_executable(source));
            Ok(Code { files: vec![(name.to_string(), code)], entry: name.to_string(), runtime })
        }
    }
}

fn folder(source: &Path, name: &str, bounds: &Bounds) -> Result<Code> {
    let mut files = Vec::new();
    collect(source, name, DEPTH_MAX, bounds, &mut files)?;
    files.sort();
    let is_entry = |entry: &&str| files.iter().any(|(file, _)| *file == format!("{name}/{entry}"));
    let entry = ENTRIES.iter().copied().find(is_entry).ok_or_else(|| {
        let (first, last) = (ENTRIES[..2].join(", "), ENTRIES[2]);
        CliError::Failed(format!("{} has none of {first} and {last}, one of which it starts with", source.display()))
    })?;
    if entry == "run" && !is_executable(&source.join(entry)) {
        let path = source.join(entry);
        return Err(CliError::Failed(format!("{0} is not executable; try: chmod +x {0}", path.display())));
    }
    let entry = format!("{name}/{entry}");
    let code = &files.iter().find(|(file, _)| *file == entry).expect("it was just found").1;
    let runtime = runtime_of(&entry, code, true);
    Ok(Code { entry, runtime, files })
}

/// Collects the files below a folder. A folder .git is left out; a symbolic link is followed to a file, but not to a folder.
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
        if files.len() as u64 > bounds.files_max {
            let max = bounds.files_max;
            return Err(CliError::Failed(format!(
                "{} has more than {max} files (bundle_files_max in the registry's settings)",
                folder.display()
            )));
        }
    }
    Ok(())
}

fn file(path: &Path, bounds: &Bounds) -> Result<Vec<u8>> {
    let found = fs::metadata(path).map_err(failed(format!("read {}", path.display())))?;
    let refuse = |text: String| Err(CliError::Failed(format!("{} {text}", path.display())));
    match found.len() {
        _ if !found.is_file() => refuse("is no regular file".into()),
        0 => refuse("is empty, and a module must not be".into()),
        bytes if bytes > bounds.file_bytes_max => refuse(format!(
            "has {bytes} bytes, more than {} (module_bytes_max in the registry's settings)",
            bounds.file_bytes_max
        )),
        _ => fs::read(path).map_err(failed(format!("read {}", path.display()))),
    }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o111 != 0)
}

fn runtime_of(name: &str, code: &[u8], is_executable: bool) -> Option<&'static str> {
    match () {
        () if name.ends_with(".php") || code.starts_with(b"<?php") => Some("php"),
        () if code.starts_with(b"\0asm") || name.ends_with(".wasm") => Some("wasm"),
        () if code.starts_with(b"#!") || code.starts_with(b"\x7fELF") || is_executable => Some("native"),
        () => None,
    }
}
