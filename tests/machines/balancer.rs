//! HAProxy with deploy/haproxy.cfg as it is.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::http::Answer;
use crate::instance::wait_until;
use crate::network::{FRONT, Process};

/// Longest wait of a client for a byte: more than the balancer takes to give up a node.
const CLIENT_WAIT_MAX: Duration = Duration::from_secs(30);

/// Starts HAProxy, and waits until it serves.
pub fn start(log: &Path) -> Process {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/haproxy.cfg");
    let process = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(config), log);
    wait_until("the balancer serves", || get("/healthz").is_ok_and(|answer| answer.status == 200));
    process
}

pub fn connect() -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect((FRONT, 80))?;
    stream.set_read_timeout(Some(CLIENT_WAIT_MAX))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

pub fn get(target: &str) -> std::io::Result<Answer> {
    request(&mut connect()?, "GET", target, "")
}

/// Sends a request, and reads its answer. The connection stays open.
pub fn request(stream: &mut BufReader<TcpStream>, method: &str, target: &str, body: &str) -> std::io::Result<Answer> {
    let length = body.len();
    let text = format!("{method} {target} HTTP/1.1\r\nHost: faas\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.get_mut().write_all(text.as_bytes())?;
    let answer = Answer::read(stream, method == "HEAD")?;
    match answer.is_whole {
        true => Ok(answer),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}
