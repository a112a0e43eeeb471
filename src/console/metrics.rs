//! `GET /metrics` for Prometheus (text format 0.0.4).
//!
//! Counters come from the gateway's memory (protocol/counters.rs): they grow until the gateway ends. Labels are rows of
//! the registry, so their number is bounded; requests that met no route have an empty label.

use std::collections::HashSet;
use std::fmt::Write;

use serde_json::Value;

use super::Console;
use super::call::Call;
use super::calls::unrecorded;
use super::reply::Reply;
use crate::operator::Result;
use crate::protocol::counters::{BUCKETS_S, FunctionCounters, Histogram, STARTS};

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub fn metrics(console: &Console, _: &mut Call) -> Result<Reply, Reply> {
    // If the registry cannot be read, the counters are still worth reporting.
    let rows = console.view.read(|registry| registry.routes()).unwrap_or_default();
    let keys: HashSet<&str> = rows.iter().map(|row| row.key.as_str()).collect();
    let mut functions = console.live.counters();
    if !rows.is_empty() {
        functions.retain(|function| function.route.is_empty() || keys.contains(function.route.as_str()));
        console.live.retain(|route| keys.contains(route));
    }
    functions.sort_by(|one, other| one.route.cmp(&other.route));
    let status = console.live.status();
    let mut text = Text::default();
    gateway(&mut text, &status);
    if let Some(unrecorded) = unrecorded(&console.settings) {
        text.family("faas_unrecorded_total", "counter", "Calls that the ledger does not have.");
        text.sample("faas_unrecorded_total", &[], unrecorded as f64);
    }
    workers(&mut text, &status);
    of_functions(&mut text, &functions);
    Ok(Reply::new(200, CONTENT_TYPE, text.0.into_bytes()))
}

