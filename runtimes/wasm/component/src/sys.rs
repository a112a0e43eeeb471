//! The only file with `unsafe`.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use wasmtime::component::Component;
use wasmtime::{Engine, ensure};

/// Maps the compiled component at `path`, which has been opened as `artifact`. Returns also the descriptor that the
/// component keeps open.
///
/// # Errors
/// If it is no artifact, or was made by another version or for another processor, or if `path` leads to another file by
/// now.
pub fn map_component(engine: &Engine, path: &Path, artifact: File) -> wasmtime::Result<(Component, RawFd)> {
    let opened = artifact.metadata()?;
    // wasmtime opens the path itself, and tells no number. With one thread it is the one that becomes free here: a new
    // descriptor has the lowest free number (open(2)).
    let number = artifact.as_raw_fd();
    drop(artifact);
    // SAFETY: an artifact is machine code, and is trusted as the program itself is: the caller has seen that only the
    // worker's user may write to it, and the worker replaces artifacts by rename, so that a mapped one never changes.
    let component = unsafe { Component::deserialize_file(engine, path) }?;
    // SAFETY: the component owns this descriptor, and lives until the end of this function; it is not closed here.
    let mapped = ManuallyDrop::new(unsafe { File::from_raw_fd(number) }).metadata()?;
    ensure!((mapped.dev(), mapped.ino()) == (opened.dev(), opened.ino()), "it was replaced meanwhile");
    Ok((component, number))
}
