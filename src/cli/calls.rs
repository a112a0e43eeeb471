//! `faas calls` and `faas stats`: the ledger's records of calls.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::args::{Given, Opt, Verb};
use super::table::{bytes, table, time};
use super::{CliError, Report, Result, failed};
use crate::ledger::reader::{Reader, RouteStats, Wanted, now_ms};
use crate::settings::Settings;

pub const CALLS: Verb = Verb {
    name: "calls",
    arguments: "[ROUTE] [OPTION]…",
    about: "Show recorded calls, the newest first: all, or those of a route. Failed are those with status 500 and above.",
    options: &[
        Opt::flag("failed", None, "only failed calls, each with the end of its stderr"),
        Opt::value("request", None, "ID", "only the call with this X-Request-Id"),
        Opt::value("since", None, "TIME", "not before that: 90s, 15m, 24h or 7d ago; 24h without it"),
        Opt::value("limit", Some('n'), "COUNT", "at most COUNT calls; 20 without it"),
    ],
    example: "faas calls --failed POST:/api/convert",
    run: calls,
};

pub const STATS: Verb = Verb {
    name: "stats",
    arguments: "[ROUTE] [OPTION]…",
    about: "Show calls a second, failures, times and CPU of each route, from the recorded calls of the last hour.",
    options: &[Opt::value("since", None, "TIME", "over the last 90s, 15m, 24h or 7d; 1h without it")],
    example: "faas stats --since 24h",
    run: stats,
};

const CALLS_SHOWN: u64 = 20;
const CALLS_SINCE: Duration = Duration::from_secs(24 * 3600);
const STATS_SINCE: Duration = Duration::from_secs(3600);

fn calls(given: &Given) -> Result<Report> {
    let reader = open()?;
    let only_failed = given.has("failed");
    let wanted = Wanted {
        route: given.at_most_one()?,
        request_id: given.value("request"),
        only_failed,
        since_ms: now_ms() - since(given, CALLS_SINCE)?.as_millis() as i64,
        count_max: given.number("limit")?.unwrap_or(CALLS_SHOWN),
        ..Wanted::default()
    };
    let calls = reader.calls(&wanted).map_err(failed("read the ledger"))?;
    let mut text = table(
        ["TIME", "STATUS", "ROUTE", "REQUEST", "WORKER", "START", "QUEUED", "RUN", "CPU", "MEMORY", "IN", "OUT"],
        &calls.iter().map(row).collect::<Vec<_>>(),
    );
    if only_failed {
        calls.iter().for_each(|call| text.push_str(&complaint(call)));
    }
    Ok(Report::new(text, Value::from(calls.into_iter().map(Value::Object).collect::<Vec<_>>())))
}

fn row(call: &Map<String, Value>) -> [String; 12] {
    let shown = |name: &str| match &call[name] {
        Value::Null => "-".to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let ms = |name: &str| call[name].as_f64().map_or("-".to_string(), |ms| format!("{ms:.1} ms"));
    let size = |name: &str| call[name].as_u64().map_or("-".to_string(), bytes);
    [
        time(call["at"].as_f64().unwrap_or_default() / 1000.0),
        shown("status"),
        shown("route"),
        shown("request_id"),
        shown("worker"),
        shown("start"),
        ms("ms_queued"),
        ms("ms_run"),
        ms("cpu_ms"),
        size("memory"),
        size("bytes_in"),
        size("bytes_out"),
    ]
}

/// The end of a call's stderr, indented, without terminal control characters.
fn complaint(call: &Map<String, Value>) -> String {
    let Some(stderr) = call["stderr"].as_str() else { return String::new() };
    let plain =
        |line: &str| line.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect::<String>();
    let lines: Vec<String> = stderr.lines().map(|line| format!("  {}\n", plain(line))).collect();
    format!("\n{}\n{}", call["request_id"].as_str().unwrap_or_default(), lines.concat())
}

fn stats(given: &Given) -> Result<Report> {
    let route = given.at_most_one()?;
    let reader = open()?;
    let over = since(given, STATS_SINCE)?;
    let stats = reader.stats(now_ms() - over.as_millis() as i64, route).map_err(failed("read the ledger"))?;
    let unrecorded = reader.unrecorded().map_err(failed("read the ledger"))?;
    let cpu_ms: f64 = stats.iter().map(|stats| stats.cpu_ms).sum();
    let share = |stats: &RouteStats| if cpu_ms > 0.0 { 100.0 * stats.cpu_ms / cpu_ms } else { 0.0 };
    let rate = |stats: &RouteStats| stats.calls as f64 / over.as_secs_f64();
    let row = |stats: &RouteStats| {
        [
            stats.route.clone(),
            stats.calls.to_string(),
            format!("{:.2}", rate(stats)),
            format!("{:.1} %", 100.0 * stats.errors as f64 / stats.calls as f64),
            format!("{:.1}", stats.p50_ms),
            format!("{:.1}", stats.p95_ms),
            format!("{:.1}", stats.p99_ms),
            format!("{:.0}", stats.cpu_ms),
            format!("{:.1} %", share(stats)),
        ]
    };
    let mut text = table(
        ["ROUTE", "CALLS", "PER S", "FAILED", "P50 MS", "P95 MS", "P99 MS", "CPU MS", "OF ALL CPU"],
        &stats.iter().map(row).collect::<Vec<_>>(),
    );
    if unrecorded > 0 {
        text.push_str(&format!("\n{unrecorded} calls were not recorded since the ledger was begun\n"));
    }
    let routes = stats.iter().map(|stats| {
        json!({
            "route": stats.route, "function": stats.function, "calls": stats.calls, "per_s": rate(stats),
            "errors": stats.errors, "p50_ms": stats.p50_ms, "p95_ms": stats.p95_ms, "p99_ms": stats.p99_ms,
            "cpu_ms": stats.cpu_ms, "cpu_percent": share(stats),
        })
    });
    let json = json!({"over_s": over.as_secs(), "routes": routes.collect::<Vec<_>>(), "unrecorded": unrecorded});
    Ok(Report::new(text, json))
}

fn open() -> Result<Reader> {
    let Some(path) = Settings::from_env()?.ledger else {
        return Err(CliError::NotFound("no calls are recorded: FAAS_LEDGER is empty".into()));
    };
    if !path.exists() {
        let text = format!("no ledger is at {}; the gateway begins one, or set FAAS_LEDGER", path.display());
        return Err(CliError::NotFound(text));
    }
    Reader::open(&path).map_err(failed(format!("open the ledger {}", path.display())))
}

/// `90s`, `15m`, `24h`, `7d`.
fn since(given: &Given, default: Duration) -> Result<Duration> {
    let Some(text) = given.value("since") else { return Ok(default) };
    let usage = || CliError::Usage(format!("--since takes a time such as 90s, 15m, 24h or 7d, and {text} is none"));
    let unit_s = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(usage()),
    };
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| usage())?;
    match count {
        0 => Err(usage()),
        _ => Ok(Duration::from_secs(u64::from(count) * unit_s)),
    }
}
