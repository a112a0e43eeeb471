//! An instance of the platform in a temporary folder, with operations for tests.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::Answer;

pub const GATEWAY: &str = env!("CARGO_BIN_EXE_gateway");
pub const WORKER: &str = env!("CARGO_BIN_EXE_worker");
pub const CONSOLE: &str = env!("CARGO_BIN_EXE_console");

/// Longest wait of a test for a condition. On an idle machine each condition takes milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Held while a program is started or written. Before its exec, a child has all our descriptors for a moment. If one of
/// them is open for writing on a program, the kernel does not execute that program ("text file busy").
static STARTING: Mutex<()> = Mutex::new(());

/// A gateway with its workers. The drop stops it, and prints its log if the test has failed.
pub struct Instance {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    process: Option<Child>,
    /// Gateways that a successor has replaced.
    former: Vec<Child>,
    address: Option<SocketAddr>,
    files: AtomicU32,
    /// The gateway's user, if it is not the test's.
    user: Option<u32>,
    /// Processes known to belong to it, with their start times.
    seen: Mutex<HashSet<(u32, u64)>>,
}

impl Instance {
    /// Started with the example functions in the registry, and ready.
    pub fn start() -> Instance {
        Instance::with(&[])
    }

    /// Like [`Instance::start`], with settings that differ from those of [`Instance::prepare`].
    pub fn with(settings: &[(&str, &str)]) -> Instance {
        let mut instance = Instance::prepare(settings);
        instance.init();
        instance.launch();
        instance.wait_until_ready();
        instance
    }

    /// Not started, and without a registry. Its environment is `settings`, and of ours only PATH and HOME.
    pub fn prepare(settings: &[(&str, &str)]) -> Instance {
        let folder = tempfile::Builder::new().prefix("faas-it-").tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name).display().to_string();
        let mut environment: Vec<(String, String)> = [
            ("PATH", path_with_programs()),
            ("HOME", std::env::var("HOME").unwrap_or("/".into())),
            ("FAAS_HOST", "127.0.0.1".into()),
            ("FAAS_PORT", "0".into()),
            ("FAAS_WORKERS", "2".into()),
            ("FAAS_CONSOLE", String::new()),
            ("FAAS_DB", inside("registry.db")),
            ("FAAS_RUN_DIR", inside("run")),
            ("FAAS_SPOOL_DIR", inside("spool")),
            ("FAAS_CODE_DIR", inside("code")),
            ("FAAS_MODULE_ROOT", env!("CARGO_MANIFEST_DIR").into()),
            // No test waits for calls that still run at its end.
            ("FAAS_DRAIN_MS", "200".into()),
        ]
        .map(|(name, value)| (name.to_string(), value))
        .to_vec();
        for (name, value) in settings {
            environment.retain(|(other, _)| other != name);
            environment.push((name.to_string(), value.to_string()));
        }
        // Functions may run as another user. They may read here, and write to the shared folder.
        for (name, mode) in [("", 0o755), ("spool", 0o755), ("shared", 0o777)] {
            let path = folder.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        Instance {
            folder,
            environment,
            process: None,
            former: Vec::new(),
            address: None,
            files: AtomicU32::new(0),
            user: None,
            seen: Mutex::default(),
        }
    }

    /// Has the gateway run as another user, who gets the folder. It holds copies of the programs, since ours may lie in
    /// a home that the user cannot enter. Call this before [`Instance::init`]; only root can.
    pub fn run_as(&mut self, user: u32) {
        self.copy_programs();
        let entries = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        for path in entries.chain([self.folder.path().to_path_buf()]) {
            chown(path, Some(user), Some(user)).unwrap();
        }
        self.user = Some(user);
    }

    /// True if neither the test nor the gateway runs as root.
    pub fn is_run_as_plain_user(&self) -> bool {
        self.user.is_some() || fs::read_dir("/proc/1/fd").is_err()
    }

    fn copy_programs(&self) {
        for program in [GATEWAY, WORKER, CONSOLE].map(Path::new) {
            self.program(program.file_name().unwrap().to_str().unwrap(), fs::read(program).unwrap());
        }
    }

    /// Creates the registry as a user would.
    pub fn init(&self) {
        let output = self.gateway(&["--init"]);
        assert!(output.status.success(), "{output:?}");
    }

