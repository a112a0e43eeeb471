//! examples/sessions: sessions that two nodes share, in Redis and in PostgreSQL.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::http::Answer;
use crate::instance::{Instance, run, wait_until};
use crate::network::{FRONT, Network, Process, address_of};

const NODES: usize = 2;
const VISITS: u64 = 10;
const VISITORS_AT_ONCE: u64 = 8;

#[test]
fn sessions_in_redis_are_shared_by_nodes() {
    let network = Network::new(NODES);
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("redis-server");
    command.args(["--bind", FRONT, "--port", "6379", "--protected-mode", "no", "--save", "", "--dir"]);
    let _redis = Process::start(command.arg(folder.path()), &folder.path().join("redis.log"));
    wait_until("Redis listens", || TcpStream::connect((FRONT, 6379)).is_ok());
    let ini = format!(
        "ini={{\"session.save_handler\": \"redis\", \"session.save_path\": \"tcp://{FRONT}:6379?prefix=visits:\", \
         \"redis.session.locking_enabled\": \"1\", \"redis.session.lock_retries\": \"-1\", \
         \"redis.session.lock_expire\": \"60\"}}"
    );
    visits_are_counted_once(&network, "redis.php", &["--set", &ini]);
}

#[test]
fn sessions_in_postgresql_are_shared_by_nodes() {
    let network = Network::new(NODES);
    let folder = tempfile::tempdir().unwrap();
    let database = Database::start(folder.path());
    database.execute(
        "CREATE TABLE sessions (id text PRIMARY KEY, data bytea NOT NULL, used timestamptz NOT NULL DEFAULT now())",
    );
    let env = format!("DATABASE=host={FRONT} dbname=postgres user=postgres");
    visits_are_counted_once(&network, "postgresql.php", &["--env", &env]);
}

/// Deploys an example to two nodes, and visits them in turn and at once with one cookie.
fn visits_are_counted_once(network: &Network, example: &str, options: &[&str]) {
    let mut nodes =
        [1, 2].map(|number| Instance::prepare(&[("FAAS_HOST", &address_of(number)), ("FAAS_PORT", "8080")]));
    nodes[0].init();
    let file = format!("{}/examples/sessions/{example}", env!("CARGO_MANIFEST_DIR"));
    let mut deploy = nodes[0].command(env!("CARGO_BIN_EXE_faas"));
    let output = run(deploy.args(["deploy", &file, "GET:/visits"]).args(options));
    assert!(output.status.success(), "{output:?}");
    nodes[0].registry().execute("VACUUM INTO ?1", [nodes[1].db().display().to_string()]).unwrap();
    for (index, node) in nodes.iter_mut().enumerate() {
        node.launch_in(&network.namespace(index + 1));
        node.wait_until_ready();
    }
    let first = nodes[0].get("/visits");
    assert_eq!(first.status, 200, "{}", first.text());
    let cookie = first.field("Set-Cookie").unwrap().split(';').next().unwrap().to_string();
    let visit = |node: &Instance| -> Answer { node.request("GET", "/visits", &[("Cookie", &cookie)], b"") };
    for count in 2..=VISITS {
        let answer = visit(&nodes[count as usize % NODES]);
        assert_eq!(answer.json()["visits"], count);
    }
    std::thread::scope(|scope| {
        for number in 0..VISITORS_AT_ONCE {
            let (node, visit) = (&nodes[number as usize % NODES], &visit);
            scope.spawn(move || assert_eq!(visit(node).status, 200));
        }
    });
    assert_eq!(visit(&nodes[0]).json()["visits"], VISITS + VISITORS_AT_ONCE + 1);
}

/// A PostgreSQL server with a folder of its own. It trusts the test's network.
struct Database {
    programs: PathBuf,
    _server: Process,
}

impl Database {
    fn start(folder: &Path) -> Database {
        let mut versions: Vec<_> =
            fs::read_dir("/usr/lib/postgresql").unwrap().flatten().map(|entry| entry.path()).collect();
        versions.sort();
        let programs = versions.pop().expect("postgresql is installed").join("bin");
        // The server refuses to run as root.
        let data = folder.join("data");
        fs::create_dir(&data).unwrap();
        assert!(run(Command::new("chown").args(["-R", "postgres"]).arg(folder)).status.success());
        let as_postgres = |program: &str| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(programs.join(program));
            command.current_dir(folder);
            command
        };
        let output = run(as_postgres("initdb").args(["-A", "trust", "-D"]).arg(&data));
        assert!(output.status.success(), "{output:?}");
        fs::write(data.join("pg_hba.conf"), "host all all 10.0.0.0/24 trust\n").unwrap();
        let mut command = as_postgres("postgres");
        command.arg("-D").arg(&data).args(["-h", FRONT, "-k", ""]);
        let server = Process::start(&mut command, &folder.join("postgresql.log"));
        let database = Database { programs, _server: server };
        wait_until("PostgreSQL answers", || database.try_execute("SELECT 1"));
        database
    }

    fn execute(&self, sql: &str) {
        assert!(self.try_execute(sql), "{sql}");
    }

    fn try_execute(&self, sql: &str) -> bool {
        let mut psql = Command::new(self.programs.join("psql"));
        run(psql.args(["-h", FRONT, "-U", "postgres", "-d", "postgres", "-c", sql])).status.success()
    }
}
