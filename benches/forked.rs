//! Functions whose process is forked: PHP and WASM through the whole system, beside a bare fork server, which is the same
//! parent driven over its socket without gateway and worker, and beside what others do for the same promise.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use faas::limits::MEMORY_MIB_DEFAULT;
use faas::protocol::function_spec::Runtime;
use faas::sandbox::Sandbox;
use faas::settings::Settings;
use faas::sys::{self, Spawn, Spawned, Watched};
use faas::worker::fork_server::{ForkServer, wait_until_ready};
use faas::worker::fork_servers::{Key, Version};
use faas::worker::runtime::{Runtimes, server_command};

use crate::table::{Outcome, Samples, failed};

const READY_MAX: Duration = Duration::from_secs(20);
const CHILDREN_AHEAD_MAX: usize = 8;

/// Fork servers for one module without anything around them, one for each thread that drives them, as there is one for each
/// worker. Children get what a worker would send them, but no rulesets.
pub struct BareForkServers {
    servers: Vec<(ForkServer, Spawned)>,
    folder: PathBuf,
    environment: Vec<u8>,
    /// The body of each invocation.
    input: Vec<u8>,
    null: File,
}

impl BareForkServers {
    pub fn start(runtime: Runtime, module: &Path, input: &[u8], count: usize) -> Outcome<BareForkServers> {
        let folder = std::env::temp_dir().join(format!("faas-bench-forked-{}", std::process::id()));
        let programs = Path::new(env!("CARGO_BIN_EXE_worker")).parent().ok_or("a program lies in a folder")?;
        let runtimes = Runtimes::new(folder.clone(), programs).map_err(failed("write the runtimes' files"))?;
        let settings = Settings::from_lookup(|_| None).map_err(failed("take the default settings"))?;
        let sandbox = Sandbox::new(&settings).map_err(failed("look at the sandbox"))?;
        let metadata = std::fs::metadata(module).map_err(failed("look at the module"))?;
        let key = Key {
            runtime,
            module: module.to_path_buf(),
            version: Version::of(&metadata),
            handler: String::new(),
            memory_mib: MEMORY_MIB_DEFAULT,
            net: true,
            dirs: Vec::new(),
        };
        let command = server_command(&runtimes, &sandbox, &key)?;
        let environment = environment(input.len());
        let path = [b"PATH=", std::env::var_os("PATH").unwrap_or_default().as_bytes(), b"\0"].concat();
        let null = File::open("/dev/null").map_err(failed("open /dev/null"))?;
        let mut bare = BareForkServers { servers: Vec::new(), folder, environment, input: input.to_vec(), null };
        for _ in 0..count {
            let allowance = Arc::new(AtomicUsize::new(CHILDREN_AHEAD_MAX));
            let (server, control) = ForkServer::new(CHILDREN_AHEAD_MAX, allowance).map_err(failed("make sockets"))?;
            let process = sys::spawn(&Spawn {
                program: &command.program,
                arguments: &command.arguments,
                environment: &path,
                folder: Some(c"/"),
                stdin: bare.null.as_fd(),
                stdout: std::io::stderr().as_fd(),
                stderr: std::io::stderr().as_fd(),
                control: Some(control.as_fd()),
                confinement: None,
            });
            let process = process.map_err(|error| format!("could not {}: {}", error.step, error.cause))?;
            drop(control);
            bare.servers.push((server, process));
            let (server, _) = bare.servers.last().expect("it was just put there");
            wait_until_ready(server, READY_MAX).map_err(failed("wait for a fork server"))?;
        }
        Ok(bare)
    }

