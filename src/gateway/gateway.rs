//! One request from its head to its answer: the C original's http_handler.c.
//!
//! The thread of the connection comes in here with a request that was received whole, and leaves with its answer:
//! route (kv) → slot (scheduler) → worker (worker_link) → answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::json;

use super::cgi::{self, Meta};
use super::function_output::{Facts, OutputMode, Sink};
use super::scheduler::{Scheduler, Wish};
use super::worker_link::{Call, Failure};
use crate::error::{Error, Result};
use crate::http_handler::handler::{Client, Handler, Reply};
use crate::http_handler::request::Request;
use crate::http_handler::response::{Body, Response};
use crate::http_handler::spool::{Spool, SpoolArea};
use crate::limits::{FUNCTION_PROCESSES_MAX, RETRY_AFTER_S, TRIES_MAX};
use crate::log;
use crate::protocol::worker_protocol::{End, Verdict};
use crate::registry::config_loader::Function;
use crate::registry::kv::{Found, Kv};
use crate::sandbox::Sandbox;

pub struct Gateway {
    pub kv: Arc<Kv>,
    pub scheduler: Arc<Scheduler>,
    pub spool_area: Arc<SpoolArea>,
    pub response_bytes_max: u64,
    /// How functions are boxed in, for /healthz.
    pub sandbox: Sandbox,
    /// The public port, for SERVER_PORT.
    pub port: u16,
}

/// What is known of a request besides its answer.
struct Record {
    route: String,
    facts: Facts,
    end: Option<End>,
}

impl Handler for Gateway {
    /// Answers one request. Nothing that happens in here ends the thread.
    fn handle(&self, request: &Request, client: &mut dyn Client) -> Reply {
        let began = Instant::now();
        let mut record = Record { route: "-".into(), facts: Facts::default(), end: None };
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| self.answer(request, &mut record, client)));
        let panicked = || Error::Protocol("the gateway's code panicked; this is a defect of the gateway".into());
        let (reply, status, reason) = match outcome.unwrap_or_else(|_| Err(panicked())) {
            Ok((status, reply)) => (reply, status, String::new()),
            Err(error) => {
                let reply = match error {
                    Error::ClientGone => Reply::Gone,
                    _ => {
                        let mut answer = Response::of_error(&error, &request.id);
                        record.facts.add_to(&mut answer, record.end.as_ref());
                        Reply::Response(answer)
                    }
                };
                (reply, error.status(), format!(" error={}: {error}", error.kind()))
            }
        };
        let worker = record.facts.worker.map_or("-".to_string(), |worker| worker.to_string());
        let ms = began.elapsed().as_secs_f64() * 1000.0;
        let (method, path, route) = (&request.head.method, request.head.path(), &record.route);
        let path = path.get(..LOGGED_PATH_BYTES_MAX).unwrap_or(path);
        log!(
            "request={} method={method} path={path} route={route} status={status} worker={worker} ms={ms:.1}{reason}",
            request.id
        );
        reply
    }
}

