//! Chooses the worker for an invocation: the one with the lowest score that has a free slot.
//!
//! The score comes from the worker itself (metrics.sock, every 500 ms). To it is added what the gateway knows better
//! than a sample that is up to 500 ms old: 100 × in-flight ÷ slots. Scores that differ by less than a point are ties, since
//! that is noise, and ties take turns.
//!
//! Where no slot is free, requests wait in line, in order of arrival, and a slot that becomes free is handed to the
//! first of them; no later request can take it away. The line has a length and a timeout (FAAS_QUEUE_MAX,
//! FAAS_QUEUE_TIMEOUT_MS).
//!
//! The C original chooses by the sample alone, has one slot per worker, and no line.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use super::worker_link::WorkerLink;
use crate::error::request::{RequestError, Result};
use crate::http_handler::handler::Client;
use crate::limits::{RETRY_AFTER_S, SAMPLE_STALE};
use crate::protocol::metrics::Sample;
use crate::scheduler_config::INFLIGHT_FULL;
use crate::sys::{EventFd, Watched};

/// Choices that are explained between two looks of whoever watches.
const EXPLAINED_MAX: usize = 4;

pub struct Scheduler {
    queue_max: usize,
    queue_timeout: Duration,
    /// Guards the workers and the line. Held for a look at a few hundred numbers at most, never across I/O.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    workers: Vec<Worker>,
    waiting: VecDeque<Arc<Ticket>>,
    /// Counts choices, so that ties go to the worker that was chosen longest ago.
    choices: u64,
    /// How many of the next choices to explain, and those that were explained: for whoever watches (status.rs).
    explain_next: usize,
    explained: Vec<Choice>,
    /// Average time that a slot was held lately, in seconds: what Retry-After is computed from.
    held_s: f64,
}

struct Worker {
    link: Arc<WorkerLink>,
    sample: Sample,
    sampled_at: Instant,
    in_flight: u32,
    last_choice: u64,
    /// Whether it takes no more: its slots are counted on until they are given back.
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

/// What a slot is wanted for.
#[derive(Clone, Default)]
pub struct Wish {
    /// A worker that did not start it, and when: it must not be on that one until a further sample says that it lives.
    pub avoid: Option<(Arc<WorkerLink>, Instant)>,
}

impl Wish {
    fn avoids(&self, worker: &Worker) -> bool {
        self.avoid.as_ref().is_some_and(|(link, since)| Arc::ptr_eq(link, &worker.link) && worker.sampled_at <= *since)
    }
}

/// A place in the line.
struct Ticket {
    /// Readable when the lease is there.
    called: EventFd,
    wish: Wish,
    lease: Mutex<Option<Granted>>,
}

/// A slot that was taken for somebody.
struct Granted {
    link: Arc<WorkerLink>,
    why: String,
}

/// Why a call went to a worker.
pub struct Choice {
    pub at: SystemTime,
    pub worker: u32,
    pub why: String,
    /// All workers' scores before the choice, by id.
    pub scores: Vec<(u32, f64)>,
}

/// A slot on a worker. It is given back when this is dropped.
pub struct Lease {
    scheduler: Arc<Scheduler>,
    pub link: Arc<WorkerLink>,
    since: Instant,
    /// All workers' figures and the reason for the choice, where the request asked for it.
    pub explanation: Option<String>,
}

impl Scheduler {
    pub fn new(queue_max: usize, queue_timeout: Duration) -> Arc<Scheduler> {
        Arc::new(Scheduler { queue_max, queue_timeout, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// A worker has announced itself, or sent a further sample.
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
            }
        }
        state.call_waiting();
    }

    /// A worker's metrics stream has ended: it is not chosen any more, at once.
    pub fn remove(&self, link: &Arc<WorkerLink>) {
        self.state().workers.retain_mut(|worker| {
            if Arc::ptr_eq(&worker.link, link) {
                worker.is_gone = true;
            }
            !worker.is_gone || worker.in_flight > 0
        });
    }

