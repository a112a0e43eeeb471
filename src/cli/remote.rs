//! `faas --remote URL VERB`: the verbs that work from another machine, through a console's API.
//!
//! The token is in FAAS_REMOTE_TOKEN, or in ~/.config/faas/token. A URL is http, as `ssh -L` makes it: the token must not
//! cross a network that others can read.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::args::Given;
use super::table::{bytes, table, time};
use super::{CliError, Report, Result, code, deploy, failed, routes};
use crate::operator::code::Bounds;
use crate::operator::http_client::Request;
use crate::operator::registry::Route;

pub const TOKEN_VARIABLE: &str = "FAAS_REMOTE_TOKEN";

/// Enough for an upload of 96 MiB over a slow line, and for its way into service.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(120);
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Interval at which a followed log is read.
const FOLLOW_PERIOD: Duration = Duration::from_millis(500);
/// The console's registry has bounds of its own, and reports them.
const BOUNDS: Bounds = Bounds { files_max: 20_000, file_bytes_max: 96 << 20 };

struct Console {
    address: SocketAddr,
    /// The value of the field Host.
    authority: String,
    token: String,
}

/// Runs a verb against the console at `url`.
pub fn run(verb: &str, url: &str, given: &Given) -> Result<Report> {
    let console = Console::at(url)?;
    match verb {
        "deploy" => deploy(&console, given),
        "list" => list(&console, given),
        "remove" => remove(&console, given),
        "history" => history(&console, given),
        "rollback" => rollback(&console, given),
        "logs" => logs(&console, given),
        _ => Err(CliError::Usage(format!(
            "{verb} does not work with --remote; deploy, list, remove, history, rollback and logs do"
        ))),
    }
}

impl Console {
    fn at(url: &str) -> Result<Console> {
        let usage = |text: &str| CliError::Usage(format!("--remote takes http://HOST:PORT, and {url} {text}"));
        if url.starts_with("https://") {
            return Err(usage("is https; use ssh -L 8081:127.0.0.1:8081 and http://127.0.0.1:8081"));
        }
        let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let authority = authority.filter(|rest| !rest.is_empty() && !rest.contains(['/', '?', '#', '@']));
        let authority = authority.ok_or_else(|| usage("is none"))?;
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let target = if has_port { authority.to_string() } else { format!("{authority}:80") };
        let address = target.to_socket_addrs().map_err(failed(format!("find {authority}")))?.next();
        let address = address.ok_or_else(|| CliError::Failed(format!("could not find {authority}")))?;
        Ok(Console { address, authority: authority.to_string(), token: token()? })
    }

    fn ask(&self, method: &str, target: &str, content_type: &str, body: &[u8]) -> Result<Value> {
        let field = |name: &str, value: String| (name.to_string(), value);
        let fields = [
            field("Host", self.authority.clone()),
            field("Authorization", format!("Bearer {}", self.token)),
            field("Content-Type", content_type.to_string()),
        ];
        let (wait, answer_bytes_max) = (ANSWER_WAIT_MAX, ANSWER_BYTES_MAX);
        let request = Request { method, target, fields: &fields, body, wait, answer_bytes_max };
        let subject = format!("ask the console at http://{}", self.authority);
        let answer = request.send(self.address).map_err(failed(&subject))?;
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status == 200 {
            return Ok(value);
        }
        let detail = value["detail"].as_str().map_or(format!("it answered {}", answer.status), str::to_string);
        Err(match answer.status {
            400 => CliError::Usage(detail),
            401 => {
                CliError::Failed(format!("{detail}; set {TOKEN_VARIABLE}, or write the token to ~/.config/faas/token"))
            }
            404 => CliError::NotFound(detail),
            504 => CliError::NotLive(detail),
            _ => CliError::Failed(detail),
        })
    }

    fn json(&self, method: &str, target: &str, body: Value) -> Result<Value> {
        self.ask(method, target, "application/json", body.to_string().as_bytes())
    }
}

fn token() -> Result<String> {
    if let Some(token) = std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty()) {
        return Ok(token);
    }
    let folder = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let folder = folder.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".config")));
    let path = folder.map(|folder| folder.join("faas/token"));
    let token = path.and_then(|path| std::fs::read_to_string(path).ok()).map(|text| text.trim().to_string());
    token.filter(|token| !token.is_empty() && !token.contains(char::is_control)).ok_or_else(|| {
        CliError::Usage(format!(
            "--remote needs the console's token, which is in its run/operator.token: set {TOKEN_VARIABLE}, or write it to \
             ~/.config/faas/token"
        ))
    })
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

fn path_of(key: &str) -> String {
    format!("/api/v1/functions/{}", escaped(key))
}

fn deploy(console: &Console, given: &Given) -> Result<Report> {
    let [source, key] = given.exactly()?;
    let (mut fields, env) = (deploy::fields(given)?, deploy::env(given)?);
    let code = code::read(Path::new(source), given.value("module"), &BOUNDS)?;
    if let Some(runtime) = code.runtime {
        // Only this machine knows if a file is executable.
        fields.entry("runtime").or_insert_with(|| json!(runtime));
    }
    let env: serde_json::Map<String, Value> = env.into_iter().map(|(name, value)| (name, json!(value))).collect();
    let options = json!({"fields": fields, "env": env});
    let boundary = boundary(&code.files);
    let mut body =
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"options\"\r\n\r\n{options}\r\n").into_bytes();
    for (name, bytes) in &code.files {
        if name.contains(['"', '\r', '\n', ';']) {
            return Err(CliError::Failed(format!("{name:?} cannot be uploaded under that name")));
        }
        let head =
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n");
        body.extend([head.as_bytes(), bytes, b"\r\n"].concat());
    }
    body.extend(format!("--{boundary}--\r\n").bytes());
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let done = console.ask("PUT", &path_of(key), &content_type, &body)?;
    let text = format!("{key} runs db:{} ({}); {}", code.entry, bytes(code.bytes()), live(&done));
    Ok(Report::new(text, done))
}

