//! Chooses the worker for an invocation: the one with the lowest score that has a free slot.
//!
//! The score comes from the worker itself (metrics.sock, every 500 ms). The scheduler adds a part that it knows better
//! than a sample up to 500 ms old: 100 × in-flight ÷ slots. A difference of less than a point is noise: such scores are
//! ties, and ties take turns.
//!
//! Where a function may have no slot, or no slot is free, its requests wait in line (line.rs). A slot that becomes free
//! goes to the request whose turn it is; no later request can take it away. The line has a length and a timeout
//! (FAAS_QUEUE_MAX, FAAS_QUEUE_TIMEOUT_MS).
//!
//! The C original chooses by the sample alone, has one slot per worker, and no line.

mod line;

use std::fmt::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use self::line::Line;
use super::worker_link::WorkerLink;
use crate::error::request::{RequestError, Result};
use crate::http_handler::handler::Client;
use crate::limits::{RETRY_AFTER_S, SAMPLE_STALE};
use crate::protocol::metrics::Sample;
use crate::scheduler_config::INFLIGHT_FULL;
use crate::sys::{EventFd, Watched};

/// Choices that are explained between two status lines.
const EXPLAINED_MAX: usize = 4;

pub struct Scheduler {
    queue_max: usize,
    queue_timeout: Duration,
    /// Guards the workers and the line. Held for a look at a few hundred numbers at most, never across I/O.
    state: Mutex<State>,
    /// Notified when a worker has announced itself.
    announced: Condvar,
}

#[derive(Default)]
struct State {
    workers: Vec<Worker>,
    line: Line,
    /// Counts choices, so that ties go to the worker that was chosen longest ago.
    choices: u64,
    /// Number of the next choices to explain, and the explained ones, for clients of status.sock (status.rs).
    explain_next: usize,
    explained: Vec<Choice>,
    /// Average time in seconds that slots were recently held; Retry-After is computed from it.
    held_s: f64,
}

struct Worker {
    link: Arc<WorkerLink>,
    sample: Sample,
    sampled_at: Instant,
    in_flight: u32,
    last_choice: u64,
    /// True once the worker takes no more calls: its slots still count until they are given back.
    is_gone: bool,
}

impl Worker {
    fn score(&self) -> f64 {
        self.sample.score + INFLIGHT_FULL * f64::from(self.in_flight) / f64::from(self.sample.slots)
    }

    fn has_room(&self) -> bool {
        !self.is_gone && self.in_flight < self.sample.slots
    }
}

/// A request's demand for a slot.
pub struct Wish<'a> {
    /// The function's route.
    pub route: &'a str,
    /// Slots that the function may have.
    pub max_inflight: Option<u64>,
    pub avoid: Avoid,
}

/// A worker that did not start the invocation, and the time. The invocation avoids it until a later sample shows it
/// alive.
pub type Avoid = Option<(Arc<WorkerLink>, Instant)>;

/// A place in the line.
struct Ticket {
    /// Readable once the lease is there.
    called: EventFd,
    route: String,
    max_inflight: Option<u64>,
    avoid: Avoid,
    lease: Mutex<Option<Granted>>,
}

/// A slot that was taken for a request.
struct Granted {
    link: Arc<WorkerLink>,
    why: String,
}

/// The reason why a call went to a worker.
pub struct Choice {
    pub at: SystemTime,
    pub worker: u32,
    pub why: String,
    /// All workers' scores before the choice, by id.
    pub scores: Vec<(u32, f64)>,
}

/// A slot on a worker. Dropping it gives the slot back.
pub struct Lease {
    scheduler: Arc<Scheduler>,
    pub link: Arc<WorkerLink>,
    route: String,
    since: Instant,
    /// All workers' figures and the reason for the choice, where the request asked for it.
    pub explanation: Option<String>,
}

