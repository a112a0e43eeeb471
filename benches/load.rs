//! Clients: keep-alive connections that send the same request again as soon as its answer is there.
//!
//! Requests are ready-made bytes, connections do not block, and one thread attends to eight of them with one poll, so
//! that the generator takes as little as possible of the cores that it shares with what it measures.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use faas::sys::{Watched, poll};

use crate::table::{Outcome, Samples, failed};

/// Connections that one thread attends to.
const CONNECTIONS_PER_THREAD: usize = 8;
/// An answer that takes longer is a failure.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
}

pub fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// One keep-alive connection.
pub struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
    sent_at: Instant,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Outcome<Client> {
        let stream = TcpStream::connect(address).map_err(failed("connect"))?;
        stream.set_nodelay(true).map_err(failed("connect"))?;
        stream.set_nonblocking(true).map_err(failed("connect"))?;
        Ok(Client { stream, inbox: Vec::new(), sent_at: Instant::now() })
    }

    pub fn call(&mut self, request: &[u8]) -> Outcome<(u16, Vec<u8>)> {
        self.send(request)?;
        loop {
            self.wait(Watched::read)?;
            if let Some(answer) = self.receive()? {
                return Ok((answer.status, self.take(&answer)));
            }
        }
    }

    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.sent_at = Instant::now();
        let mut rest = request;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(Watched::write)?,
                Err(error) => return Err(failed("send a request")(error)),
            }
        }
        Ok(())
    }

    fn wait<'a>(&'a self, what: fn(std::os::fd::BorrowedFd<'a>) -> Watched<'a>) -> Outcome<()> {
        match poll(&mut [what(self.stream.as_fd())], Some(ANSWER_WAIT_MAX)) {
            Ok(0) => Err("an answer did not come in time".into()),
            Ok(_) => Ok(()),
            Err(error) => Err(failed("poll")(error)),
        }
    }

    /// Reads what is there; the answer's outline when all of it has come.
    fn receive(&mut self) -> Outcome<Option<Answer>> {
        let filled = self.inbox.len();
        // Doubled, so that a long body does not cost a system call for every few bytes.
        self.inbox.resize(filled + filled.clamp(4096, 1 << 20), 0);
        let result = self.stream.read(&mut self.inbox[filled..]);
        self.inbox.truncate(filled + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => return Err("the connection was closed before the answer had come".into()),
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(failed("receive an answer")(error)),
            _ => {}
        }
        let answer = Answer::outline(&self.inbox)?;
        Ok(answer.filter(|answer| self.inbox.len() >= answer.body_start + answer.body_bytes))
    }

    fn take(&mut self, answer: &Answer) -> Vec<u8> {
        let end = answer.body_start + answer.body_bytes;
        let body = self.inbox[answer.body_start..end].to_vec();
        self.inbox.drain(..end);
        body
    }
}

struct Answer {
    status: u16,
    body_start: usize,
    body_bytes: usize,
}

impl Answer {
    /// `None` while the head is not complete. Knows answers with a Content-Length only.
    fn outline(bytes: &[u8]) -> Outcome<Option<Answer>> {
        let Some(head_end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let head = &bytes[..head_end];
        let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.trim().parse().ok();
        let status = head.get(9..12).and_then(number).ok_or("an answer has no status")?;
        let length = head.split(|byte| *byte == b'\n').find_map(|line| {
            let (name, value) = line.split_at_checked(15)?;
            name.eq_ignore_ascii_case(b"content-length:").then_some(value)
        });
        let length = length.and_then(number).ok_or("an answer has no Content-Length")?;
        Ok(Some(Answer { status: status as u16, body_start: head_end + 4, body_bytes: length }))
    }
}

/// A load: this request, on this many connections, each answer with this status.
#[derive(Clone)]
pub struct Load {
    pub address: SocketAddr,
    pub request: Vec<u8>,
    pub status: u16,
    pub connections: usize,
}

/// Result of a load.
pub struct Figures {
    pub per_s: f64,
    pub latency_us: Samples,
}

impl Load {
    /// Connects, lets each connection have one answer, then measures for `time`.
    pub fn run(&self, time: Duration) -> Outcome<Figures> {
        let mut clients = (0..self.connections).map(|_| self.warm_client()).collect::<Outcome<Vec<Client>>>()?;
        let began = Instant::now();
        let latencies = self.keep_all_busy(&mut clients, began + time)?;
        let elapsed = began.elapsed().as_secs_f64();
        Ok(Figures { per_s: latencies.len() as f64 / elapsed, latency_us: Samples::from(latencies) })
    }

    /// Requests per second.
    pub fn per_s(&self, time: Duration) -> Outcome<f64> {
        Ok(self.run(time)?.per_s)
    }

    /// The median time from request to answer on one connection, in microseconds.
    pub fn latency_us(&self, time: Duration) -> Outcome<f64> {
        let alone = Load { connections: 1, ..self.clone() };
        Ok(alone.run(time)?.latency_us.median())
    }

    /// One request on each connection, all at once, none of which has had an answer before: latencies in microseconds.
    pub fn burst(&self) -> Outcome<Samples> {
        let clients = (0..self.connections).map(|_| Client::connect(self.address));
        let mut clients = clients.collect::<Outcome<Vec<Client>>>()?;
        self.keep_all_busy(&mut clients, Instant::now()).map(Samples::from)
    }

    /// [`Load::keep_busy`] for any number of connections, on threads.
    fn keep_all_busy(&self, clients: &mut [Client], until: Instant) -> Outcome<Vec<f64>> {
        let counted: Vec<Outcome<Vec<f64>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = clients
                .chunks_mut(CONNECTIONS_PER_THREAD)
                .map(|clients| scope.spawn(move || self.keep_busy(clients, until)))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a client's thread does not panic")).collect()
        });
        Ok(counted.into_iter().collect::<Outcome<Vec<_>>>()?.concat())
    }

    fn warm_client(&self) -> Outcome<Client> {
        let mut client = Client::connect(self.address)?;
        let (status, body) = client.call(&self.request)?;
        match status == self.status {
            true => Ok(client),
            false => Err(format!("the answer was {status}: {}", String::from_utf8_lossy(&body).trim())),
        }
    }

    /// Sends on each connection until the time is up, then waits for the answers that are due. Latencies in microseconds.
    fn keep_busy(&self, clients: &mut [Client], until: Instant) -> Outcome<Vec<f64>> {
        let mut latencies = Vec::new();
        let mut under_way: Vec<&mut Client> = clients.iter_mut().collect();
        for client in &mut under_way {
            client.send(&self.request)?;
        }
        while !under_way.is_empty() {
            let mut watched: Vec<_> = under_way.iter().map(|client| Watched::read(client.stream.as_fd())).collect();
            if poll(&mut watched, Some(ANSWER_WAIT_MAX)).map_err(failed("poll"))? == 0 {
                return Err("an answer did not come in time".into());
            }
            let ready: Vec<bool> = watched.iter().map(Watched::is_ready).collect();
            // From the end, so that a removal moves none that is still to be looked at.
            for at in (0..under_way.len()).rev().filter(|at| ready[*at]) {
                let client = &mut under_way[at];
                let Some(answer) = client.receive()? else { continue };
                if answer.status != self.status {
                    return Err(format!("an answer was {}", answer.status));
                }
                let now = Instant::now();
                latencies.push((now - client.sent_at).as_secs_f64() * 1e6);
                client.inbox.clear();
                match now < until {
                    true => client.send(&self.request)?,
                    false => drop(under_way.swap_remove(at)),
                }
            }
        }
        Ok(latencies)
    }
}
