//! The API's view of functions: their rows, code, history and differences.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::Console;
use super::call::Call;
use super::reply::Reply;
use crate::operator::code::bundle_of;
use crate::operator::deploy::check;
use crate::operator::diff::{Difference, differences};
use crate::operator::history::{Change, changes};
use crate::operator::registry::{Registry, Route};
use crate::operator::{OperationError, Result};

/// Bytes of a file of code that is shown; a longer one is cut.
const CODE_BYTES_MAX: usize = 256 * 1024;
/// Files of a bundle that are listed.
const FILES_MAX: usize = 1000;
/// Entries of the history that are listed without and with a limit.
const CHANGES_DEFAULT: u64 = 50;
const CHANGES_MAX: u64 = 1000;

pub fn list(console: &Console, _: &mut Call) -> Result<Reply, Reply> {
    let (routes, generation) = console.view.read(|registry| Ok((registry.routes()?, registry.generation()?)))?;
    let keys: HashSet<&str> = routes.iter().map(|route| route.key.as_str()).collect();
    console.live.retain(|route| keys.contains(route));
    let functions: Vec<Value> = routes.iter().map(describe).collect();
    Ok(Reply::json(200, &json!({"generation": generation, "functions": functions})))
}

/// One function, with the names and sizes of its code.
pub fn one(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let key = &call.params[0];
    let (route, files) = console.view.read(|registry| {
        let route = registry.existing_route(key)?;
        let files = files(registry, &route)?;
        Ok((route, files))
    })?;
    let mut json = describe(&route);
    json["files"] = files.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect();
    Ok(Reply::json(200, &json))
}

fn describe(route: &Route) -> Value {
    let fault = check(&route.key, &route.descriptor).err().map(|fault| fault.to_string());
    json!({"route": route.key, "descriptor": route.descriptor, "updated": route.updated, "fault": fault})
}

/// The files of a row's bundle: none where its module lies outside the registry.
fn files(registry: &Registry, route: &Route) -> Result<Vec<(String, u64)>> {
    let module = route.descriptor["module"].as_str().and_then(|module| module.strip_prefix("db:"));
    let Some(bundle) = module.map(bundle_of) else { return Ok(Vec::new()) };
    if !registry.has_history()? {
        return Ok(Vec::new());
    }
    let modules = registry.modules()?.into_iter();
    Ok(modules.filter(|(name, _)| bundle_of(name) == bundle).take(FILES_MAX).collect())
}

/// A file of a function's code; as text, if it is text.
pub fn code(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let (key, file) = (&call.params[0], call.query("file"));
    let (name, code) = console.view.read(|registry| {
        let route = registry.existing_route(key)?;
        let entry = route.descriptor["module"].as_str().and_then(|module| module.strip_prefix("db:"));
        let name = file.or(entry).unwrap_or_default();
        if !files(registry, &route)?.iter().any(|(other, _)| other == name) {
            return Err(OperationError::NotFound(format!("the registry has no code {name} of {key}")));
        }
        Ok((name.to_string(), registry.code(name)?.unwrap_or_default()))
    })?;
    let text = std::str::from_utf8(&code).ok().filter(|text| !text.contains('\0'));
    let shown = text.map(|text| {
        let end = (0..=text.len().min(CODE_BYTES_MAX)).rev().find(|end| text.is_char_boundary(*end));
        &text[..end.unwrap_or(0)]
    });
    let is_cut = shown.is_some_and(|shown| shown.len() < code.len());
    Ok(Reply::json(200, &json!({"name": name, "bytes": code.len(), "text": shown, "is_cut": is_cut})))
}

pub fn history(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let limit = call.number("limit")?.unwrap_or(CHANGES_DEFAULT).min(CHANGES_MAX);
    let route = call.query("route");
    let changes = console.view.read(|registry| match registry.has_history()? {
        true => changes(registry, route, limit),
        false => Ok(Vec::new()),
    })?;
    Ok(Reply::json(200, &json!({"changes": changes.iter().map(Change::json).collect::<Vec<_>>()})))
}

pub fn diff(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let needed = |name| call.number(name)?.ok_or_else(|| Reply::problem(400, "from and to are generations"));
    let (from, to) = (needed("from")?, needed("to")?);
    let found = console.view.read(|registry| differences(registry, from, to))?;
    Ok(Reply::json(200, &json!({"differences": found.iter().map(Difference::json).collect::<Vec<_>>()})))
}
