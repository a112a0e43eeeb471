//! `faas deploy`: code and its route into the registry, in one transaction.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::args::{Given, Opt, Verb};
use super::code::{self, Bounds, Code};
use super::gateway::go_live;
use super::registry::{Registry, remove_modules, write_module, write_route};
use super::{CliError, Report, Result, table};
use crate::registry::config_loader::{self, FIELDS, Places};
use crate::settings::Settings;

/// Code over this size is worth a line before it is written.
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
    let code = code::read(Path::new(source), given.value("module"), &bounds)?;
    let old = registry.route(key)?.map(|route| route.descriptor);
    let descriptor = descriptor(given, &code, old.as_ref())?;
    check(key, &descriptor)?;
    refuse_foreign_code(&registry, key, &code)?;
    if code.bytes() >= PROGRESS_BYTES_MIN && std::io::stderr().is_terminal() {
        eprintln!("writing {} in {} files …", table::bytes(code.bytes()), code.files.len());
    }
    let before = registry.generation()?;
    let generation = registry.change(|transaction| {
        code.files.iter().try_for_each(|(name, code)| write_module(transaction, name, code))?;
        write_route(transaction, key, &descriptor)?;
        let names: HashSet<&str> = code.files.iter().map(|(name, _)| name.as_str()).collect();
        remove_modules(transaction, code.bundle(), |name| names.contains(name))
    })?;
    let (live, mut json) = go_live(&settings, generation, generation > before)?;
    json["route"] = json!(key);
    json["module"] = json!(format!("db:{}", code.entry));
    let text = format!("{key} runs db:{} ({}); {live}", code.entry, table::bytes(code.bytes()));
    Ok(Report::new(text, json))
}

/// What is not given stays as it was.
fn descriptor(given: &Given, code: &Code, old: Option<&Value>) -> Result<Value> {
    let mut fields: Map<String, Value> = old.and_then(Value::as_object).cloned().unwrap_or_default();
    let runtime = given.value("runtime").or(code.runtime).ok_or_else(|| {
        CliError::Usage(format!("{} could be of any runtime; say which with --runtime php, wasm or native", code.entry))
    })?;
    fields.insert("runtime".into(), json!(runtime));
    fields.insert("module".into(), json!(format!("db:{}", code.entry)));
    for name in ["memory", "timeout"] {
        if let Some(number) = given.number(name)? {
            fields.insert(name.into(), json!(number));
        }
    }
    for pair in given.values("env") {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| CliError::Usage(format!("--env takes NAME=VALUE, and {pair} has no =")))?;
        let env = fields.entry("env").or_insert_with(|| json!({}));
        env.as_object_mut()
            .ok_or_else(|| CliError::Failed("the route's env is no object; set it with --set env={}".into()))?
            .insert(name.into(), json!(value));
    }
    for pair in given.values("set") {
        let (field, text) = pair
            .split_once('=')
            .ok_or_else(|| CliError::Usage(format!("--set takes FIELD=JSON, and {pair} has no =")))?;
        let value: Value = serde_json::from_str(text).map_err(|cause| {
            CliError::Usage(format!(
                "--set {field} has no JSON ({cause}); a string is written --set '{field}=\"text\"'"
            ))
        })?;
        match value {
            Value::Null => fields.remove(field),
            value => fields.insert(field.into(), value),
        };
    }
    Ok(Value::Object(fields))
}

/// What the gateway would say against the row, but for its module.
pub fn check(key: &str, descriptor: &Value) -> Result<()> {
    let mut elsewhere = descriptor.clone();
    if let Some(fields) = elsewhere.as_object_mut()
        && fields.get("module").and_then(Value::as_str).is_some_and(|module| module.starts_with("db:"))
    {
        fields.insert("module".into(), json!("/"));
    }
    let parsed = config_loader::parse(key, &elsewhere.to_string(), &Places::default(), Arc::default());
    let function = parsed.map_err(CliError::Failed)?;
    match function.unknown_fields.first() {
        None => Ok(()),
        Some(field) => Err(CliError::Failed(format!(
            "the field {field} does not exist; the fields are {}; fields of your own begin with x-",
            FIELDS.join(", ")
        ))),
    }
}

/// A deploy must not change what another route runs.
fn refuse_foreign_code(registry: &Registry, key: &str, code: &Code) -> Result<()> {
    let names = |module: &str| module.strip_prefix("db:").is_some_and(|name| bundle_of(name) == code.bundle());
    let module = |descriptor: &Value| descriptor["module"].as_str().unwrap_or("").to_string();
    let routes = registry.routes()?;
    if routes.iter().any(|route| route.key == key && names(&module(&route.descriptor))) {
        return Ok(()); // It shares the code already.
    }
    let Some(other) = routes.iter().find(|route| names(&module(&route.descriptor))) else { return Ok(()) };
    let is_same = |(name, bytes): &(String, Vec<u8>)| registry.code(name).map(|code| code.as_ref() == Some(bytes));
    for file in &code.files {
        if !is_same(file)? {
            return Err(CliError::Failed(format!(
                "{} has other code under the name {}; choose another with --module NAME",
                other.key,
                code.bundle()
            )));
        }
    }
    Ok(())
}

fn bundle_of(name: &str) -> &str {
    name.find('/').map_or(name, |slash| &name[..=slash])
}
