//! Runs a table of cases, each cold and warm, and names those that do not hold.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::case::{Agreement, Case, Seen, Source, lines_of};
use super::traces::assert_nothing_stays;
use crate::cases::each;
use crate::http::Answer;
use crate::instance::{Instance, wait_for, wait_until};

/// The module that runs the cases without a module of their own. It lies in the folder of the modules, and does nothing
/// for a request that only warms the route up.
const DISPATCHER: &str =
    "<?php if (getenv('HTTP_X_WARM_UP') === false) require __DIR__ . '/' . basename(getenv('SCRIPT_NAME')) . '.php';";
/// A call to a warm route may be answered cold this often: the worker executes the process where no child is ready.
const COLD_ANSWERS_MAX: usize = 10;
/// Fields of a response that differ from call to call.
const OWN_FIELDS: [&str; 4] = ["Server-Timing", "X-Request-Id", "X-Faas-Generation", "Date"];

/// One worker, so that there is one fork server for each set of functions that share it.
pub fn instance() -> Instance {
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.script("GET:/mark", "echo \"mark $QUERY_STRING.\" >&2");
    instance
}

/// Waits until the log has all lines that the worker owes so far. The worker writes them in order, after the gateway's.
pub fn settle_log(instance: &Instance, number: usize) {
    assert_eq!(instance.get(&format!("/mark?{number}")).status, 200);
    let mark = format!(" stderr: mark {number}.");
    wait_until("the log is written", || !instance.log_lines(&mark).is_empty());
}

/// Runs all cases, and fails with the names and faults of those that do not hold.
pub fn conform(cases: Vec<Case>) {
    let instance = instance();
    let table = Table::install(&instance, &cases);
    await_compilation(&instance, &cases[0]);
    each(cases.iter().map(|case| &case.name).enumerate(), |(number, _)| table.run(number, &cases[number]));
}

/// Calls the first case until its module is compiled. Each call waits 5 s for that; an interpreter can take a minute.
fn await_compilation(instance: &Instance, case: &Case) {
    if matches!(case.source, Source::Wasm(_)) {
        let target = target(0, case, "cold");
        let is_compiled = (0..60).any(|_| instance.request(case.method, &target, &[], b"").status != 503);
        assert!(is_compiled, "the module is not compiled in five minutes");
    }
}

/// The start of the process behind this response: warm or cold.
pub fn start_of(answer: &Answer) -> &'static str {
    let timing = answer.field("Server-Timing").unwrap_or_default();
    let spawn = timing.split(", ").find(|metric| metric.starts_with("spawn;")).unwrap_or_default();
    ["warm", "cold"].into_iter().find(|start| spawn.ends_with(&format!(";desc=\"{start}\""))).unwrap_or("unknown")
}

/// Calls a route until it answers warm. Functions that know the field do nothing.
pub fn warm_up(instance: &Instance, method: &str, target: &str) {
    wait_until(&format!("{target} answers warm"), || {
        start_of(&instance.request(method, target, &[("X-Warm-Up", "1")], b"")) == "warm"
    });
}

/// The log lines of a request, the function's and the platform's. Call [`settle_log`] before.
pub fn log_of(instance: &Instance, id: &str) -> Vec<String> {
    let mark = format!(" request={id} ");
    let lines = wait_for("the request is logged", || {
        let lines = instance.log_lines(&mark);
        lines.iter().any(|line| line.contains(" method=")).then_some(lines)
    });
    let own = lines.iter().filter(|line| !line.contains(" method="));
    own.map(|line| line.split_once(" stderr: ").or(line.split_once(&mark)).unwrap().1.to_string()).collect()
}

/// The cases, in service.
struct Table<'a> {
    instance: &'a Instance,
    folder: PathBuf,
    /// The last route that should have become warm did not.
    never_warm: Cell<bool>,
}

