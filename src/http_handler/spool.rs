//! Spools: they store a body, in memory up to 64 KiB, beyond that in an unlinked file.
//!
//! Why files: the gateway receives a whole request body before it takes a slot, and a whole response body before it
//! sends it. Otherwise a thousand slow clients could fill the memory. Why unlinked: the file system frees the space
//! however this process ends.
//!
//! All spools together take at most FAAS_SPOOL_MAX bytes of FAAS_SPOOL_DIR. Over that, or when the disk is full, writing
//! fails with [`RequestError::SpoolFull`].

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::request::{RequestError, Result};
use crate::error::start::StartError;
use crate::limits::SPOOL_MEMORY_MAX;

/// The folder that spools share, and the bytes that they use of it.
#[derive(Debug)]
pub struct SpoolArea {
    folder: PathBuf,
    bytes_max: u64,
    bytes_used: AtomicU64,
}

impl SpoolArea {
    /// Fails where it cannot create a file in `folder`, so that the start finds a wrong FAAS_SPOOL_DIR.
    pub fn new(folder: &Path, bytes_max: u64) -> Result<Arc<SpoolArea>, StartError> {
        let area = SpoolArea { folder: folder.to_path_buf(), bytes_max, bytes_used: AtomicU64::new(0) };
        area.open_file().map_err(StartError::io("create a spool file in", folder.display()))?;
        Ok(Arc::new(area))
    }

    /// Bytes in files right now.
    #[cfg(test)]
    pub fn bytes_used(&self) -> u64 {
        self.bytes_used.load(Ordering::Relaxed)
    }

    fn open_file(&self) -> std::io::Result<File> {
        OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(&self.folder)
    }

    fn take(&self, bytes: u64) -> Result<()> {
        let used = self.bytes_used.fetch_add(bytes, Ordering::Relaxed);
        if used + bytes > self.bytes_max {
            self.bytes_used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(RequestError::SpoolFull);
        }
        Ok(())
    }
}

/// The body of one request or response.
#[derive(Debug)]
pub struct Spool {
    area: Arc<SpoolArea>,
    /// The whole body, while it is short; empty once `file` exists.
    memory: Vec<u8>,
    file: Option<File>,
    len: u64,
}

impl Spool {
    pub fn new(area: &Arc<SpoolArea>) -> Spool {
        Spool { area: area.clone(), memory: Vec::new(), file: None, len: 0 }
    }

    /// Takes the body out; an empty one stays.
    pub fn take(&mut self) -> Spool {
        let empty = Spool::new(&self.area);
        std::mem::replace(self, empty)
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`RequestError::SpoolFull`] where the area or its disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.file.is_none() && self.memory.len() + bytes.len() <= SPOOL_MEMORY_MAX {
            self.memory.extend_from_slice(bytes);
            self.len += bytes.len() as u64;
            return Ok(());
        }
        if self.file.is_none() {
            self.move_to_file()?;
        }
        self.append_to_file(bytes)
    }

    /// The bytes, if they are in memory.
    pub fn memory(&self) -> Option<&[u8]> {
        self.file.is_none().then_some(&self.memory)
    }

    /// The file, if the bytes are in one. Its offset moves with each write: read it with `read_at` or sendfile.
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Opens the file once more, for reading only and at its start. A function that gets the descriptor as its stdin can
    /// neither change the file nor move another reader's offset.
    pub fn open_read_only(&self) -> Result<Option<File>> {
        let Some(file) = &self.file else { return Ok(None) };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        File::open(&path).map(Some).map_err(|cause| RequestError::Exhausted { step: "open a spool file again", cause })
    }

    fn move_to_file(&mut self) -> Result<()> {
        let file =
            self.area.open_file().map_err(|cause| RequestError::Exhausted { step: "create a spool file", cause })?;
        self.file = Some(file);
        let memory = std::mem::take(&mut self.memory);
        self.len = 0;
        self.append_to_file(&memory)
    }

    fn append_to_file(&mut self, bytes: &[u8]) -> Result<()> {
        self.area.take(bytes.len() as u64)?;
        let mut file = self.file.as_ref().expect("append_to_file is called with a file only");
        match file.write_all(bytes) {
            Ok(()) => {
                self.len += bytes.len() as u64;
                Ok(())
            }
            Err(cause) => {
                self.area.bytes_used.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
                match cause.kind() {
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                        Err(RequestError::SpoolFull)
                    }
                    _ => Err(RequestError::SpoolBroken { cause }),
                }
            }
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if self.file.is_some() {
            self.area.bytes_used.fetch_sub(self.len, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn area(bytes_max: u64) -> Arc<SpoolArea> {
        SpoolArea::new(&std::env::temp_dir(), bytes_max).unwrap()
    }

    #[test]
    fn long_content_moves_to_a_file_in_order() {
        let area = area(1 << 20);
        let mut spool = Spool::new(&area);
        let content: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        spool.write(&content[..1000]).unwrap();
        assert_eq!(spool.memory(), Some(&content[..1000]));
        for piece in content[1000..].chunks(7001) {
            spool.write(piece).unwrap();
        }
        assert!(spool.memory().is_none());
        assert_eq!((spool.len(), area.bytes_used()), (200_000, 200_000));
        let mut back = vec![0; 200_000];
        assert_eq!(spool.file().unwrap().read_at(&mut back, 0).unwrap(), 200_000);
        assert_eq!(back, content);
        drop(spool);
        assert_eq!(area.bytes_used(), 0);
    }

    #[test]
    fn a_full_area_refuses_and_recovers() {
        let area = area(100_000);
        let mut first = Spool::new(&area);
        first.write(&[1; 90_000]).unwrap();
        let mut second = Spool::new(&area);
        assert!(matches!(second.write(&[2; 70_000]), Err(RequestError::SpoolFull)));
        drop((first, second));
        assert_eq!(area.bytes_used(), 0);
        Spool::new(&area).write(&[3; 99_000]).unwrap();
    }

    #[test]
    fn the_read_only_descriptor_starts_at_the_beginning() {
        use std::io::Read;
        let mut spool = Spool::new(&area(1 << 20));
        spool.write(&[7; 70_000]).unwrap();
        let mut copy = spool.open_read_only().unwrap().unwrap();
        let mut content = Vec::new();
        copy.read_to_end(&mut content).unwrap();
        assert_eq!(content, vec![7; 70_000]);
        assert!(copy.write(&[0]).is_err());
    }
}
