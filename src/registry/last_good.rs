//! Keeps the texts of last good versions in the run dir, so that a row with a fault serves its last good version even
//! after a restart. The file holds only rows that serve another version than the registry's, so usually it does not
//! exist.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::log;

/// Rows that are kept: more faulty rows at once are a mistake that a rollback repairs.
const ROWS_MAX: usize = 1000;

/// Bytes of the file that are read: room for that many rows of the longest text.
const FILE_BYTES_MAX: u64 = 128 << 20;

pub struct LastGood {
    path: PathBuf,
    /// Descriptors by key, as in the file.
    texts: BTreeMap<String, String>,
}

impl LastGood {
    /// A file that is missing, or is no JSON object of strings, counts as empty.
    pub fn load(path: PathBuf) -> LastGood {
        let is_small = |path: &Path| fs::metadata(path).is_ok_and(|found| found.len() <= FILE_BYTES_MAX);
        let bytes = if is_small(&path) { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        LastGood { texts: serde_json::from_slice(&bytes).unwrap_or_default(), path }
    }

    pub fn text_of(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str)
    }

    /// Replaces the kept texts by these.
    pub fn keep(&mut self, texts: impl Iterator<Item = (String, String)>) {
        let texts: BTreeMap<String, String> = texts.take(ROWS_MAX).collect();
        if texts == self.texts {
            return;
        }
        self.texts = texts;
        if let Err(cause) = self.write() {
            log!(
                "registry: could not write {}: {cause}; rows with faults lose their last good version with a restart",
                self.path.display()
            );
        }
    }

    /// Writes in one step: a gateway killed meanwhile leaves the old file or the new one.
    fn write(&self) -> io::Result<()> {
        if self.texts.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
                _ => Ok(()),
            };
        }
        let unfinished = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(serde_json::to_string(&self.texts)?.as_bytes())?;
        fs::rename(&unfinished, &self.path)
    }
}
