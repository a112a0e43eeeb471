//! `faas list`, `faas describe` and `faas remove`.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::args::{Given, Verb};
use super::history::as_table;
use super::table::{bytes, table, time};
use super::{Report, Result};
use crate::operator::gateway::{Gateway, go_live};
use crate::operator::history;
use crate::operator::registry::{Registry, Route};
use crate::operator::routes::remove_route;
use crate::settings::Settings;

pub const LIST: Verb = Verb {
    name: "list",
    arguments: "",
    about: "List all routes.",
    options: &[],
    example: "faas list --json",
    run: list,
};

pub const DESCRIBE: Verb = Verb {
    name: "describe",
    arguments: "ROUTE",
    about: "Show a route: its descriptor, its code, its last changes.",
    options: &[],
    example: "faas describe POST:/api/convert",
    run: describe,
};

pub const REMOVE: Verb = Verb {
    name: "remove",
    arguments: "ROUTE",
    about: "Remove a route, and its code where no other route runs it. faas rollback brings both back.",
    options: &[],
    example: "faas remove POST:/api/convert",
    run: remove,
};

/// Changes that `describe` shows.
const CHANGES_SHOWN: u64 = 5;

fn list(given: &Given) -> Result<Report> {
    let [] = given.exactly()?;
    let registry = Registry::open(&Settings::from_env()?)?;
    Ok(listing(&registry.routes()?))
}

/// A table of routes.
pub fn listing(routes: &[Route]) -> Report {
    let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_string).replace("null", "");
    let row = |route: &Route| {
        let field = |name: &str| text(&route.descriptor[name]);
        let updated = route.updated.map_or(String::new(), time);
        [route.key.clone(), field("runtime"), field("module"), field("memory"), field("timeout"), updated]
    };
    let rows: Vec<_> = routes.iter().map(row).collect();
    let json = routes.iter().map(|route| json!({"route": route.key, "descriptor": route.descriptor}));
    let json = Value::Array(json.collect());
    Report::new(table(["ROUTE", "RUNTIME", "MODULE", "MIB", "S", "UPDATED"], &rows), json)
}

fn describe(given: &Given) -> Result<Report> {
    let [key] = given.exactly()?;
    let settings = Settings::from_env()?;
    let registry = Registry::open(&settings)?;
    let route = registry.existing_route(key)?;
    let mut text = format!("{key}\n{:#}\n", route.descriptor);
    let mut json = json!({"route": key, "descriptor": route.descriptor});
    if let Some(gateway) = Gateway::running(&settings) {
        let path = key.split_once(':').map_or("", |(_, path)| path);
        text += &format!("at {}{path}\n", gateway.url());
        json["url"] = json!(format!("{}{path}", gateway.url()));
    }
    let module = route.descriptor["module"].as_str().and_then(|module| module.strip_prefix("db:"));
    if let Some(name) = module
        && let Some(code) = registry.code(name)?
    {
        let hash: String = Sha256::digest(&code).iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("db:{name} has {}, sha256 {hash}\n", bytes(code.len() as u64));
        json["code"] = json!({"bytes": code.len(), "sha256": hash});
    }
    if registry.has_history()? {
        let changes = history::changes(&registry, Some(key), CHANGES_SHOWN)?;
        text += &format!("\n{}", as_table(&changes));
        json["changes"] = changes.iter().map(history::Change::json).collect();
    }
    Ok(Report::new(text, json))
}

fn remove(given: &Given) -> Result<Report> {
    let [key] = given.exactly()?;
    let settings = Settings::from_env()?;
    let mut registry = Registry::open(&settings)?;
    let done = remove_route(&mut registry, key)?;
    let (live, mut json) = match registry.has_history()? {
        true => go_live(&settings, &done)?,
        false => ("the gateway takes it out of service within a second\n".into(), json!({})),
    };
    json["route"] = json!(key);
    Ok(Report::new(format!("{key} is removed; {live}"), json))
}
