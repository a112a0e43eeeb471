//! Checks a component's imports before it is compiled, which takes long for one that holds an interpreter.

use faas_wasm::error::{Error, Result};
use wasmparser::{Parser, Payload};

/// The interfaces that a component finds: the packages of the world wasi:cli/command, and their version.
const PACKAGES: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];
const VERSION: &str = "@0.2.";

/// Checks that the binary is a component and imports nothing but interfaces of wasi:cli/command. The functions of an
/// interface are compared when the component is linked.
pub fn check(binary: &[u8]) -> Result<()> {
    if !Parser::is_component(binary) {
        return Err(Error::NotRunnable("it is no component; faas-wasm runs modules".into()));
    }
    // Components and modules within the component have imports of their own.
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(binary) {
        match payload.map_err(malformed)? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(imports) if depth == 1 => {
                for import in imports {
                    let name = import.map_err(malformed)?.name.name;
                    if !PACKAGES.iter().any(|package| name.starts_with(package)) || !name.contains(VERSION) {
                        return Err(Error::NotRunnable(format!(
                            "it imports {name}; what a component finds here are the interfaces of wasi:cli/command 0.2"
                        )));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn malformed(cause: wasmparser::BinaryReaderError) -> Error {
    Error::Module(cause.to_string())
}
