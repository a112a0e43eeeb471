//! Keeps the gateway's reports from status.sock, one every 500 ms (gateway/status.rs), for the page and for /metrics:
//! the last line, all functions' counters, and their course over the last minutes and the last hour.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::rings::{Course, Window};
use crate::error::start::{Result, StartError};
use crate::protocol::counters::FunctionCounters;

/// Bytes of one line: with 256 workers and 128 functions it has about 120,000.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Choices of a worker that the console keeps.
const CHOICES_MAX: usize = 12;

/// Seconds after its last call during which each answer includes a function's figures.
const ACTIVE_S: u64 = Window::SECONDS + 10;

pub struct Live {
    /// Guards the data from the lines. Held for one line, or to compose one answer.
    state: Mutex<State>,
    started_at: Instant,
    cores: f64,
}

struct State {
    /// The last line without its functions and choices: a JSON object.
    line: Value,
    line_at: Instant,
    choices: VecDeque<Value>,
    /// True once the lines have told everything that happened before the first line.
    is_complete: bool,
    functions: HashMap<String, Function>,
    total: Course,
}

#[derive(Default)]
struct Function {
    /// True once a line has told of it.
    is_known: bool,
    counters: FunctionCounters,
    course: Course,
    window: Window,
    /// The time of its last call, by the clock of [`Live::now_s`].
    told_at: u64,
}

/// The lines that come after the first.
pub type Lines = BufReader<UnixStream>;

impl Live {
    /// Connects, and waits for the first line, so that a line can always be shown.
    pub fn connect(socket: &Path) -> Result<(Arc<Live>, Lines)> {
        let stream = UnixStream::connect(socket).map_err(StartError::io("reach a gateway at", socket.display()))?;
        let mut lines = BufReader::new(stream);
        let ended = || StartError::Io {
            step: "read",
            subject: socket.display().to_string(),
            cause: std::io::ErrorKind::UnexpectedEof.into(),
        };
        let first = read(&mut lines)?.ok_or_else(ended)?;
        Ok((Arc::new(Live::new(first)), lines))
    }

    fn new(first: Value) -> Live {
        let state = State {
            line: Value::Null,
            line_at: Instant::now(),
            choices: VecDeque::new(),
            is_complete: false,
            functions: HashMap::new(),
            total: Course::default(),
        };
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let live = Live { state: Mutex::new(state), started_at: Instant::now(), cores };
        live.take(first);
        live
    }

    /// Reads lines until the gateway closes the stream, which means that the gateway has ended.
    pub fn follow(&self, mut lines: Lines) -> Result<()> {
        while let Some(line) = read(&mut lines)? {
            self.take(line);
        }
        Ok(())
    }

    fn take(&self, mut line: Value) {
        let now = self.now_s();
        let mut state = self.state();
        if let Some(Value::Array(functions)) = line.get_mut("functions").map(Value::take) {
            functions
                .iter()
                .filter_map(FunctionCounters::parse)
                .for_each(|counters| state.take_function(counters, now));
        }
        if let Some(Value::Array(choices)) = line.get_mut("choices").map(Value::take) {
            state.choices.extend(choices);
            let surplus = state.choices.len().saturating_sub(CHOICES_MAX);
            state.choices.drain(..surplus);
        }
        state.is_complete |= line["untold"] == 0;
        if let Some(fields) = line.as_object_mut() {
            ["functions", "choices", "untold"].iter().for_each(|name| drop(fields.remove(*name)));
        }
        (state.line, state.line_at) = (line, Instant::now());
    }

    /// The last line, with its age.
    pub fn status(&self) -> Value {
        let state = self.state();
        let mut line = state.line.clone();
        line["age_ms"] = (state.line_at.elapsed().as_millis() as u64).into();
        line
    }

    /// The status, and the figures of functions that were called lately. `minute` is the minute for which the caller
    /// already has the course of the last hour. If another minute has begun, the answer has all functions, with their
    /// course.
    pub fn show(&self, minute: Option<u64>) -> Value {
        let now = self.now_s();
        let status = self.status();
        let state = self.state();
        // By the wall clock, since the caller may have got the minute from another console.
        let this_minute = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 60;
        let has_course = minute != Some(this_minute);
        let functions = state.functions.values().filter(|function| !function.counters.route.is_empty());
        let wanted = functions
            .filter(|function| has_course || function.counters.in_flight > 0 || function.told_at + ACTIVE_S > now);
        let functions: Vec<Value> = wanted.map(|function| self.figures(function, now, has_course)).collect();
        let mut total = json!({"rate": state.total.rate(now), "seconds": state.total.seconds(now)});
        if has_course {
            total["minutes"] = state.total.minutes(now);
        }
        json!({
            "minute": this_minute, "status": status, "choices": state.choices, "total": total, "functions": functions,
        })
    }