    /// How old the last sample of the worker with this id and process id is; `None` where it has sent none.
    pub fn sample_age(&self, id: u32, pid: i32) -> Option<Duration> {
        let state = self.state();
        let worker = state.workers.iter().find(|worker| worker.sample.id == id && worker.sample.pid == pid)?;
        Some(worker.sampled_at.elapsed())
    }

    /// The last sample of every worker, how many invocations run on it, and whether its sample is fresh.
    pub fn overview(&self) -> Vec<(Sample, u32, bool)> {
        let state = self.state();
        let living = state.workers.iter().filter(|worker| !worker.is_gone);
        living.map(|w| (w.sample.clone(), w.in_flight, w.sampled_at.elapsed() < SAMPLE_STALE)).collect()
    }

    /// How many requests wait for a slot.
    pub fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// The choices that were explained since the last time, and asks for a few of the next. Without somebody who asks,
    /// none is explained.
    pub fn explained_choices(&self) -> Vec<Choice> {
        let mut state = self.state();
        state.explain_next = EXPLAINED_MAX;
        std::mem::take(&mut state.explained)
    }

    /// Takes a slot on the best worker, waiting in line where none is free.
    ///
    /// # Errors
    /// [`RequestError::QueueFull`], [`RequestError::NoSlotInTime`], [`RequestError::NoWorker`] (the same, with no worker at all), and
    /// [`RequestError::ClientGone`].
    pub fn acquire(self: &Arc<Self>, wish: &Wish, explain: bool, client: &mut dyn Client) -> Result<Lease> {
        let ticket = {
            let mut state = self.state();
            if state.waiting.is_empty()
                && let Some(granted) = state.grant(wish)
            {
                return Ok(self.lease(granted, explain, &state));
            }
            if state.waiting.len() >= self.queue_max {
                return Err(RequestError::QueueFull { retry_after_s: state.retry_after_s() });
            }
            let called = EventFd::new().map_err(|cause| RequestError::Exhausted { step: "make an eventfd", cause })?;
            let ticket = Arc::new(Ticket { called, wish: wish.clone(), lease: Mutex::new(None) });
            state.waiting.push_back(ticket.clone());
            // Who is before it in the line may wait for one worker only, while another has a slot.
            state.call_waiting();
            ticket
        };
        let waited = client.wait(Watched::read(ticket.called.as_fd()), self.queue_timeout);

        let mut state = self.state();
        state.waiting.retain(|other| !Arc::ptr_eq(other, &ticket));
        if let Some(granted) = ticket.lease.lock().expect("nothing panics under this lock").take() {
            return Ok(self.lease(granted, explain, &state));
        }
        waited?;
        match () {
            () if state.workers.iter().all(|worker| worker.is_gone) => Err(RequestError::NoWorker),
            () => Err(RequestError::NoSlotInTime { retry_after_s: state.retry_after_s() }),
        }
    }

    fn lease(self: &Arc<Self>, granted: Granted, explain: bool, state: &State) -> Lease {
        let explanation = explain.then(|| state.explain(&granted));
        Lease { scheduler: self.clone(), link: granted.link, since: Instant::now(), explanation }
    }

