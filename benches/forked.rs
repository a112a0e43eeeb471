//! Functions whose process is forked: PHP and WASM through the whole system, beside a bare fork server, which is the same
//! parent driven over its socket without gateway and worker, and beside what others do for the same promise.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use faas::limits::MEMORY_MIB_DEFAULT;
use faas::protocol::function_spec::{Runtime, push};
use faas::sys::{self, Spawn, Watched};
use faas::worker::fork_server::{ForkServer, Word};

use crate::table::{Outcome, Samples, failed};

const READY_MAX: Duration = Duration::from_secs(20);
const CHILDREN_AHEAD_MAX: usize = 8;

/// Fork servers without anything around them, one for each thread that drives them, as there is one for each worker. Children
/// get what a worker would send them, but no rulesets.
pub struct BareForkServers {
    servers: Vec<Arc<ForkServer>>,
    /// Settings and environment, as a child gets them.
    message: Vec<u8>,
    /// The body of each invocation.
    input: Vec<u8>,
    null: File,
}

impl BareForkServers {
    pub fn start(runtime: Runtime, module: &Path, input: &[u8], count: usize) -> Outcome<BareForkServers> {
        let program = program(runtime)?;
        let null = File::open("/dev/null").map_err(failed("open /dev/null"))?;
        let artifact = artifact(runtime, &program, module)?;
        let message = message(module, artifact.as_deref(), input.len());
        let mut bare = BareForkServers { servers: Vec::new(), message, input: input.to_vec(), null };
        for _ in 0..count {
            let server = Arc::new(bare.start_one(&program)?);
            bare.servers.push(server.clone());
            wait_until(&server, |word| *word == Word::Ready)?;
            // As a worker does when a module is first called.
            server.prepare(&prepare_settings(module, artifact.as_deref()));
            wait_until(&server, |word| matches!(word, Word::Prepared { .. } | Word::Unpreparable { .. }))?;
            server.dismiss();
        }
        Ok(bare)
    }

    fn start_one(&self, program: &Path) -> Outcome<ForkServer> {
        let name = CString::new(program.as_os_str().as_bytes()).map_err(failed("name the program"))?;
        let path = [b"PATH=", std::env::var_os("PATH").unwrap_or_default().as_bytes(), b"\0"].concat();
        let (control, theirs) = sys::packet_pair().map_err(failed("make sockets"))?;
        let process = sys::spawn(&Spawn {
            program: &name,
            arguments: &[name.clone(), c"serve".into()],
            environment: &path,
            folder: Some(c"/"),
            stdin: self.null.as_fd(),
            stdout: std::io::stderr().as_fd(),
            stderr: std::io::stderr().as_fd(),
            control: Some(theirs.as_fd()),
            confinement: None,
            group: None,
        });
        let process = process.map_err(|error| format!("could not {}: {}", error.step, error.cause))?;
        Ok(ForkServer::new(control, process, CHILDREN_AHEAD_MAX))
    }

    /// Runs per second, from one thread for each fork server, each waiting for one run after the other.
    pub fn per_s(&self, time: Duration) -> Outcome<f64> {
        let runs = AtomicU64::new(0);
        let has_failed = AtomicBool::new(false);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for server in &self.servers {
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
            true => self.run(&self.servers[0]).map(|()| f64::NAN),
            false => Ok(runs.into_inner() as f64 / began.elapsed().as_secs_f64()),
        }
    }

    /// The median time of a run, in microseconds.
    pub fn latency_us(&self, time: Duration) -> Outcome<f64> {
        let mut samples = Samples::default();
        let began = Instant::now();
        while began.elapsed() < time {
            let run_began = Instant::now();
            self.run(&self.servers[0])?;
            samples.push(run_began.elapsed().as_secs_f64() * 1e6);
        }
        Ok(samples.median())
    }

