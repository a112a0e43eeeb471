//! The front service over real sockets, with a handler that stands in for http_handler.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::handler::Client as Caller;
use super::handler::Reply;
use super::request::Request;
use super::response::{Body, Response};
use super::*;

/// Longer than anything here takes; a test that waits for as long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const BODY_MAX: usize = 1 << 20;

// ---- The house behind the service ------------------------------------------------------------------------------------

struct House {
    service: Arc<HttpServer>,
    accepting: Option<JoinHandle<()>>,
    run_dir: PathBuf,
    /// A message lets one waiting handler go on.
    gate: Sender<()>,
    /// What handlers say they are doing.
    news: Receiver<&'static str>,
}

impl House {
    fn open() -> House {
        House::open_within(|_| {})
    }

    fn open_within(change: impl FnOnce(&mut Bounds)) -> House {
        House::open_with_spool(1 << 30, change)
    }

    fn open_with_spool(spool_bytes_max: u64, change: impl FnOnce(&mut Bounds)) -> House {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("faas-service-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let run_dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&run_dir).unwrap();
        let settings = settings_for(0, &run_dir);
        let area = SpoolArea::new(&std::env::temp_dir(), spool_bytes_max).unwrap();
        let (gate, gate_receiver) = unbounded();
        let (news_sender, news) = unbounded();
        let handler = Arc::new(StandIn { area: area.clone(), gate: gate_receiver, news: news_sender });
        let mut bounds = Bounds { linger_max: Duration::from_millis(500), ..Bounds::default() };
        change(&mut bounds);
        let service = Arc::new(HttpServer::open_within(&settings, area, bounds).unwrap());
        let accepting = std::thread::spawn({
            let service = service.clone();
            move || service.run(handler)
        });
        House { service, accepting: Some(accepting), run_dir, gate, news }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.service.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, received: Vec::new() }
    }

    fn next_news(&self) -> &'static str {
        self.news.recv_timeout(PATIENCE).expect("the handler said something")
    }

    fn connections(&self) -> usize {
        self.service.service.open().connections
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for _ in 0..100 {
            let _ = self.gate.send(());
        }
        self.service.drain(Instant::now() + PATIENCE);
        self.accepting.take().unwrap().join().unwrap();
        let _ = std::fs::remove_dir_all(&self.run_dir);
    }
}

fn settings_for(port: u16, run_dir: &std::path::Path) -> Settings {
    Settings::from_lookup(|name| match name {
        "FAAS_HOST" => Some("127.0.0.1".into()),
        "FAAS_PORT" => Some(port.to_string()),
        "FAAS_RUN_DIR" => Some(run_dir.display().to_string()),
        "FAAS_BODY_MAX" => Some(BODY_MAX.to_string()),
        _ => None,
    })
    .unwrap()
}

struct StandIn {
    area: Arc<SpoolArea>,
    gate: Receiver<()>,
    news: Sender<&'static str>,
}

impl Handler for StandIn {
    fn handle(&self, request: &Request, client: &mut dyn Caller) -> Reply {
        let whole = |body: &[u8]| {
            let mut answer = Response::new(200);
            answer.body = Body::Bytes(body.to_vec());
            Reply::Response(answer)
        };
        let spooled = |write: &dyn Fn(&mut crate::http_handler::spool::Spool)| {
            let mut spool = crate::http_handler::spool::Spool::new(&self.area);
            write(&mut spool);
            let mut answer = Response::new(200);
            answer.body = Body::Spool(spool);
            Reply::Response(answer)
        };
        match request.head.path() {
            "/echo" => match request.body.memory() {
                Some(bytes) => whole(bytes),
                None => spooled(&|spool| {
                    let mut bytes = Vec::new();
                    request.body.open_read_only().unwrap().unwrap().read_to_end(&mut bytes).unwrap();
                    spool.write(&bytes).unwrap();
                }),
            },
            "/long" => spooled(&|spool| (0..64).for_each(|n| spool.write(&vec![n; 1 << 20]).unwrap())),
            "/head" => {
                let head = &request.head;
                let mut text = format!("{} {} {} {}\n", head.method, head.target, head.host, request.peer.ip());
                for field in &head.fields {
                    text.push_str(&format!("{}: {}\n", field.name, String::from_utf8_lossy(&field.value)));
                }
                whole(text.as_bytes())
            }
            "/gate" => {
                self.news.send("waits at the gate").unwrap();
                self.gate.recv().unwrap();
                whole(b"through")
            }
            "/gone" => {
                self.news.send("waits for the client to go").unwrap();
                let gone = client.wait(Watched::nothing(), PATIENCE);
                assert!(matches!(gone, Err(Error::ClientGone)));
                self.news.send("saw the client go").unwrap();
                Reply::Gone
            }
            "/chunks" | "/broken" => {
                client.begin(&Response::new(200)).unwrap();
                client.send(b"one").unwrap();
                self.gate.recv().unwrap();
                client.send(b"two").unwrap();
                Reply::Streamed { complete: request.head.path() == "/chunks" }
            }
            path => whole(path.as_bytes()),
        }
    }
}

