//! Looks at an invocation that may have to wait, each taken by a thread of its own.
//!
//! To list the mappings of a process, or the files in a folder, the kernel waits until no process holds the lock on
//! them. One that holds it may itself wait for a turn at a processor: for seconds, while a fork bomb goes off. The thread
//! that counts the invocation's processes must not wait that long, or nothing would end the bomb.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::rhythm::Rhythm;
use crate::limits::{CONNECTION_STACK_BYTES, WORKER_SLOTS};
use crate::sys;

/// A look that gives no result for this long tells by its silence: a process holds no lock for that long unless the
/// invocation arranges it, or the file system hangs.
const LATE: Duration = Duration::from_secs(5);
/// Of the time between two questions whether a look is late, this much counts. Where this thread itself waited longer for
/// its turn, a bomb goes off, and the thread counts processes before it asks again.
const COUNTED_MAX: Duration = Duration::from_secs(1);
/// Looks at once. An invocation has two at most; one that hangs, on a file of a server that is gone perhaps, outlives its
/// invocation.
const UNDER_WAY_MAX: usize = 4 * *WORKER_SLOTS.end() as usize;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// A kind of look, of which one is under way at most.
pub struct Aside<T> {
    rhythm: Rhythm,
    under_way: Option<UnderWay<T>>,
}

struct UnderWay<T> {
    /// Time that counts, up to `asked`.
    waited: Duration,
    /// The last time somebody asked whether it is late; at first, its begin.
    asked: Instant,
    result: Receiver<Taken<T>>,
}

struct Taken<T> {
    found: T,
    /// Processor time that it took.
    cost: Duration,
}

impl<T: Send + 'static> Aside<T> {
    pub fn new() -> Aside<T> {
        Aside { rhythm: Rhythm::new(), under_way: None }
    }

    /// True if another look can begin.
    pub fn is_due(&self) -> bool {
        self.under_way.is_none() && self.rhythm.is_due()
    }

    /// True if a look has been under way for too long. The time of an alarm does not count: a bomb of another invocation
    /// can keep any look waiting.
    pub fn is_late(&mut self) -> bool {
        let Some(look) = &mut self.under_way else { return false };
        let passed = std::mem::replace(&mut look.asked, Instant::now()).elapsed();
        if sys::is_alarmed() {
            look.waited = Duration::ZERO;
        } else {
            look.waited += passed.min(COUNTED_MAX);
        }
        look.waited > LATE
    }

    /// Begins another look if it is wanted and due, and waits for its result until this time. Otherwise returns that of a
    /// look that has ended by now. `running` invocations share the worker's time for looks.
    pub fn look<L: FnOnce() -> T + Send + 'static>(
        &mut self,
        is_wanted: bool,
        make: impl FnMut() -> L,
        until: Instant,
        running: usize,
    ) -> Option<T> {
        match is_wanted && self.is_due() {
            true => self.begin(make, until, running),
            false => self.collect(Instant::now(), running),
        }
    }

    /// If no thread can be started, the calling one takes the look, but not while a bomb goes off.
    fn begin<L: FnOnce() -> T + Send + 'static>(
        &mut self,
        mut make: impl FnMut() -> L,
        until: Instant,
        running: usize,
    ) -> Option<T> {
        match start(make()) {
            Some(result) => {
                self.under_way = Some(UnderWay { waited: Duration::ZERO, asked: Instant::now(), result });
            }
            None if sys::is_alarmed() => {}
            None => return Some(self.end(take(make()), running)),
        }
        self.collect(until, running)
    }

    /// The result of the look that is under way, if it comes until this time.
    fn collect(&mut self, until: Instant, running: usize) -> Option<T> {
        match self.under_way.as_ref()?.result.recv_deadline(until) {
            Ok(taken) => Some(self.end(taken, running)),
            Err(RecvTimeoutError::Timeout) => None,
            // It has panicked.
            Err(RecvTimeoutError::Disconnected) => {
                self.under_way = None;
                None
            }
        }
    }

    fn end(&mut self, taken: Taken<T>, running: usize) -> T {
        self.under_way = None;
        self.rhythm.go_on(taken.cost, running);
        taken.found
    }
}

fn take<T>(look: impl FnOnce() -> T) -> Taken<T> {
    let began = sys::own_thread_cpu_time();
    let found = look();
    Taken { found, cost: sys::own_thread_cpu_time() - began }
}

/// `None` if no thread can be started.
fn start<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Option<Receiver<Taken<T>>> {
    let place = Place::take()?;
    let (sender, receiver) = bounded(1);
    let life = move || {
        let _place = place;
        // No thread waits for it once the invocation has ended.
        let _ = sender.send(take(look));
    };
    let started = thread::Builder::new().name("looker".into()).stack_size(CONNECTION_STACK_BYTES).spawn(life);
    started.is_ok().then_some(receiver)
}

/// One of [`UNDER_WAY_MAX`].
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let before = UNDER_WAY.fetch_add(1, Ordering::Relaxed);
        let place = Place;
        (before < UNDER_WAY_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_waits_holds_nobody_up_and_its_result_comes_later() {
        let (let_go, held) = bounded::<()>(0);
        let mut aside = Aside::<u32>::new();
        let make = || {
            let held = held.clone();
            move || held.recv().map_or(0, |()| 7)
        };
        let now = Instant::now();
        assert_eq!(aside.begin(make, now, 1), None);
        assert!(!aside.is_due() && !aside.is_late());
        assert_eq!(aside.collect(now, 1), None);
        let_go.send(()).unwrap();
        let long = Instant::now() + Duration::from_secs(20);
        assert_eq!(aside.collect(long, 1), Some(7));
        assert_eq!(aside.collect(long, 1), None);
        assert_eq!(aside.begin(|| || 8, long, 1), Some(8));
        let asked = now - 2 * LATE;
        let mut is_late_after = |waited| {
            aside.under_way = Some(UnderWay { waited, asked, result: bounded(1).1 });
            aside.is_late()
        };
        assert!(is_late_after(LATE));
        // This thread has waited for its turn.
        assert!(!is_late_after(Duration::ZERO));
    }

    #[test]
    fn a_look_that_panics_makes_room_for_the_next() {
        let mut aside = Aside::<u32>::new();
        let long = Instant::now() + Duration::from_secs(20);
        assert_eq!(aside.begin(|| || panic!("on purpose"), long, 1), None);
        assert!(aside.under_way.is_none());
    }
}
