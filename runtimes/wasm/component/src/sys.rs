//! The only file with `unsafe`.

use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::Component;

/// Maps a compiled component.
///
/// # Errors
/// If it is no artifact, or was made by another version or for another processor.
pub fn map_component(engine: &Engine, artifact: &Path) -> wasmtime::Result<Component> {
    // SAFETY: an artifact is machine code, and is trusted as the program itself is: the caller has seen that only the
    // worker's user may write to it, and the worker replaces artifacts by rename, so that a mapped one never changes.
    unsafe { Component::deserialize_file(engine, artifact) }
}
