//! Code for the registry: one file, or a folder as a bundle.

use super::{OperationError, Result};

/// Names of a folder's entry; the first that exists is taken.
const ENTRIES: [&str; 3] = ["index.php", "main.wasm", "run"];

/// Files and their contents, under their names in the registry.
pub(crate) struct Code {
    pub files: Vec<(String, Vec<u8>)>,
    /// The file that a row names.
    pub entry: String,
    /// `php`, `wasm` or `native`, if the entry shows it.
    pub runtime: Option<&'static str>,
}

/// Bounds that the registry sets.
pub(crate) struct Bounds {
    pub files_max: u64,
    pub file_bytes_max: u64,
}

impl Code {
    /// One file. An executable file is native, unless it shows another runtime.
    pub fn file(name: &str, code: Vec<u8>, is_executable: bool) -> Code {
        let runtime = runtime_of(name, &code, is_executable);
        Code { files: vec![(name.to_string(), code)], entry: name.to_string(), runtime }
    }

    /// A folder: all names begin with `name/`. Errors call it `source`.
    pub fn folder(source: &str, name: &str, mut files: Vec<(String, Vec<u8>)>) -> Result<Code> {
        files.sort();
        let names = ENTRIES.map(|entry| format!("{name}/{entry}"));
        let code = |name: &String| files.iter().find(|(file, _)| file == name);
        let Some((entry, code)) = names.iter().find_map(code) else {
            let (first, last) = (ENTRIES[..2].join(", "), ENTRIES[2]);
            return Err(OperationError::Refused(format!(
                "{source} has none of {first} and {last}, one of which it starts with"
            )));
        };
        let (entry, runtime) = (entry.clone(), runtime_of(entry, code, true));
        Ok(Code { files, entry, runtime })
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, code)| code.len() as u64).sum()
    }

    /// The first folder with its slash, or the name of the only file.
    pub fn bundle(&self) -> &str {
        bundle_of(&self.entry)
    }
}

impl Bounds {
    /// # Errors
    /// Where the file called `source` is empty or too large.
    pub fn check_file(&self, source: &str, bytes: u64) -> Result<()> {
        match bytes {
            0 => Err(OperationError::Refused(format!("{source} is empty, and a module must not be"))),
            _ if bytes > self.file_bytes_max => Err(OperationError::Refused(format!(
                "{source} has {bytes} bytes, more than {} (module_bytes_max in the registry's settings)",
                self.file_bytes_max
            ))),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// Where the folder called `source` has too many files.
    pub fn check_count(&self, source: &str, files: usize) -> Result<()> {
        match files as u64 > self.files_max {
            false => Ok(()),
            true => Err(OperationError::Refused(format!(
                "{source} has more than {} files (bundle_files_max in the registry's settings)",
                self.files_max
            ))),
        }
    }
}

/// The bundle that a module's name belongs to.
pub(crate) fn bundle_of(name: &str) -> &str {
    name.find('/').map_or(name, |slash| &name[..=slash])
}

fn runtime_of(name: &str, code: &[u8], is_executable: bool) -> Option<&'static str> {
    match () {
        () if name.ends_with(".php") || code.starts_with(b"<?php") => Some("php"),
        () if code.starts_with(b"\0asm") || name.ends_with(".wasm") => Some("wasm"),
        () if code.starts_with(b"#!") || code.starts_with(b"\x7fELF") || is_executable => Some("native"),
        () => None,
    }
}