    fn give_back(&self, link: &Arc<WorkerLink>, held: Duration) {
        let mut state = self.state();
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
        self.scheduler.give_back(&self.link, self.since.elapsed());
    }
}

impl State {
    /// Takes a slot on the best worker, if there is one.
    fn grant(&mut self, wish: &Wish) -> Option<Granted> {
        let is_fresh = |worker: &Worker| worker.sampled_at.elapsed() < SAMPLE_STALE;
        let candidate = |worker: &&mut Worker| worker.has_room() && !wish.avoids(worker);
        // Stale workers come last whatever their score: nobody knows how they are.
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

    /// Hands free slots to those who wait, first come, first served. Who avoids a worker stands in nobody's way.
    fn call_waiting(&mut self) {
        let mut at = 0;
        while let Some(ticket) = self.waiting.get(at).cloned() {
            match self.grant(&ticket.wish) {
                Some(granted) => {
                    self.waiting.remove(at);
                    *ticket.lease.lock().expect("nothing panics under this lock") = Some(granted);
                    ticket.called.signal();
                }
                None if ticket.wish.avoid.is_some() => at += 1,
                None => return,
            }
        }
    }

    /// When a slot can be expected for one more in the line: the line's length times the time that a slot is held lately,
    /// shared by all slots.
    fn retry_after_s(&self) -> u64 {
        let slots: u32 = self.workers.iter().filter(|w| !w.is_gone).map(|w| w.sample.slots).sum();
        let seconds = self.held_s * (self.waiting.len() + 1) as f64 / f64::from(slots.max(1));
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
mod tests {
    use super::*;

    fn sample(id: u32, slots: u32, score: f64) -> Sample {
        Sample { id, pid: 1, socket: "/none".into(), slots, cpu: 0.0, mem: 0.0, io: 0.0, score }
    }

    fn scheduler(samples: &[Sample], queue_max: usize, timeout_ms: u64) -> (Arc<Scheduler>, Vec<Arc<WorkerLink>>) {
        let scheduler = Scheduler::new(queue_max, Duration::from_millis(timeout_ms));
        let links: Vec<_> = samples.iter().map(|s| Arc::new(WorkerLink::new(s.id, s.socket.clone()))).collect();
        for (sample, link) in samples.iter().zip(&links) {
            scheduler.update(link, sample.clone());
        }
        (scheduler, links)
    }

    /// A client that stays, or has left.
    struct Patron {
        has_left: bool,
    }

    impl Client for Patron {
        fn keep_going(&mut self, _: bool) {}

        fn is_cut_off(&self) -> bool {
            false
        }

        fn wait(&mut self, other: Watched<'_>, timeout: Duration) -> Result<bool> {
            match self.has_left {
                true => Err(RequestError::ClientGone),
                false => Ok(crate::sys::poll(&mut [other], Some(timeout)).unwrap() > 0),
            }
        }

        fn begin(&mut self, _: &crate::http_handler::response::Response) -> Result<()> {
            Ok(())
        }

        fn send(&mut self, _: &[u8]) -> Result<()> {
            Ok(())
        }
    }

    fn stays() -> Patron {
        Patron { has_left: false }
    }

    fn leaves() -> Patron {
        Patron { has_left: true }
    }

    #[test]
    fn the_lowest_score_wins_and_what_is_in_flight_counts() {
        let (scheduler, _) = scheduler(&[sample(0, 4, 30.0), sample(1, 4, 10.0)], 0, 0);
        let take = || scheduler.acquire(&Wish::default(), false, &mut stays()).unwrap();
        let first = take();
        // 10 + 100 × 1/4 = 35 is above 30 now.
        let second = take();
        let third = take();
        assert_eq!([first.link.id, second.link.id, third.link.id], [1, 0, 1]);
        drop((first, third));
        assert_eq!(take().link.id, 1);
        drop(second);
    }

    #[test]
    fn ties_take_turns() {
        let (scheduler, _) = scheduler(&[sample(0, 8, 0.1), sample(1, 8, 0.3), sample(2, 8, 0.0)], 0, 0);
        let ids: Vec<u32> =
            (0..6).map(|_| scheduler.acquire(&Wish::default(), false, &mut stays()).unwrap().link.id).collect();
        assert_eq!(ids[..3], ids[3..]);
        let mut sorted = ids[..3].to_vec();
        sorted.sort();
        assert_eq!(sorted, [0, 1, 2]);
    }

    #[test]
    fn a_full_worker_is_no_candidate_and_the_line_is_bounded() {
        let (scheduler, _) = scheduler(&[sample(0, 1, 0.0)], 0, 0);
        let lease = scheduler.acquire(&Wish::default(), false, &mut stays()).unwrap();
        assert!(matches!(
            scheduler.acquire(&Wish::default(), false, &mut stays()),
            Err(RequestError::QueueFull { retry_after_s: 1 })
        ));
        drop(lease);
        assert!(scheduler.acquire(&Wish::default(), false, &mut stays()).is_ok());
    }

    #[test]
    fn a_slot_that_becomes_free_goes_to_the_first_in_line() {
        let (scheduler, _) = scheduler(&[sample(0, 1, 0.0)], 8, 60_000);
        let lease = scheduler.acquire(&Wish::default(), false, &mut stays()).unwrap();
        let (sender, order) = crossbeam_channel::unbounded();
        std::thread::scope(|scope| {
            for number in 0..3 {
                while scheduler.waiting() < number {
                    std::thread::yield_now();
                }
                let (sender, scheduler) = (sender.clone(), &scheduler);
                scope.spawn(move || {
                    let lease = scheduler.acquire(&Wish::default(), false, &mut stays()).unwrap();
                    sender.send(number).unwrap();
                    drop(lease);
                });
            }
            while scheduler.waiting() < 3 {
                std::thread::yield_now();
            }
            drop(lease);
        });
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn who_avoids_a_worker_waits_for_its_next_sample_and_keeps_nobody_from_it() {
        let (scheduler, links) = scheduler(&[sample(0, 1, 0.0)], 8, 60_000);
        let avoiding = Wish { avoid: Some((links[0].clone(), Instant::now())) };
        std::thread::scope(|scope| {
            let avoider = scope.spawn(|| scheduler.acquire(&avoiding, false, &mut stays()).map(drop));
            while scheduler.waiting() < 1 {
                std::thread::yield_now();
            }
            drop(scheduler.acquire(&Wish::default(), false, &mut stays()).unwrap());
            assert_eq!(scheduler.waiting(), 1);
            scheduler.update(&links[0], sample(0, 1, 0.0));
            avoider.join().unwrap().unwrap();
        });
    }

    #[test]
    fn waiting_ends_when_the_client_goes_or_the_time_is_up() {
        let (scheduler, links) = scheduler(&[sample(0, 1, 0.0)], 8, 1);
        let lease = scheduler.acquire(&Wish::default(), false, &mut stays()).unwrap();
        assert!(matches!(
            scheduler.acquire(&Wish::default(), false, &mut stays()),
            Err(RequestError::NoSlotInTime { .. })
        ));
        assert!(matches!(scheduler.acquire(&Wish::default(), false, &mut leaves()), Err(RequestError::ClientGone)));
        assert_eq!(scheduler.waiting(), 0);
        scheduler.remove(&links[0]);
        assert!(matches!(scheduler.acquire(&Wish::default(), false, &mut stays()), Err(RequestError::NoWorker)));
        drop(lease);
        assert!(scheduler.overview().is_empty());
    }

    #[test]
    fn a_worker_that_comes_back_under_its_old_id_starts_with_free_slots() {
        let (scheduler, links) = scheduler(&[sample(0, 1, 0.0)], 8, 60_000);
        let old = scheduler.acquire(&Wish::default(), false, &mut stays()).unwrap();
        scheduler.remove(&links[0]);
        let link = Arc::new(WorkerLink::new(0, "/none".into()));
        scheduler.update(&link, sample(0, 1, 0.0));
        let new = scheduler.acquire(&Wish::default(), true, &mut stays()).unwrap();
        assert!(Arc::ptr_eq(&new.link, &link));
        let text = new.explanation.clone().unwrap();
        assert!(text.starts_with("chosen=0 why=\"lowest score 0.0\"; worker=0 cpu=0.0"), "{text}");
        drop(old);
        assert_eq!(scheduler.overview()[0].1, 1);
    }
}