impl Scheduler {
    pub fn new(queue_max: usize, queue_timeout: Duration) -> Arc<Scheduler> {
        Arc::new(Scheduler { queue_max, queue_timeout, state: Mutex::default(), announced: Condvar::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// Notes a worker's announcement or its next sample.
    pub fn update(&self, link: &Arc<WorkerLink>, sample: Sample) {
        let mut state = self.state();
        match state.workers.iter_mut().find(|worker| Arc::ptr_eq(&worker.link, link)) {
            Some(worker) => {
                worker.sample = sample;
                worker.sampled_at = Instant::now();
            }
            None => {
                let link = link.clone();
                let now = Instant::now();
                state.workers.push(Worker {
                    link,
                    sample,
                    sampled_at: now,
                    in_flight: 0,
                    last_choice: 0,
                    is_gone: false,
                });
                state.workers.sort_by_key(|worker| worker.link.id);
                self.announced.notify_all();
            }
        }
        state.line.forget_idle();
        state.call_waiting();
    }

    /// Notes the end of a worker's metrics stream: from now on it is never chosen.
    pub fn remove(&self, link: &Arc<WorkerLink>) {
        self.state().workers.retain_mut(|worker| {
            if Arc::ptr_eq(&worker.link, link) {
                worker.is_gone = true;
            }
            !worker.is_gone || worker.in_flight > 0
        });
    }

    /// The living worker of the lowest id; waits until there is one.
    pub fn first_worker(&self) -> Arc<WorkerLink> {
        let is_living = |worker: &&Worker| !worker.is_gone && worker.sample.slots > 0;
        let waited = self.announced.wait_while(self.state(), |state| !state.workers.iter().any(|it| is_living(&it)));
        let state = waited.expect("nothing panics under this lock");
        state.workers.iter().find(is_living).expect("the wait has found one").link.clone()
    }

    /// Age of the last sample of the worker with this id and process id; `None` where it has sent none.
    pub fn sample_age(&self, id: u32, pid: i32) -> Option<Duration> {
        let state = self.state();
        let worker = state.workers.iter().find(|worker| worker.sample.id == id && worker.sample.pid == pid)?;
        Some(worker.sampled_at.elapsed())
    }

    /// The last sample of every worker, the number of invocations that run on it, and true if its sample is fresh.
    pub fn overview(&self) -> Vec<(Sample, u32, bool)> {
        let state = self.state();
        let living = state.workers.iter().filter(|worker| !worker.is_gone);
        living.map(|w| (w.sample.clone(), w.in_flight, w.sampled_at.elapsed() < SAMPLE_STALE)).collect()
    }

    /// Number of requests that wait for a slot.
    pub fn waiting(&self) -> usize {
        self.state().line.len()
    }

    /// Returns the choices explained since the last call, and asks for a few of the next. Without a caller, the
    /// scheduler explains none.
    pub fn explained_choices(&self) -> Vec<Choice> {
        let mut state = self.state();
        state.explain_next = EXPLAINED_MAX;
        std::mem::take(&mut state.explained)
    }

    /// Takes a slot on the best worker. Waits in line where the function may have no slot or none is free.
    ///
    /// # Errors
    /// [`RequestError::QueueFull`], [`RequestError::NoSlotInTime`], [`RequestError::FunctionBusy`] (the same, because
    /// of `max_inflight`), [`RequestError::NoWorker`] (the same, without any worker), and [`RequestError::ClientGone`].
    pub fn acquire(self: &Arc<Self>, wish: &Wish<'_>, explain: bool, client: &mut dyn Client) -> Result<Lease> {
        let route = wish.route;
        let ticket = {
            let mut state = self.state();
            state.line.note_call(route);
            // If a slot is free while others wait, those others may not have it.
            if !state.line.has_waiting(route)
                && let Some(granted) = state.grant(wish)
            {
                return Ok(self.lease(granted, route, explain, &state));
            }
            if !state.line.may_wait(route, self.queue_max) {
                return Err(RequestError::QueueFull { retry_after_s: state.retry_after_s() });
            }
            let called = EventFd::new().map_err(|cause| RequestError::Exhausted { step: "make an eventfd", cause })?;
            let Wish { max_inflight, avoid, .. } = wish;
            let (route, avoid, lease) = (route.to_string(), avoid.clone(), Mutex::new(None));
            let ticket = Arc::new(Ticket { called, route, max_inflight: *max_inflight, avoid, lease });
            state.line.push(ticket.clone());
            // The requests ahead may all wait for one worker, while another worker has a slot.
            state.call_waiting();
            ticket
        };
        let waited = client.wait(Watched::read(ticket.called.as_fd()), self.queue_timeout);

        let mut state = self.state();
        state.line.remove(&ticket);
        if let Some(granted) = ticket.lease.lock().expect("nothing panics under this lock").take() {
            return Ok(self.lease(granted, route, explain, &state));
        }
        waited?;
        match () {
            () if state.workers.iter().all(|worker| worker.is_gone) => Err(RequestError::NoWorker),
            () if wish.max_inflight.is_some_and(|max| state.line.running(route) >= max) => {
                let (max_inflight, retry_after_s) = (wish.max_inflight.unwrap_or_default(), state.retry_after_s());
                Err(RequestError::FunctionBusy { max_inflight, queue: None, retry_after_s })
            }
            () => Err(RequestError::NoSlotInTime { retry_after_s: state.retry_after_s() }),
        }
    }

    fn lease(self: &Arc<Self>, granted: Granted, route: &str, explain: bool, state: &State) -> Lease {
        let explanation = explain.then(|| state.explain(&granted));
        let (scheduler, route) = (self.clone(), route.to_string());
        Lease { scheduler, link: granted.link, route, since: Instant::now(), explanation }
    }

    fn give_back(&self, link: &Arc<WorkerLink>, route: &str, held: Duration) {
        let mut state = self.state();
        state.line.end(route);
        state.held_s = 0.9 * state.held_s + 0.1 * held.as_secs_f64();
        if let Some(worker) = state.workers.iter_mut().find(|worker| Arc::ptr_eq(&worker.link, link)) {
            worker.in_flight -= 1;
        }
        state.workers.retain(|worker| !worker.is_gone || worker.in_flight > 0);
        state.call_waiting();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.scheduler.give_back(&self.link, &self.route, self.since.elapsed());
    }
}

impl State {
    fn slots(&self) -> usize {
        self.workers.iter().filter(|worker| !worker.is_gone).map(|worker| worker.sample.slots as usize).sum()
    }

    /// Takes a slot on the best worker, if one is free and the function may have it.
    fn grant(&mut self, wish: &Wish<'_>) -> Option<Granted> {
        if !self.line.may_run(wish.route, wish.max_inflight, self.slots()) {
            return None;
        }
        let avoids = |worker: &Worker| {
            let (link, since) = wish.avoid.as_ref()?;
            Some(Arc::ptr_eq(link, &worker.link) && worker.sampled_at <= *since)
        };
        let is_fresh = |worker: &Worker| worker.sampled_at.elapsed() < SAMPLE_STALE;
        let candidate = |worker: &&mut Worker| worker.has_room() && avoids(worker) != Some(true);
        // Stale workers come last whatever their score: their state is unknown.
        let key = |worker: &Worker| (!is_fresh(worker), worker.score().round() as i64, worker.last_choice);
        let best = self.workers.iter_mut().filter(candidate).min_by_key(|worker| key(worker))?;
        let stale = if is_fresh(best) { "" } else { ", though stale" };
        let why = format!("lowest score {:.1}{stale}", best.score());
        self.choices += 1;
        best.last_choice = self.choices;
        best.in_flight += 1;
        let granted = Granted { link: best.link.clone(), why };
        if self.explain_next > 0 {
            self.explain_next -= 1;
            self.explained.push(self.choice(&granted));
        }
        self.line.begin(wish.route);
        Some(granted)
    }

    fn choice(&self, granted: &Granted) -> Choice {
        let living = self.workers.iter().filter(|worker| !worker.is_gone);
        let score = |worker: &Worker| match Arc::ptr_eq(&worker.link, &granted.link) {
            // Without the slot that was just taken.
            true => worker.score() - INFLIGHT_FULL / f64::from(worker.sample.slots),
            false => worker.score(),
        };
        let scores = living.map(|worker| (worker.link.id, score(worker))).collect();
        Choice { at: SystemTime::now(), worker: granted.link.id, why: granted.why.clone(), scores }
    }

    /// Hands free slots to waiting requests that may have one, function by function.
    fn call_waiting(&mut self) {
        while self.workers.iter().any(Worker::has_room) && (0..self.line.turns()).any(|turn| self.call_of(turn)) {}
    }

    /// Hands a slot to the function whose turn is `turn`th. Its first call gets it, or the first call that can: one
    /// that avoids a worker does not block the calls behind it.
    fn call_of(&mut self, turn: usize) -> bool {
        for at in 0.. {
            let Some(ticket) = self.line.ticket(turn, at) else { break };
            let wish = Wish { route: &ticket.route, max_inflight: ticket.max_inflight, avoid: ticket.avoid.clone() };
            match self.grant(&wish) {
                Some(granted) => {
                    self.line.serve(&ticket);
                    *ticket.lease.lock().expect("nothing panics under this lock") = Some(granted);
                    ticket.called.signal();
                    return true;
                }
                None if ticket.avoid.is_some() => {}
                None => break,
            }
        }
        false
    }

    /// Expected time until one more request in line gets a slot: the line's length times the average time that a slot
    /// is held, divided by all slots.
    fn retry_after_s(&self) -> u64 {
        let seconds = self.held_s * (self.line.len() + 1) as f64 / self.slots().max(1) as f64;
        (seconds.ceil() as u64).clamp(*RETRY_AFTER_S.start(), *RETRY_AFTER_S.end())
    }

    /// `worker=2; why="lowest score 3.1", 0 cpu=.. mem=.. io=.. score=.. in-flight=..; 1 …`, the slot just taken included.
    fn explain(&self, granted: &Granted) -> String {
        let mut text = format!("chosen={} why=\"{}\"", granted.link.id, granted.why);
        for worker in self.workers.iter().filter(|worker| !worker.is_gone) {
            let Sample { cpu, mem, io, score, slots, .. } = &worker.sample;
            let (id, in_flight) = (worker.link.id, worker.in_flight);
            let age_ms = worker.sampled_at.elapsed().as_millis();
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "; worker={id} cpu={cpu:.1} mem={mem:.1} io={io:.1} score={score:.1} \
                 in-flight={in_flight}/{slots} age-ms={age_ms}"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests;
