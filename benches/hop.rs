//! From the gateway to a worker and back: an invocation that ends before a process is started, because its module is
//! missing. What it takes is the wire: encoding, two socket hops with a thread woken at each end, decoding.
//!
//! A worker takes work from its gateway only, so this program is the gateway of a worker of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use faas::protocol::function_spec::{Engine, FunctionSpec, OnHangup, Output, Runtime, Start};
use faas::protocol::worker_protocol::{End, Invocation, Kind, Verdict, decode};
use faas::sys;

use crate::floors::{ByteServer, Vigil};
use crate::table::{Outcome, Row, Samples, Unit, failed, take_turns};

const ROUNDS: usize = 9;
const TRIPS: usize = 2000;
const GOAL_US: f64 = 50.0;

pub fn measure() -> Outcome<Vec<Row>> {
    let own = OwnWorker::start()?;
    let mut worker = UnixStream::connect(own.folder.join("worker_0.sock")).map_err(failed("reach a worker"))?;
    let frame = frame()?;
    let mut floor = ByteServer::start()?;
    let mut measure = || {
        take_turns(
            ROUNDS,
            [&mut || median_us(|| invoke(&mut worker, &frame)), &mut || {
                median_us(|| ping(&mut floor.near).map_err(failed("send a byte")))
            }],
        )
    };
    let beside = |row: Row, [hop, floor]: [&Samples; 2]| {
        row.beside("one byte to another process and back", floor, Unit::Microseconds, &hop.ratio_to(floor))
    };
    let [asleep, floor_asleep] = measure()?;
    let vigil = Vigil::begin()?;
    let [awake, floor_awake] = measure()?;
    drop(vigil);
    let what = "gateway to worker and back, no process started, processors kept awake";
    let row = Row::new(what, "≤ 50 µs", awake.show(Unit::Microseconds), awake.median() <= GOAL_US);
    let what = "the same on a machine at rest, whose processors sleep in between";
    let at_rest = Row::without_goal(what, asleep.show(Unit::Microseconds));
    Ok(vec![beside(row, [&awake, &floor_awake]), beside(at_rest, [&asleep, &floor_asleep])])
}

/// A worker whose gateway we are, for as long as the value lives: it ends when its metrics stream does.
struct OwnWorker {
    folder: PathBuf,
    process: Child,
    /// Locked: that makes us the gateway.
    _pid_file: File,
    metrics: UnixStream,
}

impl OwnWorker {
    fn start() -> Outcome<OwnWorker> {
        let folder = std::env::temp_dir().join(format!("faas-bench-hop-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(failed("create a run dir"))?;
        let pid_file = File::create(folder.join("gateway.pid")).map_err(failed("create a pid file"))?;
        sys::try_lock(&pid_file, 0).map_err(failed("lock a pid file"))?;
        let listener = UnixListener::bind(folder.join("metrics.sock")).map_err(failed("open a socket"))?;
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_worker")));
        command.arg("0").env("FAAS_RUN_DIR", &folder).env("FAAS_DB", folder.join("faas_meta.db"));
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(failed("start a worker"))?;
        let (metrics, _) = listener.accept().map_err(failed("hear of a worker"))?;
        Ok(OwnWorker { folder, process, _pid_file: pid_file, metrics })
    }
}

impl Drop for OwnWorker {
    fn drop(&mut self) {
        let _ = self.metrics.shutdown(std::net::Shutdown::Both);
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
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

/// The frame of an invocation with an environment such as a browser's request makes it.
fn frame() -> Outcome<Vec<u8>> {
    let spec = FunctionSpec {
        route: "GET:/missing".into(),
        name: "missing".into(),
        runtime: Runtime::Native,
        module: "/nonexistent/module".into(),
        handler: String::new(),
        start: Start::Auto,
        engine: Engine::Auto,
        output: Output::Auto,
        memory_mib: 128,
        scratch_mib: 1,
        timeout: Duration::from_secs(30),
        net: true,
        memfd: false,
        stream: false,
        on_hangup: OnHangup::Auto,
        write: Vec::new(),
        args: Vec::new(),
        dirs: Vec::new(),
        ini: Vec::new(),
    };
    let environment: String = (0..24).map(|n| format!("HTTP_FIELD_{n}=a value of common length, {n}\0")).collect();
    let frame = Invocation::encode(&spec.encode(), environment.as_bytes(), "0123456789abcdef", b"{\"name\":\"Alice\"}");
    frame.map_err(failed("encode an invocation"))
}

/// One invocation, as the gateway's worker link does it.
fn invoke(worker: &mut UnixStream, frame: &[u8]) -> Outcome<()> {
    worker.write_all(frame).map_err(failed("write to a worker"))?;
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

fn ping(near: &mut UnixStream) -> std::io::Result<()> {
    let mut byte = [0];
    near.write_all(&byte)?;
    near.read_exact(&mut byte)
}
