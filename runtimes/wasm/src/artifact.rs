//! Artifacts: modules compiled ahead of time, and the engine that makes and takes them.
//!
//! An artifact is what wasmtime serialises: an ELF file with its version, its settings and the processor's features in
//! the header, so that one that does not fit is refused, never run. It is mapped, not read: all processes that run it
//! share the pages, and the module's initial memory is mapped from it copy-on-write.
//!
//! Invariant: instantiating a module runs none of its code. A fork server does that before it forks, in a process that
//! must not run the function's code. Where a module has a start function, which the specification has run at the end of
//! instantiation, `compile` turns it into an export, and who runs the module calls that first.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use wasmtime::{Config, Engine, Module, OptLevel};

use crate::error::{Error, Result};
use crate::limits::WASM_STACK_BYTES_MAX;
use crate::settings::Settings;
use crate::sys;

/// The name under which the start function is exported. It cannot be a name that compilers give.
pub const START_EXPORT: &str = "faas-wasm:start";

/// Permission to write for a file's group or for all.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The engine, the same for compiling and for running: an artifact fits only the settings that it was made with.
pub fn engine() -> Result<Engine> {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        // The first write to a page of the memory is all that it costs to have it.
        .memory_init_cow(true)
        .max_wasm_stack(WASM_STACK_BYTES_MAX)
        // Backtraces are made from the frame pointers; nobody else unwinds through the module.
        .native_unwind_info(false);
    Engine::new(&config).map_err(Error::engine("start the engine"))
}

/// Compiles the module from `input`, binary or text, and writes the artifact to `output`.
pub fn compile(input: &mut dyn Read, output: &mut dyn Write) -> Result<()> {
    let mut module = Vec::new();
    input.read_to_end(&mut module).map_err(Error::io("read the module"))?;
    let module = runnable(&module)?;
    let artifact =
        engine()?.precompile_module(&module).map_err(|cause| Error::Module(one_line(&format!("{cause:#}"))))?;
    output.write_all(&artifact).and_then(|()| output.flush()).map_err(Error::io("write the artifact"))
}

/// Maps the module's artifact; compiles the module where no artifact is named.
///
/// # Errors
/// `Error::ForeignArtifact` where it was not made by this program on this machine, or could have been changed by a function.
pub fn load(engine: &Engine, settings: &Settings, owner: u32) -> Result<Module> {
    let Some(path) = &settings.artifact else {
        let module = std::fs::read(&settings.module).map_err(Error::file("read", settings.module.as_ref()))?;
        let module = runnable(&module)?;
        return Module::new(engine, &module).map_err(|cause| Error::Module(one_line(&format!("{cause:#}"))));
    };
    let foreign = |cause: String| Error::ForeignArtifact { path: path.clone(), cause: one_line(&cause) };
    // Not of what a link names: who makes links may exchange them.
    let mut options = std::fs::File::options();
    let options = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(Error::file("open the artifact", path))?;
    let metadata = file.metadata().map_err(Error::file("look at the artifact", path))?;
    // An artifact is machine code. A function's user may be the worker's own: then Landlock keeps functions from writing.
    if !metadata.is_file() || ![0, owner].contains(&metadata.uid()) || metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(foreign("others than the worker's user may write to it".into()));
    }
    sys::map_artifact(engine, file).map_err(|cause| foreign(format!("{cause:#}")))
}

/// What is compiled: the module in binary form, its start function as an export.
fn runnable(module: &[u8]) -> Result<Vec<u8>> {
    // The text format's errors have several lines, with a picture of the place.
    let module = wat::parse_bytes(module).map_err(|cause| Error::Module(one_line(&cause.to_string())))?;
    Ok(start_as_export(&module).unwrap_or_else(|| module.into_owned()))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

const SECTION_EXPORT: u8 = 7;
const SECTION_START: u8 = 8;
const EXPORT_KIND_FUNCTION: u8 = 0;

/// The module with its start function as an export instead; `None` where it has no start function, or where it is
/// malformed, which the compiler explains better.
///
/// A module is 8 bytes of magic and version, then sections: an id byte, the content's length, the content. The start
/// section holds the index of a function; the export section, which may only stand before it, a count and that many
/// times name, kind and index (WebAssembly specification, 5.5).
fn start_as_export(module: &[u8]) -> Option<Vec<u8>> {
    let (header, mut rest) = module.split_at_checked(8)?;
    let mut sections = Vec::new();
    while let Some((id, after)) = rest.split_first() {
        let (size, content) = read_u32(after)?;
        let (content, after) = content.split_at_checked(size as usize)?;
        sections.push((*id, content));
        rest = after;
    }
    let (start, _) = read_u32(sections.iter().find(|(id, _)| *id == SECTION_START)?.1)?;
    let exports = sections.iter().find(|(id, _)| *id == SECTION_EXPORT);
    let (count, entries) = read_u32(exports.map_or(&[0][..], |(_, content)| content))?;

    let mut content = Vec::new();
    write_u32(&mut content, count.checked_add(1)?);
    content.extend(entries);
    write_u32(&mut content, START_EXPORT.len() as u32);
    content.extend(START_EXPORT.as_bytes());
    content.push(EXPORT_KIND_FUNCTION);
    write_u32(&mut content, start);

    let mut rewritten = header.to_vec();
    for (id, old) in &sections {
        // The new export section stands where the start section was: that is behind the old one, and before all that
        // may follow exports.
        let (id, content) = match *id {
            SECTION_EXPORT => continue,
            SECTION_START => (SECTION_EXPORT, &content[..]),
            id => (id, *old),
        };
        rewritten.push(id);
        write_u32(&mut rewritten, content.len() as u32);
        rewritten.extend(content);
    }
    Some(rewritten)
}

/// An unsigned LEB128 number at the beginning of `bytes`, and what follows it.
fn read_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

fn write_u32(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