/// A line that occurs in no file.
fn boundary(files: &[(String, Vec<u8>)]) -> String {
    let mut number = 0u64;
    loop {
        let boundary = format!("faas-boundary-{number}");
        let is_in =
            |(_, code): &(String, Vec<u8>)| code.windows(boundary.len()).any(|part| part == boundary.as_bytes());
        if !files.iter().any(is_in) {
            return boundary;
        }
        number += 1;
    }
}

/// Describes how a change came into service.
fn live(done: &Value) -> String {
    let generation = &done["generation"];
    match (done.get("live_ms"), done["url"].as_str()) {
        (Some(Value::Number(ms)), Some(url)) => format!("generation {generation} is live after {ms} ms at {url}\n"),
        (Some(_), _) => format!("generation {generation} is written; no gateway runs there\n"),
        (None, _) => format!("nothing to change in generation {generation}\n"),
    }
}

fn list(console: &Console, given: &Given) -> Result<Report> {
    let [] = given.exactly()?;
    let mut answer = console.json("GET", "/api/v1/functions", json!({}))?;
    let rows = answer["functions"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let route = |row: Value| Route {
        key: row["route"].as_str().unwrap_or("").to_string(),
        descriptor: row["descriptor"].clone(),
        updated: row["updated"].as_f64(),
    };
    Ok(routes::listing(&rows.into_iter().map(route).collect::<Vec<_>>()))
}

fn remove(console: &Console, given: &Given) -> Result<Report> {
    let [key] = given.exactly()?;
    let done = console.json("DELETE", &path_of(key), json!({}))?;
    Ok(Report::new(format!("{key} is removed; {}", live(&done)), done))
}

fn history(console: &Console, given: &Given) -> Result<Report> {
    let limit = given.number("limit")?.unwrap_or(super::history::CHANGES_SHOWN);
    let mut target = format!("/api/v1/history?limit={limit}");
    if let Some(key) = given.at_most_one()? {
        target += &format!("&route={}", escaped(key));
    }
    let mut answer = console.json("GET", &target, json!({}))?;
    let changes = answer["changes"].take();
    let row = |change: &Value| {
        let text = |name: &str| change[name].as_str().unwrap_or("").to_string();
        let size = change["bytes"].as_u64().map_or(String::new(), bytes);
        let at = time(change["at"].as_f64().unwrap_or(-1.0));
        [change["generation"].to_string(), at, text("change"), text("kind"), text("name"), size]
    };
    let rows: Vec<_> = changes.as_array().into_iter().flatten().map(row).collect();
    Ok(Report::new(table(["GENERATION", "AT", "CHANGE", "KIND", "NAME", "SIZE"], &rows), changes))
}

fn rollback(console: &Console, given: &Given) -> Result<Report> {
    let (done, what) = match (given.at_most_one()?, given.number("to")?) {
        (Some(key), None) => {
            let done = console.json("POST", &format!("{}/rollback", path_of(key)), json!({}))?;
            (done, format!("{key} is set back by one step"))
        }
        (None, Some(to)) => {
            let done = console.json("POST", "/api/v1/rollback", json!({"to": to}))?;
            (done, format!("all is set back to generation {to}"))
        }
        _ => return Err(CliError::Usage("rollback takes a route, or --to and a generation".into())),
    };
    Ok(Report::new(format!("{what}; {}", live(&done)), done))
}

fn logs(console: &Console, given: &Given) -> Result<Report> {
    let mut target = format!("/api/v1/logs?limit={}", given.number("limit")?.unwrap_or(super::logs::LINES_SHOWN));
    for (name, value) in [("route", given.at_most_one()?), ("request", given.value("request"))] {
        if let Some(value) = value {
            target += &format!("&{name}={}", escaped(value));
        }
    }
    let text = |answer: &Value| {
        let lines = answer["lines"].as_array().into_iter().flatten().filter_map(Value::as_str);
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let mut answer = console.json("GET", &target, json!({}))?;
    if !given.has("follow") {
        return Ok(Report::new(text(&answer), answer["lines"].take()));
    }
    loop {
        use std::io::Write;
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(text(&answer).as_bytes()).and_then(|()| stdout.flush()).is_err() {
            return Ok(Report::new("", json!([])));
        }
        drop(stdout);
        std::thread::sleep(FOLLOW_PERIOD);
        let place = answer["place"].as_str().unwrap_or("").to_string();
        answer = console.json("GET", &format!("{target}&after={}", escaped(&place)), json!({}))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundary_is_in_no_file() {
        let files = [("a".to_string(), b"x faas-boundary-0 y".to_vec())];
        assert_eq!(boundary(&files), "faas-boundary-1");
    }

    #[test]
    fn keys_are_one_segment() {
        assert_eq!(path_of("GET:/a/{b}"), "/api/v1/functions/GET%3A%2Fa%2F%7Bb%7D");
    }
}