    /// Starts the gateway, whose output goes to `log()`, and waits until it listens.
    pub fn launch(&mut self) {
        self.launch_as(self.command(GATEWAY));
    }

    /// Like [`Instance::launch`], from copies of the programs without faas-wasm beside them.
    pub fn launch_copies(&mut self) {
        self.copy_programs();
        self.launch_as(self.command(self.path("gateway").to_str().unwrap()));
    }

    /// Like [`Instance::launch`], at a terminal of its own. The terminal closes when the process of
    /// [`Instance::gateway_pid`] is killed.
    pub fn launch_at_terminal(&mut self) {
        let mut command = self.command("script");
        command.args(["-qec", &format!("exec {GATEWAY}"), "/dev/null"]);
        self.launch_as(command);
    }

    /// Starts a gateway that is to succeed this one, and returns its process id.
    pub fn start_successor(&mut self) -> u32 {
        let log = OpenOptions::new().append(true).open(self.path("gateway.log")).unwrap();
        let mut command = self.command(GATEWAY);
        command.arg("--succeed").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.former.push(start(&mut command));
        self.former.last().unwrap().id()
    }

    /// Like [`Instance::start_successor`]; from here on the successor is this instance's gateway.
    pub fn launch_successor(&mut self) {
        self.start_successor();
        let successor = self.former.pop();
        self.former.extend(std::mem::replace(&mut self.process, successor));
    }

    /// Like [`Instance::launch`], by a program that executes the gateway.
    pub fn launch_by(&mut self, program: &str, arguments: &[&str]) {
        let mut command = self.command(program);
        command.args(arguments);
        self.launch_as(command);
    }

    /// Like [`Instance::launch`], where no user namespaces can be made: in one that may have none in it.
    pub fn launch_without_user_namespaces(&mut self) {
        let gateway = self.command(GATEWAY).get_program().display().to_string();
        let script = format!(
            "echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --inh-caps=-all --ambient-caps=-all {gateway}"
        );
        self.launch_by("unshare", &["--user", "--map-current-user", "--keep-caps", "sh", "-c", &script]);
    }

    /// Like [`Instance::launch`], with a log that `cat` writes out of a pipe.
    pub fn launch_into_pipe(&mut self) {
        let mut command = self.command("sh");
        // The shell becomes the gateway, which holds the pipe open.
        command.args(["-c", &format!("mkfifo pipe && (cat pipe >>gateway.log &) && exec {GATEWAY} >pipe 2>&1")]);
        self.launch_as(command);
    }

    /// Like [`Instance::launch`], with limits that a shell sets first: `ulimit -n 200`.
    pub fn launch_under(&mut self, limits: &str) {
        let mut command = self.command("sh");
        command.args(["-c", &format!("{limits} && exec {GATEWAY}")]);
        self.launch_as(command);
    }

    /// Like [`Instance::launch`], in the control group of this folder, or in the one below it that an earlier gateway has
    /// made: a group that lends controllers takes no processes.
    pub fn launch_in_group(&mut self, group: &Path) {
        let programs = group.join("faas-programs");
        let own = if programs.exists() { programs.as_path() } else { group };
        self.launch_under(&format!("echo $$ >{}/cgroup.procs", own.display()));
    }

    /// Like [`Instance::launch`], in the network namespace that `ip netns` knows by this name.
    #[allow(dead_code)] // for tests/machines
    pub fn launch_in(&mut self, namespace: &str) {
        let mut command = self.command("ip");
        command.args(["netns", "exec", namespace, GATEWAY]);
        self.launch_as(command);
    }

