//! Shared by the tests: a server on a port of its own, its handler, and a client that reads byte by byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::error::request::RequestError;
use crate::http_handler::handler::{Client, Handler, Reply};
use crate::http_handler::request::Request;
use crate::http_handler::response::{Body, Response};
use crate::http_handler::spool::{Spool, SpoolArea};
use crate::http_handler::{Bounds, HttpServer};
use crate::settings::Settings;
use crate::sys::Watched;

/// Longer than any step here takes; a test that waits this long has failed.
pub const WAIT_MAX: Duration = Duration::from_secs(20);
pub const BODY_MAX: usize = 1 << 20;

pub struct TestServer {
    server: Arc<HttpServer>,
    accepting: Option<JoinHandle<()>>,
    /// A message releases one waiting handler.
    pub gate: Sender<()>,
    /// Phases that handlers have reached.
    events: Receiver<&'static str>,
}

impl TestServer {
    pub fn open() -> TestServer {
        TestServer::open_within(|_| {})
    }

    pub fn open_within(change: impl FnOnce(&mut Bounds)) -> TestServer {
        TestServer::open_with_spool(1 << 30, change)
    }

    pub fn open_with_spool(spool_bytes_max: u64, change: impl FnOnce(&mut Bounds)) -> TestServer {
        let settings = Settings::from_lookup(|name| match name {
            "FAAS_HOST" => Some("127.0.0.1".into()),
            "FAAS_PORT" => Some("0".into()),
            "FAAS_BODY_MAX" => Some(BODY_MAX.to_string()),
            _ => None,
        });
        let settings = settings.unwrap();
        let area = SpoolArea::new(&std::env::temp_dir(), spool_bytes_max).unwrap();
        let (gate, gate_receiver) = unbounded();
        let (event_sender, events) = unbounded();
        let handler = Arc::new(TestHandler { area: area.clone(), gate: gate_receiver, events: event_sender });
        let mut bounds = Bounds { linger_max: Duration::from_millis(500), ..Bounds::default() };
        change(&mut bounds);
        let server = Arc::new(
            HttpServer::new_within(&settings, area, super::super::listen(settings.address).unwrap(), bounds).unwrap(),
        );
        let accepting = std::thread::spawn({
            let server = server.clone();
            move || server.run(handler)
        });
        TestServer { server, accepting: Some(accepting), gate, events }
    }

    pub fn connect(&self) -> TestClient {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        TestClient { stream, received: Vec::new() }
    }

    pub fn next_event(&self) -> &'static str {
        self.events.recv_timeout(WAIT_MAX).expect("the handler reached a phase")
    }

    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn connections(&self) -> usize {
        self.server.service.open().connections
    }

    pub fn calls(&self) -> usize {
        self.server.service.calls.load(Ordering::Relaxed)
    }

    pub fn spool_bytes_used(&self) -> u64 {
        self.server.service.area.bytes_used()
    }

    pub fn drain(&self, deadline: Instant) -> bool {
        self.server.drain(deadline)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        for _ in 0..100 {
            let _ = self.gate.send(());
        }
        self.drain(Instant::now() + WAIT_MAX);
        self.accepting.take().unwrap().join().unwrap();
    }
}

struct TestHandler {
    area: Arc<SpoolArea>,
    gate: Receiver<()>,
    events: Sender<&'static str>,
}

impl TestHandler {
    fn spooled(&self, write: impl Fn(&mut Spool)) -> Reply {
        let mut spool = Spool::new(&self.area);
        write(&mut spool);
        with_body(Body::Spool(spool))
    }
}

fn with_body(body: Body) -> Reply {
    let mut response = Response::new(200);
    response.body = body;
    Reply::Response(response)
}

fn text(body: &[u8]) -> Reply {
    with_body(Body::Bytes(body.to_vec()))
}

