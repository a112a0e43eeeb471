//! `faas deploy`: writes code and its route into the registry, in one transaction.

use std::io::IsTerminal;
use std::path::Path;

use serde_json::json;

use super::args::{Given, Opt, Verb};
use super::{CliError, Report, Result, code, table};
use crate::operator::code::Bounds;
use crate::operator::deploy::{Fields, deploy};
use crate::operator::gateway::go_live;
use crate::operator::registry::Registry;
use crate::settings::Settings;

/// Code above this size gets a progress line before it is written.
const PROGRESS_BYTES_MIN: u64 = 5_000_000;

pub const VERB: Verb = Verb {
    name: "deploy",
    arguments: "FILE|FOLDER ROUTE [OPTION]…",
    about: "Put a file, or a folder as a bundle, into the registry and have a route run it.",
    options: &[
        Opt::value("runtime", None, "NAME", "php, wasm or native; found out where it is not given"),
        Opt::value("memory", None, "MIB", "memory of one call"),
        Opt::value("timeout", None, "SECONDS", "time of one call"),
        Opt::value("env", None, "NAME=VALUE", "a variable for the function; can be given again"),
        Opt::value("set", None, "FIELD=JSON", "any field of the descriptor; can be given again"),
        Opt::value("module", None, "NAME", "the name in the registry; without it, that of the file or folder"),
    ],
    example: "faas deploy convert.php POST:/api/convert --memory 256 --env MODE=fast",
    run,
};

fn run(given: &Given) -> Result<Report> {
    let [source, key] = given.exactly()?;
    let settings = Settings::from_env()?;
    let mut registry = Registry::open_with_history(&settings)?;
    let bounds = Bounds {
        files_max: registry.setting("bundle_files_max")?,
        file_bytes_max: registry.setting("module_bytes_max")?,
    };
    let (fields, env) = (fields(given)?, env(given)?);
    let code = code::read(Path::new(source), given.value("module"), &bounds)?;
    if code.bytes() >= PROGRESS_BYTES_MIN && std::io::stderr().is_terminal() {
        eprintln!("writing {} in {} files …", table::bytes(code.bytes()), code.files.len());
    }
    let done = deploy(&mut registry, key, &code, &fields, &env)?;
    let (live, mut json) = go_live(&settings, &done)?;
    json["route"] = json!(key);
    json["module"] = json!(format!("db:{}", code.entry));
    let text = format!("{key} runs db:{} ({}); {live}", code.entry, table::bytes(code.bytes()));
    Ok(Report::new(text, json))
}

/// The descriptor fields that the command line gives.
pub fn fields(given: &Given) -> Result<Fields> {
    let mut fields = Fields::new();
    if let Some(runtime) = given.value("runtime") {
        fields.insert("runtime".into(), json!(runtime));
    }
    for name in ["memory", "timeout"] {
        if let Some(number) = given.number(name)? {
            fields.insert(name.into(), json!(number));
        }
    }
    for pair in given.values("set") {
        let (field, text) = pair
            .split_once('=')
            .ok_or_else(|| CliError::Usage(format!("--set takes FIELD=JSON, and {pair} has no =")))?;
        let value = serde_json::from_str(text).map_err(|cause| {
            CliError::Usage(format!(
                "--set {field} has no JSON ({cause}); a string is written --set '{field}=\"text\"'"
            ))
        })?;
        fields.insert(field.into(), value);
    }
    Ok(fields)
}

pub fn env(given: &Given) -> Result<Vec<(String, String)>> {
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, value)) => Ok((name.to_string(), value.to_string())),
        None => Err(CliError::Usage(format!("--env takes NAME=VALUE, and {pair} has no ="))),
    };
    given.values("env").map(pair).collect()
}
