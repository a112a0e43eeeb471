//! The console's routes: one table, which also states the access that each needs.

use serde_json::{Value, json};

use super::access::Need;
use super::call::{Call, decoded};
use super::reply::Reply;
use super::session::{Session, remove_cookie};
use super::{Console, calls, changes, functions, invoke, logs, metrics, page};

type Answer = fn(&Console, &mut Call) -> Result<Reply, Reply>;

/// Method, path with `{}` for a segment, required access, function that answers. openapi.json describes those that
/// begin with /api or are /metrics; a test compares the two.
const ROUTES: &[(&str, &str, Need, Answer)] = &[
    ("GET", "/", Need::Cookie, page::index),
    ("GET", "/login", Need::Nothing, page::login),
    ("POST", "/login", Need::Nothing, log_in),
    ("POST", "/logout", Need::Nothing, log_out),
    ("GET", "/open/{}", Need::Nothing, page::open_file),
    ("GET", "/page/{}", Need::Cookie, page::file),
    ("GET", "/metrics", Need::Token, metrics::metrics),
    ("GET", "/api/v1/openapi.json", Need::Token, page::openapi),
    ("GET", "/api/v1/status", Need::Token, status),
    ("GET", "/api/v1/live", Need::Token, live),
    ("GET", "/api/v1/functions", Need::Token, functions::list),
    ("GET", "/api/v1/functions/{}", Need::Token, functions::one),
    ("PUT", "/api/v1/functions/{}", Need::Token, changes::deploy),
    ("DELETE", "/api/v1/functions/{}", Need::Token, changes::remove),
    ("PUT", "/api/v1/functions/{}/descriptor", Need::Token, changes::describe),
    ("GET", "/api/v1/functions/{}/code", Need::Token, functions::code),
    ("POST", "/api/v1/functions/{}/rollback", Need::Token, changes::roll_back_one),
    ("POST", "/api/v1/rollback", Need::Token, changes::roll_back_all),
    ("GET", "/api/v1/history", Need::Token, functions::history),
    ("GET", "/api/v1/diff", Need::Token, functions::diff),
    ("POST", "/api/v1/call", Need::Token, invoke::invoke),
    ("GET", "/api/v1/calls", Need::Token, calls::list),
    ("GET", "/api/v1/calls/{}", Need::Token, calls::one),
    ("GET", "/api/v1/logs", Need::Token, logs::logs),
];

/// Answers a request, and sends the answer.
pub fn serve(console: &Console, call: Call) {
    let mut call = call;
    let reply = answer(console, &mut call).unwrap_or_else(|refusal| refusal);
    let is_read = call.is_read;
    reply.send(call.request, is_read);
}

fn answer(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let of_path: Vec<_> = ROUTES.iter().filter_map(|route| Some((route, params(route.1, call.path())?))).collect();
    let own = of_path.iter().find(|((method, ..), _)| *method == call.method());
    // Without a token, a client learns nothing about the routes, except those that need none.
    let need = own.map_or(Need::Token, |((_, _, need, _), _)| *need);
    if let Err(refusal) = console.access.check(&call.request, need) {
        return match refusal.status == 401 && need == Need::Cookie && call.path() == "/" {
            true => Ok(Reply::new(303, "text/plain", &b""[..]).with("Location", "/login")),
            false => Err(refusal),
        };
    }
    match own {
        Some(((.., answer), params)) => {
            call.params = params.clone();
            answer(console, call)
        }
        None if of_path.is_empty() => Err(Reply::problem(404, "the console has nothing at this path")),
        None => {
            let mut methods: Vec<&str> = of_path.iter().map(|((method, ..), _)| *method).collect();
            if methods.contains(&"GET") {
                methods.push("HEAD");
            }
            let allow = methods.join(", ");
            Err(Reply::problem(405, &format!("allowed methods: {allow}")).with("Allow", allow))
        }
    }
}

/// The values for each `{}` of a pattern; `None` where the path does not match.
fn params(pattern: &str, path: &str) -> Option<Vec<String>> {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    let mut params = Vec::new();
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return Some(params),
            (Some("{}"), Some(segment)) if !segment.is_empty() => params.push(decoded(segment)),
            (Some(one), Some(other)) if one == other => {}
            _ => return None,
        }
    }
}

fn status(console: &Console, _: &mut Call) -> Result<Reply, Reply> {
    Ok(Reply::json(200, &console.live.status()))
}

fn live(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let minute = call.number("minute")?;
    Ok(Reply::json(200, &console.live.show(minute)))
}

/// Creates a session for a browser that shows the token.
fn log_in(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let asked: Value = call.json()?;
    console.access.check_token(asked["token"].as_str().unwrap_or("").trim())?;
    let session = Session::new(console.access.token());
    Ok(Reply::json(200, &json!({"key": session.key})).with("Set-Cookie", session.set_cookie()))
}

fn log_out(_: &Console, _: &mut Call) -> Result<Reply, Reply> {
    Ok(Reply::json(200, &json!({})).with("Set-Cookie", remove_cookie()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_match_as_a_whole() {
        assert_eq!(params("/a/{}/b", "/a/GET%3A%2Fx/b"), Some(vec!["GET:/x".to_string()]));
        let others = ["/a//b", "/a/x", "/a/x/b/", "/a/x/y/b", "a/x/b"];
        crate::cases::check(others.map(|path| (path, None)), |path| params("/a/{}/b", path));
    }

    #[test]
    fn api_is_described_as_it_is() {
        let described: Value = serde_json::from_str(page::OPENAPI).unwrap();
        let paths = described["paths"].as_object().unwrap().iter();
        let mut described: Vec<String> = paths
            .flat_map(|(path, methods)| {
                let path = path.replace("{route}", "{}").replace("{id}", "{}");
                let methods = methods.as_object().unwrap().keys().filter(|name| *name != "parameters");
                methods.map(move |method| format!("{} {path}", method.to_uppercase())).collect::<Vec<_>>()
            })
            .collect();
        let is_api = |path: &str| path.starts_with("/api/") || path == "/metrics";
        let routes = ROUTES.iter().filter(|(_, path, ..)| is_api(path));
        let mut routes: Vec<String> = routes.map(|(method, path, ..)| format!("{method} {path}")).collect();
        described.sort();
        routes.sort();
        assert_eq!(described, routes);
    }
}
