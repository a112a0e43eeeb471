//! Large bodies and responses, and those that arrive piece by piece.

use std::fs;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use faas::procfs::proportional_bytes;

use crate::http::Answer;
use crate::instance::{Instance, run, wait_until};

/// Additional memory that the platform may use while it carries large bodies.
const MORE_BYTES_MAX: u64 = 8 << 20;

#[test]
fn fifty_megabytes_in_and_two_hundred_out_pass_without_being_held_in_memory() {
    const IN: usize = 50_000_000;
    const OUT: u64 = 200_000_000;
    let instance = Instance::start();
    instance.script("POST:/sum", "exec cksum");
    instance.script("GET:/large", "exec head -c 200000000 /dev/zero");
    // The bytes differ from place to place, so that a swapped or a repeated piece shows.
    let body: Vec<u8> =
        (0..IN as u32 / 4).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(instance.path("body"), &body).unwrap();
    let expected = run(Command::new("sh").args(["-c", "cksum <\"$0\""]).arg(instance.path("body"))).stdout;

    assert_eq!(instance.post("/sum", "warm").status, 200);
    let platform: Vec<u32> =
        [instance.gateway_pid(), instance.worker_pid(0), instance.worker_pid(1)].into_iter().collect();
    let idle = platform.iter().map(|pid| proportional_bytes(*pid as i32).unwrap()).sum::<u64>();
    let done = AtomicBool::new(false);
    let peak = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(platform.iter().map(|pid| proportional_bytes(*pid as i32).unwrap()).sum());
            }
            peak
        });
        // Ends the watcher also when an assertion fails, since the scope waits for it.
        let done = Done(&done);
        let answer = instance.post("/sum", &body);
        assert_eq!((answer.status, answer.body), (200, expected));

        let mut stream = instance.connect();
        stream.get_mut().write_all(b"GET /large HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").unwrap();
        let head = Answer::read_head(&mut stream).unwrap();
        assert_eq!((head.status, head.field("Content-Length")), (200, Some("200000000")));
        let (mut piece, mut count) = (vec![0; 1 << 20], 0);
        loop {
            match stream.read(&mut piece).unwrap() {
                0 => break,
                length => {
                    assert!(piece[..length].iter().all(|byte| *byte == 0));
                    count += length as u64;
                }
            }
        }
        assert_eq!(count, OUT);
        drop(done);
        watcher.join().unwrap()
    });
    assert!(peak <= idle + MORE_BYTES_MAX, "{} KiB while idle, {} KiB at the peak", idle / 1024, peak / 1024);
    // Spool files have no names: nothing stays in the spool folder but the functions' scratch folders.
    let entries = fs::read_dir(instance.path("spool")).unwrap().flatten();
    assert!(entries.map(|entry| entry.file_type().unwrap()).all(|kind| kind.is_dir()));
}

/// Sets the flag when it is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_large_answer_costs_nothing() {
    let instance = Instance::start();
    instance.script("GET:/large", "exec head -c 50000000 /dev/zero");
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", instance.gateway_pid())).unwrap().count();
    instance.get("/healthz");
    let before = descriptors();
    for _ in 0..5 {
        let mut stream = instance.connect();
        stream.get_mut().write_all(b"GET /large HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
        assert_eq!(Answer::read_head(&mut stream).unwrap().status, 200);
    }
    // One connection to each of the two workers stays.
    wait_until("its descriptors are closed", || descriptors() <= before + 4);
    wait_until("its processes are gone", || instance.functions().is_empty());
}
