//! The calls of one function since the gateway started, as status.sock reports them to the console, and /metrics to
//! others.
//!
//! Counters only grow. They live in the gateway and not in the ledger, whose retention would make them fall.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Upper bounds of the histograms' buckets, in seconds; a last bucket has no bound. A start takes one to fifty
/// milliseconds, and a call at most an hour.
pub const BUCKETS_S: [f64; 15] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// Statuses that are counted separately for one function; all further ones count as 0. A function can answer with any.
const CODES_MAX: usize = 16;

/// The ways in which a call's process starts.
pub const STARTS: [&str; 2] = ["forked", "exec"];

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Calls in each bucket alone, not in those below it.
    pub counts: [u64; BUCKETS_S.len() + 1],
    pub sum_s: f64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct FunctionCounters {
    /// The row's key; empty for requests that matched no route.
    pub route: String,
    /// The function's name.
    pub name: String,
    pub in_flight: u64,
    /// Answers by status.
    pub codes: BTreeMap<u16, u64>,
    /// Time from the request's arrival to its slot, or to the answer without one.
    pub queued: Histogram,
    /// Time from the slot to the response.
    pub run: Histogram,
    pub cpu_s: f64,
    /// The most memory that one call has taken, in bytes.
    pub memory_bytes_max: u64,
    /// Calls by the start of their process, in the order of [`STARTS`].
    pub starts: [u64; STARTS.len()],
}

impl Histogram {
    pub fn add(&mut self, seconds: f64) {
        let bucket = BUCKETS_S.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS_S.len());
        self.counts[bucket] += 1;
        self.sum_s += seconds;
    }

    fn to_value(&self) -> Value {
        json!({"counts": self.counts, "sum_s": self.sum_s})
    }

    fn parse(value: &Value) -> Option<Histogram> {
        let counts: Vec<u64> = value["counts"].as_array()?.iter().map(Value::as_u64).collect::<Option<_>>()?;
        Some(Histogram { counts: counts.try_into().ok()?, sum_s: value["sum_s"].as_f64()? })
    }
}

impl FunctionCounters {
    pub fn add_answer(&mut self, status: u16) {
        let is_new = !self.codes.contains_key(&status);
        let code = if is_new && self.codes.len() >= CODES_MAX { 0 } else { status };
        *self.codes.entry(code).or_default() += 1;
    }

    pub fn calls(&self) -> u64 {
        self.codes.values().sum()
    }

    /// Answers with a status of 500 or more.
    pub fn errors(&self) -> u64 {
        self.codes.range(500..).map(|(_, count)| count).sum()
    }

    pub fn to_value(&self) -> Value {
        json!({
            "route": self.route, "name": self.name, "in_flight": self.in_flight, "codes": self.codes,
            "queued": self.queued.to_value(), "run": self.run.to_value(), "cpu_s": self.cpu_s,
            "memory_bytes_max": self.memory_bytes_max, "starts": self.starts,
        })
    }

    /// `None` if the value is malformed.
    pub fn parse(value: &Value) -> Option<FunctionCounters> {
        let text = |name: &str| value[name].as_str().map(str::to_string);
        let codes = value["codes"].as_object()?.iter();
        let starts: Vec<u64> = value["starts"].as_array()?.iter().map(Value::as_u64).collect::<Option<_>>()?;
        Some(FunctionCounters {
            route: text("route")?,
            name: text("name")?,
            in_flight: value["in_flight"].as_u64()?,
            codes: codes.map(|(code, count)| Some((code.parse().ok()?, count.as_u64()?))).collect::<Option<_>>()?,
            queued: Histogram::parse(&value["queued"])?,
            run: Histogram::parse(&value["run"])?,
            cpu_s: value["cpu_s"].as_f64()?,
            memory_bytes_max: value["memory_bytes_max"].as_u64()?,
            starts: starts.try_into().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_come_back_as_it_was_sent() {
        let mut counters =
            FunctionCounters { route: "GET:/a".into(), name: "a".into(), in_flight: 2, ..Default::default() };
        counters.run.add(0.0007);
        counters.run.add(3600.0);
        (counters.cpu_s, counters.memory_bytes_max, counters.starts) = (1.5, 1 << 40, [1, 2]);
        counters.add_answer(200);
        counters.add_answer(503);
        let text = counters.to_value().to_string();
        assert_eq!(FunctionCounters::parse(&serde_json::from_str(&text).unwrap()), Some(counters.clone()));
        assert_eq!((counters.calls(), counters.errors()), (2, 1));
        assert_eq!((counters.run.counts[1], counters.run.counts[15]), (1, 1));
    }

    #[test]
    fn statuses_are_bounded() {
        let mut counters = FunctionCounters::default();
        (200..300).for_each(|status| counters.add_answer(status));
        assert_eq!((counters.codes.len(), counters.codes[&0], counters.calls()), (CODES_MAX + 1, 84, 100));
    }
}