    /// Runs per second, from one thread for each fork server, each waiting for one run after the other.
    pub fn per_s(&self, time: Duration) -> Outcome<f64> {
        let runs = AtomicU64::new(0);
        let has_failed = AtomicBool::new(false);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for (server, _) in &self.servers {
                let (runs, has_failed) = (&runs, &has_failed);
                scope.spawn(move || {
                    while began.elapsed() < time {
                        match self.run(server) {
                            Ok(()) => runs.fetch_add(1, Ordering::Relaxed),
                            Err(_) => return has_failed.store(true, Ordering::Relaxed),
                        };
                    }
                });
            }
        });
        match has_failed.load(Ordering::Relaxed) {
            true => self.run(&self.servers[0].0).map(|()| f64::NAN),
            false => Ok(runs.into_inner() as f64 / began.elapsed().as_secs_f64()),
        }
    }

    /// The median time of a run, in microseconds.
    pub fn latency_us(&self, time: Duration) -> Outcome<f64> {
        let mut samples = Samples::default();
        let began = Instant::now();
        while began.elapsed() < time {
            let run_began = Instant::now();
            self.run(&self.servers[0].0)?;
            samples.push(run_began.elapsed().as_secs_f64() * 1e6);
        }
        Ok(samples.median())
    }

    /// One invocation: until its output is there and it says that it is through, or has ended.
    fn run(&self, server: &ForkServer) -> Outcome<()> {
        let child = server.take().ok_or("the fork server did not fork in time")?;
        let (mut stdout, for_child) = std::io::pipe().map_err(failed("make a pipe"))?;
        let (stdin, mut body) = std::io::pipe().map_err(failed("make a pipe"))?;
        body.write_all(&self.input).map_err(failed("write a body"))?;
        drop(body);
        let streams = [stdin.as_fd(), for_child.as_fd(), self.null.as_fd()];
        let (process, mut channel) = child.start(&self.environment, &streams).map_err(failed("start a child"))?;
        drop((for_child, stdin));
        let mut watched = [Watched::read(channel.as_fd()), Watched::read(process.pidfd.as_fd())];
        sys::poll(&mut watched, None).map_err(failed("wait for a child"))?;
        channel.listen();
        sys::kill_process(process.pidfd.as_fd());
        let mut output = [0; 4096];
        let count = stdout.read(&mut output).map_err(failed("read what it says"))?;
        server.replenish();
        sys::poll(&mut [Watched::read(process.pidfd.as_fd())], None).map_err(failed("wait for its end"))?;
        sys::reap(process.pid).map_err(failed("take note of its end"))?;
        if count == 0 { Err("the function said nothing".into()) } else { Ok(()) }
    }
}

impl Drop for BareForkServers {
    fn drop(&mut self) {
        for (server, process) in &self.servers {
            sys::kill_process(process.pidfd.as_fd());
            let _ = sys::poll(&mut [Watched::read(process.pidfd.as_fd())], None);
            let _ = sys::reap(process.pid);
            server.dismiss_all();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What a small request makes of it. The first is all that a fork server itself needs.
fn environment(content_length: usize) -> Vec<u8> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let method = if content_length == 0 { "REQUEST_METHOD=GET" } else { "REQUEST_METHOD=POST" };
    let own = [[b"PATH=", path.as_bytes()].concat(), format!("CONTENT_LENGTH={content_length}").into_bytes()];
    let fixed = [
        "GATEWAY_INTERFACE=CGI/1.1",
        "SERVER_SOFTWARE=faas",
        "SERVER_PROTOCOL=HTTP/1.1",
        "SERVER_NAME=bench",
        "SERVER_PORT=8080",
        method,
        "REQUEST_URI=/bench",
        "SCRIPT_NAME=/bench",
        "PATH_INFO=",
        "QUERY_STRING=",
        "REMOTE_ADDR=127.0.0.1",
        "REMOTE_PORT=1",
        "FAAS_REQUEST_ID=0123456789abcdef",
        "FAAS_FUNCTION=bench",
        "FAAS_HANDLER=",
        "FAAS_OUTPUT=auto",
        "HTTP_HOST=bench",
        "TMPDIR=/tmp",
    ];
    let all = own.into_iter().chain(fixed.map(|pair| pair.as_bytes().to_vec()));
    all.flat_map(|pair| [pair, vec![0]].concat()).collect()
}
