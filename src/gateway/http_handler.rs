//! One request from its head to its answer: the C original's http_handler.c.
//!
//! tiny_http receives what the front door passes on, and hands each request to one of the threads here. A thread stays
//! with its request to the end: route (kv) → slot (scheduler) → worker (worker_link) → answer.
//!
//! Threads: all that are idle sit in `recv`. When the last idle one takes a request it starts another first, up to
//! REQUESTS_MAX, so nobody waits for a thread; those above HANDLERS_KEPT end after a while without work.

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::json;

use super::answer::{Answer, Body, Output, OutputMode, Sink};
use super::cgi::{self, Meta};
use super::config_loader::Function;
use super::conversation::{CONVERSATION_FIELD, Conversation, Conversations};
use super::kv::{Found, Kv};
use super::scheduler::{Scheduler, Wish};
use super::spool::{Spool, SpoolArea};
use super::worker_link::Failure;
use crate::error::{Error, Result};
use crate::limits::{FUNCTION_PROCESSES_MAX, HANDLER_IDLE_MAX, HANDLERS_KEPT, REQUESTS_MAX, RETRY_AFTER_S, TRIES_MAX};
use crate::log;
use crate::protocol::worker_protocol::{End, Invocation, Verdict};
use crate::sandbox::Sandbox;

pub struct HttpHandler {
    pub kv: Arc<Kv>,
    pub scheduler: Arc<Scheduler>,
    pub conversations: Arc<Conversations>,
    pub spool_area: Arc<SpoolArea>,
    pub answer_bytes_max: u64,
    /// How functions are boxed in, for /healthz.
    pub sandbox: Sandbox,
    /// The public port, for SERVER_PORT.
    pub port: u16,
    pub threads: Threads,
}

/// How many handler threads there are, and how many of them wait for a request.
#[derive(Default)]
pub struct Threads {
    all: AtomicUsize,
    idle: AtomicUsize,
}

/// What the log says of a request.
struct Record {
    route: String,
    worker: Option<u32>,
}

impl HttpHandler {
    /// Starts the first threads.
    pub fn start(self: &Arc<Self>, server: tiny_http::Server) -> Result<()> {
        let server = Arc::new(server);
        (0..HANDLERS_KEPT).try_for_each(|_| self.start_thread(&server))
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.conversations.count()
    }

    fn start_thread(self: &Arc<Self>, server: &Arc<tiny_http::Server>) -> Result<()> {
        let (handler, server) = (self.clone(), server.clone());
        self.threads.all.fetch_add(1, Ordering::SeqCst);
        self.threads.idle.fetch_add(1, Ordering::SeqCst);
        let thread = std::thread::Builder::new().name("handler".into());
        let started = thread.spawn(move || {
            handler.receive(&server);
            handler.threads.all.fetch_sub(1, Ordering::SeqCst);
        });
        started.map(drop).map_err(|cause| {
            self.threads.all.fetch_sub(1, Ordering::SeqCst);
            self.threads.idle.fetch_sub(1, Ordering::SeqCst);
            Error::Exhausted { step: "start a thread", cause }
        })
    }

    /// A thread's life.
    fn receive(self: &Arc<Self>, server: &Arc<tiny_http::Server>) {
        loop {
            match server.recv_timeout(HANDLER_IDLE_MAX) {
                Ok(Some(request)) => {
                    let was_last = self.threads.idle.fetch_sub(1, Ordering::SeqCst) == 1;
                    let may_grow = self.threads.all.load(Ordering::SeqCst) < REQUESTS_MAX + HANDLERS_KEPT;
                    if was_last
                        && may_grow
                        && let Err(error) = self.start_thread(server)
                    {
                        log!("handler: {error}; requests wait for the threads that there are");
                    }
                    self.serve(request);
                    self.threads.idle.fetch_add(1, Ordering::SeqCst);
                }
                // Nothing to do for a while: the surplus ends, but never the last idle one.
                Ok(None) => {
                    let surplus = self.threads.all.load(Ordering::SeqCst) > HANDLERS_KEPT;
                    let leave = |idle: usize| (surplus && idle > 1).then(|| idle - 1);
                    if self.threads.idle.fetch_update(Ordering::SeqCst, Ordering::SeqCst, leave).is_ok() {
                        return;
                    }
                }
                Err(error) => {
                    log!("handler: tiny_http stopped receiving: {error}");
                    return;
                }
            }
        }
    }

    /// Answers one request. Nothing that happens in here ends the thread.
    fn serve(&self, request: tiny_http::Request) {
        let number = request.headers().iter().find(|header| header.field.equiv(CONVERSATION_FIELD));
        let number: Option<u64> = number.and_then(|header| header.value.as_str().parse().ok());
        let Some(conversation) = number.and_then(|number| self.conversations.find(number)) else {
            // The front door's probe of a new connection.
            let mut writer = request.into_writer();
            let _ = writer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").and_then(|()| writer.flush());
            return;
        };
        let began = Instant::now();
        let request_id = conversation.request_id.clone();
        let mut record = Record { route: "-".into(), worker: None };
        let mut output = Output::new(request, conversation.clone());
        let outcome =
            std::panic::catch_unwind(AssertUnwindSafe(|| self.answer(&conversation, &mut record, &mut output)));
        let panicked = || Error::Protocol("the gateway's code panicked; this is a defect of the gateway".into());
        let (answer, reason) = match outcome.unwrap_or_else(|_| Err(panicked())) {
            Ok(answer) => (answer, String::new()),
            Err(error) => (Some(Answer::of_error(&error, &request_id)), format!(" error={}: {error}", error.kind())),
        };
        let status = output.finish(answer, record.worker);
        let worker = record.worker.map_or("-".to_string(), |worker| worker.to_string());
        let ms = began.elapsed().as_secs_f64() * 1000.0;
        let (method, path) = (&conversation.head.method, conversation.head.path());
        let path = path.get(..LOGGED_PATH_BYTES_MAX).unwrap_or(path);
        let route = &record.route;
        log!(
            "request={request_id} method={method} path={path} route={route} status={status} worker={worker} \
             ms={ms:.1}{reason}"
        );
    }

