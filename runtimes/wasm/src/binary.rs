//! Reads a module's binary form before it is compiled: component or not, its imports, its start function.
//!
//! A module or component is 8 bytes of magic and version, then sections: an id byte, the content's length, the content
//! (WebAssembly specification, 5.5; component model, Binary.md).

use wasm_encoder::Encode;
use wasmparser::{BinaryReader, Parser, Payload};

use crate::error::{Error, Result};

/// The name under which the start function is exported. No compiler gives such a name.
pub const START_EXPORT: &str = "faas-wasm:start";

const SECTION_EXPORT: u8 = 7;
const SECTION_START: u8 = 8;
const EXPORT_KIND_FUNCTION: u8 = 0;

pub fn is_component(binary: &[u8]) -> bool {
    Parser::is_component(binary)
}

/// Checks that a module imports only items that `is_known` knows by module and name. Such a module can be run once it
/// is compiled.
pub fn check_module(binary: &[u8], mut is_known: impl FnMut(&str, &str) -> bool) -> Result<()> {
    for payload in Parser::new(0).parse_all(binary) {
        let Payload::ImportSection(imports) = payload.map_err(malformed)? else { continue };
        for import in imports.into_imports() {
            let import = import.map_err(malformed)?;
            if !is_known(import.module, import.name) {
                return Err(Error::NotRunnable(format!(
                    "it imports {}.{}; what a module finds here are the functions of wasi_snapshot_preview1",
                    import.module, import.name
                )));
            }
        }
    }
    Ok(())
}

/// The module with its start function as an export instead; `None` if it has no start function.
pub fn start_as_export(module: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut sections = Vec::new();
    let (mut start, mut exports) = (None, &[0][..]);
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(malformed)?;
        if let Payload::StartSection { func, .. } = payload {
            start = Some(func);
        }
        if let Some((id, range)) = payload.as_section() {
            if id == SECTION_EXPORT {
                exports = &module[range.clone()];
            }
            sections.push((id, &module[range]));
        }
    }
    let Some(start) = start else { return Ok(None) };
    // A count, followed by that many entries of name, kind and index.
    let mut reader = BinaryReader::new(exports, 0);
    let count = reader.read_var_u32().map_err(malformed)?;
    let mut content = Vec::new();
    count.saturating_add(1).encode(&mut content);
    content.extend(&exports[reader.original_position()..]);
    START_EXPORT.encode(&mut content);
    content.push(EXPORT_KIND_FUNCTION);
    start.encode(&mut content);

    let mut rewritten = module[..8].to_vec();
    for (id, old) in sections {
        // The new export section replaces the start section. So it stands behind the old export section, and before all
        // sections that may follow exports.
        let (id, content) = match id {
            SECTION_EXPORT => continue,
            SECTION_START => (SECTION_EXPORT, &content[..]),
            id => (id, old),
        };
        rewritten.push(id);
        content.encode(&mut rewritten);
    }
    Ok(Some(rewritten))
}

fn malformed(cause: wasmparser::BinaryReaderError) -> Error {
    Error::Module(cause.to_string())
}
