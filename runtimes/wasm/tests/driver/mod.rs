//! The worker's part of runtimes/README.md, for tests and measurements: starts a fork server, orders children, gives
//! them invocations and waits for their ends. The test program names the fork server's program as `PROGRAM`.

#![allow(dead_code, reason = "each of the test programs uses a part of it")]

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, PipeReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::PROGRAM;

pub const MODULE: &str = "/functions/test.wasm";

/// A folder of one test, removed at its end.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("faas-wasm-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Compiles a module to `artifact`; what the compiler says is the error.
pub fn compile(module: &[u8], artifact: &Path) -> Result<(), String> {
    let file = File::create(artifact).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = Command::new(PROGRAM);
    let mut child = command.arg("compile").stdin(Stdio::piped()).stdout(file).stderr(Stdio::piped()).spawn().unwrap();
    // One that refuses the module early may read no more of it.
    let _ = child.stdin.take().unwrap().write_all(module);
    let output = child.wait_with_output().unwrap();
    match output.status.code() {
        Some(0) => Ok(()),
        code => Err(format!("{code:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// What the worker says of an invocation.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// Beside module and version.
    pub settings: Vec<(String, String)>,
    pub environment: Vec<String>,
    pub stdin: Vec<u8>,
}

impl Call {
    pub fn set(mut self, name: &str, value: &str) -> Call {
        self.settings.push((name.into(), value.into()));
        self
    }

    pub fn env(mut self, pair: &str) -> Call {
        self.environment.push(pair.into());
        self
    }

    pub fn stdin(mut self, bytes: &[u8]) -> Call {
        self.stdin = bytes.into();
        self
    }
}

/// How an invocation ended.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub status: i32,
}

/// One invocation by exec.
pub fn run(artifact: &str, call: &Call) -> Outcome {
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--artifact", artifact]);
    for (name, value) in call.settings.iter().filter(|(name, _)| name != "arg") {
        command.arg(format!("--{}", name.replace('_', "-"))).arg(value);
    }
    command.arg(MODULE).args(call.settings.iter().filter(|(name, _)| name == "arg").map(|(_, value)| value));
    let environment = call.environment.iter().map(|pair| pair.split_once('=').unwrap());
    command.env_clear().envs(environment).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(&call.stdin));
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        Outcome { stdout: output.stdout, stderr, status: output.status.code().unwrap_or(-1) }
    })
}

/// A module with four pages of memory, the imports that the tests use, and `body`.
pub fn module(body: &str) -> Vec<u8> {
    format!(
        r#"(module
        (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
            (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
        (memory (export "memory") 4)
        (func $write (param $fd i32) (param $at i32) (param $len i32)
            (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $len))
            (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
        {body})"#
    )
    .into_bytes()
}

/// A module of a test, and a fork server that knows it as version "1".
pub struct Function {
    pub artifact: String,
    pub server: Server,
    pub folder: Folder,
}

impl Function {
    pub fn new(body: &str) -> Function {
        Function::of(&module(body))
    }

    pub fn of(module: &[u8]) -> Function {
        let folder = Folder::new();
        let artifact = folder.path("artifact");
        compile(module, artifact.as_ref()).unwrap();
        let server = Server::start();
        assert_eq!(server.prepare("1", &artifact), b"p1");
        Function { artifact, server, folder }
    }

    /// By the prepared module alone.
    pub fn prepared(&self, call: &Call) -> Outcome {
        self.server.call("1", &self.artifact, call)
    }

    /// In all three ways.
    pub fn call(&self, call: &Call) -> Outcome {
        let outcome = self.prepared(call);
        assert_eq!(self.server.call("2", &self.artifact, call), outcome, "a child that loads the module");
        assert_eq!(run(&self.artifact, call), outcome, "run");
        outcome
    }
}

pub fn call() -> Call {
    Call::default().set("memory_mib", "64")
}

/// Copies its stdin to its stdout.
pub const CAT: &str = r#"(func (export "_start") (local $n i32)
    (loop $again
        (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 65536))
        (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (local.set $n (i32.load (i32.const 8)))
        (if (local.get $n) (then
            (call $write (i32.const 1) (i32.const 4096) (local.get $n))
            (br $again)))))"#;

pub struct Server {
    pub process: Child,
    pub control: OwnedFd,
}

pub fn block(pairs: &[(&str, &str)]) -> Vec<u8> {
    pairs.iter().flat_map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
}

impl Server {
    /// Starts one and waits until it is ready. The shell makes of its stdin the descriptor 3, which needs no unsafe code.
    pub fn start() -> Server {
        let (control, theirs) = pair(SocketType::SEQPACKET);
        let process = Command::new("setpriv")
            .args(["--no-new-privs", "sh", "-c", r#"exec "$@" 3<&0 </dev/null"#, "sh", PROGRAM, "serve"])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Server { process, control };
        assert_eq!(receive(&server.control).0, b"R");
        server
    }

    /// Orders a module to be prepared; returns the answer.
    pub fn prepare(&self, version: &str, artifact: &str) -> Vec<u8> {
        let settings = block(&[("module", MODULE), ("version", version), ("artifact", artifact)]);
        send(self.control.as_fd(), &[b"P", &settings[..]].concat(), &[]);
        receive(&self.control).0
    }

    /// Orders a child and waits until it is reported.
    pub fn fork(&self) -> Idle {
        let ((channel, theirs), (report, to_report)) = (pair(SocketType::STREAM), pair(SocketType::SEQPACKET));
        send(self.control.as_fd(), b"F", &[theirs.as_fd(), to_report.as_fd()]);
        drop((theirs, to_report));
        let (packet, pidfd) = receive(&report);
        assert_eq!((packet.len(), packet[0]), (5, b'B'));
        let pid = u32::from_le_bytes(packet[1..].try_into().unwrap());
        Idle { channel: channel.into(), report, pid, pidfd: pidfd.expect("it comes with the report") }
    }

    /// Runs one invocation through.
    pub fn call(&self, version: &str, artifact: &str, call: &Call) -> Outcome {
        let said = self.fork().begin(version, artifact, call).finish(&call.stdin);
        let (outcome, channel) = said;
        if channel != b"E" && !channel.is_empty() {
            assert_eq!((channel.len(), &channel[..2]), (26, &[b'X', outcome.status as u8][..]), "{outcome:?}");
        }
        outcome
    }

    /// What it wrote until its end, and its exit status.
    pub fn end(mut self) -> (String, Option<i32>) {
        let mut stderr = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (stderr, self.process.wait().unwrap().code())
    }

    /// Entries of a folder under its /proc.
    pub fn count(&self, what: &str) -> usize {
        std::fs::read_dir(format!("/proc/{}/{what}", self.process.id())).unwrap().count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
        let _ = self.process.wait();
    }
}

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors)));
    assert_eq!(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap(), bytes.len());
}