// ---- The client in front of it ------------------------------------------------------------------------------------

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    fn send(&mut self, text: &str) -> &mut Client {
        self.stream.write_all(text.as_bytes()).unwrap();
        self
    }

    fn get(&mut self, path: &str) -> &mut Client {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"))
    }

    /// What comes up to and with `end`.
    fn read_through(&mut self, end: &str) -> String {
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

    /// Head and body of an answer that has a Content-Length.
    fn read_answer(&mut self) -> (String, String) {
        let head = self.read_through("\r\n\r\n");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
        let body = self.read_bytes(length);
        (head, String::from_utf8(body).unwrap())
    }

    fn read_to_end(&mut self) -> String {
        while self.receive() {}
        self.text()
    }

    /// The status of an answer that is the connection's last, and is problem details.
    fn read_refusal(&mut self) -> u16 {
        let text = self.read_to_end();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
        assert!(
            head.contains("Connection: close") && head.contains("Content-Type: application/problem+json"),
            "{text}"
        );
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(head.contains(&format!("X-Request-Id: {}", problem["request_id"].as_str().unwrap())), "{text}");
        assert!(head.contains(&format!(" {} ", problem["status"])), "{text}");
        problem["status"].as_u64().unwrap() as u16
    }

    fn receive(&mut self) -> bool {
        let mut buffer = [0; 65536];
        let count = self.stream.read(&mut buffer).expect("something within the allowance, and no reset");
        self.received.extend_from_slice(&buffer[..count]);
        count > 0
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

// ---- Requests and answers -----------------------------------------------------------------------------------------

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let house = House::open();
    let mut client = house.connect();
    for path in ["/a", "/b", "/c"] {
        let (head, body) = client.get(path).read_answer();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nDate: "), "{head}");
        assert!(!head.contains("Connection"), "{head}");
        assert_eq!(body, path);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let house = House::open();
    let mut client = house.connect();
    client.send(
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\none\
         POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nt\r\n2;x\r\nwo\r\n0\r\nT: x\r\n\r\n\
         \r\nGET /three HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET /never HTTP/1.1\r\nHost: h\r\n\r\n",
    );
    assert_eq!(client.read_answer().1, "one");
    assert_eq!(client.read_answer().1, "two");
    let (head, body) = client.read_answer();
    assert!(head.contains("\r\nConnection: close\r\n") && body == "/three", "{head}");
    assert_eq!(client.read_to_end(), "");
}

#[test]
fn a_head_that_comes_byte_by_byte_is_read() {
    let house = House::open();
    let mut client = house.connect();
    for byte in "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n".chars() {
        client.send(&byte.to_string());
    }
    assert_eq!(client.read_answer().1, "/slow");
}

#[test]
fn a_1_0_client_is_answered_in_1_0() {
    let house = House::open();
    let text = house.connect().send("GET /old HTTP/1.0\r\n\r\n").read_to_end();
    assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.contains("\r\nConnection: close\r\n"), "{text}");
    assert!(text.ends_with("\r\n\r\n/old"), "{text}");

    let mut client = house.connect();
    for _ in 0..2 {
        let (head, _) = client.send("GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").read_answer();
        assert!(head.contains("\r\nConnection: keep-alive\r\n"), "{head}");
    }
}

#[test]
fn the_answer_to_head_has_a_length_and_no_body() {
    let house = House::open();
    let mut client = house.connect();
    let head = client.send("HEAD /four HTTP/1.1\r\nHost: h\r\n\r\n").read_through("\r\n\r\n");
    assert!(head.contains("Content-Length: 5\r\n"), "{head}");
    let head = client.send("HEAD /long HTTP/1.1\r\nHost: h\r\n\r\n").read_through("\r\n\r\n");
    assert!(head.contains("Content-Length: 67108864\r\n"), "{head}");
    assert_eq!(client.get("/next").read_answer().1, "/next");
}

#[test]
fn the_handler_gets_the_clients_head_without_what_is_ours() {
    let house = House::open();
    let (_, body) = house
        .connect()
        .send(
            "GET /head?q HTTP/1.1\r\nHost: h:1\r\nX-Faas-Conversation: 0\r\nX-Faas-Spooled: 9\r\nTE: x\r\nUpgrade: h2c\r\n\
             Connection: upgrade, x-mine\r\nX-Mine: 1\r\nX-Forwarded-For: 1.2.3.4\r\nCookie: \u{fc}\r\n\r\n",
        )
        .read_answer();
    assert_eq!(body, "GET /head?q h:1 127.0.0.1\nHost: h:1\nCookie: \u{fc}\nX-Forwarded-For: 1.2.3.4, 127.0.0.1\n");
}

#[test]
fn large_bodies_and_answers_travel_whole() {
    let house = House::open();
    let mut client = house.connect();
    let body: String = (0..BODY_MAX).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    for _ in 0..2 {
        client.send(&format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY_MAX}\r\n\r\n{body}"));
        let (head, back) = client.read_answer();
        assert!(back == body && !head.contains("X-Faas"), "{head}");
    }
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in body.as_bytes().chunks(10_007) {
        let piece = std::str::from_utf8(piece).unwrap();
        client.send(&format!("{:x}\r\n{piece}\r\n", piece.len()));
    }
    assert!(client.send("0\r\n\r\n").read_answer().1 == body);
    wait_until("the spool is empty", || house.service.service.area.bytes_used() == 0);
}

#[test]
fn chunks_reach_the_client_one_by_one() {
    let house = House::open();
    let mut client = house.connect();
    let start = client.get("/chunks").read_through("3\r\none\r\n");
    assert!(start.contains("\r\nTransfer-Encoding: chunked\r\n"), "{start}");
    house.gate.send(()).unwrap();
    assert_eq!(client.read_through("0\r\n\r\n"), "3\r\ntwo\r\n0\r\n\r\n");
    assert_eq!(client.get("/next").read_answer().1, "/next");
}

#[test]
fn a_1_0_client_gets_the_data_of_chunks_without_their_framing() {
    let house = House::open();
    let mut client = house.connect();
    client.send("GET /chunks HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let start = client.read_through("\r\n\r\none");
    assert!(start.contains("\r\nConnection: close\r\n") && !start.contains("Transfer-Encoding"), "{start}");
    house.gate.send(()).unwrap();
    assert_eq!(client.read_to_end(), "two");
}

#[test]
fn an_answer_that_breaks_off_ends_without_its_last_chunk() {
    let house = House::open();
    let mut client = house.connect();
    client.get("/broken").read_through("3\r\none\r\n");
    house.gate.send(()).unwrap();
    assert_eq!(client.read_to_end(), "3\r\ntwo\r\n");
}

#[test]
fn many_clients_at_once_are_all_served() {
    let house = House::open();
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let mut client = house.connect();
                for _ in 0..20 {
                    assert_eq!(client.get("/x").read_answer().1, "/x");
                }
            });
        }
    });
}

