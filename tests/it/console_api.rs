//! The console's API and page: responses match openapi.json, changes take effect, and nobody gets in without the token.

use std::collections::BTreeSet;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cases::each;
use crate::console::{SETTINGS, address, token};
use crate::http::Answer;
use crate::instance::{Instance, need, run, wait_for, wait_until};

/// A client of the console with the token.
struct Client<'a> {
    instance: &'a Instance,
    bearer: String,
}

const DESCRIPTION: &str = include_str!("../../src/console/openapi.json");

impl Client<'_> {
    fn of(instance: &Instance) -> Client<'_> {
        Client { instance, bearer: format!("Bearer {}", token(instance)) }
    }

    fn ask(&self, method: &str, target: &str, content_type: &str, body: &[u8]) -> Answer {
        let fields = [("Authorization", self.bearer.as_str()), ("Content-Type", content_type)];
        send(self.instance, method, target, &fields, body)
    }

    fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, "", b"")
    }

    fn json(&self, method: &str, target: &str, body: Value) -> Answer {
        self.ask(method, target, "application/json", body.to_string().as_bytes())
    }

    /// Uploads files to a route.
    fn deploy(&self, route: &str, files: &[(&str, &[u8])], options: Value) -> Answer {
        let mut body =
            format!("--xx\r\nContent-Disposition: form-data; name=\"options\"\r\n\r\n{options}\r\n").into_bytes();
        for (name, code) in files {
            let head = format!("--xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n");
            body.extend([head.as_bytes(), code, b"\r\n"].concat());
        }
        body.extend(b"--xx--\r\n");
        self.ask("PUT", &path_of(route), "multipart/form-data; boundary=xx", &body)
    }
}

/// One request with these fields, Host and Content-Length; a field with an empty value is left out.
fn send(instance: &Instance, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
    let address = address(instance);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(&[head.as_bytes(), b"\r\n", body].concat()).unwrap();
    Answer::read(&mut BufReader::new(stream), method == "HEAD").unwrap()
}

fn path_of(route: &str) -> String {
    let escaped: String = route.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("/api/v1/functions/{escaped}")
}

fn ok(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn problem(answer: &Answer, status: u16, says: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.field("Content-Type"), Some("application/problem+json"));
    assert!(answer.json()["detail"].as_str().unwrap().contains(says), "{says} is not in {}", answer.text());
}

// ---- The description ------------------------------------------------------------------------------------------------

/// The faults of `value` by `schema`. Knows the keywords that the description uses.
fn mismatch(all: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = all.pointer(name.trim_start_matches('#')).unwrap();
        return mismatch(all, schema, value, at);
    }
    let is_type = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the description has a type {other}"),
    };
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().map(|name| name.as_str().unwrap()).collect(),
        one => vec![one.as_str().unwrap()],
    };
    if !types.iter().any(|name| is_type(name)) {
        return Some(format!("{at} is {value}, and must be {types:?}"));
    }
    if let (Some(fields), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        let required = schema["required"].as_array().into_iter().flatten();
        if let Some(name) = required.map(|name| name.as_str().unwrap()).find(|name| !fields.contains_key(*name)) {
            return Some(format!("{at} has no {name}"));
        }
        if let Some(name) = fields.keys().find(|name| !properties.contains_key(*name)) {
            return Some(format!("{at} has {name}, which is not described"));
        }
        return fields
            .iter()
            .find_map(|(name, value)| mismatch(all, &properties[name], value, &format!("{at}.{name}")));
    }
    let items = value.as_array().into_iter().flatten();
    items.filter(|_| schema["items"].is_object()).find_map(|item| mismatch(all, &schema["items"], item, at))
}

/// Asserts that the description has this response.
fn assert_described(description: &Value, method: &str, path: &str, answer: &Answer) {
    let operation = &description["paths"][path][method.to_lowercase()];
    let described = &operation["responses"][answer.status.to_string()];
    assert!(described.is_object(), "{method} {path} does not describe {}: {}", answer.status, answer.text());
    let (content_type, content) = described["content"].as_object().unwrap().iter().next().unwrap();
    let own = answer.field("Content-Type").unwrap().split(';').next().unwrap();
    assert_eq!(own, content_type, "{method} {path}");
    if content_type.ends_with("json") {
        let fault = mismatch(description, &content["schema"], &answer.json(), "the answer");
        assert_eq!(fault, None, "{method} {path} {}: {}", answer.status, answer.text());
    }
}

