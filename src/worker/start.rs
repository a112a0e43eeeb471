//! Starts a function's process: forked from a fork server if one can, otherwise by exec.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Worker;
use super::child::Child;
use super::order::Order;
use super::process::Process;
use super::runtime::{self, Artifact, Command, Server};
use super::scratch::Scratch;
use super::streams::Ends;
use super::version::Version;
use crate::error::shell_word;
use crate::protocol::function_spec::{FunctionSpec, Runtime, push};
use crate::protocol::worker_protocol::Verdict;
use crate::sandbox::groups::Group;
use crate::sandbox::namespaces::Namespace;
use crate::sandbox::{orphans, readable};
use crate::shebang::shebang_fault;
use crate::sys::{Spawn, SpawnError};

type Result<T> = std::result::Result<T, Verdict>;

/// Versions of a module that a call sees replaced while it waits for their compiled forms; then it fails.
const REPLACED_MAX: usize = 5;

/// The results of all checks that come before the function's process exists.
pub struct Start<'a> {
    worker: &'a Worker,
    order: &'a Order,
    version: Version,
    /// The compiled form of a WASM module; `None` if wasmer runs it.
    artifact: Option<Artifact>,
    /// The folder of a PHP function's sessions.
    sessions: Option<Arc<Path>>,
    pub scratch: Scratch<'a>,
    /// The rulesets for writing and for reading.
    rulesets: (Option<Arc<OwnedFd>>, Option<Arc<readable::Ruleset>>),
    /// In which its processes are counted, where they need one.
    namespace: Option<Namespace<'a>>,
    /// With its fork server; `None` if it is to be started by exec.
    child: Option<(Server, Child)>,
}

/// The compiled form of a WASM module, which is of `version`, or of a later one if that was replaced meanwhile.
fn compiled(worker: &Worker, spec: &FunctionSpec, mut version: Version) -> Result<(Version, Option<Artifact>)> {
    for _ in 0..REPLACED_MAX {
        let verdict = match runtime::artifact(worker, spec, &version) {
            Ok(artifact) => return Ok((version, artifact)),
            Err(verdict) => verdict,
        };
        let present = runtime::version_of(&spec.module)?;
        if present == version {
            return Err(verdict);
        }
        version = present;
    }
    let artifact = runtime::artifact(worker, spec, &version)?;
    Ok((version, artifact))
}