// ---- Expectations and limits --------------------------------------------------------------------------------------

#[test]
fn a_body_that_will_be_read_is_welcomed_and_one_that_will_not_is_refused_before_it_is_sent() {
    let house = House::open();
    let mut client = house.connect();
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.read_through("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.send("ok").read_answer().1, "ok");
    // One that has begun to send waits for nothing.
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok");
    assert!(client.read_answer().0.starts_with("HTTP/1.1 200 "));
    let length = BODY_MAX + 1;
    client.send(&format!("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"));
    assert_eq!(client.read_refusal(), 413);
}

#[test]
fn the_413_reaches_a_client_that_sends_its_whole_body_first() {
    let house = House::open();
    let body = "x".repeat(8 * BODY_MAX);
    let mut client = house.connect();
    client.send(&format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    assert_eq!(client.read_refusal(), 413);
    let mut client = house.connect();
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(&format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    assert_eq!(client.read_refusal(), 413);
    assert_eq!(house.service.service.area.bytes_used(), 0);
}

#[test]
fn a_body_for_which_the_spool_has_no_room_is_refused() {
    let house = House::open_with_spool(100_000, |_| {});
    let body = "x".repeat(BODY_MAX);
    let mut client = house.connect();
    client.send(&format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY_MAX}\r\n\r\n{body}"));
    assert_eq!(client.read_refusal(), 503);
    assert_eq!(house.service.service.area.bytes_used(), 0);
}

#[test]
fn a_low_limit_of_open_files_lowers_what_the_door_takes_on() {
    let full = Bounds::default().fit(20_000);
    assert_eq!((full.connections_max, full.requests_max), (limits::CONNECTIONS_MAX, limits::REQUESTS_MAX));
    for descriptors in [0, 64, 256, 1024, 4096] {
        let Bounds { connections_max, requests_max, rejected_max, .. } = Bounds::default().fit(descriptors);
        assert!(connections_max >= 1 && requests_max >= 1 && rejected_max >= 1);
        let needed = connections_max * DESCRIPTORS_PER_CONNECTION
            + requests_max * limits::DESCRIPTORS_PER_REQUEST
            + rejected_max;
        let available = (descriptors as usize).saturating_sub(limits::DESCRIPTORS_RESERVED);
        assert!(needed <= available.max(12), "{needed} of {descriptors}");
    }
}

#[test]
fn what_is_malformed_is_refused_with_problem_details_and_the_connection_ends() {
    let house = House::open();
    let rows = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: h\n\n", 400),
        ("\x16\x03\x01\x02", 400),
        ("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", 417),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", 400),
    ];
    for (request, status) in rows {
        let mut client = house.connect();
        assert_eq!(
            client.send(request).send("GET /never HTTP/1.1\r\nHost: h\r\n\r\n").read_refusal(),
            status,
            "{request}"
        );
    }
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(limits::TARGET_BYTES_MAX));
    assert_eq!(house.connect().send(&long_target).read_refusal(), 414);
    let long_head = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(limits::HEAD_BYTES_MAX));
    assert_eq!(house.connect().send(&long_head).read_refusal(), 431);
    assert_eq!(house.service.under_way(), 0);
}