impl<'a> Table<'a> {
    /// Writes the modules and registers each case at `/cold/N` and at `/warm/N`.
    fn install(instance: &'a Instance, cases: &[Case]) -> Table<'a> {
        let folder = instance.path("modules");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("main.php"), DISPATCHER).unwrap();
        let table = Table { instance, folder, never_warm: Cell::new(false) };
        let mut rows = Vec::new();
        let mut binaries: Vec<&[u8]> = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            for (name, text) in &case.beside {
                fs::write(table.folder.join(name), text).unwrap();
            }
            let module = table.module(number, &case.source, &mut binaries);
            for start in ["cold", "warm"] {
                let method = if case.method == "HEAD" { "GET" } else { case.method };
                let further = if case.suffix.starts_with('/') { "/*" } else { "" };
                let key = format!("{method}:/{start}/{number}{further}");
                rows.push((key, table.descriptor(number, case, &module, start)));
            }
        }
        let rows: Vec<(&str, Value)> = rows.iter().map(|(key, row)| (key.as_str(), row.clone())).collect();
        instance.install(&rows);
        table
    }

    fn module<'c>(&self, number: usize, source: &'c Source, binaries: &mut Vec<&'c [u8]>) -> PathBuf {
        match source {
            Source::Included(text) | Source::Main(text) => {
                let path = self.folder.join(format!("{number}.php"));
                fs::write(&path, text).unwrap();
                if matches!(source, Source::Main(_)) { path } else { self.folder.join("main.php") }
            }
            Source::Wasm(binary) => {
                let known = binaries.iter().position(|other| other == binary);
                let position = known.unwrap_or(binaries.len());
                let path = self.folder.join(format!("{position}.wasm"));
                if known.is_none() {
                    binaries.push(binary);
                    fs::write(&path, binary).unwrap();
                }
                path
            }
        }
    }

    fn descriptor(&self, number: usize, case: &Case, module: &Path, start: &str) -> Value {
        let runtime = if matches!(case.source, Source::Wasm(_)) { "wasm" } else { "php" };
        let shared = self.instance.path("shared");
        let mut row = json!({
            "runtime": runtime, "module": module, "name": format!("case-{number}"), "write": [shared],
            "env": {"IT_FOLDER": shared, "IT_ANSWER": "42"},
        });
        if start == "cold" {
            row["start"] = "cold".into();
        }
        for (name, value) in case.row.as_object().unwrap() {
            row[name] = value.clone();
        }
        row
    }

    fn run(&self, number: usize, case: &Case) {
        let mut calls = vec![self.call(number, case, "cold", 0)];
        // Where nothing starts warm, each wait takes long, so one wait is enough.
        if case.warm_calls > 0 {
            assert!(!self.never_warm.replace(true), "a route before did not become warm");
            warm_up(self.instance, case.method, &target(number, case, "warm"));
            self.never_warm.set(false);
        }
        assert_nothing_stays(self.instance);
        calls.extend((1..=case.warm_calls).map(|call| self.call(number, case, "warm", call)));
        settle_log(self.instance, number);
        let normals = calls.into_iter().map(|Call { start, id, answer }| {
            let seen = Seen { answer, log: log_of(self.instance, &id) };
            let normal = Normal::of(&seen, &id, number, start);
            self.hold(case, &seen, &normal, start);
            normal
        });
        agree(&case.agreement, &normals.collect::<Vec<_>>());
    }

    /// One call whose process starts that way.
    fn call(&self, number: usize, case: &Case, start: &'static str, call: usize) -> Call {
        for attempt in 0..=COLD_ANSWERS_MAX {
            let id = format!("it-{start}-{number}-{call}-{attempt}");
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().to_string();
            let own = case.fields.iter().map(|(name, value)| (*name, value.replace("{now}", &now)));
            let fields: Vec<(&str, String)> = own.chain([("X-Request-Id", id.clone())]).collect();
            let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = self.instance.request(case.method, &target(number, case, start), &fields, &case.body);
            assert_nothing_stays(self.instance);
            if start_of(&answer) == start {
                return Call { start, id, answer };
            }
            assert_eq!(start, "warm", "a cold route answers warm");
        }
        panic!("a warm route answers cold, again and again");
    }

    /// Compares a call with the expectation.
    fn hold(&self, case: &Case, seen: &Seen, normal: &Normal, start: &str) {
        let folder = self.folder.to_str().unwrap();
        assert_eq!(seen.answer.status, case.status, "{start}: {} {:?}", shown(&seen.answer.body), seen.log);
        assert!(seen.answer.is_whole, "the answer breaks off");
        if let Some(expected) = &case.expected {
            let expected = String::from_utf8(expected.clone()).map(|text| text.replace("{folder}", folder).into());
            let expected = expected.unwrap_or_else(|fault| fault.into_bytes());
            assert!(normal.body == expected, "{start}: answers {}, not {}", shown(&normal.body), shown(&expected));
        }
        if case.log.is_empty() && !case.checks_log {
            assert_eq!(seen.log, [""; 0], "{start}: nothing was to be logged");
        }
        let mut lines = seen.log.iter();
        for expected in &case.log {
            let expected = expected.replace("{folder}", folder);
            assert!(
                lines.any(|line| line.contains(&expected)),
                "{start}: {expected:?} is not in the log {:#?}",
                seen.log
            );
        }
        for check in &case.checks {
            check(seen);
        }
    }
}

