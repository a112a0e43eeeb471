//! Nodes whose registry is a copy, and the end of service as a balancer sees it. tests/machines tests whole networks.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use crate::cases::each;
use crate::http::Answer;
use crate::instance::{Instance, run, signal, wait_until};

/// A registry on another machine. A follower gets snapshots of it.
struct Writer(Instance);

impl Writer {
    fn new() -> Writer {
        let writer = Instance::prepare(&[]);
        writer.init();
        Writer(writer)
    }

    /// Writes a route that answers `text`, and returns the generation.
    fn write(&self, text: &str) -> u64 {
        let descriptor = self.0.descriptor("native", &format!("#!/bin/sh\necho {text}\n"), json!({}));
        let registry = self.0.registry();
        let sql = "INSERT OR REPLACE INTO functions (k, v) VALUES ('GET:/text', ?1)";
        registry.execute(sql, [descriptor.to_string()]).unwrap();
        registry.query_row("SELECT max(id) FROM history", [], |row| row.get(0)).unwrap()
    }

    fn snapshot(&self, name: &str) -> PathBuf {
        let path = self.0.path(name);
        self.0.registry().execute("VACUUM INTO ?1", [path.display().to_string()]).unwrap();
        path
    }
}

/// Puts a file into the place of the follower's registry.
fn deliver(snapshot: &PathBuf, follower: &Instance) {
    let arrived = follower.path("arriving.db");
    fs::copy(snapshot, &arrived).unwrap();
    fs::rename(arrived, follower.db()).unwrap();
}

#[test]
fn a_follower_answers_503_until_its_registry_has_arrived() {
    let writer = Writer::new();
    writer.write("first");
    let mut follower = Instance::prepare(&[("FAAS_FOLLOWER", "1")]);
    follower.init();
    assert!(!follower.db().exists(), "a follower makes no registry of its own");
    follower.launch();
    assert_eq!(follower.get("/healthz").json()["status"], "the registry is not loaded");
    let answer = follower.get("/text");
    answer.problem(503, "registry-not-loaded");
    assert_eq!(answer.field("Retry-After"), Some("1"));
    deliver(&writer.snapshot("first.db"), &follower);
    follower.wait_until_ready();
    assert_eq!(follower.get("/text").text(), "first\n");
}

#[test]
fn a_follower_takes_no_torn_and_no_older_registry_into_service() {
    let writer = Writer::new();
    writer.write("old");
    let old = writer.snapshot("old.db");
    let generation = writer.write("new");
    let new = writer.snapshot("new.db");
    let mut follower = Instance::prepare(&[("FAAS_FOLLOWER", "1")]);
    deliver(&new, &follower);
    follower.launch();
    follower.wait_until_ready();

    deliver(&old, &follower);
    let line = follower.wait_for_log("could not be used", 1).remove(0);
    assert!(line.contains(&format!("generation {}, not {generation}", generation - 1)), "{line}");
    assert_eq!(follower.get("/text").text(), "new\n");

    let whole = fs::read(&new).unwrap();
    let half = writer.0.path("half.db");
    fs::write(&half, &whole[..whole.len() / 2]).unwrap();
    deliver(&half, &follower);
    follower.wait_for_log("could not be used", 2);
    // Sound pages of two states: the row has changed, but the history lacks the change.
    let mixed = writer.snapshot("mixed.db");
    let registry = rusqlite::Connection::open(&mixed).unwrap();
    registry.execute_batch("DROP TRIGGER functions_updated").unwrap();
    let row = r#"{"runtime":"native","module":"/bin/date"}"#;
    registry.execute("UPDATE functions SET v = ?1 WHERE k = 'GET:/text'", [row]).unwrap();
    drop(registry);
    deliver(&mixed, &follower);
    let line = follower.wait_for_log("could not be used", 3).remove(2);
    assert!(line.contains("the history does not know its route GET:/text"), "{line}");
    assert_eq!(follower.get("/text").text(), "new\n");
    assert_eq!(follower.get("/healthz").json()["generation"], generation);

    let newest = writer.write("newest");
    deliver(&writer.snapshot("newest.db"), &follower);
    follower.wait_for_generation(newest);
    assert_eq!(follower.get("/text").text(), "newest\n");
}

#[test]
fn a_writer_takes_an_older_registry_that_its_owner_puts_there() {
    let mut writer = Writer::new();
    writer.write("old");
    let old = writer.snapshot("old.db");
    writer.write("new");
    writer.0.launch();
    writer.0.wait_until_ready();
    assert_eq!(writer.0.get("/text").text(), "new\n");
    fs::rename(old, writer.0.db()).unwrap();
    wait_until("the older one is in service", || writer.0.get("/text").text() == "old\n");
}

