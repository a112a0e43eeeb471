//! `faas invoke`: one call through the running gateway.

use std::io::Write;

use serde_json::{Value, json};

use super::args::{Given, Opt, Verb};
use super::{CliError, Report, Result, failed};
use crate::operator::gateway::Gateway;
use crate::settings::Settings;

pub const VERB: Verb = Verb {
    name: "invoke",
    arguments: "METHOD:/path[?query] [OPTION]…",
    about: "Call a route of the running gateway. The body goes to stdout; the exit code is 1 from status 400 on, 3 for 404.",
    options: &[
        Opt::value("data", Some('d'), "BODY", "the request's body; @FILE reads it from a file, @- from stdin"),
        Opt::value("header", Some('H'), "NAME: VALUE", "a header field; can be given again"),
        Opt::flag("explain", None, "show status, headers, and why this worker was chosen, on stderr"),
    ],
    example: "faas invoke POST:/api/convert -d @photo.png -H 'Content-Type: image/png'",
    run,
};

fn run(given: &Given) -> Result<Report> {
    let [route] = given.exactly()?;
    let settings = Settings::from_env()?;
    let gateway = Gateway::required(&settings)?;
    let (method, target) = target(route, given.has("data"))?;
    let mut fields: Vec<(String, String)> = given.values("header").map(field).collect::<Result<_>>()?;
    let (host, target) = host(target)?;
    fields.extend(host.map(|host| ("Host".to_string(), host.to_string())));
    if given.has("explain") {
        let path = settings.operator_token_file();
        let token = std::fs::read_to_string(&path);
        let token = token.map_err(|cause| CliError::Failed(format!("could not read {}: {cause}", path.display())))?;
        fields.push(("X-Faas-Explain".into(), token.trim_end().into()));
    }
    let body = body(given.value("data"))?;
    let response = gateway.invoke(method, target, &fields, &body)?;
    if given.has("explain") {
        eprintln!("{method} {}{target}\n{}", gateway.url(), response.status);
        response.fields.iter().for_each(|(name, value)| eprintln!("{name}: {value}"));
    }
    if response.status == 404 && response.field("Content-Type") == Some("application/problem+json") {
        return Err(CliError::NotFound(format!("no route takes {method} {target}; faas list shows them all")));
    }
    let json = json!({
        "status": response.status,
        "headers": response.fields.iter().map(|(name, value)| json!([name, value])).collect::<Vec<Value>>(),
        "body": String::from_utf8_lossy(&response.body),
    });
    if !given.has("json") {
        // Raw bytes; a reader that has gone is no failure.
        let _ = std::io::stdout().lock().write_all(&response.body);
    }
    Ok(Report { text: String::new(), json, is_failure: response.status >= 400 })
}

/// The method and the path of the call. `*` is GET, or POST with a body.
fn target(route: &str, has_body: bool) -> Result<(&str, &str)> {
    let usage = |text: String| CliError::Usage(text);
    let (method, target) = route
        .split_once(':')
        .filter(|(_, target)| target.starts_with('/'))
        .ok_or_else(|| usage(format!("invoke takes METHOD:/path, and {route} is none")))?;
    if target.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(usage(format!("{target} cannot be sent as it is; write %20 for a space and the like")));
    }
    if target.ends_with("/*") || target.contains(['{', '}']) {
        return Err(usage(format!("{target} stands for many paths; give one that it takes, such as GET:/users/42")));
    }
    match method {
        "*" => Ok((if has_body { "POST" } else { "GET" }, target)),
        _ if method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') => Ok((method, target)),
        _ => Err(usage(format!("a method has capital letters, and {method} has others"))),
    }
}

/// The host of a target `//host/path`, and its path.
fn host(target: &str) -> Result<(Option<&str>, &str)> {
    let Some(rest) = target.strip_prefix("//") else { return Ok((None, target)) };
    match rest.find('/') {
        Some(end) if end > 0 => Ok((Some(&rest[..end]), &rest[end..])),
        _ => Err(CliError::Usage(format!("{target} names a host and no path; write GET://shop.example/cart"))),
    }
}

fn field(text: &str) -> Result<(String, String)> {
    let is_sound = !text.contains(['\r', '\n']);
    match text.split_once(':').filter(|(name, _)| is_sound && !name.is_empty()) {
        Some((name, value)) => Ok((name.to_string(), value.trim().to_string())),
        None => Err(CliError::Usage(format!("--header takes NAME: VALUE, and {text:?} is none"))),
    }
}

fn body(data: Option<&str>) -> Result<Vec<u8>> {
    match data.map(|data| (data, data.strip_prefix('@'))) {
        None => Ok(Vec::new()),
        Some((_, Some("-"))) => {
            let mut body = Vec::new();
            std::io::copy(&mut std::io::stdin().lock(), &mut body).map_err(failed("read stdin"))?;
            Ok(body)
        }
        Some((_, Some(path))) => std::fs::read(path).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => CliError::NotFound(format!("no file is at {path}")),
            _ => CliError::Failed(format!("could not read {path}: {cause}")),
        }),
        Some((text, None)) => Ok(text.as_bytes().to_vec()),
    }
}
