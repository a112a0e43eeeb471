//! Hostile clients, and clients that behave like them.
//!
//! The first half makes attacks that bring a bare tiny_http server down, such as a version that hangs its threads or a
//! length that ends its process. It makes each 300 times, or with FAAS_TEST_SOAK=1 10,000 times. Afterwards the gateway
//! serves, and its threads, descriptors and memory are as before.
//! The second half tests the requests that reach a function, and clients that are slow, many, or leave.

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::http::Answer;
use crate::instance::{Instance, wait_until};

/// Clients that attack at once.
const ATTACKERS: usize = 4;
/// Threads and descriptors that pools may keep. A leak of one in ten tries would exceed this.
const COUNT_SLACK: usize = 16;
/// The allocator may return memory late.
const MEMORY_SLACK_KIB: usize = 6 * 1024;

fn is_soak() -> bool {
    std::env::var("FAAS_TEST_SOAK").is_ok_and(|value| value == "1")
}

fn tries() -> usize {
    if is_soak() { 10_000 } else { 300 }
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
fn many_requests_in_one_write_take_turns_and_hold_nobody_up() {
    let instance = Instance::start();
    let requests = "GET /none HTTP/1.1\r\nHost: h\r\n\r\n".repeat(16);
    withstands(&instance, |number| {
        let mut stream = instance.connect();
        stream.get_mut().write_all(requests.as_bytes()).unwrap();
        // Every other client leaves after the first response, with the rest unread: the gateway sees a reset.
        let read = if number % 2 == 0 { 16 } else { 1 };
        (0..read).for_each(|_| assert_eq!(Answer::read(&mut stream, false).unwrap().status, 404));
    });
}

#[test]
fn a_client_that_waits_for_leave_to_send_too_much_is_told_at_once() {
    let instance = Instance::start();
    let head = "POST /none HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n";
    withstands(&instance, |number| {
        if number % 2 == 0 {
            assert_eq!(status_of(&instance, format!("{head}Content-Length: 99999999999\r\n\r\n").as_bytes()), 413);
            return;
        }
        let mut stream = instance.connect();
        write!(stream.get_mut(), "{head}Content-Length: 5000\r\n\r\n").unwrap();
        assert_eq!(Answer::read(&mut stream, false).unwrap().status, 100);
        stream.get_mut().write_all(&[b'x'; 5000]).unwrap();
        assert_eq!(Answer::read(&mut stream, false).unwrap().status, 404);
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

#[test]
fn an_answer_of_unknown_length_for_an_old_client_is_not_held_in_memory() {
    let instance = Instance::start();
    let script = "head -c 300000 /dev/zero";
    instance.script_with("GET:/stream", script, json!({"stream": true, "output": "raw"}));
    instance.script_with("GET:/whole", script, json!({"output": "raw"}));
    let heads = ["HTTP/1.0\r\n\r\n", "HTTP/1.1\r\nHost: h\r\nTE: identity\r\n\r\n", "HTTP/1.0\r\nTE: identity\r\n\r\n"];
    withstands(&instance, |number| {
        let (head, path) = (heads[number % heads.len()], ["stream", "whole"][number % 2]);
        let mut stream = instance.connect();
        write!(stream.get_mut(), "GET /{path} {head}").unwrap();
        let answer = Answer::read(&mut stream, false).unwrap();
        assert_eq!((answer.status, answer.body.len(), answer.is_whole), (200, 300_000, true), "{path} {head:?}");
        assert!(head.contains("1.1") || answer.field("Transfer-Encoding").is_none(), "{:?}", answer.fields);
    });
}

// ---- Requests that reach a function ---------------------------------------------------------------------------------

/// Prints the request that it sees, one variable per line.
const TELL: &str = r#"
printf '%s\n' "method=$REQUEST_METHOD" "uri=$REQUEST_URI" "script=$SCRIPT_NAME" "info=$PATH_INFO" \
    "query=$QUERY_STRING" "host=$HTTP_HOST" "name=$SERVER_NAME" "protocol=$SERVER_PROTOCOL"
"#;

/// The lines of TELL that differ from those of a plain request.
fn told(instance: &Instance, bytes: &str) -> (u16, String) {
    let answer = instance.exchange(bytes).remove(0);
    let usual = ["method=GET", "host=h", "name=h", "protocol=HTTP/1.1", "query=", "info=", "script=/tell"];
    let text = answer.text();
    let lines: Vec<&str> = text.lines().filter(|line| !usual.contains(line)).collect();
    (answer.status, if answer.status == 200 { lines.join(" ") } else { String::new() })
}

#[test]
fn targets_of_every_form_reach_the_function_as_sent() {
    let instance = Instance::start();
    let descriptor = instance.descriptor("native", &format!("#!/bin/sh\n{TELL}"), json!({"output": "raw"}));
    instance.install(&["GET:/tell", "GET:/tell/*", "OPTIONS:/tell"].map(|key| (key, descriptor.clone())));
    for (target, status, expected) in [
        ("/tell", 200, "uri=/tell"),
        ("/tell?", 200, "uri=/tell?"),
        ("/tell?a=b?c=d&%00", 200, "uri=/tell?a=b?c=d&%00 query=a=b?c=d&%00"),
        // Another reader might take these for another path. The gateway compares them as sent.
        ("//tell", 404, ""),
        ("/%74ell", 404, ""),
        ("/tell%2fa", 404, ""),
        ("/tell//a", 200, "uri=/tell//a info=//a"),
        ("/tell/a%2Fb", 200, "uri=/tell/a%2Fb info=/a/b"),
        ("/tell/%zz%4", 200, "uri=/tell/%zz%4 info=/%zz%4"),
        ("/tell/%00", 400, ""),
        ("/tell/a%00b?c", 400, ""),
        // The absolute form, whose host wins over the Host line.
        ("http://other:81/tell?q", 200, "uri=http://other:81/tell?q query=q host=other:81 name=other"),
        ("HTTPS://other/tell", 200, "uri=HTTPS://other/tell host=other name=other"),
        ("http://other", 404, ""),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        assert_eq!(told(&instance, &request), (status, expected.to_string()), "for {target:?}");
    }
    let options =
        |target: &str| instance.exchange(format!("OPTIONS {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
    assert_eq!(options("*")[0].status, 204);
    assert!(options("/tell")[0].text().starts_with("method=OPTIONS\n"));
    // An HTTP/1.0 client need not name a host.
    assert_eq!(
        told(&instance, "GET /tell HTTP/1.0\r\n\r\n"),
        (200, "uri=/tell host= name=localhost protocol=HTTP/1.0".into())
    );
}

#[test]
fn a_client_cannot_set_what_is_not_its_to_set() {
    let instance = Instance::start();
    instance.script_with("GET:/env", "env", json!({"output": "raw"}));
    let fields = [
        ("Proxy", "http://evil/"),
        ("proxy", "http://evil/"),
        ("X-Faas-Conversation", "1"),
        ("x-faas-spooled", "1000"),
        ("X-FAAS-Worker", "7"),
        ("X_Faas_Conversation", "2"),
        ("Content_Length", "3"),
        ("Remote-Addr", "6.6.6.6"),
        ("Remote_Addr", "6.6.6.6"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "for=6.6.6.6"),
        ("Connection", "close, X-Secret"),
        ("X-Secret", "1"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Keep-Alive", "timeout=9"),
        ("Transfer_Encoding", "chunked"),
        ("X.Dot", "1"),
        ("X-Plain", "1"),
    ];
    let answer = instance.request("GET", "/env", &fields, b"");
    let text = answer.text();
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.retain(|name| name.starts_with("HTTP_"));
    names.sort();
    assert_eq!(names, ["HTTP_HOST", "HTTP_REMOTE_ADDR", "HTTP_X_PLAIN", "HTTP_X_REQUEST_ID"]);
    for line in ["REMOTE_ADDR=127.0.0.1", "REQUEST_SCHEME=http", "CONTENT_LENGTH=0"] {
        assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
    }
    assert_ne!(answer.field("X-Faas-Worker"), Some("7"));
}

#[test]
fn cookies_of_8_kib_and_bytes_beyond_ascii_arrive_unchanged() {
    let instance = Instance::start();
    instance.script_with("GET:/cookie", "printf '%s|%s' \"$HTTP_COOKIE\" \"$HTTP_X_OBS\"", json!({"output": "raw"}));
    let cookie = format!("a={}; b=\"c\"", "0123456789abcdef".repeat(512));
    let obs: Vec<u8> = (0x80..=0xff).chain(*b"\t \"\\'$`;&|").collect();
    let mut stream = instance.connect();
    let head = format!("GET /cookie HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\ncookie: d=e\r\nX-Obs: ");
    stream.get_mut().write_all(&[head.as_bytes(), &obs, b"\r\n\r\n"].concat()).unwrap();
    let answer = Answer::read(&mut stream, false).unwrap();
    assert_eq!(answer.body, [cookie.as_bytes(), b"; d=e|", &obs].concat());
}

// ---- Clients that are slow, too many, or leave ----------------------------------------------------------------------

#[test]
fn readers_of_one_byte_a_second_are_cut_off_and_their_answers_given_up() {
    if !is_soak() {
        return;
    }
    let instance = Instance::start();
    instance.script_with("GET:/large", "head -c 10000000 /dev/zero", json!({"output": "raw"}));
    let ask = || {
        let mut stream = instance.connect();
        stream.get_mut().write_all(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        stream
    };
    // As many calls at once open the connections to the workers, which stay open.
    let readers = [(); 50].map(|()| ask());
    assert!(readers.into_iter().all(|mut reader| Answer::read(&mut reader, false).unwrap().status == 200));
    let before = holdings(&instance);
    let mut streams: Vec<TcpStream> = (0..50).map(|_| ask().into_inner()).collect();
    let until = Instant::now() + Duration::from_secs(120);
    while holdings(&instance).descriptors > before.descriptors + COUNT_SLACK {
        assert!(Instant::now() < until, "{:?} were {before:?}", holdings(&instance));
        streams.iter_mut().for_each(|stream| _ = stream.read(&mut [0]));
        // This call closes private connections that have been idle for long.
        assert_eq!(instance.get("/no/such/route").status, 404);
        std::thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(instance.wait_for_log("took its answer too slowly", 50).len(), 50);
}

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
fn silent_connections_on_all_places_keep_nobody_out() {
    let instance = Instance::start();
    let max = connections_max(&instance);
    faas::sys::raise_open_files_limit().unwrap();
    let silent: Vec<TcpStream> = (0..max).map(|_| TcpStream::connect(instance.address()).unwrap()).collect();
    wait_until("all of them have a thread", || holdings(&instance).threads >= max);
    instance.script("GET:/served", "echo served");
    for _ in 0..20 {
        assert_eq!(instance.get("/served").text(), "served\n");
    }
    drop(silent);
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

#[test]
fn who_has_closed_its_sending_side_gets_a_quick_answer_and_a_slow_function_is_cancelled() {
    let instance = Instance::start();
    instance.script("GET:/quick", "echo quick");
    instance.script("GET:/slow", "touch \"$IT_FOLDER/started\"\nsleep 1000");
    let half_closed = |requests: &str| {
        let mut stream = instance.connect();
        stream.get_mut().write_all(requests.as_bytes()).unwrap();
        stream.get_mut().shutdown(Shutdown::Write).unwrap();
        stream
    };
    let quick = "GET /quick HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut stream = half_closed(&quick.repeat(3));
    (0..3).for_each(|_| assert_eq!(Answer::read(&mut stream, false).unwrap().text(), "quick\n"));
    assert!(Answer::read(&mut stream, false).is_err());

    let mut stream = half_closed(&format!("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n{quick}"));
    wait_until("it has started", || instance.shared("started").exists());
    wait_until("it is gone", || instance.functions().is_empty());
    // The gateway serves nothing that follows it.
    assert!(Answer::read(&mut stream, false).is_err());
}

#[test]
fn a_client_that_leaves_cancels_its_function_and_what_it_had_sent_behind_is_not_run() {
    let instance = Instance::start();
    instance.script("GET:/slow", "touch \"$IT_FOLDER/started\"\nsleep 1000");
    instance.script("GET:/next", "touch \"$IT_FOLDER/next-has-run\"");
    let mut stream = instance.connect();
    let requests = "GET /slow HTTP/1.1\r\nHost: h\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n";
    stream.get_mut().write_all(requests.as_bytes()).unwrap();
    wait_until("it has started", || instance.shared("started").exists());
    drop(stream);
    wait_until("it is gone", || instance.functions().is_empty());
    wait_until("its slot is free", || {
        let status = instance.status();
        status["workers"].as_array().unwrap().iter().all(|worker| worker["in_flight"] == 0)
    });
    assert!(!instance.shared("next-has-run").exists());
}
