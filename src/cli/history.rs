//! `faas history` and `faas rollback`.

use super::args::{Given, Opt, Verb};
use super::table::{bytes, table, time};
use super::{CliError, Report, Result};
use crate::operator::gateway::go_live;
use crate::operator::history::{Change, changes, roll_back, roll_back_to};
use crate::operator::registry::Registry;
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

pub const CHANGES_SHOWN: u64 = 20;

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
    let (done, what) = match (key, to) {
        (Some(key), None) => (roll_back(&mut registry, key)?, format!("{key} is set back by one step")),
        (None, Some(to)) => (roll_back_to(&mut registry, to)?, format!("all is set back to generation {to}")),
        _ => return Err(CliError::Usage("rollback takes a route, or --to and a generation".into())),
    };
    let (live, json) = go_live(&settings, &done)?;
    Ok(Report::new(format!("{what}; {live}"), json))
}
