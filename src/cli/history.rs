//! `faas history` and `faas rollback`.

use serde_json::{Value, json};

use super::args::{Given, Opt, Verb};
use super::gateway::go_live;
use super::registry::Registry;
use super::table::{bytes, table, time};
use super::{CliError, Report, Result};
use crate::settings::Settings;

pub const HISTORY: Verb = Verb {
    name: "history",
    arguments: "[ROUTE] [OPTION]…",
    about: "List changes, the newest first: all, or those of a route and its code.",
    options: &[Opt::value("limit", Some('n'), "COUNT", "how many; 20 without it")],
    example: "faas history POST:/api/convert -n 5",
    run: history,
};

pub const ROLLBACK: Verb = Verb {
    name: "rollback",
    arguments: "ROUTE | --to GENERATION",
    about: "Set a route and its code back by one step, or everything to a generation.",
    options: &[Opt::value("to", None, "GENERATION", "set all routes and modules back to it")],
    example: "faas rollback POST:/api/convert",
    run: rollback,
};

const CHANGES_SHOWN: u64 = 20;

/// An entry of the history.
pub struct Change {
    id: u64,
    at: f64,
    kind: String,
    name: String,
    /// What the change left, in bytes; `None` where it removed something.
    bytes: Option<u64>,
    is_first: bool,
}

impl Change {
    pub fn json(&self) -> Value {
        json!({"generation": self.id, "at": self.at, "kind": self.kind, "name": self.name, "change": self.verb(),
            "bytes": self.bytes})
    }

    fn verb(&self) -> &'static str {
        match self.bytes {
            None => "removed",
            Some(_) if self.is_first => "added",
            Some(_) => "changed",
        }
    }
}

/// The newest changes: all, or those of a route and of the bundles that it named.
pub fn changes(registry: &Registry, key: Option<&str>, limit: u64) -> Result<Vec<Change>> {
    let sql = "SELECT id, at, kind, name, length(CASE kind WHEN 'route' THEN CAST(after AS BLOB) ELSE after END),
          NOT EXISTS (SELECT 1 FROM history AS older
            WHERE older.kind = history.kind AND older.name = history.name AND older.until = history.id
              AND older.id < history.id)
        FROM history
        WHERE ?1 IS NULL OR (kind = 'route' AND name = ?1) OR (kind = 'module'
          AND substr(name, 1, instr(name || '/', '/')) IN (
            SELECT substr(module, 4, instr(substr(module, 4) || '/', '/')) FROM (
              SELECT json_extract(after, '$.module') AS module FROM history
              WHERE kind = 'route' AND name = ?1 AND after IS NOT NULL) WHERE module GLOB 'db:*'))
        ORDER BY id DESC LIMIT ?2";
    let read = || -> rusqlite::Result<Vec<Change>> {
        let mut select = registry.connection.prepare(sql)?;
        let rows = select.query_map(rusqlite::params![key, limit], |row| {
            Ok(Change {
                id: row.get(0)?,
                at: row.get(1)?,
                kind: row.get(2)?,
                name: row.get(3)?,
                bytes: row.get(4)?,
                is_first: row.get(5)?,
            })
        })?;
        rows.collect()
    };
    read().map_err(|cause| registry.error(cause))
}

pub fn as_table(changes: &[Change]) -> String {
    let row = |change: &Change| {
        let size = change.bytes.map_or(String::new(), bytes);
        [change.id.to_string(), time(change.at), change.verb().into(), change.kind.clone(), change.name.clone(), size]
    };
    let rows: Vec<_> = changes.iter().map(row).collect();
    table(["GENERATION", "AT", "CHANGE", "KIND", "NAME", "SIZE"], &rows)
}

fn history(given: &Given) -> Result<Report> {
    let key = given.at_most_one()?;
    let registry = Registry::open_with_history(&Settings::from_env()?)?;
    let changes = changes(&registry, key, given.number("limit")?.unwrap_or(CHANGES_SHOWN))?;
    match key {
        Some(key) if changes.is_empty() => Err(CliError::NotFound(format!("the history knows no route {key}"))),
        _ => Ok(Report::new(as_table(&changes), changes.iter().map(Change::json).collect())),
    }
}

fn rollback(given: &Given) -> Result<Report> {
    let settings = Settings::from_env()?;
    let key = given.at_most_one()?;
    let to = given.number("to")?;
    let mut registry = Registry::open_with_history(&settings)?;
    let before = registry.generation()?;
    let (done, what) = match (key, to) {
        (Some(key), None) => {
            let known = changes(&registry, Some(key), 1)?;
            if known.is_empty() {
                return Err(CliError::NotFound(format!("the history knows no route {key}")));
            }
            let done =
                registry.change(|transaction| transaction.execute("INSERT INTO rollback VALUES (?1)", [key]).map(drop));
            (done, format!("{key} is set back by one step"))
        }
        (None, Some(to)) if to > before => {
            return Err(CliError::NotFound(format!("{before} is the newest generation; {to} does not exist")));
        }
        (None, Some(to)) => {
            let done = registry
                .change(|transaction| transaction.execute("INSERT INTO rollback_to VALUES (?1)", [to]).map(drop));
            (done, format!("all is set back to generation {to}"))
        }
        _ => return Err(CliError::Usage("rollback takes a route, or --to and a generation".into())),
    };
    let generation = done?;
    let (live, json) = go_live(&settings, generation, generation > before)?;
    Ok(Report::new(format!("{what}; {live}"), json))
}
