//! Slots, ties, the line, and each function's share.

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
    fn take_place(&mut self) -> Result<()> {
        Ok(())
    }

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

    fn end(&mut self, _: Option<&crate::http_handler::response::Response>) -> Result<()> {
        Ok(())
    }
}

fn stays() -> Patron {
    Patron { has_left: false }
}

/// A slot for this function.
fn of(route: &str) -> Wish<'_> {
    Wish { route, max_inflight: None, avoid: None }
}

fn leaves() -> Patron {
    Patron { has_left: true }
}

#[test]
fn the_lowest_score_wins_and_what_is_in_flight_counts() {
    let (scheduler, _) = scheduler(&[sample(0, 4, 30.0), sample(1, 4, 10.0)], 0, 0);
    let take = || scheduler.acquire(&of("a"), false, &mut stays()).unwrap();
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
    let ids: Vec<u32> = (0..6).map(|_| scheduler.acquire(&of("a"), false, &mut stays()).unwrap().link.id).collect();
    assert_eq!(ids[..3], ids[3..]);
    let mut sorted = ids[..3].to_vec();
    sorted.sort();
    assert_eq!(sorted, [0, 1, 2]);
}

#[test]
fn a_full_worker_is_no_candidate_and_the_line_is_bounded() {
    let (scheduler, _) = scheduler(&[sample(0, 1, 0.0)], 0, 0);
    let lease = scheduler.acquire(&of("a"), false, &mut stays()).unwrap();
    assert!(matches!(
        scheduler.acquire(&of("a"), false, &mut stays()),
        Err(RequestError::QueueFull { retry_after_s: 1 })
    ));
    drop(lease);
    assert!(scheduler.acquire(&of("a"), false, &mut stays()).is_ok());
}