fn target(number: usize, case: &Case, start: &str) -> String {
    format!("/{start}/{number}{}", case.suffix)
}

/// The beginning of bytes that may be long or no text.
fn shown(bytes: &[u8]) -> String {
    let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]);
    format!("{beginning:?} ({} bytes)", bytes.len())
}

struct Call {
    start: &'static str,
    id: String,
    answer: Answer,
}

/// The result of a call without its route and its id, which belong to this one call.
#[derive(Debug, PartialEq)]
struct Normal {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    log: Vec<String>,
}

impl Normal {
    fn of(seen: &Seen, id: &str, number: usize, start: &str) -> Normal {
        let normal = |text: &str| text.replace(id, "ID").replace(&format!("/{start}/{number}"), "/ROUTE");
        let fields = seen.answer.fields.iter().filter(|(name, _)| !OWN_FIELDS.contains(&name.as_str()));
        let body = match std::str::from_utf8(&seen.answer.body) {
            Ok(text) => normal(text).into_bytes(),
            Err(_) => seen.answer.body.clone(),
        };
        Normal {
            status: seen.answer.status,
            fields: fields.map(|(name, value)| (name.clone(), normal(value))).collect(),
            body,
            log: seen.log.iter().map(|line| normal(line)).collect(),
        }
    }

    fn lines_but(&self, starts: &[&str]) -> Vec<String> {
        let answer = Answer { status: 0, fields: Vec::new(), body: self.body.clone(), is_whole: true };
        let mut lines = lines_of(&answer);
        lines.retain(|line| !starts.iter().any(|start| line.starts_with(start)));
        lines
    }
}

fn agree(agreement: &Agreement, all: &[Normal]) {
    let but = |starts: &[&str]| {
        let first = all[0].lines_but(starts);
        for other in &all[1..] {
            let (missing, added) = difference(&first, &other.lines_but(starts));
            assert!(missing.is_empty() && added.is_empty(), "only cold: {missing:#?}, only warm: {added:#?}");
        }
    };
    match agreement {
        Agreement::Whole if all.iter().all(|other| *other == all[0]) => {}
        Agreement::Whole => {
            but(&[]);
            panic!("cold: {:#?}, warm: {:#?}", Shown(&all[0]), all[1..].iter().map(Shown).collect::<Vec<_>>());
        }
        Agreement::AllBut(starts) => but(starts),
        Agreement::Distinct => {
            let mut lines: Vec<String> = all.iter().flat_map(|one| one.lines_but(&[])).collect();
            lines.sort();
            let same = lines.windows(2).find(|pair| pair[0] == pair[1]);
            assert!(same.is_none(), "two calls say {same:?}");
        }
        Agreement::None => {}
    }
}

/// The lines that only one of two has.
fn difference(left: &[String], right: &[String]) -> (Vec<String>, Vec<String>) {
    let only =
        |of: &[String], in_other: &[String]| of.iter().filter(|line| !in_other.contains(line)).cloned().collect();
    (only(left, right), only(right, left))
}

struct Shown<'a>(&'a Normal);

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Normal { status, fields, body, log } = self.0;
        write!(formatter, "{status} {fields:?} {} {log:#?}", shown(body))
    }
}