    /// The answer, or `None` where it has been streamed already.
    fn answer(
        &self,
        conversation: &Arc<Conversation>,
        record: &mut Record,
        output: &mut Output,
    ) -> Result<Option<Answer>> {
        let head = &conversation.head;
        let (method, path) = (head.method.as_str(), head.path());
        if path == "/healthz" {
            return match method {
                "GET" | "HEAD" => Ok(Some(self.health())),
                "OPTIONS" => Ok(Some(Answer::options("GET, HEAD, OPTIONS"))),
                _ => Err(Error::MethodNotAllowed { allow: "GET, HEAD, OPTIONS".into() }),
            };
        }
        if path == "*" {
            return Ok(Some(Answer::options("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")));
        }
        match self.kv.find(method, path) {
            Found::Function { function, path_info_start } => {
                record.route = function.route.clone();
                self.call(&function, path_info_start, conversation, record, output)
            }
            Found::Unusable { route, fault } => {
                record.route = route;
                Err(Error::RowUnusable(fault))
            }
            Found::MethodNotAllowed { allow } if method == "OPTIONS" => Ok(Some(Answer::options(&allow))),
            Found::MethodNotAllowed { allow } => Err(Error::MethodNotAllowed { allow }),
            Found::NotFound => Err(Error::NoRoute),
        }
    }

    /// Calls a function on the best worker; on another one where that worker dies before it has begun.
    fn call(
        &self,
        function: &Arc<Function>,
        path_info_start: usize,
        conversation: &Arc<Conversation>,
        record: &mut Record,
        output: &mut Output,
    ) -> Result<Option<Answer>> {
        let began = Instant::now();
        let _share = Share::take(function)?;
        let body = conversation.take_body().unwrap_or_else(|| Spool::new(&self.spool_area));
        let invocation = self.invocation(function, path_info_start, conversation, body.len())?;
        let explain = conversation.head.field("x-faas-explain") == Some(b"1");
        let mode = OutputMode { output: function.output, streams: function.stream };
        let mut wish = Wish { avoid: None, warm: function.warm.load(Ordering::Relaxed) };
        for _ in 0..TRIES_MAX {
            let mut lease = self.scheduler.acquire(&wish, explain, conversation.gone())?;
            let queue_ms = began.elapsed().as_secs_f64() * 1000.0;
            record.worker = Some(lease.link.id);
            output.set_facts(lease.link.id, queue_ms, lease.explanation.take());
            let mut sink = Sink::new(mode, output, Spool::new(&self.spool_area), self.answer_bytes_max);
            let result = lease.link.invoke(&invocation, &body, conversation.gone(), &mut |bytes| sink.write(bytes));
            match result {
                Ok(end) => {
                    if function.is_forked() {
                        function.warm.fetch_or(Wish::bit(lease.link.id), Ordering::Relaxed);
                    }
                    // The slot is free again before the answer goes out.
                    drop(lease);
                    let fault = verdict_to_error(&end, function);
                    return sink.finish(fault, Some(&end));
                }
                Err(Failure::NotStarted(error)) => {
                    log!("request={} worker {}: {error}; trying another", conversation.request_id, lease.link.id);
                    wish.avoid = Some((lease.link.clone(), Instant::now()));
                }
                Err(Failure::Lost(error)) => {
                    log!("request={} worker {}: {error}", conversation.request_id, lease.link.id);
                    return sink.finish(Some(Error::WorkerLost { worker: lease.link.id }), None);
                }
                Err(Failure::Given(error)) => return sink.finish(Some(error), None),
            }
            record.worker = None;
        }
        Err(Error::NoWorker)
    }

    fn invocation(
        &self,
        function: &Function,
        path_info_start: usize,
        conversation: &Conversation,
        content_length: u64,
    ) -> Result<Invocation> {
        let meta = Meta {
            request_id: &conversation.request_id,
            function: &function.name,
            handler: &function.handler,
            output: function.output,
            path_info_start,
            content_length,
            peer: conversation.peer,
            port: self.port,
            env: &function.env,
        };
        Ok(Invocation {
            request_id: conversation.request_id.clone(),
            function: function.name.clone(),
            runtime: function.runtime,
            module: function.module.clone(),
            handler: function.handler.clone(),
            start: function.start,
            engine: function.engine,
            sapi: function.sapi,
            memory_mib: function.memory_mib,
            scratch_mib: function.scratch_mib,
            write: function.write.clone(),
            dirs: function.dirs.clone(),
            net: function.net,
            timeout: function.timeout,
            stream: function.stream,
            environment: cgi::environment(&conversation.head, &meta)?,
            env_count: function.env.len(),
            body: Vec::new(),
        })
    }

    /// `GET /healthz`: 200 once the registry is loaded and a worker is ready, else 503; either way says what there is.
    fn health(&self) -> Answer {
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
        let mut answer = Answer::new(if is_ready { 200 } else { 503 });
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
        Verdict::ModuleMissing { path, cause } => Error::ModuleMissing { path, cause },
        Verdict::ModuleNotExecutable { path, cause } => Error::ModuleNotExecutable { path, cause },
        Verdict::RuntimeMissing { program, install } => Error::RuntimeMissing { program, install },
        Verdict::Exhausted { step, cause } => Error::WorkerExhausted { step, cause },
    })
}