#[test]
fn a_request_that_breaks_off_is_refused() {
    let house = House::open();
    for request in ["GET / HT", "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhell"] {
        let mut client = house.connect();
        client.send(request);
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read_refusal(), 400);
    }
}

#[test]
fn slow_heads_and_slow_bodies_are_refused_and_idle_connections_closed() {
    let short = Duration::from_millis(50);
    let house = House::open_within(|bounds| {
        (bounds.head_deadline, bounds.rate_grace, bounds.idle_max) = (short, short, 3 * short);
    });
    assert_eq!(house.connect().send("GET / HTTP/1.1\r\n").read_refusal(), 408);
    let slow_body = "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhell";
    assert_eq!(house.connect().send(slow_body).read_refusal(), 408);
    assert_eq!(house.connect().read_to_end(), "");
    // The empty line that some clients send behind a body is no request.
    assert_eq!(house.connect().send("\r\n").read_to_end(), "");
}

#[test]
fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let house = House::open_within(|bounds| {
        (bounds.rate_grace, bounds.idle_max) = (Duration::from_millis(50), Duration::from_millis(100));
    });
    let mut client = house.connect();
    client.get("/long");
    wait_until("the long answer begins", || house.service.service.area.bytes_used() > 0);
    wait_until("the connection ends", || house.connections() == 0);
    assert_eq!(house.service.service.area.bytes_used(), 0);
    drop(client);
}

