//! Reports if this gateway serves: to balancers by `GET /healthz`, to the operator by status.sock.
//!
//! ```text
//! {"status":"ready","routes":5,"faulty_rows":0,"generation":7,"generation_age_s":412,"lag_s":12}
//! ```
//!
//! | field | is |
//! |---|---|
//! | status | "ready" or [`STALE`], and then the response is 200; else why not, and then it is 503 |
//! | faulty_rows | rows with a fault, which serve their last good version, or answer 500 where they never had one |
//! | generation | the newest id of the registry's history; null where it keeps none |
//! | generation_age_s | seconds since that change was made |
//! | lag_s | seconds since the registry's newest sign of life: that change, or its heartbeat (docs/SCALING.md) |
//!
//! `GET /healthz?max_lag_s=60` is 503 also where `lag_s` is above 60 or unknown. A copy of a registry cannot tell a
//! quiet writer from one that it no longer hears; only a heartbeat tells the two apart. /healthz is public, so it shows
//! no processes, loads or paths; the console does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::scheduler::Scheduler;
use crate::error::request::{RequestError, Result};
use crate::http_handler::response::{Body, Response};
use crate::limits::RETRY_AFTER_S;
use crate::registry::kv::Kv;

/// The status of a gateway that still serves, although the registry is missing or damaged.
const STALE: &str = "the registry cannot be used; its last good routes are in service";

pub struct Health {
    kv: Arc<Kv>,
    scheduler: Arc<Scheduler>,
    is_ending: AtomicBool,
}

impl Health {
    pub fn new(kv: Arc<Kv>, scheduler: Arc<Scheduler>) -> Arc<Health> {
        Arc::new(Health { kv, scheduler, is_ending: AtomicBool::new(false) })
    }

    /// From now on this gateway is not ready, although it still answers.
    pub fn set_ending(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
    }

    /// "ready" once the registry is loaded and a worker has announced itself, until the end begins; else the reason.
    pub fn status(&self) -> &'static str {
        match (self.is_ending.load(Ordering::SeqCst), self.kv.is_loaded(), self.scheduler.overview().is_empty()) {
            (true, _, _) => "the gateway is ending",
            (false, true, false) if !self.kv.is_current() => STALE,
            (false, true, false) => "ready",
            (false, false, _) => "the registry is not loaded",
            (false, true, true) => "no worker is ready",
        }
    }

    /// The fields that describe the registry in service.
    pub fn registry(&self) -> Value {
        let version = self.kv.version();
        let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        // The times come from another machine, whose clock may be ahead.
        let since = |at: f64| (now_s - at).max(0.0) as u64;
        json!({
            "routes": self.kv.len(),
            "generation": version.map(|version| version.generation),
            "generation_age_s": version.map(|version| since(version.changed_at)),
            "lag_s": version.map(|version| since(version.alive_at)),
        })
    }

    /// The faults of the registry. For the operator only, since they name routes and paths.
    pub fn registry_faults(&self) -> Value {
        let faults = self.kv.faults();
        let first = faults.rows.first.iter().map(|(route, fault)| json!({"route": route, "fault": fault}));
        json!({"fault": faults.file, "faulty_rows": faults.rows.count, "first": first.collect::<Vec<_>>()})
    }

    /// The response to `GET /healthz` with this query.
    ///
    /// # Errors
    /// Where `max_lag_s` is not a number: a check that never fails would be worse than one that always does.
    pub fn response(&self, query: &str) -> Result<Response> {
        let lag_s_max = lag_s_max(query)?;
        let mut text = self.registry();
        text["faulty_rows"] = self.kv.faults().rows.count.into();
        let status = match (self.status(), lag_s_max) {
            ("ready" | STALE, Some(max)) if text["lag_s"].as_u64().is_none_or(|lag| lag > max) => "the registry lags",
            (status, _) => status,
        };
        text["status"] = status.into();
        let is_ready = ["ready", STALE].contains(&status);
        let mut response = Response::new(if is_ready { 200 } else { 503 });
        response.add("Content-Type", "application/json");
        if !is_ready {
            response.add("Retry-After", &RETRY_AFTER_S.start().to_string());
        }
        response.body = Body::Bytes(format!("{text}\n").into_bytes());
        Ok(response)
    }
}

fn lag_s_max(query: &str) -> Result<Option<u64>> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("max_lag_s="));
    let number = value.map(|value| value.parse().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit())));
    match number {
        None => Ok(None),
        Some(Some(seconds)) => Ok(Some(seconds)),
        Some(None) => Err(RequestError::RequestMalformed("max_lag_s must be a whole number of seconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::each;
    use crate::registry::kv::Version;
    use crate::registry::routes::Routes;

    fn seconds_ago(seconds: f64) -> f64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() - seconds
    }

    #[test]
    fn lag_is_since_the_newest_sign_of_life() {
        let kv = Arc::new(Kv::new());
        let health = Health::new(kv.clone(), Scheduler::new(1, std::time::Duration::ZERO));
        assert!(health.registry()["lag_s"].is_null());
        let version = Version { generation: 7, changed_at: seconds_ago(100.5), alive_at: seconds_ago(20.5) };
        kv.swap(Routes::default(), Some(version));
        let told = health.registry();
        assert_eq!((told["generation_age_s"].as_u64(), told["lag_s"].as_u64()), (Some(100), Some(20)));
        // A writer whose clock is ahead has no lag.
        kv.set_version(Some(Version { alive_at: seconds_ago(-50.0), ..version }));
        assert_eq!(health.registry()["lag_s"], 0);
    }

    #[test]
    fn max_lag_must_be_a_number() {
        assert_eq!(lag_s_max("").unwrap(), None);
        assert_eq!(lag_s_max("a=1&max_lag_s=60").unwrap(), Some(60));
        each(["max_lag_s=", "max_lag_s=x", "max_lag_s=-1", "max_lag_s=+1"], |query| assert!(lag_s_max(query).is_err()));
    }
}
