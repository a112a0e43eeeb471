//! Collects the facts of a request while it runs, for its line in the log and its row in the ledger.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::function_output::Facts;
use crate::http_handler::request::Request;
use crate::ledger;
use crate::log::Line;
use crate::log_budget::log_unrouted;
use crate::protocol::worker_protocol::End;

/// Bytes of the path that the log shows. A path may be long.
const PATH_BYTES_MAX: usize = 256;

pub struct Record {
    at: SystemTime,
    began: Instant,
    /// `None` where the request met no route.
    pub route: Option<String>,
    /// The function's name.
    pub function: Option<String>,
    pub facts: Facts,
    pub end: Option<End>,
    /// Bytes of the response's body.
    pub bytes: u64,
    /// True for a request to /healthz: monitors send one every second, and the log leaves them out.
    pub is_poll: bool,
}

pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The beginning of each log line about a request in progress.
pub fn line_of(request: &Request, route: Option<&str>, function: Option<&str>) -> Line {
    Line::now().text("request", request.id.as_str()).text("route", route).text("function", function)
}

impl Record {
    pub fn new() -> Record {
        Record {
            at: SystemTime::now(),
            began: Instant::now(),
            route: None,
            function: None,
            facts: Facts::default(),
            end: None,
            bytes: 0,
            is_poll: false,
        }
    }

    /// Logs an event of the request.
    pub fn note(&self, request: &Request, what: fmt::Arguments<'_>) {
        line_of(request, self.route.as_deref(), self.function.as_deref()).message(what).log();
    }

    /// Logs the request with its response. `None` where it met no route.
    pub fn finish(self, request: &Request, status: u16, fault: Option<&str>) -> Option<ledger::Call> {
        let took_ms = milliseconds(self.began.elapsed());
        if !self.is_poll {
            self.log(request, status, fault, took_ms);
        }
        self.route.is_some().then(|| self.into_call(request, status, took_ms))
    }

    fn log(&self, request: &Request, status: u16, fault: Option<&str>, took_ms: f64) {
        let path = request.head.path();
        let path = path.get(..PATH_BYTES_MAX).unwrap_or(path);
        let client = request.origin.client.ip().to_string();
        let usage = self.end.as_ref().and_then(|end| end.usage);
        let mut line = Line::now()
            .text("request", request.id.as_str())
            .text("client", client.as_str())
            .text("method", request.head.method.as_str())
            .text("path", path)
            .text("route", self.route.as_deref())
            .text("function", self.function.as_deref())
            .number("status", Some(status))
            .number("worker", self.facts.worker)
            .number("bytes_in", Some(request.body.len()))
            .number("bytes", Some(self.bytes))
            .number("ms", Some(format_args!("{took_ms:.1}")))
            .number("cpu_ms", usage.map(|usage| usage.cpu_us as f64 / 1000.0))
            .number("memory", usage.map(|usage| usage.memory_bytes));
        if let Some(traceparent) = request.head.field("traceparent").and_then(valid_traceparent) {
            line = line.text("traceparent", traceparent);
        }
        if let Some(fault) = fault {
            line = line.text("error", fault);
        }
        match self.route {
            Some(_) => drop(line.log()),
            None => log_unrouted(line),
        }
    }

    /// The row for the ledger.
    fn into_call(self, request: &Request, status: u16, took_ms: f64) -> ledger::Call {
        let has_slot = self.facts.worker.is_some();
        let queued_ms = if has_slot { self.facts.queue_ms } else { took_ms };
        let end = self.end.as_ref();
        let usage = end.and_then(|end| end.usage);
        let route = self.route.unwrap_or_default();
        ledger::Call {
            at_ms: self.at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64),
            request_id: request.id.clone(),
            function: self.function.unwrap_or_else(|| route.clone()),
            route,
            status,
            worker: self.facts.worker,
            start: end.filter(|_| usage.is_some()).map(|end| if end.is_warm { "forked" } else { "exec" }),
            queued_ms,
            run_ms: has_slot.then_some(took_ms - queued_ms),
            usage,
            bytes_in: request.body.len(),
            bytes_out: self.bytes,
            client: request.origin.client.ip().to_string(),
            generation: self.facts.generation,
            stderr: self.end.map(|end| end.stderr).filter(|text| status >= ledger::FAILED_FROM && !text.is_empty()),
        }
    }
}

/// The field's value where it has the form of W3C Trace Context (2.3.2): version, trace id, parent id and flags in
/// hexadecimal digits. A later version may append more.
fn valid_traceparent(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = text.splitn(5, '-');
    let has_form = [2, 32, 16, 2].into_iter().all(|length| {
        parts.next().is_some_and(|part| {
            part.len() == length && is_hex(part) && (length < 16 || !part.trim_matches('0').is_empty())
        })
    });
    (has_form && text.len() <= TRACEPARENT_BYTES_MAX && (parts.next().is_none() || !text.starts_with("00")))
        .then_some(text)
}

/// Version 00 has 55.
const TRACEPARENT_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::check;

    #[test]
    fn a_traceparent_is_taken_in_its_form_only() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(valid_traceparent(good.as_bytes()), Some(good));
        let later = format!("cc-{}-what the future will be", &good[3..]);
        assert_eq!(valid_traceparent(later.as_bytes()), Some(later.as_str()));
        let bad = [
            "",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "x",
        ];
        check(bad.map(|text| (text, None)), |text| valid_traceparent(text.as_bytes()));
    }
}