#[test]
fn a_slot_that_becomes_free_goes_to_the_first_in_line() {
    let (scheduler, _) = scheduler(&[sample(0, 1, 0.0)], 8, 60_000);
    let lease = scheduler.acquire(&of("a"), false, &mut stays()).unwrap();
    let (sender, order) = crossbeam_channel::unbounded();
    std::thread::scope(|scope| {
        for number in 0..3 {
            while scheduler.waiting() < number {
                std::thread::yield_now();
            }
            let (sender, scheduler) = (sender.clone(), &scheduler);
            scope.spawn(move || {
                let lease = scheduler.acquire(&of("a"), false, &mut stays()).unwrap();
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
    let avoiding = Wish { avoid: Some((links[0].clone(), Instant::now())), ..of("a") };
    std::thread::scope(|scope| {
        let avoider = scope.spawn(|| scheduler.acquire(&avoiding, false, &mut stays()).map(drop));
        while scheduler.waiting() < 1 {
            std::thread::yield_now();
        }
        drop(scheduler.acquire(&of("a"), false, &mut stays()).unwrap());
        assert_eq!(scheduler.waiting(), 1);
        scheduler.update(&links[0], sample(0, 1, 0.0));
        avoider.join().unwrap().unwrap();
    });
}

#[test]
fn waiting_ends_when_the_client_goes_or_the_time_is_up() {
    let (scheduler, links) = scheduler(&[sample(0, 1, 0.0)], 8, 1);
    let lease = scheduler.acquire(&of("a"), false, &mut stays()).unwrap();
    let late = scheduler.acquire(&of("a"), false, &mut stays()).err().unwrap();
    assert!(matches!(late, RequestError::NoSlotInTime { .. }) && late.to_string().contains("FAAS_QUEUE_TIMEOUT_MS"));
    assert!(matches!(scheduler.acquire(&of("a"), false, &mut leaves()), Err(RequestError::ClientGone)));
    assert_eq!(scheduler.waiting(), 0);
    scheduler.remove(&links[0]);
    assert!(matches!(scheduler.acquire(&of("a"), false, &mut stays()), Err(RequestError::NoWorker)));
    drop(lease);
    assert!(scheduler.overview().is_empty());
}

#[test]
fn a_worker_that_comes_back_under_its_old_id_starts_with_free_slots() {
    let (scheduler, links) = scheduler(&[sample(0, 1, 0.0)], 8, 60_000);
    let old = scheduler.acquire(&of("a"), false, &mut stays()).unwrap();
    scheduler.remove(&links[0]);
    let link = Arc::new(WorkerLink::new(0, "/none".into()));
    scheduler.update(&link, sample(0, 1, 0.0));
    let new = scheduler.acquire(&of("a"), true, &mut stays()).unwrap();
    assert!(Arc::ptr_eq(&new.link, &link));
    let text = new.explanation.clone().unwrap();
    assert!(text.starts_with("chosen=0 why=\"lowest score 0.0\"; worker=0 cpu=0.0"), "{text}");
    drop(old);
    assert_eq!(scheduler.overview()[0].1, 1);
}

/// Waits in line as `route` until it has a slot, reports it, and keeps the slot until the test has dropped `go_on`.
fn take_and_tell<'a>(
    scheduler: &'a Arc<Scheduler>,
    route: &'static str,
    told: crossbeam_channel::Sender<&'static str>,
    go_on: crossbeam_channel::Receiver<()>,
) -> impl FnOnce() + Send + 'a {
    move || {
        let lease = scheduler.acquire(&of(route), false, &mut stays()).unwrap();
        told.send(route).unwrap();
        let _ = go_on.recv();
        drop(lease);
    }
}

#[test]
fn functions_in_line_take_turns() {
    let (scheduler, _) = scheduler(&[sample(0, 1, 0.0)], 16, 60_000);
    let lease = scheduler.acquire(&of("a"), false, &mut stays()).unwrap();
    let (told, order) = crossbeam_channel::unbounded();
    let (go_on, going) = crossbeam_channel::bounded::<()>(0);
    drop(go_on);
    std::thread::scope(|scope| {
        for (number, route) in ["a", "a", "a", "b", "c", "b"].into_iter().enumerate() {
            scope.spawn(take_and_tell(&scheduler, route, told.clone(), going.clone()));
            while scheduler.waiting() <= number {
                std::thread::yield_now();
            }
        }
        drop(lease);
    });
    assert_eq!(order.try_iter().collect::<Vec<_>>(), ["a", "b", "c", "a", "b", "a"]);
}

#[test]
fn a_function_has_all_slots_alone_and_three_quarters_beside_another() {
    let (scheduler, _) = scheduler(&[sample(0, 4, 0.0), sample(1, 4, 0.0)], 32, 60_000);
    let take = |route| scheduler.acquire(&of(route), false, &mut stays()).unwrap();
    let mut alone: Vec<Lease> = (0..8).map(|_| take("a")).collect();
    let (told, order) = crossbeam_channel::unbounded();
    let (go_on, going) = crossbeam_channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        for (number, route) in ["b", "a", "a", "a"].into_iter().enumerate() {
            scope.spawn(take_and_tell(&scheduler, route, told.clone(), going.clone()));
            while scheduler.waiting() <= number {
                std::thread::yield_now();
            }
        }
        // The first slot goes to b. Of the others a gets none before it has less than six.
        drop(alone.pop());
        assert_eq!(order.recv().unwrap(), "b");
        drop(alone.pop());
        assert_eq!((alone.len(), scheduler.waiting()), (6, 3));
        // b finds a slot at once.
        drop(take("b"));
        drop(alone.pop());
        assert_eq!(order.recv().unwrap(), "a");
        assert_eq!(scheduler.waiting(), 2);
        alone.clear();
        drop(go_on);
    });
    assert_eq!(order.try_iter().collect::<Vec<_>>(), ["a", "a"]);
}

#[test]
fn a_function_leaves_a_quarter_of_the_line_to_others() {
    let (scheduler, _) = scheduler(&[sample(0, 1, 0.0)], 4, 60_000);
    let lease = scheduler.acquire(&of("b"), false, &mut stays()).unwrap();
    let (told, _order) = crossbeam_channel::unbounded();
    let (go_on, going) = crossbeam_channel::bounded::<()>(0);
    drop(go_on);
    std::thread::scope(|scope| {
        for number in 0..3 {
            scope.spawn(take_and_tell(&scheduler, "a", told.clone(), going.clone()));
            while scheduler.waiting() <= number {
                std::thread::yield_now();
            }
        }
        let full = scheduler.acquire(&of("a"), false, &mut stays());
        assert!(matches!(full, Err(RequestError::QueueFull { .. })));
        scope.spawn(take_and_tell(&scheduler, "b", told, going));
        while scheduler.waiting() < 4 {
            std::thread::yield_now();
        }
        drop(lease);
    });
}

#[test]
fn calls_over_max_inflight_wait_while_slots_are_free() {
    let (scheduler, _) = scheduler(&[sample(0, 4, 0.0)], 8, 1);
    let wish = || Wish { max_inflight: Some(1), ..of("a") };
    let lease = scheduler.acquire(&wish(), false, &mut stays()).unwrap();
    let busy = scheduler.acquire(&wish(), false, &mut stays());
    let Err(busy @ RequestError::FunctionBusy { .. }) = busy else { panic!("it waits") };
    assert!(busy.to_string().ends_with("none ended in time (FAAS_QUEUE_TIMEOUT_MS)"), "{busy}");
    assert!(scheduler.acquire(&of("b"), false, &mut stays()).is_ok());
    drop(lease);
    assert!(scheduler.acquire(&wish(), false, &mut stays()).is_ok());
}
