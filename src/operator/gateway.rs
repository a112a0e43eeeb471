//! A client of the running gateway, by HTTP at the address in its run dir.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::deploy::Done;
use super::http_client::{Request, Response};
use super::{OperationError, Result, failed};
use crate::settings::Settings;

/// Time limit for one connection, read or write, except for `invoke`: a function may run an hour.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
const INVOKE_WAIT_MAX: Duration = Duration::from_secs(3700);

/// Time for a change to come into service. A module of 50 MB takes a second.
const LIVE_WAIT_MAX: Duration = Duration::from_secs(15);

/// Interval at which `wait_until_live` asks the gateway.
const LIVE_ASK_PERIOD: Duration = Duration::from_millis(5);

pub(crate) struct Gateway {
    address: SocketAddr,
    /// Bytes of an answer.
    answer_bytes_max: u64,
    /// The socket on which it tells its operator more than /healthz tells everybody (gateway/status.rs).
    status_socket: PathBuf,
}

impl Gateway {
    /// `None` where no gateway runs in the run dir.
    pub fn running(settings: &Settings) -> Option<Gateway> {
        let text = std::fs::read_to_string(settings.run_dir.join("gateway.address")).ok()?;
        let mut address: SocketAddr = text.trim().parse().ok()?;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        TcpStream::connect_timeout(&address, ANSWER_WAIT_MAX).ok()?;
        let answer_bytes_max = settings.response_bytes_max;
        Some(Gateway { address, answer_bytes_max, status_socket: settings.status_socket() })
    }

    /// Like [`Gateway::running`], but an error where none runs.
    pub fn required(settings: &Settings) -> Result<Gateway> {
        Gateway::running(settings).ok_or_else(|| {
            let run_dir = settings.run_dir.display();
            OperationError::Failed(format!(
                "no gateway runs in {run_dir}; start one with ./start.sh, or set FAAS_RUN_DIR"
            ))
        })
    }

    /// Sets another bound for answers.
    pub fn bounded(self, answer_bytes_max: u64) -> Gateway {
        Gateway { answer_bytes_max, ..self }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn health(&self) -> Result<Value> {
        let response = self.call("GET", "/healthz", &[], b"", ANSWER_WAIT_MAX)?;
        serde_json::from_slice(&response.body).map_err(failed("read the answer of /healthz"))
    }

    /// The gateway's report on itself and its workers.
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
        let host = ("Host".to_string(), self.address.to_string());
        let has_host = fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        let fields: Vec<_> = fields.iter().cloned().chain((!has_host).then_some(host)).collect();
        let request = Request { method, target, fields: &fields, body, wait, answer_bytes_max: self.answer_bytes_max };
        request.send(self.address).map_err(failed(format!("ask the gateway at {}", self.url())))
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
                return Err(OperationError::NotLive(format!(
                    "generation {generation} is written, but not in service after {seconds} s; faas logs may say why"
                )));
            }
            std::thread::sleep(LIVE_ASK_PERIOD);
        }
    }
}

/// If a gateway runs, waits until a change is in service. Reports it as text, and as fields of a JSON object.
pub(crate) fn go_live(settings: &Settings, done: &Done) -> Result<(String, Value)> {
    let generation = done.generation;
    if !done.is_changed {
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