impl Handler for TestHandler {
    fn handle(&self, request: &Request, client: &mut dyn Client) -> Reply {
        match request.head.path() {
            "/echo" => match request.body.memory() {
                Some(bytes) => text(bytes),
                None => self.spooled(|spool| {
                    let mut bytes = Vec::new();
                    request.body.open_read_only().unwrap().unwrap().read_to_end(&mut bytes).unwrap();
                    spool.write(&bytes).unwrap();
                }),
            },
            "/long" => self.spooled(|spool| (0..64).for_each(|n| spool.write(&vec![n; 1 << 20]).unwrap())),
            "/head" => {
                let head = &request.head;
                let mut lines =
                    format!("{} {} {} {}\n", head.method, head.target, head.host, request.origin.client.ip());
                for field in &head.fields {
                    lines.push_str(&format!("{}: {}\n", field.name, String::from_utf8_lossy(&field.value)));
                }
                text(lines.as_bytes())
            }
            "/gate" => {
                if let Err(error) = client.take_place() {
                    return Reply::Response(Response::of_error(&error, &request.id));
                }
                self.events.send("waits at the gate").unwrap();
                self.gate.recv().unwrap();
                text(b"through")
            }
            "/gone" => {
                self.events.send("waits for the client to leave").unwrap();
                let gone = client.wait(Watched::nothing(), WAIT_MAX);
                assert!(matches!(gone, Err(RequestError::ClientGone)));
                self.events.send("saw the client leave").unwrap();
                Reply::Gone
            }
            "/chunks" | "/broken" => {
                client.begin(&Response::new(200)).unwrap();
                client.send(b"one").unwrap();
                self.gate.recv().unwrap();
                client.send(b"two").unwrap();
                Reply::Streamed { complete: request.head.path() == "/chunks" }
            }
            path => text(path.as_bytes()),
        }
    }
}

pub struct TestClient {
    pub stream: TcpStream,
    received: Vec<u8>,
}

impl TestClient {
    pub fn send(&mut self, text: &str) -> &mut TestClient {
        self.stream.write_all(text.as_bytes()).unwrap();
        self
    }

    pub fn get(&mut self, path: &str) -> &mut TestClient {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"))
    }

    /// Reads up to and with `end`.
    pub fn read_through(&mut self, end: &str) -> String {
        loop {
            let found = self.received.windows(end.len()).position(|window| window == end.as_bytes());
            if let Some(start) = found {
                let rest = self.received.split_off(start + end.len());
                return String::from_utf8(std::mem::replace(&mut self.received, rest)).unwrap();
            }
            assert!(self.receive(), "the connection ended before {end:?}, after {:?}", self.text());
        }
    }

    fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            assert!(self.receive(), "the connection ended before {count} bytes, after {:?}", self.text());
        }
        let rest = self.received.split_off(count);
        std::mem::replace(&mut self.received, rest)
    }

    /// Head and body of a response that has a Content-Length.
    pub fn read_response(&mut self) -> (String, String) {
        let head = self.read_through("\r\n\r\n");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
        let body = self.read_bytes(length);
        (head, String::from_utf8(body).unwrap())
    }

    pub fn read_to_end(&mut self) -> String {
        while self.receive() {}
        self.text()
    }

    /// The problem details of a response that is the connection's last.
    pub fn read_problem(&mut self) -> serde_json::Value {
        let text = self.read_to_end();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
        assert!(head.contains("Connection: close"), "{text}");
        assert!(head.contains("Content-Type: application/problem+json"), "{text}");
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(head.contains(&format!("X-Request-Id: {}", problem["request_id"].as_str().unwrap())), "{text}");
        assert!(head.contains(&format!(" {} ", problem["status"])), "{text}");
        problem
    }

    fn receive(&mut self) -> bool {
        let mut buffer = [0; 65536];
        let count = self.stream.read(&mut buffer).expect("bytes or the end in time, and no reset");
        self.received.extend_from_slice(&buffer[..count]);
        count > 0
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < WAIT_MAX, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