#[test]
fn every_operation_answers_as_it_is_described() {
    let mut instance = Instance::prepare(SETTINGS);
    instance.init();
    instance.launch();
    instance.wait_until_ready();
    std::fs::write(instance.run_dir().join("gateway.log"), "one\ntwo\n").unwrap();
    let client = Client::of(&instance);
    let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
    let (hi, none) = (path_of("GET:/hi"), path_of("GET:/none"));
    let code = [("hi.sh", &b"#!/bin/sh\necho hi; echo oh >&2; exit 1\n"[..])];
    instance.get("/api/info");
    let mut seen = BTreeSet::new();
    let mut check = |method: &str, path: &str, status: u16, answer: Answer| {
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert_described(&description, method, path, &answer);
        seen.insert(format!("{} {path}", method.to_lowercase()));
    };
    let function = "/api/v1/functions/{route}";
    check("PUT", function, 200, client.deploy("GET:/hi", &code, json!({"fields": {"memory": 64}})));
    check("PUT", function, 200, client.deploy("GET:/hi", &code, json!({})));
    check("PUT", function, 422, client.deploy("GET:/hi", &code, json!({"fields": {"memory": 1}})));
    check("PUT", function, 400, client.json("PUT", &hi, json!({})));
    instance.get("/hi");
    let id = wait_for("the call is recorded", || {
        let calls = ok(&client.get("/api/v1/calls?route=GET%3A%2Fhi"));
        Some(calls["calls"].as_array()?.first()?["id"].clone())
    });
    for (path, target) in [
        ("/metrics", "/metrics"),
        ("/api/v1/openapi.json", "/api/v1/openapi.json"),
        ("/api/v1/status", "/api/v1/status"),
        ("/api/v1/live", "/api/v1/live"),
        ("/api/v1/functions", "/api/v1/functions"),
        (function, &hi),
        ("/api/v1/functions/{route}/code", &format!("{hi}/code")),
        ("/api/v1/history", "/api/v1/history?route=GET:/hi&limit=3"),
        ("/api/v1/diff", "/api/v1/diff?from=10&to=11"),
        ("/api/v1/logs", "/api/v1/logs?limit=1"),
        ("/api/v1/calls", "/api/v1/calls?status=5xx&function=HI&limit=1"),
        ("/api/v1/calls/{id}", &format!("/api/v1/calls/{id}")),
    ] {
        check("GET", path, 200, client.get(target));
        check("GET", path, 401, send(&instance, "GET", target, &[], b""));
    }
    for (path, target, status) in [
        (function, none.as_str(), 404),
        ("/api/v1/functions/{route}/code", &format!("{hi}/code?file=..%2F..%2Fetc%2Fpasswd"), 404),
        ("/api/v1/history", "/api/v1/history?limit=x", 400),
        ("/api/v1/calls", "/api/v1/calls?status=x", 400),
        ("/api/v1/calls/{id}", "/api/v1/calls/999999", 404),
        ("/api/v1/diff", "/api/v1/diff?from=1", 400),
        ("/api/v1/diff", "/api/v1/diff?from=1&to=99999", 404),
    ] {
        check("GET", path, status, client.get(target));
    }
    let call = json!({"method": "GET", "target": "/hi", "headers": {"X-A": "b"}, "body": ""});
    let descriptor = json!({"runtime": "native", "module": "db:hi.sh", "name": "hi"});
    let describe = "/api/v1/functions/{route}/descriptor";
    for (method, path, target, body, status) in [
        ("POST", "/api/v1/call", "/api/v1/call", call, 200),
        ("POST", "/api/v1/call", "/api/v1/call", json!({"target": "x"}), 400),
        ("PUT", describe, &format!("{hi}/descriptor"), descriptor.clone(), 200),
        ("PUT", describe, &format!("{none}/descriptor"), descriptor, 404),
        ("PUT", describe, &format!("{hi}/descriptor"), json!({"runtime": "perl"}), 422),
        ("POST", "/api/v1/functions/{route}/rollback", &format!("{hi}/rollback"), json!({}), 200),
        ("POST", "/api/v1/functions/{route}/rollback", &format!("{none}/rollback"), json!({}), 404),
        ("POST", "/api/v1/rollback", "/api/v1/rollback", json!({"to": 10}), 200),
        ("POST", "/api/v1/rollback", "/api/v1/rollback", json!({"to": "x"}), 400),
        ("POST", "/api/v1/rollback", "/api/v1/rollback", json!({"to": 1000}), 404),
        ("DELETE", function, &path_of("GET:/ping"), json!({}), 200),
        ("DELETE", function, &hi, json!({}), 404),
    ] {
        check(method, path, status, client.json(method, target, body));
    }
    let paths = description["paths"].as_object().unwrap().iter();
    let all: BTreeSet<String> = paths
        .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}")))
        .filter(|operation| !operation.starts_with("parameters"))
        .collect();
    assert_eq!(seen, all);
}