impl<'a> Start<'a> {
    pub fn prepare(worker: &'a Worker, order: &'a Order) -> Result<Start<'a>> {
        let spec = order.spec();
        let version = runtime::version_of(&spec.module)?;
        runtime::check_readable(worker, &spec.module)?;
        let (version, artifact) = compiled(worker, spec, version)?;
        let user = worker.sandbox.user.as_ref();
        let sessions = (spec.runtime == Runtime::Php).then(|| worker.sessions.folder_of(&spec.route, user));
        let sessions = sessions.transpose().map_err(exhausted("make a folder for sessions"))?;
        // A file that may move to a listed folder would take its project along (sandbox/quota.rs).
        let scratch_max = spec.write.is_empty().then_some(spec.scratch_mib << 20);
        let scratch = worker.scratch_area.take(user, scratch_max);
        let mut scratch = scratch.map_err(exhausted("make a scratch folder"))?;
        let writable = scratch.ruleset(&worker.sandbox, &spec.write, sessions.as_ref(), spec.net);
        let readable = worker.sandbox.readable().map_err(exhausted("make a ruleset"))?;
        let mut start = Start {
            worker,
            order,
            artifact,
            version,
            sessions,
            scratch,
            rulesets: (writable.map_err(exhausted("make a ruleset"))?, readable),
            namespace: worker.sandbox.namespace().map_err(exhausted("take a user namespace"))?,
            child: None,
        };
        if let Some(server) = runtime::server(spec, start.artifact.as_ref())
            && !order.function.is_by_exec()
        {
            start.child = worker.fork_servers.take(server, &start.version).map(|child| (server, child));
        }
        if start.child.is_none() {
            // Errors of an exec are found before the gateway hears that the function has begun.
            start.command()?;
        }
        Ok(start)
    }

    /// Starts the process with these streams. If a forked one dies before it has its invocation, an executed one
    /// replaces it.
    pub fn run(&mut self, ends: &Ends) -> Result<Process> {
        if let Some((server, child)) = self.child.take() {
            let namespace = self.namespace.as_ref().filter(|_| server.starts_processes()).map(Namespace::as_fd);
            let (has_namespace, rulesets) = (namespace.is_some(), self.rulesets().into_iter().flatten());
            let descriptors: Vec<BorrowedFd<'_>> = ends.as_fds().into_iter().chain(namespace).chain(rulesets).collect();
            if child.start(&self.message(has_namespace), &descriptors).is_ok() {
                let (spec, artifact) = (self.order.spec(), self.artifact.as_ref().map(|it| &*it.path));
                self.worker.fork_servers.prepare(server, child.server(), spec, &self.version, artifact);
                return Ok(Process::Forked(child));
            }
        }
        self.execute(ends)
    }

    fn command(&self) -> Result<Command> {
        let (artifact, spec) = (self.artifact.as_ref(), self.order.spec());
        runtime::command(self.worker, spec, &self.version, self.scratch.path(), artifact)
    }

    fn execute(&self, ends: &Ends) -> Result<Process> {
        let spec = self.order.spec();
        let command = self.command()?;
        let folder = CString::new(folder_of(spec).as_os_str().as_bytes());
        let folder = folder.expect("descriptors are refused when they hold a NUL");
        let [stdin, stdout, stderr] = ends.as_fds();
        let (program_file, data_mib_max) = (command.program_file.as_ref(), command.data_mib_max);
        let group = self.worker.groups.as_ref().and_then(|groups| groups.take(spec.memory_mib));
        let (sandbox, rulesets, namespace) = (&self.worker.sandbox, self.rulesets(), self.namespace.as_ref());
        let mut environment = Vec::new();
        self.add_environment(&mut environment, &command.environment);
        let spawned = orphans::spawn(&Spawn {
            program: &command.program,
            arguments: &command.arguments,
            environment: &environment,
            folder: Some(&folder),
            stdin,
            stdout,
            stderr,
            control: None,
            confinement: Some(sandbox.confinement(
                program_file,
                data_mib_max,
                spec.net,
                command.memfd,
                rulesets,
                namespace,
            )),
            group: group.as_ref().map(Group::directory),
        });
        spawned.map(|spawned| Process::Executed(spawned, group)).map_err(|error| refused(spec, error))
    }

    /// The message to a forked process: two lengths, settings, environment (runtimes/README.md).
    fn message(&self, has_namespace: bool) -> Vec<u8> {
        let (given, spec) = (self.order.invocation.settings(), self.order.spec());
        let mut message = Vec::with_capacity(4096);
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(given);
        push(&mut message, "version", self.version.to_string().as_bytes());
        push(&mut message, "folder", folder_of(spec).as_os_str().as_bytes());
        push(&mut message, "data_mib_max", runtime::data_mib_max(spec).to_string().as_bytes());
        push(&mut message, "dev", if self.worker.settings.dev { b"1" } else { b"0" });
        if let Some(max) = self.worker.sandbox.processes_max.now() {
            push(&mut message, "processes_max", max.to_string().as_bytes());
        }
        if has_namespace {
            push(&mut message, "namespace", b"1");
        }
        let artifact = self.artifact.as_ref().map(|it| ("artifact", it.path.as_os_str()));
        let sessions = self.sessions.as_ref().map(|path| ("session_dir", path.as_os_str()));
        for (name, path) in artifact.into_iter().chain(sessions) {
            push(&mut message, name, path.as_bytes());
        }
        if spec.stream && spec.runtime == Runtime::Php {
            push(&mut message, "ini", runtime::UNBUFFERED.as_bytes());
        }
        let settings_length = message.len() - 8;
        self.add_environment(&mut message, &[]);
        let environment_length = message.len() - 8 - settings_length;
        message[..4].copy_from_slice(&(settings_length as u32).to_le_bytes());
        message[4..8].copy_from_slice(&(environment_length as u32).to_le_bytes());
        message
    }

    fn rulesets(&self) -> [Option<BorrowedFd<'_>>; 2] {
        let (writable, readable) = &self.rulesets;
        [writable.as_ref().map(|ruleset| ruleset.as_fd()), readable.as_ref().map(|ruleset| ruleset.landlock.as_fd())]
    }

    /// Appends the gateway's variables, and then the worker's where the gateway does not set them: the deadline, the
    /// scratch folder, the functions' user, the folder for its sessions, PATH, LANG, TZ, and the runtime's own.
    fn add_environment(&self, block: &mut Vec<u8>, of_runtime: &[CString]) {
        let deadline = SystemTime::now() + self.order.spec().timeout;
        let deadline_ms = deadline.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let given = self.order.invocation.environment();
        block.reserve(given.len() + 1024);
        block.extend_from_slice(given);
        let mut add = |pair: &[u8]| {
            let name_end = pair.iter().position(|byte| *byte == b'=').map_or(0, |at| at + 1);
            let is_named = given.split(|byte| *byte == 0).any(|other| other.starts_with(&pair[..name_end]));
            if !is_named {
                block.extend_from_slice(pair);
            }
        };
        let scratch = self.scratch.path().as_os_str().as_bytes();
        let user = self.worker.sandbox.user_name().as_bytes();
        add(format!("FAAS_DEADLINE_MS={deadline_ms}\0").as_bytes());
        for (name, value) in [("TMPDIR", scratch), ("HOME", scratch), ("USER", user), ("LOGNAME", user)] {
            add(&[name.as_bytes(), b"=", value, b"\0"].concat());
        }
        if let Some(sessions) = &self.sessions {
            add(&[b"FAAS_SESSION_DIR=", sessions.as_os_str().as_bytes(), b"\0"].concat());
        }
        self.worker.inherited_environment.split_inclusive(|byte| *byte == 0).for_each(&mut add);
        of_runtime.iter().for_each(|pair| add(pair.as_bytes_with_nul()));
    }
}

