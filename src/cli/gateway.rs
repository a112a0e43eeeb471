//! The running gateway, asked over HTTP at the address that it left in its run dir.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{CliError, Result, failed};
use crate::settings::Settings;

/// How long one connection, read or write may take, but for `invoke`: a function may run an hour.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
const INVOKE_WAIT_MAX: Duration = Duration::from_secs(3700);

/// How long a change may take to come into service. A module of 50 MB takes a second.
const LIVE_WAIT_MAX: Duration = Duration::from_secs(15);

/// Time between two questions whether it has.
const LIVE_ASK_PERIOD: Duration = Duration::from_millis(5);

pub struct Gateway {
    address: SocketAddr,
    /// Where it tells its operator more than /healthz tells everybody (gateway/status.rs).
    status_socket: PathBuf,
}

/// An HTTP response.
pub struct Response {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Gateway {
    /// `None` where none runs in the run dir.
    pub fn running(settings: &Settings) -> Option<Gateway> {
        let text = std::fs::read_to_string(settings.run_dir.join("gateway.address")).ok()?;
        let mut address: SocketAddr = text.trim().parse().ok()?;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        TcpStream::connect_timeout(&address, ANSWER_WAIT_MAX).ok()?;
        Some(Gateway { address, status_socket: settings.status_socket() })
    }

    /// As [`Gateway::running`], where it must.
    pub fn required(settings: &Settings) -> Result<Gateway> {
        Gateway::running(settings).ok_or_else(|| {
            let run_dir = settings.run_dir.display();
            CliError::Failed(format!("no gateway runs in {run_dir}; start one with ./start.sh, or set FAAS_RUN_DIR"))
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn health(&self) -> Result<Value> {
        let response = self.call("GET", "/healthz", &[], b"", ANSWER_WAIT_MAX)?;
        serde_json::from_slice(&response.body).map_err(failed("read the answer of /healthz"))
    }

    /// What it says of itself and its workers.
    pub fn status(&self) -> Result<Value> {
        let path = self.status_socket.display();
        let stream = UnixStream::connect(&self.status_socket).map_err(failed(format!("connect to {path}")))?;
        stream.set_read_timeout(Some(ANSWER_WAIT_MAX)).map_err(failed(format!("read {path}")))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).map_err(failed(format!("read {path}")))?;
        serde_json::from_str(&line).map_err(failed(format!("read {path}")))
    }

    pub fn invoke(&self, method: &str, target: &str, fields: &[(String, String)], body: &[u8]) -> Result<Response> {
        self.call(method, target, fields, body, INVOKE_WAIT_MAX)
    }

    fn call(
        &self,
        method: &str,
        target: &str,
        fields: &[(String, String)],
        body: &[u8],
        wait: Duration,
    ) -> Result<Response> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.address);
        }
        if !body.is_empty() || method != "GET" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        fields.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        let exchange = || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect_timeout(&self.address, ANSWER_WAIT_MAX)?;
            stream.set_read_timeout(Some(wait))?;
            stream.set_write_timeout(Some(wait))?;
            stream.write_all(format!("{head}\r\n").as_bytes())?;
            // A gateway that refuses a body may not take all of it: its answer counts.
            let _ = stream.write_all(body);
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        let answer = exchange().map_err(failed(format!("ask the gateway at {}", self.url())))?;
        Response::parse(&answer, method == "HEAD")
            .ok_or_else(|| CliError::Failed("the gateway's answer is cut short".into()))
    }

    /// Waits until the gateway has this generation in service.
    fn wait_until_live(&self, generation: u64) -> Result<Duration> {
        let began = Instant::now();
        loop {
            if self.health()?["generation"].as_u64().is_some_and(|live| live >= generation) {
                return Ok(began.elapsed());
            }
            if began.elapsed() > LIVE_WAIT_MAX {
                let seconds = LIVE_WAIT_MAX.as_secs();
                return Err(CliError::NotLive(format!(
                    "generation {generation} is written, but not in service after {seconds} s; faas logs may say why"
                )));
            }
            std::thread::sleep(LIVE_ASK_PERIOD);
        }
    }
}

/// Waits until a change is in service where a gateway runs, and says so: as text, and as fields of a JSON object.
pub fn go_live(settings: &Settings, generation: u64, is_changed: bool) -> Result<(String, Value)> {
    if !is_changed {
        return Ok((format!("nothing to change in generation {generation}\n"), json!({"generation": generation})));
    }
    let Some(gateway) = Gateway::running(settings) else {
        let text = format!("generation {generation} is written; no gateway runs in {}\n", settings.run_dir.display());
        return Ok((text, json!({"generation": generation, "live_ms": null})));
    };
    let ms = gateway.wait_until_live(generation)?.as_millis() as u64;
    let text = format!("generation {generation} is live after {ms} ms at {}\n", gateway.url());
    Ok((text, json!({"generation": generation, "live_ms": ms, "url": gateway.url()})))
}

impl Response {
    fn parse(answer: &[u8], is_head: bool) -> Option<Response> {
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_string(), value.trim().to_string()));
        let fields: Vec<(String, String)> = lines.filter_map(field).collect();
        let rest = &answer[end + 4..];
        let mut response = Response { status, fields, body: Vec::new() };
        response.body = match (response.field("Transfer-Encoding"), response.field("Content-Length")) {
            _ if is_head => Vec::new(),
            (Some(_), _) => dechunked(rest)?,
            (None, Some(length)) => rest.get(..length.parse().ok()?)?.to_vec(),
            (None, None) => rest.to_vec(),
        };
        Some(response)
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The body of a chunked answer (RFC 9112 7.1); `None` where it is cut short.
fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let line = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}