// ---- Changes --------------------------------------------------------------------------------------------------------

#[test]
fn deploy_by_upload_is_live_when_it_is_answered_and_can_be_rolled_back() {
    let instance = Instance::with(SETTINGS);
    let client = Client::of(&instance);
    let options = json!({"env": {"A": "1"}, "fields": {"name": "shop", "memory": 64}});
    let files = |text: &'static [u8]| [("shop/run", text), ("shop/lib/data", b"data\n")];
    let answer =
        ok(&client.deploy("GET:/shop/*", &files(b"#!/bin/sh\necho one $A; cat $(dirname $0)/lib/data\n"), options));
    assert!(answer["live_ms"].is_u64() && answer["module"] == "db:shop/run", "{answer}");
    assert_eq!(instance.get("/shop/x").text(), "one 1\ndata\n");
    let row = ok(&client.get(&path_of("GET:/shop/*")));
    assert_eq!((&row["fault"], &row["descriptor"]["memory"]), (&Value::Null, &json!(64)));
    let names: Vec<&str> = row["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["shop/lib/data", "shop/run"]);
    ok(&client.deploy("GET:/shop/*", &files(b"#!/bin/sh\necho two $A\n"), json!({})));
    assert_eq!(instance.get("/shop/x").text(), "two 1\n");
    ok(&client.json("POST", &format!("{}/rollback", path_of("GET:/shop/*")), json!({})));
    assert_eq!(instance.get("/shop/x").text(), "one 1\ndata\n");
    let changes = ok(&client.get("/api/v1/history?limit=1"))["changes"][0].clone();
    assert_eq!(
        (&changes["kind"], &changes["name"], &changes["change"]),
        (&json!("module"), &json!("shop/run"), &json!("changed"))
    );
    ok(&client.json("DELETE", &path_of("GET:/shop/*"), json!({})));
    assert_eq!(instance.get("/shop/x").status, 404);
}

#[test]
fn uploads_are_bounded_and_names_cannot_climb_out() {
    let instance = Instance::with(SETTINGS);
    let client = Client::of(&instance);
    let generation = instance.get("/healthz").json()["generation"].clone();
    let code = &b"<?php echo 1;"[..];
    for (file, options) in [("../evil.php", json!({})), ("a.php", json!({"module": "../evil.php"}))] {
        problem(&client.deploy("GET:/evil", &[(file, code)], options), 400, "must be a relative name");
    }
    problem(&client.deploy("get:/evil", &[("a.php", code)], json!({})), 422, "must be METHOD:/path");
    problem(&client.deploy("GET:/evil", &[], json!({})), 400, "has no file");
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nContent-Type: multipart/form-data; boundary=xx\r\n",
        path_of("GET:/evil"),
        client.bearer
    );
    each([("Content-Length: 200000000", 413), ("Transfer-Encoding: chunked", 411)], |(length, status)| {
        let mut stream = TcpStream::connect(address(&instance)).unwrap();
        stream.write_all(format!("{head}{length}\r\n\r\n").as_bytes()).unwrap();
        let answer = Answer::read(&mut BufReader::new(stream), false).unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
    });
    assert_eq!(instance.get("/healthz").json()["generation"], generation);
}