#[test]
fn on_a_follower_faas_reads_and_refuses_to_write() {
    let writer = Writer::new();
    writer.write("text");
    let follower = Instance::prepare(&[("FAAS_FOLLOWER", "1")]);
    deliver(&writer.snapshot("first.db"), &follower);
    let before = fs::read(follower.db()).unwrap();
    let faas = |arguments: &[&str]| run(follower.command(env!("CARGO_BIN_EXE_faas")).args(arguments));
    let listed = faas(&["list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("GET:/text"), "{listed:?}");
    let script = follower.program("hello.sh", "#!/bin/sh\necho hello\n").display().to_string();
    let writes: [&[&str]; 4] = [
        &["deploy", &script, "GET:/hello"],
        &["remove", "GET:/text"],
        &["rollback", "GET:/text"],
        &["rollback", "--to", "1"],
    ];
    each(writes, |arguments| {
        let said = faas(arguments);
        let line = String::from_utf8_lossy(&said.stderr);
        assert_eq!((said.status.code(), line.lines().count()), (Some(1), 1), "{line}");
        assert!(line.contains("FAAS_FOLLOWER=1: ") && line.contains("on the writer"), "{line}");
    });
    assert!(fs::read(follower.db()).unwrap() == before);
    let beside = fs::read_dir(follower.path("")).unwrap().flatten();
    let beside: Vec<_> =
        beside.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().contains("db-")).collect();
    assert!(beside.is_empty(), "{beside:?}");
}

#[test]
fn healthz_tells_how_old_the_registry_is() {
    let instance = Instance::start();
    let health = instance.get("/healthz").json();
    assert!(health["generation_age_s"].as_u64().unwrap() < 20, "{health}");
    assert_eq!(instance.get("/healthz?max_lag_s=3600").status, 200);
    instance.get("/healthz?max_lag_s=soon").problem(400, "request-malformed");
    let hour_ago = "strftime('%s', 'now') - 3600";
    instance.registry().execute_batch(&format!("UPDATE history SET at = {hour_ago}")).unwrap();
    wait_until("it lags", || instance.get("/healthz?max_lag_s=60").status == 503);
    assert_eq!(instance.get("/healthz?max_lag_s=60").json()["status"], "the registry lags");
    assert_eq!(instance.get("/healthz").status, 200);
    let beat =
        "INSERT OR REPLACE INTO settings (name, value) VALUES ('heartbeat_at', CAST(strftime('%s', 'now') AS INTEGER))";
    instance.registry().execute_batch(beat).unwrap();
    wait_until("it has given a sign of life", || instance.get("/healthz?max_lag_s=60").status == 200);
    let health = instance.get("/healthz").json();
    assert!(health["generation_age_s"].as_u64() >= Some(3600) && health["lag_s"].as_u64() < Some(60), "{health}");
    assert!(instance.status()["lag_s"].as_u64() < Some(60));
}

#[test]
fn on_sigterm_a_lame_duck_serves_on_while_healthz_is_503() {
    let mut instance = Instance::with(&[("FAAS_LAME_DUCK_MS", "60000"), ("FAAS_DRAIN_MS", "60000")]);
    instance.script("GET:/x", "echo x");
    let mut gate = instance.gate("gate");
    instance.script("GET:/wait", "touch \"$IT_FOLDER/started\"\nread _ < \"$IT_FOLDER/gate\"\necho waited");
    signal("TERM", instance.gateway_pid());
    wait_until("balancers are told", || instance.get("/healthz").status == 503);
    assert_eq!(instance.get("/healthz").json()["status"], "the gateway is ending");
    let mut stream = instance.connect();
    stream.get_mut().write_all(b"GET /x HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
    let answer = Answer::read(&mut stream, false).unwrap();
    assert_eq!((answer.text().as_str(), answer.field("Connection")), ("x\n", None), "as before");
    std::thread::scope(|scope| {
        let call = scope.spawn(|| instance.get("/wait").text());
        wait_until("a call runs", || instance.shared("started").exists());
        // The second SIGTERM begins the drain, which still waits for that call.
        signal("TERM", instance.gateway_pid());
        wait_until("it takes no more", || std::net::TcpStream::connect(instance.address()).is_err());
        gate.write_all(b"\n").unwrap();
        assert_eq!(call.join().unwrap(), "waited\n");
    });
    assert_eq!(instance.wait().code(), Some(0));
}