impl Gateway {
    fn answer(&self, request: &Request, record: &mut Record, client: &mut dyn Client) -> Result<(u16, Reply)> {
        let whole = |answer: Response| Ok((answer.status, Reply::Response(answer)));
        let head = &request.head;
        let (method, path) = (head.method.as_str(), head.path());
        if path == "/healthz" {
            return match method {
                "GET" | "HEAD" => whole(self.health()),
                "OPTIONS" => whole(Response::options("GET, HEAD, OPTIONS")),
                _ => Err(Error::MethodNotAllowed { allow: "GET, HEAD, OPTIONS".into() }),
            };
        }
        if path == "*" {
            return whole(Response::options("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        match self.kv.find(method, path) {
            Found::Function { function, path_info_start } => {
                record.route = function.route.clone();
                self.call(&function, path_info_start, request, record, client)
            }
            Found::Unusable { route, fault } => {
                record.route = route;
                Err(Error::RowUnusable(fault))
            }
            Found::MethodNotAllowed { allow } if method == "OPTIONS" => whole(Response::options(&allow)),
            Found::MethodNotAllowed { allow } => Err(Error::MethodNotAllowed { allow }),
            Found::NotFound => Err(Error::NoRoute),
        }
    }

    /// Calls a function on the best worker; on another one where that worker dies before it has begun.
    fn call(
        &self,
        function: &Arc<Function>,
        path_info_start: usize,
        request: &Request,
        record: &mut Record,
        client: &mut dyn Client,
    ) -> Result<(u16, Reply)> {
        let began = Instant::now();
        let _share = Share::take(function)?;
        let environment = self.environment(function, path_info_start, request)?;
        let call = Call {
            settings: &function.settings,
            environment: &environment,
            request_id: &request.id,
            timeout: function.timeout,
        };
        let explain = request.head.field("x-faas-explain") == Some(b"1");
        let mode = OutputMode { output: function.output, streams: function.stream };
        let mut wish = Wish::default();
        for _ in 0..TRIES_MAX {
            let mut lease = self.scheduler.acquire(&wish, explain, client)?;
            let worker = lease.link.id;
            let queue_ms = began.elapsed().as_secs_f64() * 1000.0;
            record.facts = Facts { worker: Some(worker), queue_ms, explanation: lease.explanation.take() };
            let body = Spool::new(&self.spool_area);
            let mut sink = Sink::new(mode, client, &record.facts, body, self.response_bytes_max);
            let result = lease.link.invoke(&call, &request.body, &mut sink);
            let fault = match &result {
                Ok(end) => verdict_to_error(end, function),
                Err(Failure::NotStarted(error)) => {
                    log!("request={} worker {worker}: {error}; trying another", request.id);
                    wish.avoid = Some((lease.link.clone(), Instant::now()));
                    record.facts = Facts::default();
                    continue;
                }
                Err(Failure::Lost(error)) => {
                    log!("request={} worker {worker}: {error}", request.id);
                    Some(Error::WorkerLost { worker })
                }
                Err(Failure::Given(_)) => None,
            };
            // The slot is free again before the answer goes out.
            drop(lease);
            let streamed = sink.streamed;
            let outcome = match (fault, result) {
                (Some(error), result) => {
                    record.end = result.ok();
                    Err(error)
                }
                (None, Err(Failure::Given(error))) => Err(error),
                (None, result) => {
                    let answer = sink.finish();
                    record.end = result.ok();
                    answer
                }
            };
            return match (streamed, outcome) {
                (Some(status), outcome) => {
                    if let Err(error) = &outcome {
                        log!("request={} the answer was cut short: {error}", request.id);
                    }
                    Ok((status, Reply::Streamed { complete: outcome.is_ok() }))
                }
                (None, outcome) => outcome.map(|mut answer| {
                    record.facts.add_to(&mut answer, record.end.as_ref());
                    (answer.status, Reply::Response(answer))
                }),
            };
        }
        Err(Error::NoWorker)
    }

    fn environment(&self, function: &Function, path_info_start: usize, request: &Request) -> Result<Vec<u8>> {
        let meta = Meta {
            request_id: &request.id,
            function: &function.name,
            handler: &function.handler,
            module: &function.module,
            output: function.output,
            path_info_start,
            content_length: request.body.len(),
            peer: request.peer,
            port: self.port,
            env: &function.env,
        };
        cgi::environment(&request.head, &meta)
    }

    /// `GET /healthz`: 200 once the registry is loaded and a worker is ready, else 503; either way says what there is.
    fn health(&self) -> Response {
        let workers: Vec<_> = self
            .scheduler
            .overview()
            .into_iter()
            .map(|(sample, in_flight, is_fresh)| {
                json!({
                    "id": sample.id, "pid": sample.pid, "slots": sample.slots, "in_flight": in_flight,
                    "cpu": sample.cpu, "mem": sample.mem, "io": sample.io, "score": sample.score, "fresh": is_fresh,
                })
            })
            .collect();
        let status = match (self.kv.is_loaded(), workers.is_empty()) {
            (true, false) => "ready",
            (false, _) => "the registry is not loaded",
            (true, true) => "no worker is ready",
        };
        let is_ready = status == "ready";
        let text = json!({
            "status": status, "routes": self.kv.len(), "generation": self.kv.generation(),
            "waiting": self.scheduler.waiting(), "workers": workers, "functions": self.sandbox.describe(),
        });
        let mut answer = Response::new(if is_ready { 200 } else { 503 });
        answer.add("Content-Type", "application/json");
        if !is_ready {
            answer.add("Retry-After", &RETRY_AFTER_S.start().to_string());
        }
        answer.body = Body::Bytes(format!("{text}\n").into_bytes());
        answer
    }
}

/// How much of a path the log shows.
const LOGGED_PATH_BYTES_MAX: usize = 256;

/// One of the invocations that a function's `max_inflight` allows. It is given back when this is dropped.
struct Share<'a>(&'a Function);

impl Share<'_> {
    fn take(function: &Function) -> Result<Share<'_>> {
        let before = function.inflight.fetch_add(1, Ordering::AcqRel);
        let share = Share(function);
        match function.max_inflight {
            Some(max_inflight) if before >= max_inflight => {
                Err(Error::FunctionBusy { max_inflight, retry_after_s: *RETRY_AFTER_S.start() })
            }
            _ => Ok(share),
        }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the worker's verdict means for the client; `None` where all went well.
fn verdict_to_error(end: &End, function: &Function) -> Option<Error> {
    Some(match end.verdict.clone() {
        Verdict::Exited { code: 0 } => return None,
        Verdict::Exited { code } => Error::Exited { code },
        Verdict::Signaled { signal } => Error::Signaled { signal },
        Verdict::TimedOut => Error::TimedOut { timeout_s: function.timeout.as_secs() },
        Verdict::MemoryExceeded => Error::MemoryExceeded { memory_mib: function.memory_mib },
        Verdict::ScratchExceeded => Error::ScratchExceeded { scratch_mib: function.scratch_mib },
        Verdict::TooManyProcesses => Error::TooManyProcesses { max: FUNCTION_PROCESSES_MAX },
        Verdict::ForkServerLost => Error::ForkServerLost,
        Verdict::ModuleMissing { path, cause } => Error::ModuleMissing { path, cause },
        Verdict::ModuleNotExecutable { path, cause } => Error::ModuleNotExecutable { path, cause },
        Verdict::RuntimeMissing { program, install } => Error::RuntimeMissing { program, install },
        Verdict::Exhausted { step, cause } => Error::WorkerExhausted { step, cause },
    })
}