    /// Changes a setting from the next launch on.
    #[allow(dead_code)] // for tests/machines
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.to_string(), value.to_string()));
    }

    fn launch_as(&mut self, mut command: Command) {
        let _ = fs::remove_file(self.run_dir().join("gateway.address"));
        let log = OpenOptions::new().create(true).append(true).open(self.path("gateway.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(start(&mut command));
        let address_file = self.run_dir().join("gateway.address");
        let address = wait_for("the gateway listens", || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the gateway ended at once: {ended:?}: {}", self.log());
            fs::read_to_string(&address_file).ok()?.strip_suffix('\n')?.parse().ok()
        });
        self.address = Some(address);
    }

    /// Waits until the registry is loaded and all workers have announced themselves.
    pub fn wait_until_ready(&self) {
        let count: usize = self.setting("FAAS_WORKERS").parse().unwrap();
        wait_until("the instance is ready", || {
            self.get("/healthz").status == 200 && self.status()["workers"].as_array().unwrap().len() == count
        });
        wait_until("its start is logged", || !self.log_lines("gateway: listening on ").is_empty());
    }

    // ---- Places ---------------------------------------------------------------------------------------------------

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder that functions may write to and know as `$IT_FOLDER`.
    pub fn shared(&self, name: &str) -> PathBuf {
        self.path("shared").join(name)
    }

    pub fn run_dir(&self) -> PathBuf {
        self.setting("FAAS_RUN_DIR").into()
    }

    pub fn db(&self) -> PathBuf {
        self.setting("FAAS_DB").into()
    }

    pub fn address(&self) -> SocketAddr {
        self.address.expect("the instance was launched")
    }

    fn setting(&self, name: &str) -> &str {
        &self.environment.iter().find(|(other, _)| other == name).unwrap().1
    }

    /// All output of gateway, workers and functions so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("gateway.log")).unwrap_or_default()).into_owned()
    }

    /// The log lines that contain `text`.
    pub fn log_lines(&self, text: &str) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(text)).map(str::to_string).collect()
    }

    /// Waits until the log has at least `least` lines that contain `text`, and returns them. Threads of their own write
    /// the log, so a line may come after the response that it is about.
    pub fn wait_for_log(&self, text: &str, least: usize) -> Vec<String> {
        wait_for(&format!("{text:?} is logged"), || Some(self.log_lines(text)).filter(|lines| lines.len() >= least))
    }

    // ---- Registry and functions -----------------------------------------------------------------------------------

    /// A connection to the registry that waits for locks.
    pub fn registry(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.db()).unwrap();
        connection.busy_timeout(WAIT_MAX).unwrap();
        connection
    }

    /// Runs the sqlite3 program on the registry with the statements on stdin, as a person would.
    pub fn sqlite3(&self, sql: &str) -> Output {
        let mut command = Command::new("sqlite3");
        command.arg(self.db()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = start(&mut command);
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Writes rows in one transaction and waits until they are in service.
    pub fn install(&self, rows: &[(&str, Value)]) {
        let changes = || self.log_lines("registry: ").iter().filter(|line| line.contains(" is in service: ")).count();
        let before = changes();
        let mut registry = self.registry();
        let transaction = registry.transaction().unwrap();
        for (key, descriptor) in rows {
            let sql = "INSERT OR REPLACE INTO functions (k, v, updated) VALUES (?1, ?2, strftime('%s','now'))";
            transaction.execute(sql, (key, descriptor.to_string())).unwrap();
        }
        transaction.commit().unwrap();
        let newest = registry.query_row("SELECT max(id) FROM history", [], |row| row.get::<_, u64>(0));
        match newest {
            Ok(newest) => self.wait_for_generation(newest),
            // A table without history.
            Err(_) => wait_until("the rows are in service", || changes() > before),
        }
    }

    /// Waits until `generation` of the registry, or a later one, is in service.
    pub fn wait_for_generation(&self, generation: u64) {
        let in_service = || self.get("/healthz").json()["generation"].as_u64();
        wait_until(&format!("generation {generation} is in service"), || in_service() >= Some(generation));
    }

    /// Registers a function with this source text, and waits until it is in service. A `native` one names its
    /// interpreter in its first line; a `wasm` one is in text form. `more` holds further fields of the descriptor.
    pub fn function(&self, key: &str, runtime: &str, source: &str, more: Value) {
        self.install(&[(key, self.descriptor(runtime, source, more))]);
    }

    /// A native function that is a shell script.
    pub fn script(&self, key: &str, script: &str) {
        self.script_with(key, script, json!({}));
    }

    pub fn script_with(&self, key: &str, script: &str, more: Value) {
        self.function(key, "native", &format!("#!/bin/sh\n{script}\n"), more);
    }

    /// The descriptor of a function with this source text.
    pub fn descriptor(&self, runtime: &str, source: &str, more: Value) -> Value {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let name = format!("function-{number}.{runtime}");
        let module = match runtime {
            "wasm" => self.program(&name, wat::parse_str(source).unwrap()),
            _ => self.program(&name, source),
        };
        let shared = self.path("shared");
        let mut descriptor =
            json!({"runtime": runtime, "module": module, "write": [shared], "env": {"IT_FOLDER": shared}});
        for (name, value) in more.as_object().unwrap() {
            descriptor[name] = value.clone();
        }
        descriptor
    }

    /// Writes an executable file into the instance's folder.
    pub fn program(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Compiles a C program and returns its path.
    pub fn compile(&self, name: &str, text: &str) -> PathBuf {
        let source = self.path(&format!("{name}.c"));
        fs::write(&source, text).unwrap();
        let program = self.path(name);
        let output = run(Command::new("cc").args(["-O1", "-o"]).arg(&program).arg(source));
        assert!(output.status.success(), "{output:?}");
        program
    }

    /// A gate: a named pipe, at which functions wait with `read _ < "$IT_FOLDER/NAME"`. Each newline that the test
    /// writes to the returned file lets one function through.
    pub fn gate(&self, name: &str) -> File {
        let path = self.shared(name);
        assert!(run(Command::new("mkfifo").args(["-m", "666"]).arg(&path)).status.success());
        OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    // ---- Requests -------------------------------------------------------------------------------------------------

    pub fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[], b"")
    }

    pub fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Answer {
        self.request("POST", target, &[], body.as_ref())
    }

    pub fn request(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_request(method, target, fields, body).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    /// One request on a connection of its own.
    pub fn try_request(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        if !fields.iter().any(|(name, _)| *name == "Host") {
            head += "Host: it\r\n";
        }
        if !body.is_empty() || method == "POST" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        let mut stream = connect(self.address())?;
        // A gateway that rejects a body need not read all of it; only its response matters.
        let _ = stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(body));
        Answer::read(&mut BufReader::new(stream), method == "HEAD")
    }

    /// A connection whose reads are bounded.
    pub fn connect(&self) -> BufReader<TcpStream> {
        BufReader::new(connect(self.address()).unwrap())
    }

    /// Sends these bytes on a connection and reads all responses until the gateway closes it.
    pub fn exchange(&self, bytes: impl AsRef<[u8]>) -> Vec<Answer> {
        let mut stream = self.connect();
        let _ = stream.get_mut().write_all(bytes.as_ref());
        let mut answers = Vec::new();
        while let Ok(answer) = Answer::read(&mut stream, false) {
            answers.push(answer);
        }
        answers
    }

    /// Calls a shell script that forks more than 256 times. As its own user, processes of other tests count as well
    /// (RLIMIT_NPROC), so that a fork can fail first, which ends the shell.
    #[allow(dead_code)] // for some of the test programs
    pub fn assert_process_limit(&self, target: &str) {
        let answer = self.get(target);
        let is_refused = answer.json()["type"] == "urn:faas:function-exited" && self.log().contains("Cannot fork");
        if !(self.is_run_as_plain_user() && is_refused) {
            assert!(answer.problem(500, "process-limit").contains("256 processes"));
        }
    }

    // ---- Processes ------------------------------------------------------------------------------------------------

    /// The gateway's state: one line of run/status.sock.
    pub fn status(&self) -> Value {
        let read_line = || {
            let stream = UnixStream::connect(self.run_dir().join("current/status.sock")).ok()?;
            stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).ok()?;
            serde_json::from_str(&line).ok()
        };
        // The gateway refuses more than a few clients at once.
        wait_for("the gateway says how it is", read_line)
    }

    /// The state of worker `id`, out of the gateway's.
    pub fn worker(&self, id: u32) -> Option<Value> {
        self.status()["workers"].as_array()?.iter().find(|worker| worker["id"] == id).cloned()
    }

    pub fn worker_pid(&self, id: u32) -> u32 {
        self.worker(id).unwrap()["pid"].as_u64().unwrap() as u32
    }

    pub fn gateway_pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// All living processes of this instance. Their environment names its folder, or they descend from its gateway, or
    /// an earlier call found them: a forked process has the environment of its fork server, which names no folder.
    pub fn processes(&self) -> Vec<u32> {
        let folder = self.folder.path().as_os_str().as_encoded_bytes();
        let names_folder = |pid: u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.windows(folder.len()).any(|window| window == folder)
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        let stats: Vec<(u32, Stat)> = pids.into_iter().filter_map(|pid| Some((pid, Stat::of(pid)?))).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let was_seen = |pid: u32, stat: &Stat| seen.contains(&(pid, stat.started));
        let gateway = self.process.as_ref().map(|process| process.id());
        let is_root = |(pid, stat): &&(u32, Stat)| Some(*pid) == gateway || was_seen(*pid, stat) || names_folder(*pid);
        let mut ours: Vec<u32> = stats.iter().filter(is_root).map(|(pid, _)| *pid).collect();
        let mut at = 0;
        while at < ours.len() {
            let children = stats.iter().filter(|(pid, stat)| stat.parent == ours[at] && !ours.contains(pid));
            let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
            ours.extend(children);
            at += 1;
        }
        // A zombie counts as ended.
        let living = stats.iter().filter(|(pid, stat)| ours.contains(pid) && stat.state != 'Z');
        let living: Vec<(u32, u64)> = living.map(|(pid, stat)| (*pid, stat.started)).collect();
        seen.extend(living.iter().copied());
        living.into_iter().map(|(pid, _)| pid).collect()
    }

    /// The processes of functions, without fork servers, their waiting children, and compilers.
    pub fn functions(&self) -> Vec<u32> {
        let is_platform = |pid: &u32| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let is_own = [GATEWAY, WORKER, CONSOLE].map(Path::new).contains(&program.as_path());
            let is_copy = ["gateway", "worker", "console"].map(|name| self.path(name)).contains(&program);
            is_own || is_copy || is_fork_server(*pid) || is_compiler(*pid)
        };
        self.processes().into_iter().filter(|pid| !is_platform(pid)).collect()
    }

    /// The fork servers: the leaders of their sessions.
    pub fn fork_servers(&self) -> Vec<u32> {
        let is_leader = |pid: u32| Stat::of(pid).is_some_and(|stat| stat.session == pid);
        self.processes().into_iter().filter(|pid| is_fork_server(*pid) && is_leader(*pid)).collect()
    }

    /// Calls a function until it gets a child of a fork server.
    pub fn warm(&self, target: &str) -> Answer {
        wait_for(&format!("{target} starts warm"), || Some(self.get(target)).filter(Answer::is_warm))
    }

    /// Sends SIGTERM and returns the gateway's exit status.
    pub fn stop(&mut self) -> ExitStatus {
        signal("TERM", self.gateway_pid());
        self.wait()
    }

    /// Waits until the gateway has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        let ended = poll_until(|| process.try_wait().unwrap());
        ended.unwrap_or_else(|| {
            process.kill().unwrap();
            process.wait().unwrap();
            panic!("the gateway did not end");
        })
    }

    /// Runs the gateway's program with arguments to its end, beside the running one.
    pub fn gateway(&self, arguments: &[&str]) -> Output {
        run(self.command(GATEWAY).args(arguments))
    }

    /// A command with this instance's environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(user) = self.user {
            let name = Path::new(program).file_name().expect("a program has a name");
            let copy = self.path(name.to_str().unwrap());
            if copy.exists() {
                command = Command::new(copy);
            }
            command.uid(user).gid(user);
        }
        command.env_clear().envs(self.environment.iter().cloned()).current_dir(self.folder.path());
        command
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("path=/healthz")).collect();
            eprintln!("---- the log's end ----\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        for mut process in self.process.take().into_iter().chain(self.former.drain(..)) {
            signal("TERM", process.id());
            if poll_until(|| process.try_wait().unwrap()).is_none() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        // Only root can remove what lies in folders without write permission, such as those of code.
        run(Command::new("chmod").args(["-R", "u+rwX"]).arg(self.folder.path()));
    }
}

