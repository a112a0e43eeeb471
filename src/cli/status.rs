//! `faas status` and `faas top`: the running gateway and its workers.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::args::{Given, Opt, Verb};
use super::table::table;
use super::{Report, Result};
use crate::operator::gateway::Gateway;
use crate::operator::registry::Registry;
use crate::settings::Settings;

pub const STATUS: Verb = Verb {
    name: "status",
    arguments: "",
    about: "Show whether the gateway is ready, what generation is in service, and its workers. Exit code 1 unless ready.",
    options: &[],
    example: "faas status --json",
    run: status,
};

pub const TOP: Verb = Verb {
    name: "top",
    arguments: "[OPTION]…",
    about: "Show the workers every second, until Ctrl-C. Where stdout is no terminal, once.",
    options: &[Opt::value("count", Some('n'), "COUNT", "end after so many times")],
    example: "faas top",
    run: top,
};

const TOP_PERIOD: Duration = Duration::from_secs(1);

/// Clears the terminal and moves the cursor to its first column.
const CLEAR: &str = "\x1b[H\x1b[2J";

fn status(given: &Given) -> Result<Report> {
    let [] = given.exactly()?;
    let settings = Settings::from_env()?;
    let gateway = Gateway::required(&settings)?;
    let live = gateway.status()?;
    let written = Registry::open(&settings).and_then(|registry| registry.generation()).unwrap_or(0);
    let is_ready = live["status"] == "ready";
    let mut json = live.clone();
    json["url"] = json!(gateway.url());
    json["written_generation"] = json!(written);
    Ok(Report { text: as_text(&gateway, &live, written), json, is_failure: !is_ready })
}

fn as_text(gateway: &Gateway, live: &Value, written: u64) -> String {
    let generation = match live["generation"].as_u64() {
        None => "a registry without history".to_string(),
        Some(live) if live < written => format!("generation {live} ({written} is written)"),
        Some(live) => format!("generation {live}"),
    };
    let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_string);
    let head = format!(
        "{} at {}: {} routes of {generation}, {} requests wait for a slot\n",
        text(&live["status"]),
        gateway.url(),
        live["routes"],
        live["waiting"]
    );
    format!("{head}{}\n{}", registry_faults(&live["registry"]), workers(live))
}

/// A line for an unusable file, and one for each row with a fault.
fn registry_faults(registry: &Value) -> String {
    let mut text = String::new();
    if let Some(fault) = registry["fault"].as_str() {
        text += &format!("the registry cannot be used: {fault}\n");
    }
    let first = registry["first"].as_array().map(Vec::as_slice).unwrap_or_default();
    for row in first {
        text += &format!("row {}: {}\n", row["route"].as_str().unwrap_or(""), row["fault"].as_str().unwrap_or(""));
    }
    match registry["faulty_rows"].as_u64().unwrap_or(0).saturating_sub(first.len() as u64) {
        0 => text,
        more => text + &format!("{more} more rows have faults\n"),
    }
}

fn workers(live: &Value) -> String {
    let all = live["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let figure = |value: &Value| value.as_f64().map_or(String::new(), |number| format!("{number:.1}"));
    let row = |worker: &Value| {
        [
            worker["id"].to_string(),
            worker["pid"].to_string(),
            format!("{}/{}", worker["in_flight"], worker["slots"]),
            figure(&worker["cpu"]),
            figure(&worker["mem"]),
            figure(&worker["io"]),
            figure(&worker["score"]),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    table(["WORKER", "PID", "CALLS", "CPU", "MEM", "IO", "SCORE"], &rows)
}

fn top(given: &Given) -> Result<Report> {
    let [] = given.exactly()?;
    let gateway = Gateway::required(&Settings::from_env()?)?;
    let is_terminal = std::io::stdout().is_terminal();
    let count = given.number("count")?.unwrap_or(if is_terminal { u64::MAX } else { 1 });
    let mut last = Value::Null;
    for number in 0..count {
        if number > 0 {
            std::thread::sleep(TOP_PERIOD);
        }
        last = gateway.status()?;
        let written = last["generation"].as_u64().unwrap_or(0);
        let text = as_text(&gateway, &last, written);
        let shown = if is_terminal { format!("{CLEAR}{text}") } else { text };
        if !given.has("json") && std::io::stdout().lock().write_all(shown.as_bytes()).is_err() {
            break;
        }
    }
    Ok(Report::new("", last))
}