/// A packet, and the descriptor that came with it; nothing at the end.
pub fn receive(socket: &OwnedFd) -> (Vec<u8>, Option<OwnedFd>) {
    let mut packet = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(&mut packet)];
    let count = recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC).map_or(0, |message| message.bytes);
    packet.truncate(count);
    let fd = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (packet, fd)
}

/// A child that waits for its invocation.
pub struct Idle {
    pub channel: UnixStream,
    pub report: OwnedFd,
    pub pid: u32,
    pub pidfd: OwnedFd,
}

pub fn message(version: &str, artifact: &str, call: &Call) -> Vec<u8> {
    let settings = call.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let settings = [("module", MODULE), ("version", version), ("artifact", artifact)].into_iter().chain(settings);
    let settings = block(&settings.collect::<Vec<_>>());
    let environment: Vec<u8> = call.environment.iter().flat_map(|pair| pair.bytes().chain([0])).collect();
    let lengths = [settings.len(), environment.len()].map(|len| (len as u32).to_le_bytes());
    [lengths.as_flattened(), &settings, &environment].concat()
}

impl Idle {
    pub fn begin(self, version: &str, artifact: &str, call: &Call) -> Running {
        let (stdin, to_stdin) = std::io::pipe().unwrap();
        let (stdout, from_stdout) = std::io::pipe().unwrap();
        let (stderr, from_stderr) = std::io::pipe().unwrap();
        let streams = [stdin.as_fd(), from_stdout.as_fd(), from_stderr.as_fd()];
        send(self.channel.as_fd(), &message(version, artifact, call), &streams);
        Running { child: self, stdin: Some(to_stdin), stdout, stderr }
    }

    /// Begins an invocation without a body, and waits until the child says that it is through. Returns the end of its
    /// stdout and stderr.
    pub fn run_through(&mut self, version: &str, artifact: &str, call: &Call, null: &File) -> PipeReader {
        let (output, to_output) = std::io::pipe().unwrap();
        let streams = [null.as_fd(), to_output.as_fd(), to_output.as_fd()];
        send(self.channel.as_fd(), &message(version, artifact, call), &streams);
        drop(to_output);
        let mut said = [0; 2];
        self.channel.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"X\0");
        output
    }

    /// The wait status, and µs in user mode, in the kernel, and KiB at the most; `None` if the server dies before.
    pub fn await_end(&self) -> Option<(i32, [u64; 3])> {
        let (packet, _) = receive(&self.report);
        let (b'D', rest) = packet.split_first()? else { panic!("{packet:?}") };
        let (status, numbers) = rest.split_first_chunk().unwrap();
        let numbers = numbers.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect::<Vec<_>>();
        assert_eq!(receive(&self.report).0, b"");
        Some((i32::from_le_bytes(*status), numbers.try_into().unwrap()))
    }
}

pub struct Running {
    pub child: Idle,
    pub stdin: Option<std::io::PipeWriter>,
    pub stdout: PipeReader,
    pub stderr: PipeReader,
}

impl Running {
    /// How it ends, and what it wrote to its channel.
    pub fn finish(mut self, input: &[u8]) -> (Outcome, Vec<u8>) {
        let mut stdin = self.stdin.take();
        let (mut stdout, mut stderr, mut said) = (Vec::new(), String::new(), Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| stdin.take().map(|mut pipe| pipe.write_all(input)));
            scope.spawn(|| self.stderr.read_to_string(&mut stderr).unwrap());
            self.stdout.read_to_end(&mut stdout).unwrap();
        });
        self.child.channel.read_to_end(&mut said).unwrap();
        let (status, _) = self.child.await_end().expect("the server lives");
        // Exited, with the status in the second byte; else ended by a signal.
        let status = if status & 0x7f == 0 { status >> 8 } else { -(status & 0x7f) };
        (Outcome { stdout, stderr, status }, said)
    }
}
