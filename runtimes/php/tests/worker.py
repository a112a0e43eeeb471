"""A worker's side of the protocol of ../../README.md, for tests and comparisons: no more of a worker than that.

    server = ForkServer(program)            starts it, waits until it is ready
    server.prepare(module)                  returns None, or the reason why it cannot be prepared
    server.call(module, ...)                forks one child, gives it one invocation, waits for its end: an Outcome
    run(program, module, ...)               the same invocation by exec
    server.close()                          ends it
"""
import fcntl
import os
import select
import socket
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

WAIT_S_MAX = 20
BASE_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


@dataclass
class Outcome:
    out: bytes = b""
    err: bytes = b""
    # What the child wrote to its channel: any number of S and F with a byte each, then X and a status, E, or nothing.
    said: bytes = b""
    # As in D; None where no D came.
    wait_status: int | None = None
    user_us: int = 0
    peak_kib: int = 0
    pid: int = 0

    @property
    def status(self):
        """The exit status that counts."""
        word = self.said
        while word[:1] in (b"S", b"F"):
            word = word[2:]
        if word[:1] == b"X":
            return word[1]
        return None if self.wait_status is None else os.waitstatus_to_exitcode(self.wait_status)

    @property
    def text(self):
        return self.out.decode("utf-8", "replace")

    @property
    def log(self):
        return self.err.decode("utf-8", "replace")


def version_of(module):
    s = os.stat(module)
    return f"{s.st_dev}.{s.st_ino}.{s.st_size}.{s.st_mtime_ns}.{s.st_ctime_ns}"


def settings_of(module, version=None, args=(), ini=(), **more):
    pairs = {"module": module, "version": version or version_of(module), "folder": os.path.dirname(module),
             "route": "GET:/test", "memory_mib": 128, "data_mib_max": 512, "net": 1, "output": "auto", "dev": 0}
    pairs.update(more)
    listed = [f"{name}={value}" for name, value in pairs.items()]
    return listed + [f"arg={a}" for a in args] + [f"ini={i}" for i in ini]


def environment_of(method="GET", query="", body=b"", kind=None, fields=(), **more):
    variables = dict(BASE_ENVIRONMENT, REQUEST_METHOD=method, QUERY_STRING=query, CONTENT_LENGTH=str(len(body)),
                     SCRIPT_NAME="/test", REQUEST_URI="/test", SERVER_PROTOCOL="HTTP/1.1", GATEWAY_INTERFACE="CGI/1.1")
    if kind:
        variables["CONTENT_TYPE"] = kind
    for name, value in dict(fields).items():
        variables["HTTP_" + name.upper().replace("-", "_")] = value
    variables.update(more)
    return {name: value for name, value in variables.items() if value is not None}


def packed(items):
    return b"".join(os.fsencode(item) + b"\0" for item in items)


class Call:
    """One child: forked ahead, then sent an invocation."""

    def __init__(self, server):
        self.channel, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.report, report = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        socket.send_fds(server.control, [b"F"], [channel.fileno(), report.fileno()])
        channel.close()
        report.close()
        packet, pidfds, _, _ = socket.recv_fds(self.report, 64, 1)
        assert packet[:1] == b"B" and len(packet) == 5 and len(pidfds) == 1, packet
        self.pid = struct.unpack("<I", packet[1:])[0]
        self.pidfd = pidfds[0]

    def send(self, settings, environment, body=b"", rulesets=(), stdin=None):
        """Sends the invocation. The body is a file, which never blocks."""
        self.outs = [os.pipe(), os.pipe()]
        if stdin is None:
            with tempfile.TemporaryFile() as file:
                file.write(body)
                file.flush()
                stdin = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
        settings, variables = packed(settings), packed(f"{n}={v}" for n, v in environment.items())
        text = struct.pack("<II", len(settings), len(variables)) + settings + variables
        sent = socket.send_fds(self.channel, [text], [stdin, self.outs[0][1], self.outs[1][1], *rulesets])
        if sent < len(text):
            self.channel.sendall(text[sent:])
        for number in (stdin, self.outs[0][1], self.outs[1][1]):
            os.close(number)

    def wait(self):
        """Collects output until the child says that it is through, or has ended; then ends what is left, as a worker does."""
        outcome = Outcome(pid=self.pid)
        reads = {self.channel.fileno(): "said"}
        if hasattr(self, "outs"):
            reads.update({self.outs[0][0]: "out", self.outs[1][0]: "err"})
        until = time.monotonic() + WAIT_S_MAX
        while reads and time.monotonic() < until:
            for number in select.select(list(reads), [], [], 1)[0]:
                try:
                    piece = os.read(number, 1 << 16)
                except ConnectionResetError:
                    piece = b""
                name = reads[number]
                setattr(outcome, name, getattr(outcome, name) + piece)
                if not piece:
                    del reads[number]
        packet = self.report.recv(64)
        if packet:
            assert packet[:1] == b"D" and len(packet) == 29, packet
            outcome.wait_status, outcome.user_us, _, outcome.peak_kib = struct.unpack("<IQQQ", packet[1:])
            assert self.report.recv(64) == b"", "the report socket stays open behind D"
        self.close()
        return outcome

    def close(self):
        self.channel.close()
        self.report.close()
        os.close(self.pidfd)
        for ends in getattr(self, "outs", []):
            os.close(ends[0])