    fn figures(&self, function: &Function, now: u64, has_course: bool) -> Value {
        let counters = &function.counters;
        let [p50_ms, p95_ms] = [0.5, 0.95].map(|share| function.window.quantile_ms(now, share));
        let mut figures = json!({
            "route": counters.route, "in_flight": counters.in_flight, "calls": counters.calls(),
            "errors": counters.errors(), "rate": function.course.rate(now), "p50_ms": p50_ms, "p95_ms": p95_ms,
            "cpu_percent": function.course.cpu_share(now) / self.cores * 100.0,
            "memory_bytes_max": counters.memory_bytes_max,
        });
        if has_course {
            figures["minutes"] = function.course.minutes(now);
        }
        figures
    }

    /// Notes calls in a minute before this console started, `ago` minutes back.
    pub fn recall(&self, route: &str, ago: u64, calls: u32, errors: u32) {
        let now = self.now_s();
        let mut state = self.state();
        state.total.add_minute(now, ago, calls, errors);
        let function = state.functions.entry(route.to_string()).or_default();
        function.counters.route = route.to_string();
        function.course.add_minute(now, ago, calls, errors);
    }

    /// All functions' counters.
    pub fn counters(&self) -> Vec<FunctionCounters> {
        self.state()
            .functions
            .values()
            .filter(|function| function.is_known)
            .map(|function| function.counters.clone())
            .collect()
    }

    /// Forgets functions whose rows are gone.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.state().functions.retain(|route, _| route.is_empty() || exists(route));
    }

    /// A clock that only goes forward, and starts at one hour when the console starts.
    fn now_s(&self) -> u64 {
        3600 + self.started_at.elapsed().as_secs()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }
}

impl State {
    fn take_function(&mut self, counters: FunctionCounters, now: u64) {
        // Calls from before the console listened have no place in the course of time.
        let function = self.functions.entry(counters.route.clone()).or_default();
        if function.is_known || self.is_complete {
            let old = &function.counters;
            let since = |new: u64, old: u64| new.saturating_sub(old) as u32;
            let calls = since(counters.calls(), old.calls());
            let errors = since(counters.errors(), old.errors());
            let cpu_ms = ((counters.cpu_s - old.cpu_s).max(0.0) * 1000.0) as u32;
            function.course.add(now, calls, errors, cpu_ms);
            self.total.add(now, calls, errors, cpu_ms);
            function.window.add(now, &counters.run, &old.run);
            function.told_at = now;
        }
        (function.counters, function.is_known) = (counters, true);
    }
}

/// The next line; `None` at the end, even if the end cuts a line short.
fn read(lines: &mut Lines) -> Result<Option<Value>> {
    let mut line = String::new();
    let count =
        lines.take(LINE_BYTES_MAX).read_line(&mut line).map_err(StartError::io("read", "the gateway's status"))?;
    if (count as u64) < LINE_BYTES_MAX && !line.ends_with('\n') {
        return Ok(None);
    }
    match serde_json::from_str(&line) {
        Ok(value @ Value::Object(_)) => Ok(Some(value)),
        _ => {
            let cause = std::io::ErrorKind::InvalidData.into();
            Err(StartError::Io { step: "understand", subject: "the gateway's status".into(), cause })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(route: &str, calls: u64, untold: u64) -> Value {
        let mut counters = FunctionCounters { route: route.into(), ..FunctionCounters::default() };
        (0..calls).for_each(|_| {
            counters.add_answer(200);
            counters.run.add(0.015);
        });
        json!({"status": "ready", "functions": [counters.to_value()], "choices": [{"worker": 1}], "untold": untold})
    }

    #[test]
    fn only_calls_since_the_start_have_a_course() {
        let live = Live::new(line("GET:/a", 100, 1));
        live.take(line("GET:/b", 50, 0));
        live.take(line("GET:/a", 103, 0));
        live.take(line("GET:/new", 2, 0));
        let shown = live.show(None);
        let rate = |route: &str| {
            let functions = shown["functions"].as_array().unwrap();
            let function = functions.iter().find(|function| function["route"] == route).unwrap();
            (function["calls"].as_u64().unwrap(), function["minutes"][59][0].as_u64().unwrap())
        };
        assert_eq!([rate("GET:/a"), rate("GET:/b"), rate("GET:/new")], [(103, 3), (50, 0), (2, 2)]);
        assert_eq!((shown["status"].get("functions"), shown["choices"].as_array().unwrap().len()), (None, 4));
        assert!(live.show(shown["minute"].as_u64())["functions"][0].get("minutes").is_none());
        live.retain(|route| route == "GET:/b");
        assert_eq!(live.counters().len(), 1);
    }
}