fn folder_of(spec: &FunctionSpec) -> &Path {
    spec.module.parent().unwrap_or(Path::new("/"))
}

pub fn exhausted(step: &'static str) -> impl FnOnce(std::io::Error) -> Verdict {
    move |cause| Verdict::Exhausted { step: step.into(), cause: cause.to_string() }
}

/// Why a spawn failed, as a verdict with a remedy.
fn refused(spec: &FunctionSpec, error: SpawnError) -> Verdict {
    let path = spec.module.display().to_string();
    let not_executable = |cause: String| Verdict::ModuleNotExecutable { path: path.clone(), cause };
    match (error.step, error.cause.raw_os_error()) {
        ("execute", Some(libc::EACCES)) => {
            not_executable(format!("{}; try: chmod +x {}", error.cause, shell_word(spec.module.display())))
        }
        ("execute", Some(libc::ENOEXEC)) => {
            not_executable("it is neither a program for this machine nor a script that begins with #!".into())
        }
        // The module exists and may be entered and read; both were checked a moment ago.
        ("execute", Some(libc::ENOENT)) => {
            let missing = || "the interpreter that its first line names is not there".into();
            not_executable(shebang_fault(&spec.module).unwrap_or_else(missing))
        }
        // These errors last until somebody mends the module.
        ("execute", Some(libc::ETXTBSY)) => not_executable("another program has it open for writing".into()),
        ("execute", Some(libc::ELOOP | libc::ENAMETOOLONG | libc::EISDIR | libc::ENOTDIR | libc::EINVAL)) => {
            not_executable(error.cause.to_string())
        }
        (step, _) => Verdict::Exhausted { step: step.into(), cause: error.cause.to_string() },
    }
}
