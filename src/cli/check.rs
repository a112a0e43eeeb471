//! `faas check`: finds faults of the registry, and entries that look wrong.

use std::collections::HashMap;
use std::path::Path;

use serde_json::json;

use super::args::{Given, Verb};
use super::{Report, Result};
use crate::operator::OperationError;
use crate::operator::deploy;
use crate::operator::registry::{Registry, Route};
use crate::registry::pattern::{Pattern, param_name};
use crate::settings::Settings;

pub const VERB: Verb = Verb {
    name: "check",
    arguments: "",
    about: "Check the registry: its file, each row, each module. Exit code 1 where something is wrong.",
    options: &[],
    example: "faas check",
    run,
};

/// Findings: faults, and entries that only look wrong.
#[derive(Default)]
struct Findings {
    wrong: Vec<String>,
    odd: Vec<String>,
}

fn run(given: &Given) -> Result<Report> {
    let [] = given.exactly()?;
    let settings = Settings::from_env()?;
    let registry = Registry::open(&settings)?;
    let mut findings = Findings::default();
    check_file(&registry, &mut findings)?;
    let has_history = registry.has_history()?;
    let modules = if has_history { registry.modules()? } else { Vec::new() };
    let names: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
    let routes = registry.routes()?;
    let mut shapes: HashMap<String, &str> = HashMap::new();
    for route in &routes {
        check_route(route, &names, &settings.module_root, &mut findings);
        if let Some(other) = shape(&route.key).and_then(|shape| shapes.insert(shape, &route.key)) {
            findings.odd.push(format!("{} is never called: {other} takes the same requests", route.key));
        }
    }
    if has_history {
        for bundle in unused(&registry)? {
            findings.odd.push(format!("no route runs the code of {bundle}"));
        }
    } else {
        findings.odd.push("the registry has neither code nor history yet; give it both with: gateway --init".into());
    }
    let mut text: String = findings.wrong.iter().map(|line| format!("wrong: {line}\n")).collect();
    findings.odd.iter().for_each(|line| text += &format!("odd: {line}\n"));
    text += &format!(
        "{} routes, {} modules: {} wrong, {} odd\n",
        routes.len(),
        modules.len(),
        findings.wrong.len(),
        findings.odd.len()
    );
    let json = json!({"routes": routes.len(), "modules": modules.len(), "wrong": findings.wrong, "odd": findings.odd});
    Ok(Report { text, json, is_failure: !findings.wrong.is_empty() })
}

fn check_file(registry: &Registry, findings: &mut Findings) -> Result<()> {
    let check = |sql: &str| -> rusqlite::Result<Vec<String>> {
        registry.connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
    };
    let said = check("PRAGMA quick_check(20)").map_err(|cause| registry.error(cause))?;
    findings.wrong.extend(said.into_iter().filter(|line| line != "ok"));
    if registry.has_history()? {
        let unrecorded = check("SELECT kind || ' ' || name FROM unrecorded").map_err(|cause| registry.error(cause))?;
        let line = |what| format!("{what} was changed past the triggers: the history does not know it");
        findings.wrong.extend(unrecorded.into_iter().map(line));
    }
    Ok(())
}

fn check_route(route: &Route, modules: &[&str], module_root: &Path, findings: &mut Findings) {
    let key = &route.key;
    if let Err(OperationError::Refused(fault)) = deploy::check(key, &route.descriptor) {
        // The gateway ignores an unknown field of a row that it reads.
        let kind = if fault.contains("does not exist") { &mut findings.odd } else { &mut findings.wrong };
        kind.push(format!("{key}: {fault}"));
        return;
    }
    let Some(module) = route.descriptor["module"].as_str() else { return };
    match module.strip_prefix("db:") {
        Some(name) if modules.binary_search(&name).is_err() => {
            findings.wrong.push(format!("{key}: the registry has no module {name}"));
        }
        Some(_) => {}
        None if !module_root.join(module).exists() => {
            findings.wrong.push(format!("{key}: no file is at {}", module_root.join(module).display()));
        }
        None => {}
    }
}

/// The key with empty braces: two routes with the same shape match the same requests.
fn shape(key: &str) -> Option<String> {
    Pattern::parse(key).ok()?;
    let (method, path) = key.split_once(':')?;
    let segments = path.split('/').map(|segment| if param_name(segment).is_some() { "{}" } else { segment });
    Some(format!("{method}:{}", segments.collect::<Vec<_>>().join("/")))
}

fn unused(registry: &Registry) -> Result<Vec<String>> {
    let sql = "SELECT name FROM bundles WHERE name NOT IN (
        SELECT substr(module, 4, instr(substr(module, 4) || '/', '/')) FROM (
          SELECT json_extract(v, '$.module') AS module FROM functions) WHERE module GLOB 'db:*') ORDER BY name";
    let read = || -> rusqlite::Result<Vec<String>> {
        registry.connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
    };
    Ok(read().map_err(|cause| registry.error(cause))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_take_the_same_requests_have_one_shape() {
        assert_eq!(shape("GET:/a/{b}/*"), shape("GET:/a/{c}/*"));
        assert_ne!(shape("GET:/a/{b}"), shape("POST:/a/{b}"));
        assert_eq!(shape("GET /a"), None);
    }
}
