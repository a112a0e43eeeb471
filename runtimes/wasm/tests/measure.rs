//! The bare fork server's speed: this driver and the server alone, without gateway and worker.
//! `cargo test --release --test measure -- --ignored --nocapture`

mod driver;

use std::collections::VecDeque;
use std::io::Read;
use std::time::{Duration, Instant};

use driver::{Call, Folder, Idle, Server, compile};

const PROGRAM: &str = env!("CARGO_BIN_EXE_faas-wasm");

/// How long a measurement takes.
const SPAN: Duration = Duration::from_secs(3);

/// Children that wait for work, for each caller.
const AHEAD: usize = 2;

/// One caller's calls, one after the other, and how long each took, in µs.
fn calls(server: &Server, version: &str, artifact: &str, call: &Call) -> Vec<u128> {
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut ahead: VecDeque<Idle> = (0..AHEAD).map(|_| server.fork()).collect();
    let end = Instant::now() + SPAN;
    let mut times = Vec::new();
    while Instant::now() < end {
        let mut idle = ahead.pop_front().unwrap();
        let begun = Instant::now();
        let mut output = idle.run_through(version, artifact, call, &null);
        assert!(output.read(&mut [0; 4096]).unwrap() > 0);
        times.push(begun.elapsed().as_micros());
        idle.await_end().unwrap();
        ahead.push_back(server.fork());
    }
    times
}

#[test]
#[ignore = "a measurement"]
fn calls_of_ping() {
    let folder = Folder::new();
    let artifact = folder.path("artifact");
    compile(&std::fs::read("../../functions/ping.wasm").unwrap(), artifact.as_ref()).unwrap();
    let scratch = format!("TMPDIR={}", folder.0.display());
    let call = [&scratch, "REQUEST_METHOD=GET", "PATH_INFO=/ping", "FAAS_FUNCTION=ping"];
    let call = call.into_iter().fold(Call::default().set("net", "1").set("folder", "/"), Call::env);
    let server = Server::start();
    server.prepare("1", &artifact);
    for (what, version, call) in [
        ("prepared", "1", &call),
        ("prepared, without network", "1", &call.clone().set("net", "0")),
        ("not prepared", "2", &call),
    ] {
        for callers in [1, 4] {
            let mut times: Vec<u128> = std::thread::scope(|scope| {
                let one = || calls(&server, version, &artifact, call);
                let threads: Vec<_> = (0..callers).map(|_| scope.spawn(one)).collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            times.sort();
            let per_second = times.len() as f64 / SPAN.as_secs_f64();
            let at = |part: usize| times[times.len() * part / 100];
            println!("{what}, {callers} callers: {per_second:.0}/s, median {} µs, 99 % {} µs", at(50), at(99));
        }
    }
}
