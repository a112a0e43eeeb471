//! One request from its head to its response: the C original's handle_http_client.
//!
//! The connection's thread enters with a request that was received whole, and leaves with its response: route (kv) →
//! slot (scheduler) → worker (worker_link) → output (function_output). The path is a chain of calls, without a queue or
//! another thread.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::cgi::{self, Meta};
use super::counters::Counters;
use super::function_output::{Facts, OutputMode, Sink};
use super::health::Health;
use super::operator_token::OperatorToken;
use super::record::{Record, line_of, milliseconds};
use super::scheduler::{Lease, Scheduler, Wish};
use super::wasm_build;
use super::worker_link::{Call, Failure};
use crate::error::request::{RequestError, Result};
use crate::http_handler::handler::{Client, Handler, Reply};
use crate::http_handler::request::Request;
use crate::http_handler::response::Response;
use crate::http_handler::spool::{Spool, SpoolArea};
use crate::ledger::Ledger;
use crate::limits::{FUNCTION_PROCESSES_MAX, RETRY_AFTER_S, TRIES_MAX};
use crate::protocol::function_spec::Runtime;
use crate::protocol::worker_protocol::{End, Verdict};
use crate::registry::config_loader::Function;
use crate::registry::kv::Kv;
use crate::registry::routes::Found;

/// Lines of a failed function's stderr that FAAS_DEV=1 shows to clients.
const STDERR_LINES_SHOWN: usize = 10;

pub struct Gateway {
    /// True where clients see everything that the log holds about a failure.
    pub dev: bool,
    pub kv: Arc<Kv>,
    pub scheduler: Arc<Scheduler>,
    pub health: Arc<Health>,
    pub counters: Arc<Counters>,
    pub spool_area: Arc<SpoolArea>,
    pub ledger: Ledger,
    /// A request that shows this token may see why a worker was chosen.
    pub operator_token: OperatorToken,
    pub response_bytes_max: u64,
    pub run_dir: PathBuf,
}

impl Handler for Gateway {
    /// A panic in here becomes a 500, and does not end the thread.
    fn handle(&self, request: &Request, client: &mut dyn Client) -> Reply {
        let mut record = Record::new();
        let outcome =
            std::panic::catch_unwind(AssertUnwindSafe(|| self.handle_http_client(request, &mut record, client)));
        let (reply, status, fault) = match outcome.unwrap_or(Err(RequestError::Panicked)) {
            Ok((status, reply)) => (reply, status, None),
            Err(error) => {
                let reply = match error {
                    RequestError::ClientGone => Reply::Gone,
                    _ => {
                        let mut response = self.explain(&error, record.end.as_ref(), &request.id);
                        record.facts.add_to(&mut response, record.end.as_ref());
                        Reply::Response(response)
                    }
                };
                (reply, error.status(), Some(format!("{}: {error}", error.kind())))
            }
        };
        if let Reply::Response(response) = &reply {
            record.bytes = response.length();
        }
        match record.finish(request, status, fault.as_deref()) {
            Some(call) => {
                self.counters.end(&call);
                self.ledger.record(call);
            }
            None if fault.is_some() => self.counters.count_unrouted(status),
            None => {}
        }
        reply
    }
}

/// The outcome of one try on one worker.
enum Try {
    Done(Result<(u16, Reply)>),
    /// The worker has run no part of it, so another worker may try.
    NotStarted,
}

impl Gateway {
    /// The response to a failed request. With FAAS_DEV=1 it shows all that the log shows, and the end of the function's
    /// stderr.
    fn explain(&self, error: &RequestError, end: Option<&End>, request_id: &str) -> Response {
        if !self.dev {
            return Response::of_error(error, request_id);
        }
        let stderr = end.map_or("", |end| &end.stderr).trim_end();
        let lines = stderr.lines().count();
        let last: Vec<&str> = stderr.lines().skip(lines.saturating_sub(STDERR_LINES_SHOWN)).collect();
        let detail = if last.is_empty() { error.to_string() } else { format!("{error}\n{}", last.join("\n")) };
        Response::of_problem(error, &detail, request_id)
    }