// ---- Sessions -------------------------------------------------------------------------------------------------------

#[test]
fn session_needs_cookie_and_key_and_a_page_of_its_own() {
    let instance = Instance::with(SETTINGS);
    let to_login = send(&instance, "GET", "/", &[], b"");
    assert_eq!((to_login.status, to_login.field("Location")), (303, Some("/login")));
    assert_eq!(send(&instance, "GET", "/login", &[], b"").status, 200);
    let log_in = |token: &str, origin: &str| {
        let body = json!({"token": token}).to_string();
        let fields = [("Content-Type", "application/json"), ("Origin", origin)];
        send(&instance, "POST", "/login", &fields, body.as_bytes())
    };
    let (own, other) = (format!("http://{}", address(&instance)), format!("http://{}", instance.address()));
    assert_eq!(log_in("wrong", &own).status, 401);
    assert_eq!(log_in(&token(&instance), &other).status, 403);
    let answer = log_in(&token(&instance), &own);
    let key = ok(&answer)["key"].as_str().unwrap().to_string();
    let set_cookie = answer.field("Set-Cookie").unwrap();
    assert!(set_cookie.contains("; HttpOnly; SameSite=Strict;") && !set_cookie.contains(&token(&instance)));
    let cookie = set_cookie.split(';').next().unwrap();
    let cases = [
        ("/", cookie, "", own.as_str(), 200),
        ("/page/main.js", cookie, "", "", 200),
        ("/page/main.js", "", &key, "", 401),
        ("/page/none.js", cookie, "", "", 404),
        ("/api/v1/status", cookie, &key, &own, 200),
        ("/api/v1/status", &format!("a=b; {cookie}"), &key, "", 200),
        // A function that received the cookie lacks the key, and a page of another port lacks both.
        ("/api/v1/status", cookie, "", "", 401),
        ("/api/v1/status", cookie, &key[1..], "", 401),
        ("/api/v1/status", "", &key, "", 401),
        ("/api/v1/status", cookie, &key, &other, 403),
        ("/api/v1/status", cookie, &key, "null", 403),
        ("/metrics", cookie, &key, "", 200),
        ("/metrics", cookie, "", "", 401),
    ];
    each(cases, |(target, cookie, key, origin, status)| {
        let answer =
            send(&instance, "GET", target, &[("Cookie", cookie), ("X-Faas-Key", key), ("Origin", origin)], b"");
        assert_eq!(answer.status, status);
        let policy = answer.field("Content-Security-Policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        assert_eq!(answer.field("X-Content-Type-Options"), Some("nosniff"));
    });
}

/// A function that has the network, and knows the console's address.
#[test]
fn function_gets_nothing_from_the_console() {
    need(&["curl"]);
    let instance = Instance::with(SETTINGS);
    let console = address(&instance);
    let script = format!(
        "for path in / /metrics /api/v1/status /api/v1/functions /page/main.js; do
           curl -s -o /dev/null -w '%{{http_code}} ' http://{console}$path
         done
         for path in /api/v1/rollback /api/v1/call; do
           curl -s -o /dev/null -w '%{{http_code}} ' -H 'Content-Type: application/json' -d '{{}}' http://{console}$path
         done
         cat '{}' 2>/dev/null || echo none",
        instance.run_dir().join("operator.token").display()
    );
    instance.script_with("GET:/curious", &script, json!({"net": true}));
    let answer = wait_for("the function answers", || Some(instance.get("/curious")).filter(|it| it.status == 200));
    assert_eq!(answer.text(), "303 401 401 401 401 401 401 none\n");
}

// ---- Calls and the command ------------------------------------------------------------------------------------------

#[test]
fn calls_are_found_by_function_status_and_request_with_their_stderr() {
    let instance = Instance::with(SETTINGS);
    let client = Client::of(&instance);
    instance.script("GET:/good", "echo good");
    instance.script("GET:/bad", "echo '<b>oh</b>' >&2; exit 3");
    instance.get("/good");
    let id = instance.get("/bad").field("X-Request-Id").unwrap().to_string();
    let found = |query: &str| {
        let answer = ok(&client.get(&format!("/api/v1/calls?{query}")));
        assert_eq!(answer["is_recorded"], true);
        answer["calls"].as_array().unwrap().clone()
    };
    wait_until("both calls are recorded", || found("limit=10").len() == 2);
    each(["status=500", "status=5xx", "function=BAD", "route=GET:/bad", &format!("request={id}")], |query| {
        let calls = found(query);
        assert_eq!((calls.len(), &calls[0]["request_id"]), (1, &json!(id)));
        assert!(calls[0].get("stderr").is_none());
        let whole = ok(&client.get(&format!("/api/v1/calls/{}", calls[0]["id"])));
        assert_eq!(whole["stderr"], "<b>oh</b>\n");
        assert_eq!(found(&format!("before={}", calls[0]["id"])).len(), 1);
    });
    assert_eq!(found("status=4xx").len(), 0);
    let off = Instance::with(&[SETTINGS, &[("FAAS_LEDGER", "")]].concat());
    assert_eq!(ok(&Client::of(&off).get("/api/v1/calls"))["is_recorded"], false);
}

#[test]
fn command_works_by_a_console_from_elsewhere() {
    let instance = Instance::with(SETTINGS);
    std::fs::write(instance.run_dir().join("gateway.log"), "route=GET:/hi one\ntwo\n").unwrap();
    let file = instance.program("hi.sh", "#!/bin/sh\necho one $A\n");
    let url = format!("http://{}", address(&instance));
    let faas = |arguments: &[&str], token: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_faas"));
        command.args(["--remote", &url]).args(arguments).env_clear().env("HOME", instance.path("home"));
        let output = run(command.env("FAAS_REMOTE_TOKEN", token).current_dir("/"));
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    let own = token(&instance);
    let says = |arguments: &[&str], code: i32, text: &str| {
        let said = faas(arguments, &own);
        assert!(said.0 == code && said.1.contains(text), "{arguments:?}: {said:?}");
    };
    let path = file.to_str().unwrap();
    says(&["deploy", path, "GET:/hi", "--env", "A=b", "--memory", "64"], 0, "is live after");
    assert_eq!(instance.get("/hi").text(), "one b\n");
    instance.program("hi.sh", "#!/bin/sh\necho two\n");
    says(&["deploy", path, "GET:/hi"], 0, "GET:/hi runs db:hi.sh");
    assert_eq!(instance.get("/hi").text(), "two\n");
    says(&["rollback", "GET:/hi"], 0, "GET:/hi is set back by one step; generation");
    assert_eq!(instance.get("/hi").text(), "one b\n");
    says(&["list"], 0, "GET:/hi");
    says(&["history", "GET:/hi", "-n", "1"], 0, "hi.sh");
    says(&["logs", "GET:/hi"], 0, "route=GET:/hi one\n");
    says(&["remove", "GET:/hi"], 0, "GET:/hi is removed");
    says(&["remove", "GET:/hi"], 3, "no route is GET:/hi");
    says(&["deploy", path, "get:/hi"], 1, "must be METHOD:/path");
    says(&["status"], 2, "does not work with --remote");
    assert_eq!(faas(&["list"], "wrong").0, 1);
    assert!(faas(&["list"], "").1.contains("FAAS_REMOTE_TOKEN"));
    let folder = instance.path("home/.config/faas");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("token"), format!("{own}\n")).unwrap();
    assert_eq!(faas(&["list"], "").0, 0);
}