/// Fields of /proc/PID/stat.
struct Stat {
    state: char,
    parent: u32,
    session: u32,
    /// In clock ticks since the machine's start.
    started: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Stat> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let words: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |at: usize| words.get(at)?.parse::<u64>().ok();
        let state = words.first()?.chars().next()?;
        Some(Stat { state, parent: number(1)? as u32, session: number(3)? as u32, started: number(19)? })
    }
}

/// True for a fork server and for its waiting children: their stdout and stderr are one pipe, where functions have two.
pub fn is_fork_server(pid: u32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments = String::from_utf8_lossy(&arguments);
    let is_kind = arguments.starts_with("faas-php: fork server")
        || arguments.starts_with("faas-wasm\0serve\0")
        || arguments.starts_with("faas-wasm-component\0serve\0");
    let stream = |fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
    is_kind && stream(1).is_some() && stream(1) == stream(2)
}

/// True for the compiler of a WASM module. Those of the examples run when a gateway starts.
pub fn is_compiler(pid: u32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = arguments.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    (program.starts_with(b"faas-wasm") || program == b"wasmer") && words.next() == Some(b"compile")
}

/// Starts a process. All processes of this program start here.
pub fn start(command: &mut Command) -> Child {
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a command to its end and returns its output.
pub fn run(command: &mut Command) -> Output {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    start(piped).wait_with_output().unwrap()
}

/// The id of a process in its own PID namespace, by which functions of the same worker would name it. `None` if it has ended.
pub fn inner_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_ascii_whitespace().last()?.parse().ok()
}