    /// The C original's function of this name: route, worker, response.
    fn handle_http_client(
        &self,
        request: &Request,
        record: &mut Record,
        client: &mut dyn Client,
    ) -> Result<(u16, Reply)> {
        let whole = |response: Response| Ok((response.status, Reply::Response(response)));
        let head = &request.head;
        let (method, path) = (head.method.as_str(), head.path());
        if path == "/healthz" {
            return match method {
                "GET" | "HEAD" => {
                    record.is_poll = true;
                    whole(self.health.response(head.query())?)
                }
                "OPTIONS" => whole(Response::options("GET, HEAD, OPTIONS")),
                _ => Err(RequestError::MethodNotAllowed { allow: "GET, HEAD, OPTIONS".into() }),
            };
        }
        if path == "*" {
            return whole(Response::options("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        let (found, generation) = self.kv.find(method, cgi::host_name(&head.host), path);
        record.facts.generation = generation;
        match found {
            Found::Route { route, path_info_start } => {
                let function = route.serves().map_err(|fault| {
                    record.route = Some(route.key().to_string());
                    RequestError::RowUnusable(fault.to_string())
                })?;
                self.counters.begin(&function.route, &function.name);
                record.route = Some(function.route.clone());
                record.function = Some(function.name.clone());
                self.call(function, path_info_start, request, record, client)
            }
            Found::MethodNotAllowed { allow } if method == "OPTIONS" => {
                let mut response = Response::options(&allow);
                record.facts.add_to(&mut response, None);
                whole(response)
            }
            Found::MethodNotAllowed { allow } => Err(RequestError::MethodNotAllowed { allow }),
            Found::NotFound if !self.kv.is_loaded() => Err(RequestError::RegistryNotLoaded),
            Found::NotFound => Err(RequestError::NoRoute),
        }
    }

    /// Calls a function on the best worker; if that worker dies before it has begun, on another one.
    fn call(
        &self,
        function: &Function,
        path_info_start: usize,
        request: &Request,
        record: &mut Record,
        client: &mut dyn Client,
    ) -> Result<(u16, Reply)> {
        let began = Instant::now();
        client.take_place()?;
        let _share = Share::take(function)?;
        let environment = self.environment(function, path_info_start, request)?;
        let call = Call {
            settings: &function.settings,
            environment: &environment,
            request_id: &request.id,
            timeout: function.timeout,
            outlives_client: function.outlives_client(&request.head.method),
        };
        client.keep_going(call.outlives_client);
        let explain = request.head.field("x-faas-explain").is_some_and(|token| self.operator_token.is(token));
        let mut wish = Wish { route: &function.route, max_inflight: function.max_inflight, avoid: None };
        for _ in 0..TRIES_MAX {
            let mut lease = self.scheduler.acquire(&wish, explain, client)?;
            let queue_ms = milliseconds(began.elapsed());
            let (worker, explanation) = (Some(lease.link.id), lease.explanation.take());
            record.facts = Facts { worker, queue_ms, explanation, ..record.facts };
            let link = lease.link.clone();
            match self.try_worker(function, &call, request, lease, record, client) {
                Try::Done(outcome) => return outcome,
                Try::NotStarted => {
                    wish.avoid = Some((link, Instant::now()));
                    record.facts = Facts { generation: record.facts.generation, ..Facts::default() };
                }
            }
        }
        Err(RequestError::NoWorker)
    }

    /// Makes one worker run the invocation, and turns its output and verdict into a response.
    fn try_worker(
        &self,
        function: &Function,
        call: &Call<'_>,
        request: &Request,
        lease: Lease,
        record: &mut Record,
        client: &mut dyn Client,
    ) -> Try {
        let worker = lease.link.id;
        let mode = OutputMode { output: function.output, streams: function.stream };
        let body = Spool::new(&self.spool_area);
        let mut sink = Sink::new(mode, client, &record.facts, body, self.response_bytes_max);
        let result = lease.link.invoke(call, &request.body, &mut sink);
        // The slot is free again before the response goes out.
        drop(lease);
        let error = match &result {
            Ok(end) => self.judge(end, function, &mut sink, request),
            Err(Failure::NotStarted(error)) => {
                record.note(request, format_args!("worker {worker}: {error}; trying another"));
                return Try::NotStarted;
            }
            Err(Failure::Lost(error)) => {
                record.note(request, format_args!("worker {worker}: {error}"));
                Some(RequestError::WorkerLost { worker })
            }
            Err(Failure::Cancelled(_)) => None,
        };
        let (streamed, streamed_bytes, is_whole) = (sink.streamed, sink.streamed_bytes, sink.is_whole);
        let (outcome, end) = match (error, result) {
            (Some(error), result) => (Err(error), result.ok()),
            (None, Err(Failure::Cancelled(error))) => (Err(error), None),
            (None, result) => (sink.finish(), result.ok()),
        };
        record.end = end;
        Try::Done(match streamed {
            Some(status) => {
                if let Err(error) = &outcome {
                    let what = if is_whole { "after its response" } else { "the response was cut short" };
                    record.note(request, format_args!("{what}: {error}"));
                }
                record.bytes = streamed_bytes;
                Ok((status, Reply::Streamed { complete: is_whole || outcome.is_ok() }))
            }
            None => outcome.map(|mut response| {
                record.facts.add_to(&mut response, record.end.as_ref());
                (response.status, Reply::Response(response))
            }),
        })
    }

    /// The error that follows from a verdict; `None` where the output is the response. If a program gave a status
    /// itself, its exit status does not matter: man2html, CGI.pm and frameworks' error pages rely on that, and RFC 3875
    /// knows no exit status.
    fn judge(&self, end: &End, function: &Function, sink: &mut Sink<'_>, request: &Request) -> Option<RequestError> {
        match end.verdict {
            Verdict::Exited { code } if code != 0 && sink.has_own_status() => {
                let line = line_of(request, Some(&function.route), Some(&function.name));
                line.message(format_args!("exited with code {code}; its response has a status of its own")).log();
                None
            }
            _ => verdict_to_error(end, function).map(|error| match error {
                RequestError::RuntimeMissing { program, install } if program.starts_with("faas-wasm") => {
                    match wasm_build::minutes(&self.run_dir) {
                        Some(minutes) => RequestError::RuntimeUnderWay { program, minutes },
                        None => RequestError::RuntimeMissing { program, install },
                    }
                }
                error => error,
            }),
        }
    }

    fn environment(&self, function: &Function, path_info_start: usize, request: &Request) -> Result<Vec<u8>> {
        let meta = Meta {
            request_id: &request.id,
            route: &function.route,
            function: &function.name,
            handler: &function.handler,
            module: &function.module,
            output: function.output,
            path_info_start,
            params: &function.params,
            content_length: request.body.len(),
            origin: request.origin,
            local: request.local,
            env: &function.env,
        };
        cgi::environment(&request.head, &meta)
    }
}

/// One of the invocations that a function's `max_inflight` and `queue` allow. Dropping it gives it back.
struct Share<'a>(&'a Function);

impl Share<'_> {
    fn take(function: &Function) -> Result<Share<'_>> {
        let before = function.inflight.fetch_add(1, Ordering::AcqRel);
        let share = Share(function);
        match function.max_inflight {
            Some(max_inflight) if before >= max_inflight + function.queue => {
                let (queue, retry_after_s) = (Some(function.queue), *RETRY_AFTER_S.start());
                Err(RequestError::FunctionBusy { max_inflight, queue, retry_after_s })
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

/// The client's error for the worker's verdict; `None` on success.
fn verdict_to_error(end: &End, function: &Function) -> Option<RequestError> {
    Some(match end.verdict.clone() {
        Verdict::Exited { code: 0 } => return None,
        Verdict::Exited { code } => {
            let means = match (function.runtime, code) {
                (Runtime::Php, 255) => "PHP's code for a fatal error",
                (Runtime::Wasm, 134) => "which stands for a trap",
                _ => "",
            };
            RequestError::Exited { code, means }
        }
        Verdict::Signaled { signal } => RequestError::Signaled { signal },
        Verdict::TimedOut => RequestError::TimedOut { timeout_s: function.timeout.as_secs() },
        Verdict::MemoryExceeded => RequestError::MemoryExceeded { memory_mib: function.memory_mib },
        Verdict::ScratchExceeded => RequestError::ScratchExceeded { scratch_mib: function.scratch_mib },
        Verdict::TooManyProcesses => RequestError::TooManyProcesses { max: FUNCTION_PROCESSES_MAX },
        Verdict::ForkServerLost => RequestError::ForkServerLost,
        Verdict::ModuleMissing { path, cause } => RequestError::ModuleMissing { path, cause },
        Verdict::ModuleNotExecutable { path, cause } => RequestError::ModuleNotExecutable { path, cause },
        Verdict::RuntimeMissing { program, install } => RequestError::RuntimeMissing { program, install },
        Verdict::Compiling => RequestError::Compiling,
        Verdict::Exhausted { step, cause } => RequestError::WorkerExhausted { step, cause },
    })
}
