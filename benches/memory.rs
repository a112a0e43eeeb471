//! Memory of the gateway and its workers: at rest, and while long bodies pass through them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use faas::procfs;

use crate::functions::compile;
use crate::instance::{Instance, native_row};
use crate::table::{Outcome, Row, Samples, Unit, failed};

const MB: f64 = 1e6;
const IDLE_GOAL_MB: f64 = 25.0;
/// Long enough for a first sample of each worker.
const REST: Duration = Duration::from_millis(1500);

/// Proportional set size of all processes together, before the first call.
pub fn idle() -> Outcome<Vec<Row>> {
    let mut samples = Samples::default();
    let mut processes = 0;
    for _ in 0..3 {
        let instance = Instance::start(4, &[])?;
        std::thread::sleep(REST);
        let all = instance.processes();
        processes = all.len();
        samples.push(all.into_iter().filter_map(procfs::proportional_bytes).sum::<u64>() as f64 / MB);
    }
    let what = format!("memory at rest, gateway and {} workers (proportional set size)", processes - 1);
    Ok(vec![Row::new(&what, "≤ 25 MB", samples.show(Unit::Megabytes), samples.median() <= IDLE_GOAL_MB)])
}

const BODY_IN_BYTES: usize = 50_000_000;
const BODY_OUT_BYTES: usize = 200_000_000;
const GROWTH_GOAL_MB: f64 = 8.0;

/// How far the most that each process ever had resident lies above what it had before, all processes together. That is
/// no less than the growth of their sum at any moment, because their peaks need not come together.
pub fn bodies() -> Outcome<Vec<Row>> {
    let folder = std::env::temp_dir().join(format!("faas-bench-swallow-{}", std::process::id()));
    let program = compile(&folder, "swallow", SWALLOW);
    let samples = program.and_then(|program| {
        let mut samples = Samples::default();
        for _ in 0..3 {
            let instance = Instance::start(4, &[native_row("POST:/bench/swallow", &program)])?;
            std::thread::sleep(REST);
            let processes = instance.processes();
            processes.iter().for_each(|pid| forget_peak(*pid));
            let before: u64 = processes.iter().filter_map(|pid| procfs::resident_bytes(*pid)).sum();
            exchange(&instance)?;
            let after: u64 = processes.iter().filter_map(|pid| peak_bytes(*pid)).sum();
            samples.push(after.saturating_sub(before) as f64 / MB);
        }
        Ok(samples)
    });
    let _ = std::fs::remove_dir_all(&folder);
    let samples = samples?;
    let what = "memory while 50 MB come in and 200 MB go out: peak above rest";
    Ok(vec![Row::new(what, "≤ 8 MB", samples.show(Unit::Megabytes), samples.max() <= GROWTH_GOAL_MB)])
}

/// Sets the kernel's record of the peak back to what is resident now (proc(5), clear_refs).
fn forget_peak(pid: i32) {
    // Where the kernel does not do that, the peak is that of the process's whole life, and the figure errs on the high side.
    let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

fn peak_bytes(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Takes the whole body, then answers at length.
const SWALLOW: &str = r#"
#include <string.h>
#include <unistd.h>
int main(void) {
    static char buffer[1 << 16];
    long left = 200000000;
    while (read(0, buffer, sizeof buffer) > 0) {}
    memset(buffer, 'x', sizeof buffer);
    while (left > 0) {
        long count = write(1, buffer, left < (long)sizeof buffer ? (size_t)left : sizeof buffer);
        if (count < 0) return 1;
        left -= count;
    }
    return 0;
}
"#;

fn exchange(instance: &Instance) -> Outcome<()> {
    let mut stream = TcpStream::connect(instance.address).map_err(failed("connect"))?;
    let head = format!(
        "POST /bench/swallow HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Length: {BODY_IN_BYTES}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).map_err(failed("send a head"))?;
    let mut piece = vec![b'y'; 1 << 16];
    let mut left = BODY_IN_BYTES;
    while left > 0 {
        let count = left.min(piece.len());
        stream.write_all(&piece[..count]).map_err(failed("send a body"))?;
        left -= count;
    }
    let mut received = 0;
    loop {
        match stream.read(&mut piece).map_err(failed("receive an answer"))? {
            0 => break,
            count => received += count,
        }
    }
    match received > BODY_OUT_BYTES {
        true => Ok(()),
        false => Err(format!("the answer had {received} bytes only")),
    }
}
