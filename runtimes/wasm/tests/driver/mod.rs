//! The worker's part of runtimes/README.md, for tests and measurements: starts a fork server, orders children, gives
//! them invocations and waits for their ends.

#![allow(dead_code, reason = "each of the test programs uses a part of it")]

use std::io::{IoSlice, IoSliceMut, PipeReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{Pid, WaitOptions, waitpid};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_faas-wasm");

/// A folder of one test, removed at its end.
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
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Compiles a module and returns where the artifact is.
pub fn compile(module: &[u8], folder: &Path) -> PathBuf {
    let path = folder.join("artifact");
    let mut child = Command::new(PROGRAM)
        .arg("compile")
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&path).unwrap())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(module).unwrap();
    assert!(child.wait().unwrap().success());
    path
}

pub struct Server {
    pub process: Child,
    pub control: UnixStream,
}

impl Server {
    /// Starts one and waits until it is ready.
    pub fn start(arguments: &[&str], artifact: &Path) -> Server {
        let mut server = Server::begin(arguments, artifact);
        let mut byte = [0];
        server.control.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"R");
        server
    }

    /// Starts one. The shell makes of its stdin the descriptor 3, which needs no unsafe code here.
    pub fn begin(arguments: &[&str], artifact: &Path) -> Server {
        let (control, theirs) = UnixStream::pair().unwrap();
        let process = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 </dev/null"#, "sh", PROGRAM, "serve", "--memory-mib", "64"])
            .args(arguments)
            .arg(artifact)
            .arg("/functions/test.wasm")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Server { process, control }
    }

    /// Orders a child and waits until it is there.
    pub fn fork(&self) -> Idle {
        let (channel, theirs) = UnixStream::pair().unwrap();
        rustix::net::sockopt::set_socket_passcred(&channel, true).unwrap();
        send(self.control.as_fd(), b"F", &[theirs.as_fd()]);
        drop(theirs);
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut byte)];
        let count = recvmsg(&channel, &mut buffers, &mut control, RecvFlags::empty()).unwrap().bytes;
        let pid = control.drain().find_map(|part| match part {
            RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid),
            _ => None,
        });
        assert_eq!((count, &byte), (1, b"H"));
        Idle { channel, pid: pid.expect("SO_PASSCRED is on") }
    }

    /// Runs one invocation through.
    pub fn call(&self, environment: &[&str], stdin: &[u8]) -> Outcome {
        self.fork().begin(environment).finish(stdin)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.control.shutdown(std::net::Shutdown::Both);
        let _ = self.process.wait();
    }
}

pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors)));
    assert_eq!(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap(), bytes.len());
}

/// A child that waits for its invocation.
pub struct Idle {
    pub channel: UnixStream,
    pub pid: Pid,
}

pub fn message(environment: &[&str]) -> Vec<u8> {
    let block: Vec<u8> = environment.iter().flat_map(|pair| pair.bytes().chain([0])).collect();
    [&(block.len() as u32).to_le_bytes(), &block[..]].concat()
}

impl Idle {
    pub fn begin(self, environment: &[&str]) -> Running {
        let (stdin, to_stdin) = std::io::pipe().unwrap();
        let (stdout, from_stdout) = std::io::pipe().unwrap();
        let (stderr, from_stderr) = std::io::pipe().unwrap();
        let streams = [stdin.as_fd(), from_stdout.as_fd(), from_stderr.as_fd()];
        send(self.channel.as_fd(), &message(environment), &streams);
        Running { child: self, stdin: Some(to_stdin), stdout, stderr }
    }
}

pub struct Running {
    pub child: Idle,
    pub stdin: Option<std::io::PipeWriter>,
    pub stdout: PipeReader,
    pub stderr: PipeReader,
}

/// How an invocation ended.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub status: i32,
    /// What it wrote to its channel at the end.
    pub said: Vec<u8>,
}

impl Running {
    pub fn finish(mut self, input: &[u8]) -> Outcome {
        let mut stdin = self.stdin.take();
        let (mut stdout, mut stderr, mut said) = (Vec::new(), String::new(), Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| stdin.take().map(|mut pipe| pipe.write_all(input)));
            scope.spawn(|| self.stderr.read_to_string(&mut stderr).unwrap());
            self.stdout.read_to_end(&mut stdout).unwrap();
        });
        self.child.channel.read_to_end(&mut said).unwrap();
        let (_, status) = waitpid(Some(self.child.pid), WaitOptions::empty()).unwrap().unwrap();
        let status = status.exit_status().unwrap_or_else(|| -status.terminating_signal().unwrap());
        Outcome { stdout, stderr, status, said }
    }
}
