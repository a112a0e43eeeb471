//! From the gateway to a worker and back: an invocation that ends before a process is started, because its module is
//! missing. What it takes is the wire: encoding, two socket hops with a thread woken at each end, decoding.

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use faas::protocol::worker_protocol::{End, Invocation, Kind, Runtime, Verdict, decode};

use crate::instance::Instance;
use crate::table::{Outcome, Row, Samples, Unit, failed, take_turns};

const ROUNDS: usize = 9;
const TRIPS: usize = 2000;
const GOAL_US: f64 = 50.0;

pub fn measure() -> Outcome<Vec<Row>> {
    let instance = Instance::start(1, &[])?;
    let mut worker = UnixStream::connect(instance.run_dir().join("worker_0.sock")).map_err(failed("reach a worker"))?;
    let invocation = invocation();
    let (mut near, far) = UnixStream::pair().map_err(failed("make a socket pair"))?;
    // Ends when `near` is closed.
    std::thread::spawn(move || send_back(far).ok());
    let [hop, floor] = take_turns(
        ROUNDS,
        [&mut || median_us(|| invoke(&mut worker, &invocation)), &mut || {
            median_us(|| ping(&mut near).map_err(failed("send a byte")))
        }],
    )?;
    let shown = hop.show(Unit::Microseconds);
    let row = Row::new("gateway to worker and back, no process started", "≤ 50 µs", shown, hop.median() <= GOAL_US);
    let ratio = hop.ratio_to(&floor);
    Ok(vec![row.beside("one byte through a socket pair and back", &floor, Unit::Microseconds, &ratio)])
}

fn median_us(mut trip: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let mut samples = Samples::default();
    for _ in 0..TRIPS {
        let began = Instant::now();
        trip()?;
        samples.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(samples.median())
}

/// With an environment such as a browser's request makes it.
fn invocation() -> Invocation {
    let environment = (0..24).map(|n| CString::new(format!("HTTP_FIELD_{n}=a value of common length, {n}")));
    Invocation {
        request_id: "0123456789abcdef".into(),
        function: "missing".into(),
        runtime: Runtime::Native,
        module: "/nonexistent/module".into(),
        handler: String::new(),
        scratch_mib: 1,
        write: Vec::new(),
        net: true,
        memory_mib: 128,
        timeout: Duration::from_secs(30),
        stream: false,
        environment: environment.map(|pair| pair.expect("it holds no NUL")).collect(),
        body: Vec::new(),
    }
}

/// One invocation, as the gateway's worker link does it.
fn invoke(worker: &mut UnixStream, invocation: &Invocation) -> Outcome<()> {
    let frame = invocation.encode(b"{\"name\":\"Alice\"}").map_err(failed("encode an invocation"))?;
    worker.write_all(&frame).map_err(failed("write to a worker"))?;
    let mut inbox = Vec::with_capacity(4096);
    let mut piece = [0; 4096];
    loop {
        let count = worker.read(&mut piece).map_err(failed("read from a worker"))?;
        inbox.extend_from_slice(&piece[..count]);
        match decode(&inbox).map_err(failed("decode a frame"))? {
            Some((Kind::End, payload, _)) => {
                let end = End::decode(payload).map_err(failed("decode a verdict"))?;
                let is_expected = matches!(end.verdict, Verdict::ModuleMissing { .. });
                return if is_expected { Ok(()) } else { Err(format!("the worker said {:?}", end.verdict)) };
            }
            Some((kind, ..)) => return Err(format!("the worker sent {kind:?}")),
            None if count == 0 => return Err("the worker closed the connection".into()),
            None => {}
        }
    }
}

fn send_back(mut far: UnixStream) -> std::io::Result<()> {
    let mut byte = [0];
    loop {
        far.read_exact(&mut byte)?;
        far.write_all(&byte)?;
    }
}

fn ping(near: &mut UnixStream) -> std::io::Result<()> {
    let mut byte = [0];
    near.write_all(&byte)?;
    near.read_exact(&mut byte)
}
