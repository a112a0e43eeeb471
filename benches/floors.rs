//! Floors: programs that do the least that the same service takes.
//!
//! The servers run in a process of their own, as the gateway does: this program started again with [`SERVE`] and a name.
//! They print their address, and end when their stdin does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use faas::sys::{Watched, poll};

use crate::table::{Outcome, failed};

pub const SERVE: &str = "--serve-floor";
/// A thread per connection that reads until the empty line and writes a ready-made answer.
pub const ECHO: &str = "echo";
/// One byte, and the same byte back, over a Unix socket.
pub const BYTE: &str = "byte";
/// Nothing, all the time.
const SPIN: &str = "spin";

/// As long as the body of a 404 of ours.
const BODY_BYTES: usize = 160;

/// A server in a process of its own, for as long as the value lives.
pub struct FloorServer {
    process: Child,
    pub address: SocketAddr,
}

impl FloorServer {
    pub fn start(name: &str) -> Outcome<FloorServer> {
        let own = std::env::current_exe().map_err(failed("find this program"))?;
        let mut command = Command::new(own);
        command.args([SERVE, name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(failed("start a floor"))?;
        let mut line = String::new();
        let stdout = process.stdout.take().expect("stdout is a pipe");
        BufReader::new(stdout).read_line(&mut line).map_err(failed("read a floor's address"))?;
        let address = line.trim().parse().map_err(failed("read a floor's address"))?;
        Ok(FloorServer { process, address })
    }
}

impl Drop for FloorServer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A process that waits for a byte as a worker waits for a frame, and sends it back; `near` is our end of its socket.
pub struct ByteServer {
    process: Child,
    pub near: UnixStream,
}

impl ByteServer {
    pub fn start() -> Outcome<ByteServer> {
        let (near, far) = UnixStream::pair().map_err(failed("make a socket pair"))?;
        let own = std::env::current_exe().map_err(failed("find this program"))?;
        let far = std::os::fd::OwnedFd::from(far);
        let process = Command::new(own).args([SERVE, BYTE]).stdin(far).spawn().map_err(failed("start a floor"))?;
        Ok(ByteServer { process, near })
    }
}

impl Drop for ByteServer {
    fn drop(&mut self) {
        let _ = self.near.shutdown(std::net::Shutdown::Both);
        let _ = self.process.wait();
    }
}

fn send_back_each_byte() {
    let stdin = std::io::stdin();
    let socket = stdin.as_fd().try_clone_to_owned().map(UnixStream::from).expect("stdin is a socket");
    let mut byte = [0];
    while poll(&mut [Watched::read(socket.as_fd())], None).is_ok() && matches!((&socket).read(&mut byte), Ok(1)) {
        let _ = (&socket).write_all(&byte);
    }
}

/// Keeps the processors awake, at the lowest priority: a virtual one that has gone to sleep takes 20 µs to be woken, which says
/// something about the machine below and nothing about what is measured.
pub struct Vigil(Vec<Child>);

impl Vigil {
    pub fn begin() -> Outcome<Vigil> {
        let own = std::env::current_exe().map_err(failed("find this program"))?;
        let mut vigil = Vigil(Vec::new());
        for _ in 0..std::thread::available_parallelism().map_or(1, |cores| cores.get()) {
            let mut command = Command::new("nice");
            let command = command.args(["-n", "19"]).arg(&own).args([SERVE, SPIN]).stdin(Stdio::piped());
            vigil.0.push(command.spawn().map_err(failed("keep a processor awake"))?);
        }
        Ok(vigil)
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        for process in &mut self.0 {
            drop(process.stdin.take());
            let _ = process.wait();
        }
    }
}

fn spin() {
    let is_over = std::sync::Arc::new(AtomicBool::new(false));
    let ours = is_over.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        is_over.store(true, Ordering::Relaxed);
    });
    while !ours.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

/// The life of such a process.
pub fn serve(name: &str) {
    match name {
        BYTE => return send_back_each_byte(),
        SPIN => return spin(),
        _ => {}
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback is free");
    println!("{}", listener.local_addr().expect("a listener has an address"));
    std::thread::spawn(move || serve_each(&listener, answer_each));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn serve_each(listener: &TcpListener, serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + Copy + 'static) {
    for client in listener.incoming().flatten() {
        let _ = client.set_nodelay(true);
        // That the client ends the connection is how each of them ends.
        std::thread::spawn(move || serve(client).ok());
    }
}

fn answer_each(mut client: TcpStream) -> std::io::Result<()> {
    let answer = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {BODY_BYTES}\r\n\r\n{}", "x".repeat(BODY_BYTES));
    let mut buffer = [0; 4096];
    let mut filled = 0;
    loop {
        match client.read(&mut buffer[filled..])? {
            0 => return Ok(()),
            count => filled += count,
        }
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            client.write_all(answer.as_bytes())?;
        }
    }
}

/// Programs that are started bare, with pipes and nothing around: what a platform that starts a process per request
/// cannot beat. std starts them by posix_spawn, which is at least as fast as the C original's fork and exec.
///
/// On a machine that is busy with something else the comparison errs in our favour: our functions have sessions of their
/// own, and Linux, where sched_autogroup is on, shares the processors out by session.
pub struct BareSpawn<'a> {
    pub program: &'a Path,
    pub arguments: &'a [&'a str],
    pub input: &'a [u8],
}

impl BareSpawn<'_> {
    /// Runs per second, from this many threads, each waiting for one run after the other.
    pub fn per_s(&self, threads: usize, time: Duration) -> Outcome<f64> {
        let runs = AtomicU64::new(0);
        let has_failed = AtomicBool::new(false);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while began.elapsed() < time {
                        match self.run() {
                            Ok(()) => runs.fetch_add(1, Ordering::Relaxed),
                            Err(_) => return has_failed.store(true, Ordering::Relaxed),
                        };
                    }
                });
            }
        });
        match has_failed.load(Ordering::Relaxed) {
            true => self.run().map(|()| f64::NAN),
            false => Ok(runs.into_inner() as f64 / began.elapsed().as_secs_f64()),
        }
    }

    /// The median time of a run, in microseconds.
    pub fn latency_us(&self, time: Duration) -> Outcome<f64> {
        let mut samples = crate::table::Samples::default();
        let began = Instant::now();
        while began.elapsed() < time {
            let run_began = Instant::now();
            self.run()?;
            samples.push(run_began.elapsed().as_secs_f64() * 1e6);
        }
        Ok(samples.median())
    }

    fn run(&self) -> Outcome<()> {
        let mut command = Command::new(self.program);
        command.args(self.arguments).stdout(Stdio::piped());
        command.stdin(if self.input.is_empty() { Stdio::null() } else { Stdio::piped() });
        let mut run = || {
            let mut process = command.spawn()?;
            if let Some(mut stdin) = process.stdin.take() {
                stdin.write_all(self.input)?;
            }
            let mut output = Vec::new();
            process.stdout.take().expect("stdout is a pipe").read_to_end(&mut output)?;
            process.wait()
        };
        let status = run().map_err(failed("run a program"))?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("{} ended with {status}", self.program.display())),
        }
    }
}