/// Sends a signal to a process that this test has started, or that its gateway has.
pub fn signal(name: &str, pid: u32) {
    // The result does not matter: a process that has ended needs no signal. The shell has a kill of its own; the program
    // is not there on a minimal Debian.
    run(Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()]));
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Waits until `attempt` has a result; fails the test if it has none in time.
pub fn wait_for<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    poll_until(attempt).unwrap_or_else(|| panic!("in {} s it did not come true that {what}", WAIT_MAX.as_secs()))
}

/// Like [`wait_for`], but leaves a timeout to the caller.
pub fn poll_until<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        match attempt() {
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            result => return result,
        }
    }
}

/// Fails the test, with the command that installs it, where one of these programs is missing.
pub fn need(programs: &[&str]) {
    for program in programs {
        needed(program);
    }
}

/// Like [`need`], and returns the path of the program.
pub fn needed(program: &str) -> PathBuf {
    find(program).unwrap_or_else(|| panic!("{program} is missing; install it with: {}", installation(program)))
}

/// The command that installs a program. test.sh names the same packages of Debian, and .ci/run the versions of the others.
fn installation(program: &str) -> String {
    let package = match program {
        "faas-php" => return "apt-get install -y libphp-embed php-dev && runtimes/build.sh php".into(),
        "faas-wasm" | "faas-wasm-component" => return "runtimes/build.sh wasm".into(),
        "wasmer" | "zig" | "asc" | "jco" | "componentize-js" | "componentize-py" => return ".ci/run".into(),
        "cc" => "gcc libc6-dev",
        "clang" | "wasm-ld" => "clang lld wasi-libc libclang-rt-14-dev-wasm32",
        "php" => "php-cli",
        "promtool" => "prometheus",
        "systemd-analyze" => "systemd",
        "prlimit" | "setpriv" | "unshare" => "util-linux",
        "script" => "bsdutils",
        other => other,
    };
    format!("apt-get install -y {package}")
}

