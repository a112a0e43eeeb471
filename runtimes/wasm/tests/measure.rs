//! The bare fork server's speed: this driver and the server alone, without gateway and worker.
//! `cargo test --release --test measure -- --ignored --nocapture`

mod driver;

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use driver::{Folder, Idle, Server, compile};
use rustix::process::{WaitOptions, waitpid};

/// How long a measurement takes.
const SPAN: Duration = Duration::from_secs(3);

/// Children that wait for work, for each caller.
const AHEAD: usize = 2;

/// One caller's calls, one after the other, and how long each took, in µs.
fn calls(server: &Server, scratch: &str) -> Vec<u128> {
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut ahead: VecDeque<Idle> = (0..AHEAD).map(|_| server.fork()).collect();
    let end = Instant::now() + SPAN;
    let mut times = Vec::new();
    while Instant::now() < end {
        let mut idle = ahead.pop_front().unwrap();
        let begun = Instant::now();
        let (mut stdout, from_stdout) = std::io::pipe().unwrap();
        let environment = [scratch, "REQUEST_METHOD=GET", "PATH_INFO=/ping", "FAAS_FUNCTION=ping"];
        let streams = [null.as_fd(), from_stdout.as_fd(), from_stdout.as_fd()];
        driver::send(idle.channel.as_fd(), &driver::message(&environment), &streams);
        drop(from_stdout);
        let mut said = [0; 2];
        idle.channel.read_exact(&mut said).unwrap();
        let mut output = [0; 4096];
        assert!(stdout.read(&mut output).unwrap() > 0);
        assert_eq!(&said, b"X\0");
        times.push(begun.elapsed().as_micros());
        waitpid(Some(idle.pid), WaitOptions::empty()).unwrap();
        ahead.push_back(server.fork());
    }
    times
}

#[test]
#[ignore = "a measurement"]
fn calls_of_ping() {
    let folder = Folder::new();
    let artifact = compile(&std::fs::read("../../functions/ping.wasm").unwrap(), &folder.0);
    let scratch = format!("TMPDIR={}", folder.0.display());
    for callers in [1, 2, 4] {
        let server = Server::start(&[], &artifact);
        let mut times: Vec<u128> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..callers).map(|_| scope.spawn(|| calls(&server, &scratch))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        times.sort();
        let per_second = times.len() as f64 / SPAN.as_secs_f64();
        let at = |part: usize| times[times.len() * part / 100];
        println!("{callers} callers: {per_second:.0}/s, median {} µs, 99 % within {} µs", at(50), at(99));
    }
}