#[test]
fn connections_over_the_limit_are_told_so_at_once() {
    let house = House::open_within(|bounds| bounds.connections_max = 1);
    let mut first = house.connect();
    first.get("/a").read_answer();
    let mut second = house.connect();
    let text = second.get("/b").read_to_end();
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("\r\nRetry-After: 1\r\n"), "{text}");
    assert_eq!(first.get("/c").read_answer().1, "/c");
    drop(first);
    wait_until("the first connection ends", || house.connections() == 0);
    assert_eq!(house.connect().get("/d").read_answer().1, "/d");
}

#[test]
fn requests_over_the_limit_are_told_so_and_their_connection_stays() {
    let house = House::open_within(|bounds| bounds.requests_max = 1);
    let mut first = house.connect();
    first.get("/gate");
    assert_eq!(house.next_news(), "waits at the gate");
    let mut second = house.connect();
    let (head, _) = second.get("/x").read_answer();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: 1\r\n"), "{head}");
    assert!(!head.contains("Connection: close"), "{head}");
    house.gate.send(()).unwrap();
    assert_eq!(first.read_answer().1, "through");
    assert_eq!(second.get("/x").read_answer().1, "/x");
}

// ---- Clients that go away, and the end of service -----------------------------------------------------------------

#[test]
fn the_handler_is_told_when_the_client_goes_away() {
    let house = House::open_within(|bounds| bounds.half_close_grace = Duration::from_millis(1));
    let mut client = house.connect();
    client.get("/gone");
    assert_eq!(house.next_news(), "waits for the client to go");
    drop(client);
    assert_eq!(house.next_news(), "saw the client go");
    wait_until("the connection ends", || house.connections() == 0);
    assert_eq!(house.service.under_way(), 0);
    // The connection on which an answer was left unread is not used again.
    assert_eq!(house.connect().get("/next").read_answer().1, "/next");
}

#[test]
fn a_client_that_has_said_all_it_wants_to_say_still_gets_its_answers() {
    let house = House::open_within(|bounds| bounds.half_close_grace = PATIENCE);
    let mut client = house.connect();
    client.get("/gate").get("/second");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(house.next_news(), "waits at the gate");
    house.gate.send(()).unwrap();
    assert_eq!(client.read_answer().1, "through");
    assert_eq!(client.read_answer().1, "/second");
    assert_eq!(client.read_to_end(), "");
}

#[test]
fn at_the_end_of_service_begun_requests_are_answered_and_idle_connections_closed() {
    let house = House::open();
    let (mut idle, mut busy, mut begun) = (house.connect(), house.connect(), house.connect());
    idle.get("/a").read_answer();
    begun.get("/a").read_answer();
    busy.get("/gate");
    assert_eq!(house.next_news(), "waits at the gate");
    begun.send("GET /begun HT");
    // A byte that was sent is not one that has arrived: the answer to a later connection's request shows that it has.
    house.connect().get("/a").read_answer();

    assert!(!house.service.drain(Instant::now() + Duration::from_millis(1)), "a request is still under way");
    assert_eq!(idle.read_to_end(), "");
    wait_until("the port is closed", || TcpStream::connect(house.service.address()).is_err());
    begun.send("TP/1.1\r\nHost: h\r\n\r\n");
    let (head, body) = begun.read_answer();
    assert!(head.contains("\r\nConnection: close\r\n") && body == "/begun", "{head}");
    house.gate.send(()).unwrap();
    let (head, body) = busy.read_answer();
    assert!(head.contains("\r\nConnection: close\r\n") && body == "through", "{head}");
    drop((begun, busy));
    assert!(house.service.drain(Instant::now() + PATIENCE));
}

#[test]
fn a_taken_port_is_reported_with_its_holder() {
    let house = House::open();
    let settings = settings_for(house.service.address().port(), &house.run_dir);
    let area = house.service.service.area.clone();
    let error = HttpServer::open(&settings, area).err().unwrap().to_string();
    let holder = format!("(pid {})", std::process::id());
    assert!(
        error.starts_with(&format!("{} is taken by ", house.service.address())) && error.contains(&holder),
        "{error}"
    );
}