/// The path of this program.
pub fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&path_with_programs()).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// True, and the test is skipped, for all users but root.
pub fn lacks_root() -> bool {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !is_root {
        skip("only root can run it");
    }
    !is_root
}

/// Says that this test cannot run here, for a reason that no installation removes: the kernel's version, or the user.
/// With CI=true or FAAS_TEST_STRICT=1 the test fails.
pub fn skip(reason: &str) {
    let is_set = |name: &str, value: &str| std::env::var(name).is_ok_and(|is| is == value);
    assert!(!is_set("CI", "true") && !is_set("FAAS_TEST_STRICT", "1"), "{reason}");
    let line = format!("{}: {reason}\n", std::thread::current().name().unwrap_or("a test"));
    if let Some(file) = std::env::var_os("FAAS_TEST_SKIPS") {
        // test.sh shows and counts them.
        OpenOptions::new().create(true).append(true).open(file).unwrap().write_all(line.as_bytes()).unwrap();
    } else {
        // Other than by eprintln!, this is shown also if the test passes.
        let _ = io::stderr().write_all(format!("skipped: {line}").as_bytes());
    }
}

/// PATH, the folder of root's programs, which a plain user's PATH lacks on Debian, and the folders to which cargo,
/// wasmer's installer and runtimes/build.sh install programs.
fn path_with_programs() -> String {
    let [path, home] = ["PATH", "HOME"].map(|name| std::env::var(name).unwrap_or_default());
    let built = Path::new(GATEWAY).parent().unwrap().with_file_name("release");
    format!("{path}:/usr/sbin:{home}/.cargo/bin:{home}/.wasmer/bin:{}", built.display())
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(2 * WAIT_MAX))?;
    stream.set_write_timeout(Some(2 * WAIT_MAX))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