class ForkServer:
    def __init__(self, program, environment=None):
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log, write_end = os.pipe()
        self.log = log
        null = os.open("/dev/null", os.O_RDONLY)
        # What else this process has open is close-on-exec. Low numbers are overwritten last to first.
        moves = [(os.dup(number), to) for number, to in ((control.fileno(), 3), (write_end, 2), (write_end, 1), (null, 0))]
        high = [(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10), to) for number, to in moves]
        # A new process starts where its parent is.
        before = os.getcwd()
        os.chdir("/")
        self.pid = os.posix_spawn(program, [program, "serve"], environment or BASE_ENVIRONMENT, setsid=True,
                                  file_actions=[(os.POSIX_SPAWN_DUP2, number, to) for number, to in high])
        os.chdir(before)
        for number in [null] + [number for number, _ in moves + high]:
            os.close(number)
        control.close()
        os.close(write_end)
        self.control.settimeout(WAIT_S_MAX)
        assert self.receive() == b"R", self.logged()

    def receive(self):
        return self.control.recv(65536)

    def prepare(self, module, version=None):
        self.control.send(b"P" + packed([f"module={module}", f"version={version or version_of(module)}"]))
        packet = self.receive()
        if packet[:1] == b"p":
            assert packet[1:].decode() == (version or version_of(module)), packet
            return None
        assert packet[:1] == b"u", packet
        return packet[1:].split(b"\0", 1)[1].decode()

    def fork(self):
        return Call(self)

    def call(self, module, environment=None, body=b"", rulesets=(), child=None, **settings):
        child = child or self.fork()
        child.send(settings_of(module, **settings), environment or environment_of(body=body), body, rulesets)
        return child.wait()

    def tasks(self):
        return os.listdir(f"/proc/{self.pid}/task")

    def logged(self):
        """What it has logged so far."""
        text = b""
        while select.select([self.log], [], [], 0)[0]:
            piece = os.read(self.log, 65536)
            if not piece:
                break
            text += piece
        return text.decode("utf-8", "replace")

    def close(self):
        self.control.close()
        os.close(self.log)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def run(program, module, environment=None, body=b"", args=(), ini=(), **settings):
    """One invocation by exec."""
    options = []
    for name, value in settings.items():
        options += ["--" + name.replace("_", "-"), str(value)]
    for directive in ini:
        options += ["--ini", directive]
    settings.setdefault("memory_mib", 128)
    with tempfile.TemporaryFile() as stdin:
        stdin.write(body)
        stdin.seek(0)
        process = subprocess.run([program, "run", *options, module, *args], stdin=stdin, capture_output=True,
                                 env=environment or environment_of(body=body), cwd=os.path.dirname(module), timeout=WAIT_S_MAX)
    return Outcome(process.stdout, process.stderr, b"", process.returncode << 8 if process.returncode >= 0
                   else -process.returncode)