    /// One invocation: until its output is there and it says that it is through, or has ended.
    fn run(&self, server: &Arc<ForkServer>) -> Outcome<()> {
        let mut child = server.take().ok_or("the fork server did not fork in time")?;
        let (mut stdout, for_child) = std::io::pipe().map_err(failed("make a pipe"))?;
        let (stdin, mut body) = std::io::pipe().map_err(failed("make a pipe"))?;
        body.write_all(&self.input).map_err(failed("write a body"))?;
        drop(body);
        let streams = [stdin.as_fd(), for_child.as_fd(), self.null.as_fd()];
        child.start(&self.message, &streams).map_err(failed("start a child"))?;
        drop((for_child, stdin));
        let mut watched = [child.channel().map_or_else(Watched::nothing, Watched::read), Watched::read(child.pidfd())];
        sys::poll(&mut watched, None).map_err(failed("wait for a child"))?;
        child.listen();
        let mut output = [0; 4096];
        let count = stdout.read(&mut output).map_err(failed("read what it says"))?;
        server.replenish();
        child.kill();
        sys::poll(&mut [Watched::read(child.pidfd())], None).map_err(failed("wait for its end"))?;
        if count == 0 { Err("the function said nothing".into()) } else { Ok(()) }
    }
}

impl Drop for BareForkServers {
    fn drop(&mut self) {
        for server in &self.servers {
            let process = server.process();
            sys::kill_process(process.pidfd.as_fd());
            let _ = sys::poll(&mut [Watched::read(process.pidfd.as_fd())], None);
            let _ = sys::reap(process.pid);
        }
    }
}

/// Where runtimes/build.sh puts it: in the folder of the release.
fn program(runtime: Runtime) -> Outcome<PathBuf> {
    let folder = Path::new(env!("CARGO_BIN_EXE_worker")).parent().ok_or("a program lies in a folder")?;
    let program = folder.with_file_name("release").join(format!("faas-{}", runtime.as_str()));
    if program.exists() { Ok(program) } else { Err(format!("{} is not built", program.display())) }
}

/// A WASM module compiled, in a file that lives as long as the machine's temporary folder.
fn artifact(runtime: Runtime, program: &Path, module: &Path) -> Outcome<Option<PathBuf>> {
    if runtime != Runtime::Wasm {
        return Ok(None);
    }
    let artifact = std::env::temp_dir().join(format!("faas-bench-{}.compiled", std::process::id()));
    let source = File::open(module).map_err(failed("open the module"))?;
    let target = File::create(&artifact).map_err(failed("make a file"))?;
    let mut compiler = std::process::Command::new(program);
    let status = compiler.arg("compile").stdin(source).stdout(target).status().map_err(failed("compile"))?;
    if status.success() { Ok(Some(artifact)) } else { Err("the module could not be compiled".into()) }
}

fn prepare_settings(module: &Path, artifact: Option<&Path>) -> Vec<u8> {
    let mut settings = Vec::new();
    push(&mut settings, "module", module.as_os_str().as_bytes());
    push(&mut settings, "version", b"bench");
    if let Some(artifact) = artifact {
        push(&mut settings, "artifact", artifact.as_os_str().as_bytes());
    }
    settings
}

fn message(module: &Path, artifact: Option<&Path>, content_length: usize) -> Vec<u8> {
    let mut settings = prepare_settings(module, artifact);
    let folder = module.parent().unwrap_or(Path::new("/"));
    push(&mut settings, "folder", folder.as_os_str().as_bytes());
    let memory = MEMORY_MIB_DEFAULT.to_string();
    let data = (MEMORY_MIB_DEFAULT + 64).to_string();
    let rest = [("route", "GET:/bench"), ("memory_mib", &memory), ("data_mib_max", &data), ("net", "1")];
    for (name, value) in rest.into_iter().chain([("output", "auto"), ("dev", "0")]) {
        push(&mut settings, name, value.as_bytes());
    }
    let mut environment = environment(content_length);
    push(&mut environment, "SCRIPT_FILENAME", module.as_os_str().as_bytes());
    let lengths = [settings.len(), environment.len()].map(|length| (length as u32).to_le_bytes());
    [lengths.as_flattened(), &settings, &environment].concat()
}

fn wait_until(server: &ForkServer, is_it: impl Fn(&Word) -> bool) -> Outcome<()> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        match server.listen() {
            Word::End => return Err("the fork server has ended".into()),
            Word::Nothing => {
                let left = deadline.saturating_duration_since(Instant::now());
                let ready = sys::poll(&mut [Watched::read(server.control())], Some(left));
                if ready.map_err(failed("wait for a fork server"))? == 0 {
                    return Err("the fork server says nothing".into());
                }
            }
            word if is_it(&word) => return Ok(()),
            _ => {}
        }
    }
}

/// The environment of a small request. A fork server itself needs only the first variable.
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