fn gateway(text: &mut Text, status: &Value) {
    let number = |name: &str| status[name].as_f64().unwrap_or(0.0);
    text.family("faas_build_info", "gauge", "The version that runs.");
    text.sample("faas_build_info", &[("version", status["version"].as_str().unwrap_or(""))], 1.0);
    let is_ready = f64::from(u8::from(status["status"] == "ready"));
    let workers = status["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let faulty = status["registry"]["faulty_rows"].as_f64().unwrap_or(0.0);
    let slots: u64 = workers.iter().filter_map(|worker| worker["slots"].as_u64()).sum();
    let mut gauges = vec![
        ("faas_ready", "Whether the status of /healthz is ready.", is_ready),
        ("faas_uptime_seconds", "Time since the gateway started.", number("uptime_s")),
        ("faas_status_age_seconds", "Time since the gateway last told of itself.", number("age_ms") / 1000.0),
        ("faas_waiting", "Requests that wait for a slot.", number("waiting")),
        ("faas_slots", "Slots of all workers.", slots as f64),
        ("faas_registry_routes", "Routes in service.", number("routes")),
        ("faas_registry_generation", "Generation of the registry in service.", number("generation")),
        ("faas_registry_faulty_rows", "Rows of the registry that have a fault.", faulty),
    ];
    let ages = [
        ("generation_age_s", "faas_registry_generation_age_seconds", "Time since the generation in service was made."),
        ("lag_s", "faas_registry_lag_seconds", "Time since the registry's newest sign of life."),
    ];
    let known = ages.into_iter().filter_map(|(field, name, help)| Some((name, help, status[field].as_f64()?)));
    gauges.extend(known);
    for (name, help, value) in gauges {
        text.family(name, "gauge", help);
        text.sample(name, &[], value);
    }
}

fn workers(text: &mut Text, status: &Value) {
    const FIGURES: [(&str, &str, &str); 6] = [
        ("faas_worker_cpu", "cpu", "CPU of a worker and its functions; 100 is all cores."),
        ("faas_worker_mem", "mem", "Memory of a worker and its functions; 100 is 512 MiB."),
        ("faas_worker_io", "io", "I/O of a worker and its functions; 100 is 10,000 KB/s."),
        ("faas_worker_score", "score", "Score of a worker; the lowest is chosen."),
        ("faas_worker_slots", "slots", "Slots of a worker."),
        ("faas_worker_in_flight", "in_flight", "Invocations that run on a worker."),
    ];
    let workers = status["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (name, field, help) in FIGURES {
        text.family(name, "gauge", help);
        for worker in workers {
            text.sample(name, &[("worker", &worker["id"].to_string())], worker[field].as_f64().unwrap_or(0.0));
        }
    }
}

fn of_functions(text: &mut Text, functions: &[FunctionCounters]) {
    fn labels(function: &FunctionCounters) -> [(&'static str, &str); 2] {
        [("function", &function.name), ("route", &function.route)]
    }
    text.family("faas_requests_total", "counter", "Requests by function and status; code 0 is all rare statuses.");
    for function in functions {
        for (code, count) in &function.codes {
            let [name, route] = labels(function);
            text.sample("faas_requests_total", &[name, route, ("code", &code.to_string())], *count as f64);
        }
    }
    let routed: Vec<&FunctionCounters> = functions.iter().filter(|function| !function.route.is_empty()).collect();
    type Figure = fn(&FunctionCounters) -> f64;
    type Times = fn(&FunctionCounters) -> &Histogram;
    let figures: [(&str, &str, &str, Figure); 3] = [
        ("faas_in_flight", "gauge", "Requests under way.", |function| function.in_flight as f64),
        ("faas_cpu_seconds_total", "counter", "CPU time of calls.", |function| function.cpu_s),
        ("faas_memory_peak_bytes", "gauge", "The most memory that one call has taken.", |function| {
            function.memory_bytes_max as f64
        }),
    ];
    for (name, kind, help, figure) in figures {
        text.family(name, kind, help);
        routed.iter().for_each(|function| text.sample(name, &labels(function), figure(function)));
    }
    text.family("faas_starts_total", "counter", "Calls by how their process came to be.");
    for function in &routed {
        for (start, count) in STARTS.iter().zip(function.starts) {
            let [name, route] = labels(function);
            text.sample("faas_starts_total", &[name, route, ("start", start)], count as f64);
        }
    }
    let histograms: [(&str, &str, Times); 2] = [
        ("faas_queued_seconds", "Time until a request had a slot.", |function| &function.queued),
        ("faas_run_seconds", "Time from the slot to the response.", |function| &function.run),
    ];
    for (name, help, histogram) in histograms {
        text.family(name, "histogram", help);
        routed.iter().for_each(|function| text.histogram(name, &labels(function), histogram(function)));
    }
}

#[derive(Default)]
struct Text(String);

// Writing to a String cannot fail.
impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        if !labels.is_empty() {
            let labels = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value)));
            let _ = write!(self.0, "{{{}}}", labels.collect::<Vec<_>>().join(","));
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut below = 0;
        let bounds = BUCKETS_S.iter().map(f64::to_string).chain(["+Inf".to_string()]);
        for (bound, count) in bounds.zip(histogram.counts) {
            below += count;
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample(&format!("{name}_bucket"), &labels, below as f64);
        }
        self.sample(&format!("{name}_sum"), labels, histogram.sum_s);
        self.sample(&format!("{name}_count"), labels, below as f64);
    }
}

/// A label's value: backslash, quote and line feed get a backslash.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::each;

    #[test]
    fn hostile_names_stay_within_their_quotes() {
        let mut counters = FunctionCounters {
            name: "a\"} 1\n# <script>\\".into(),
            route: "GET:/a".into(),
            ..FunctionCounters::default()
        };
        counters.add_answer(200);
        counters.run.add(0.3);
        counters.run.add(99.0);
        let mut text = Text::default();
        of_functions(&mut text, &[counters]);
        let labels = r#"function="a\"} 1\n# <script>\\",route="GET:/a""#;
        let cases = [
            format!("faas_requests_total{{{labels},code=\"200\"}} 1"),
            format!("faas_run_seconds_bucket{{{labels},le=\"0.2\"}} 0"),
            format!("faas_run_seconds_bucket{{{labels},le=\"0.5\"}} 1"),
            format!("faas_run_seconds_bucket{{{labels},le=\"+Inf\"}} 2"),
            format!("faas_run_seconds_count{{{labels}}} 2"),
        ];
        each(cases, |line| assert!(text.0.lines().any(|other| other == line), "is missing in {}", text.0));
    }
}
