//! A component by exec and from the fork server, in turns: this driver and the program alone, without gateway and worker.
//!
//! ```text
//! COMPONENTS=a.wasm:b.wasm cargo test --release --package faas-wasm-component --test measure -- --ignored --nocapture
//! ```

#[path = "../../tests/driver/mod.rs"]
mod driver;

use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

use driver::{Call, Folder, Idle, MODULE, Server, compile};

const PROGRAM: &str = env!("CARGO_BIN_EXE_faas-wasm-component");

const ROUNDS: usize = 7;
const CALLS_PER_ROUND: usize = 20;

/// Milliseconds until it says that it is through.
fn forked_ms(mut idle: Idle, version: &str, artifact: &str, call: &Call) -> f64 {
    let null = File::open("/dev/null").unwrap();
    let begun = Instant::now();
    let mut output = idle.run_through(version, artifact, call, &null);
    let elapsed = begun.elapsed();
    assert!(output.read(&mut [0; 4096]).unwrap() > 0);
    idle.await_end().unwrap();
    elapsed.as_secs_f64() * 1e3
}

fn executed_ms(artifact: &str, call: &Call) -> f64 {
    let mut command = Command::new(PROGRAM);
    let environment = call.environment.iter().map(|pair| pair.split_once('=').unwrap());
    command.args(["run", "--artifact", artifact, "--net", "1", MODULE]).env_clear().envs(environment);
    let begun = Instant::now();
    let output = command.stdin(Stdio::null()).output().unwrap();
    let elapsed = begun.elapsed();
    assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    elapsed.as_secs_f64() * 1e3
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Median, lowest and highest.
fn show(figures: Vec<f64>) -> String {
    let [low, high] = [f64::min, f64::max].map(|least| figures.iter().copied().reduce(least).unwrap());
    format!("{:.2} ({low:.2}–{high:.2})", median(figures))
}

/// KiB of a line of a file under /proc.
fn kib(path: &str, line: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    let rest = text.lines().find_map(|other| other.strip_prefix(line)).unwrap();
    rest.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "a measurement"]
fn forked_beside_executed() {
    let components = std::env::var("COMPONENTS").expect("COMPONENTS names components, with colons between them");
    let (folder, server) = (Folder::new(), Server::start());
    let scratch = format!("TMPDIR={}", folder.0.display());
    let call = [&scratch, "REQUEST_METHOD=GET", "QUERY_STRING=head", "FAAS_FUNCTION=measured"];
    let call = call.into_iter().fold(Call::default().set("net", "1").set("folder", "/"), Call::env);
    let memory = |what: &str| {
        let process = format!("/proc/{}", server.process.id());
        let own = kib(&format!("{process}/smaps_rollup"), "Private_Dirty") as f64 / 1024.0;
        let data = kib(&format!("{process}/status"), "VmData") as f64 / 1024.0;
        println!("fork server {what}: {own:.2} MiB of its own, {data:.2} MiB of data in all");
    };
    memory("at its start");
    for (number, component) in components.split(':').enumerate() {
        let artifact = folder.path(&number.to_string());
        compile(&fs::read(component).unwrap(), artifact.as_ref()).unwrap();
        assert_eq!(server.prepare(&artifact, &artifact), [b"p", artifact.as_bytes()].concat());
        let mut rounds: [Vec<f64>; 3] = Default::default();
        for _ in 0..ROUNDS {
            let mut times: [Vec<f64>; 3] = Default::default();
            for _ in 0..CALLS_PER_ROUND {
                // They wait by the time that they are needed, as a worker's do.
                let [prepared, other] = [server.fork(), server.fork()];
                times[0].push(executed_ms(&artifact, &call));
                times[1].push(forked_ms(prepared, &artifact, &artifact, &call));
                times[2].push(forked_ms(other, "not prepared", &artifact, &call));
            }
            rounds.iter_mut().zip(times).for_each(|(round, times)| round.push(median(times)));
        }
        let ratios = rounds[0].iter().zip(&rounds[1]).map(|(executed, forked)| executed / forked).collect();
        let [executed, forked, unprepared] = rounds.map(show);
        println!(
            "{component}: exec {executed} ms, forked {forked} ms, not prepared {unprepared} ms; {} ×",
            show(ratios)
        );
        memory(&format!("with {} prepared", number + 1));
    }
}
