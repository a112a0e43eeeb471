//! Hostile clients leave nothing behind in the gateway's process. src/http_handler/tests has the rules of a single
//! connection: clients that are slow, silent, or leave.
//!
//! The first half makes attacks that bring a bare tiny_http server down, such as a version that hangs its threads or a
//! length that ends its process. It makes each 300 times, or as often as a soak says (soak.rs). Afterwards the gateway
//! serves, and its threads, descriptors and memory are as before.
//! The second half exceeds the bounds of connections and open files.

use std::fs;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::http::Answer;
use crate::instance::{Instance, wait_until};

/// Clients that attack at once.
const ATTACKERS: usize = 4;
/// Threads and descriptors that pools may keep. A leak of one in ten tries would exceed this.
const COUNT_SLACK: usize = 16;
/// The allocator may return memory late.
const MEMORY_SLACK_KIB: usize = 6 * 1024;

fn tries() -> usize {
    crate::soak::count(300, 10)
}

/// Resources of the gateway's process.
#[derive(Debug)]
struct Holdings {
    threads: usize,
    descriptors: usize,
    memory_kib: usize,
}

fn holdings(instance: &Instance) -> Holdings {
    let pid = instance.gateway_pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let figure = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    Holdings { threads: figure("Threads:"), descriptors, memory_kib: figure("RssAnon:") }
}

/// Attacks repeatedly, from several clients at once, and asserts that no resource stays in use.
fn withstands(instance: &Instance, attack: impl Fn(usize) + Sync) {
    let attack_often = |count: usize| {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..ATTACKERS {
                scope.spawn(|| {
                    while let number = next.fetch_add(1, Ordering::Relaxed)
                        && number < count
                    {
                        attack(number);
                    }
                });
            }
        });
    };
    // Pools and buffers grow to what this load needs.
    attack_often(tries() / 5);
    let before = holdings(instance);
    attack_often(tries());
    let is_flat = |now: &Holdings| {
        // The next response closes private connections that have been idle for long.
        assert_eq!(instance.get("/no/such/route").status, 404);
        now.threads <= before.threads + COUNT_SLACK
            && now.descriptors <= before.descriptors + COUNT_SLACK
            && now.memory_kib <= before.memory_kib + MEMORY_SLACK_KIB
    };
    let flat_by = Instant::now() + Duration::from_secs(20);
    while !is_flat(&holdings(instance)) {
        assert!(Instant::now() < flat_by, "{:?} were {before:?}", holdings(instance));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(instance.get("/healthz").status, 200);
}

/// Sends bytes on a connection of its own and reads the status of one response.
fn status_of(instance: &Instance, bytes: &[u8]) -> u16 {
    let mut stream = instance.connect();
    let _ = stream.get_mut().write_all(bytes);
    Answer::read(&mut stream, false).unwrap().status
}

// ---- Attacks that bring a bare tiny_http server down ----------------------------------------------------------------