#[test]
fn follower_refuses_changes_and_names_the_setting() {
    let mut instance = Instance::prepare(&[SETTINGS, &[("FAAS_FOLLOWER", "1")]].concat());
    let writer = Instance::prepare(&[]);
    writer.init();
    writer.registry().execute("VACUUM INTO ?1", [instance.db().to_str().unwrap()]).unwrap();
    instance.launch();
    instance.wait_until_ready();
    let client = Client::of(&instance);
    assert_eq!(ok(&client.get("/api/v1/functions"))["functions"].as_array().unwrap().len(), 5);
    problem(&client.deploy("GET:/x", &[("x.php", b"<?php")], json!({})), 422, "FAAS_FOLLOWER=1");
}

// ---- Figures --------------------------------------------------------------------------------------------------------

/// The value of a sample in the text of /metrics.
fn sample(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let line = text.lines().find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && labels.iter().all(|label| line.contains(label))
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[test]
fn metrics_count_calls_by_function_and_only_by_rows() {
    need(&["sqlite3"]);
    let instance = Instance::with(SETTINGS);
    let client = Client::of(&instance);
    instance.script_with("GET:/good", "echo good", json!({"name": "a \"<b>\" \\"}));
    instance.script("GET:/bad/*", "echo no >&2; exit 3");
    (0..3).for_each(|_| assert_eq!(instance.get("/good").status, 200));
    (0..2).for_each(|number| assert_eq!(instance.get(&format!("/bad/{number}")).status, 500));
    assert_eq!(instance.get("/nowhere/at/all").status, 404);
    let text = wait_for("all calls are counted", || {
        let text = client.get("/metrics").text();
        let unrouted = sample(&text, "faas_requests_total", &["route=\"\"", "code=\"404\""]);
        let bad = sample(&text, "faas_requests_total", &["route=\"GET:/bad/*\"", "code=\"500\""]);
        (unrouted == Some(1.0) && bad == Some(2.0)).then_some(text)
    });
    let good = r#"function="a \"<b>\" \\",route="GET:/good""#;
    assert_eq!(sample(&text, "faas_requests_total", &[good, "code=\"200\""]), Some(3.0), "{text}");
    assert_eq!(sample(&text, "faas_run_seconds_count", &[good]), Some(3.0));
    assert_eq!(sample(&text, "faas_run_seconds_bucket", &[good, "le=\"+Inf\""]), Some(3.0));
    assert!(sample(&text, "faas_run_seconds_sum", &[good]).unwrap() > 0.0);
    assert_eq!(sample(&text, "faas_slots", &[]), Some(16.0));
    assert_eq!(sample(&text, "faas_registry_faulty_rows", &[]), Some(0.0));
    assert!(!text.contains("nowhere") && !text.contains("/bad/1"), "{text}");
    let live = ok(&client.get("/api/v1/live"));
    let function =
        live["functions"].as_array().unwrap().iter().find(|function| function["route"] == "GET:/bad/*").unwrap();
    assert_eq!((&function["calls"], &function["errors"]), (&json!(2), &json!(2)));
    wait_until("choices are explained", || {
        instance.get("/good");
        let live = ok(&client.get("/api/v1/live"));
        live["choices"]
            .as_array()
            .unwrap()
            .iter()
            .any(|choice| choice["why"].as_str().unwrap().contains("lowest score"))
    });
    // A deleted row takes its labels along. The other rows keep their counts.
    instance.sqlite3("DELETE FROM functions WHERE k = 'GET:/bad/*'");
    wait_until("the row's labels are gone", || !client.get("/metrics").text().contains("/bad/"));
    assert!(sample(&client.get("/metrics").text(), "faas_requests_total", &[good]).unwrap() >= 3.0);
}

#[test]
#[ignore = "needs promtool"]
fn promtool_finds_no_fault_in_the_metrics() {
    need(&["promtool"]);
    let instance = Instance::with(SETTINGS);
    instance.get("/ping");
    let path = instance.path("metrics.txt");
    let text = wait_for("a call is counted", || {
        let text = Client::of(&instance).get("/metrics").text();
        text.contains("faas_run_seconds_bucket{").then_some(text)
    });
    std::fs::write(&path, text).unwrap();
    let output =
        run(std::process::Command::new("sh").args(["-c", &format!("promtool check metrics < {}", path.display())]));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