#[test]
fn a_burst_of_connections_that_stay_is_served_to_the_last_one() {
    let instance = Instance::start();
    withstands(&instance, |_| {
        let mut streams: Vec<BufReader<TcpStream>> = (0..16).map(|_| instance.connect()).collect();
        for stream in &mut streams {
            stream.get_mut().write_all(b"GET /none HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        }
        // From the last to the first: none may wait until another one closes.
        for stream in streams.iter_mut().rev() {
            assert_eq!(Answer::read(stream, false).unwrap().status, 404);
        }
    });
}

/// One row for each kind of rejection: version, length, head, framing. The parsers' own tests cover all rules.
#[test]
fn a_refused_request_costs_nothing_that_stays() {
    let instance = Instance::start();
    let long = "x".repeat(70_000);
    let post = |rest: &str| format!("POST /api/hello HTTP/1.1\r\nHost: h\r\n{rest}");
    let rows = [
        ("GET / HTTP/2.0\r\n\r\n".into(), 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
        (post("Content-Length: 18446744073709551615\r\n\r\nbody"), 413),
        (post("Content-Length: 1099511627776\r\n\r\nbody"), 413),
        (post("Expect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n"), 413),
        (format!("GET /{long}"), 414),
        (format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}"), 431),
        ("\r\n".repeat(1000), 400),
        (post("Transfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n"), 400),
    ];
    withstands(&instance, |number| {
        let (request, status) = &rows[number % rows.len()];
        assert_eq!(status_of(&instance, request.as_bytes()), *status, "to {:.80?}", request);
    });
}

#[test]
fn connections_that_break_at_any_point_leave_nothing_and_accepting_goes_on() {
    let instance = Instance::start();
    let request = b"POST /none HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nsome body";
    withstands(&instance, |number| {
        let mut stream = instance.connect();
        let sent = number % (request.len() + 1);
        stream.get_mut().write_all(&request[..sent]).unwrap();
        match number % 3 {
            0 => stream.get_mut().shutdown(Shutdown::Both).unwrap(),
            // The client closes with a response unread, which resets the connection.
            1 if sent == request.len() => assert_eq!(stream.get_mut().peek(&mut [0]).unwrap(), 1),
            _ => {}
        }
    });
}

// ---- More connections than there is room for ----------------------------------------------------------------------

/// The gateway's bound of connections, which depends on its limit of open files.
fn connections_max(instance: &Instance) -> usize {
    let lines = instance.log_lines("open files allow for");
    let count = lines.first().and_then(|line| line.split("allow for ").nth(1)?.split(' ').next()?.parse().ok());
    count.unwrap_or(faas::limits::CONNECTIONS_MAX)
}

#[test]
fn a_connection_over_the_limit_is_503_with_retry_after_at_once_and_room_comes_back() {
    let instance = Instance::start();
    let before = holdings(&instance);
    let max = connections_max(&instance);
    let ours = faas::sys::raise_open_files_limit().unwrap() as usize;
    assert!(ours > max + 500, "this test needs {max} connections, and may have {ours} open files");
    let connect = || TcpStream::connect(instance.address()).unwrap();
    // Connections that had sent nothing would make room.
    let begin = |mut stream: TcpStream| stream.write_all(b"GET /none HTTP/1.1\r\n").map(|()| stream).unwrap();
    let held: Vec<TcpStream> = (0..max).map(|_| begin(connect())).collect();
    wait_until("all of them have a thread", || holdings(&instance).threads >= max);
    for _ in 0..8 {
        let began = Instant::now();
        // It gets its response before it has sent a request.
        let answer = Answer::read(&mut BufReader::new(connect()), false).unwrap();
        answer.problem(503, "too-many-connections");
        assert!(answer.field("Retry-After").is_some_and(|seconds| seconds.parse::<u64>().unwrap() <= 60));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    // Accepted connections are served.
    let mut first = BufReader::new(held[0].try_clone().unwrap());
    first.get_mut().write_all(b"Host: h\r\n\r\n").unwrap();
    assert_eq!(Answer::read(&mut first, false).unwrap().status, 404);
    drop((held, first));
    wait_until("their threads and descriptors are gone", || {
        let now = holdings(&instance);
        now.threads <= before.threads + COUNT_SLACK && now.descriptors <= before.descriptors + COUNT_SLACK
    });
    assert_eq!(instance.get("/healthz").status, 200);
}

#[test]
fn with_two_hundred_open_files_a_burst_is_turned_away_and_service_goes_on() {
    let mut instance = Instance::prepare(&[]);
    instance.init();
    instance.launch_under("ulimit -n 200");
    instance.wait_until_ready();
    instance.script("GET:/x", "echo x");
    for _ in 0..5 {
        let request = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
        let streams: Vec<io::Result<TcpStream>> = (0..200).map(|_| TcpStream::connect(instance.address())).collect();
        let mut served = 0;
        for stream in streams.into_iter().flatten() {
            let mut stream = BufReader::new(stream);
            stream.get_ref().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let _ = stream.get_mut().write_all(request);
            // A rejected connection that made room for the next rejected one may see a reset instead of its 503.
            match Answer::read(&mut stream, false) {
                Ok(answer) if answer.status == 200 => served += 1,
                Ok(answer) => assert!(answer.status == 503 && answer.field("Retry-After").is_some(), "{answer:?}"),
                Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "a client waits for nothing"),
            }
        }
        assert!(served > 0);
        assert!(holdings(&instance).descriptors <= 200);
        wait_until("it serves again", || {
            instance.try_request("GET", "/x", &[], b"").is_ok_and(|it| it.text() == "x\n")
        });
    }
}
