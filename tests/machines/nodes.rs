//! A writer and two followers behind a balancer, from the first INSERT to the promotion of a follower.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::balancer;
use crate::carriers::{Carrier, Kind, Place};
use crate::instance::{Instance, run, signal, wait_until};
use crate::network::{FRONT, Network, Process, address_of, show_logs};
use crate::traffic::{self, Traffic};

const MACHINES: usize = 3;
/// The promise for a change of the registry, on every node.
const LIVE_MAX: Duration = Duration::from_secs(5);
const CHANGES: usize = 5;
const GETS_MIN: usize = 2000;
const POSTS_MIN: usize = 500;

/// Dropped from the first field to the last.
struct World {
    balancer: Option<Process>,
    /// Carries the registry.
    carriers: Vec<Process>,
    /// Node `number` is at `number - 1`.
    nodes: Vec<Instance>,
    carrier: Carrier,
    /// Functions of all nodes write to this folder, as to a database.
    shared: tempfile::TempDir,
    network: Network,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_logs(self.carrier.logs());
            show_logs(self.shared.path());
        }
    }
}

fn node(number: usize, is_follower: bool) -> Instance {
    Instance::prepare(&[
        ("FAAS_HOST", &address_of(number)),
        ("FAAS_PORT", "8080"),
        ("FAAS_FOLLOWER", if is_follower { "1" } else { "0" }),
        ("FAAS_LAME_DUCK_MS", "2000"),
        ("FAAS_DRAIN_MS", "10000"),
        ("FAAS_TRUSTED_PROXIES", "10.0.0.1/32"),
    ])
}

impl World {
    /// Three nodes behind a balancer; the first has a registry.
    fn new(kind: Kind) -> World {
        let network = Network::new(MACHINES);
        let shared = tempfile::Builder::new().prefix("faas-machines-").tempdir().unwrap();
        fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let carrier = Carrier::new(kind, &network, MACHINES);
        let nodes = (1..=MACHINES).map(|number| node(number, number > 1)).collect();
        let mut world = World { balancer: None, carriers: Vec::new(), nodes, carrier, shared, network };
        world.nodes[0].init();
        let ran = world.ran_file();
        world.write("POST:/once", "read id; echo $id >>$RAN; sleep 0.05; echo $id", json!({"RAN": ran}));
        world.write_version("first");
        (1..=MACHINES).for_each(|number| world.launch(number));
        world.carry(1, &[2, 3], 1);
        world.nodes.iter().for_each(Instance::wait_until_ready);
        world.balancer = Some(balancer::start(&world.shared.path().join("haproxy.log")));
        world
    }

    fn launch(&mut self, number: usize) {
        let namespace = self.network.namespace(number);
        self.nodes[number - 1].launch_in(&namespace);
    }

    fn place(&self, number: usize) -> Place<'_> {
        Place { machine: number, registry: self.nodes[number - 1].db(), network: &self.network }
    }

    /// Carries the registry from one node to the others.
    fn carry(&mut self, writer: usize, followers: &[usize], epoch: u32) {
        let followers: Vec<Place<'_>> = followers.iter().map(|number| self.place(*number)).collect();
        let mut started = self.carrier.start_writer(&self.place(writer), &followers, epoch);
        started.extend(followers.iter().flat_map(|follower| self.carrier.start_follower(follower, epoch)));
        self.carriers = started;
    }

    fn ran_file(&self) -> PathBuf {
        self.shared.path().join("ran")
    }

    /// Writes a row and its module into the first node's registry with the sqlite3 program.
    fn write(&self, key: &str, script: &str, env: serde_json::Value) {
        write(&self.nodes[0], key, script, json!({"env": env, "write": [self.shared.path()]}));
    }

    fn write_version(&self, version: &str) {
        write(&self.nodes[0], "GET:/where", &format!("echo {version}"), json!({}));
    }

    /// Waits until the balancer sends requests to a node.
    fn wait_for_requests_of(&self, number: usize) {
        let node = &self.nodes[number - 1];
        let count = || node.log_lines("path=/where").len();
        let before = count();
        wait_until("the balancer sends it requests", || count() > before);
    }

    /// Time until these nodes answer with `version`, which was written on one node.
    fn time_until_live(&self, version: &str, writer: usize, nodes: &[usize]) -> Duration {
        let began = Instant::now();
        write(&self.nodes[writer - 1], "GET:/where", &format!("echo {version}"), json!({}));
        for number in nodes {
            let node = &self.nodes[number - 1];
            wait_until("the change is live", || node.get("/where").text().trim_end() == version);
        }
        began.elapsed()
    }
}

/// In one transaction, as a person would at the sqlite3 prompt.
fn write(node: &Instance, key: &str, script: &str, more: serde_json::Value) {
    let name = key.replace([':', '/'], "");
    let mut descriptor = json!({"runtime": "native", "module": format!("db:{name}")});
    more.as_object().unwrap().iter().for_each(|(field, value)| descriptor[field] = value.clone());
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let sql = format!(
        "BEGIN IMMEDIATE;\n\
         INSERT OR REPLACE INTO modules (name, code) VALUES ('{name}', {});\n\
         INSERT OR REPLACE INTO functions (k, v) VALUES ('{key}', {});\n\
         COMMIT;\n",
        quoted(&format!("#!/bin/sh\n{script}\n")),
        quoted(&descriptor.to_string())
    );
    let output = node.sqlite3(&format!(".timeout 5000\n{sql}"));
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn three_nodes_with_litestream() {
    three_nodes(Kind::Litestream);
}

#[test]
fn three_nodes_with_push() {
    three_nodes(Kind::Push);
}

/// One test, since each step needs the nodes of the step before.
fn three_nodes(kind: Kind) {
    let mut world = World::new(kind);
    changes_are_live_in_time(&world, kind);
    functions_see_the_client(&world);
    functions_cannot_write_the_registry(&world);
    no_request_is_lost_or_runs_twice(&mut world, kind);
    if kind == Kind::Push {
        gets_survive_a_machine_that_falls_silent(&world);
    }
    let lag = |is_to_lag: bool| {
        let ready = if is_to_lag { 503 } else { 200 };
        wait_until("the lag shows", || world.nodes[1].get("/healthz?max_lag_s=3").status == ready);
    };
    // push.sh keeps a heartbeat in the registry.
    if kind == Kind::Push {
        lag(false);
    }
    world.carriers.clear();
    lag(true);
    a_follower_is_promoted(&mut world, kind);
}

fn changes_are_live_in_time(world: &World, kind: Kind) {
    let times = (1..=CHANGES).map(|change| world.time_until_live(&format!("change-{change}"), 1, &[1, 2, 3]));
    let mut times: Vec<u128> = times.map(|time| time.as_millis()).collect();
    times.sort_unstable();
    let (median, worst) = (times[CHANGES / 2], times[CHANGES - 1]);
    println!("figure: {kind:?}: {CHANGES} changes live on all three nodes: median {median} ms, slowest {worst} ms");
    assert!(worst < LIVE_MAX.as_millis(), "{times:?}");
}

fn functions_see_the_client(world: &World) {
    world.write("GET:/client", "echo $REMOTE_ADDR", json!({}));
    for node in &world.nodes {
        wait_until("the function has arrived", || node.get("/client").status == 200);
    }
    let output = run(world.network.command(2, "curl").args(["-s", &format!("http://{FRONT}/client")]));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), address_of(2));
}

fn functions_cannot_write_the_registry(world: &World) {
    let registry = world.nodes[1].db();
    let script =
        "for path in $REGISTRY $REGISTRY-wal ${REGISTRY%/*}/x; do (echo x >>$path) && echo wrote $path; done; :";
    world.write("GET:/attack", script, json!({"REGISTRY": registry}));
    wait_until("the function has arrived", || world.nodes[1].get("/attack").status == 200);
    let before = fs::read(&registry).unwrap();
    let answer = world.nodes[1].get("/attack");
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    assert!(fs::read(&registry).unwrap() == before);
}

/// Every node ends by SIGTERM and by SIGKILL and comes back, while clients ask the balancer.
fn no_request_is_lost_or_runs_twice(world: &mut World, kind: Kind) {
    // From the signal to the end of the process.
    let mut kills: Vec<(Instant, Instant)> = Vec::new();
    let began = Instant::now();
    let traffic = traffic::during(GETS_MIN, POSTS_MIN, || {
        for number in 1..=MACHINES {
            world.wait_for_requests_of(number);
            assert_eq!(world.nodes[number - 1].stop().code(), Some(0));
            world.launch(number);
            world.wait_for_requests_of(number);
            let killed = Instant::now();
            signal("KILL", world.nodes[number - 1].gateway_pid());
            world.nodes[number - 1].wait();
            kills.push((killed, Instant::now()));
            world.launch(number);
            world.wait_for_requests_of(number);
        }
    });
    let Traffic { gets, failed_gets, posts } = traffic;
    let failed: Vec<_> = posts.iter().filter(|post| post.failure.is_some()).collect();
    println!(
        "figure: {kind:?}: 3 SIGTERM and 3 SIGKILL within {} s: of {gets} GETs {} failed, of {} POSTs {}",
        began.elapsed().as_secs(),
        failed_gets.len(),
        posts.len(),
        failed.len()
    );
    assert!(failed_gets.is_empty(), "{failed_gets:?}");
    for post in &failed {
        let was_on_a_killed_node = kills.iter().any(|(killed, ended)| post.began <= *ended && post.ended >= *killed);
        let failure = post.failure.as_deref().unwrap();
        assert!(was_on_a_killed_node, "POST {} failed though no node was killed meanwhile: {failure}", post.id);
        assert!(!failure.starts_with(char::is_numeric) || failure.starts_with("502"), "{failure}");
    }
    let mut runs: HashMap<String, usize> = HashMap::new();
    for id in fs::read_to_string(world.ran_file()).unwrap().lines() {
        *runs.entry(id.to_string()).or_default() += 1;
    }
    for post in &posts {
        let count = runs.get(&post.id).copied().unwrap_or(0);
        assert!(count == 1 || (count == 0 && post.failure.is_some()), "POST {} ran {count} times", post.id);
    }
}

/// Like a power failure: no connection is reset or closed.
fn gets_survive_a_machine_that_falls_silent(world: &World) {
    let started = world.shared.path().join("started");
    world.write("GET:/slow", "echo x >>$STARTED; sleep 1; echo slept", json!({"STARTED": started}));
    for node in &world.nodes {
        wait_until("the function has arrived", || node.get("/slow").status == 200);
    }
    fs::remove_file(&started).unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        // The balancer sends them to the nodes in turn.
        let calls: Vec<_> = (0..2 * MACHINES).map(|_| scope.spawn(|| balancer::get("/slow").unwrap())).collect();
        let count = || fs::read_to_string(&started).unwrap_or_default().lines().count();
        wait_until("all run", || count() == 2 * MACHINES);
        world.network.set_cable(MACHINES, "down");
        for call in calls {
            assert_eq!(call.join().unwrap().status, 200);
        }
        assert!(count() > 2 * MACHINES, "those on the silent machine ran elsewhere, too");
    });
    println!(
        "figure: GETs that ran on a machine that fell silent were answered after {} ms",
        began.elapsed().as_millis()
    );
    world.network.set_cable(MACHINES, "up");
}

/// The steps of docs/SCALING.md, "When the writer is lost".
fn a_follower_is_promoted(world: &mut World, kind: Kind) {
    signal("KILL", world.nodes[0].gateway_pid());
    world.nodes[0].wait();
    for _ in 0..50 {
        assert_eq!(balancer::get("/where").unwrap().status, 200, "followers serve on");
    }
    // 1: the follower whose generation is the highest.
    let generation =
        |world: &World, number: usize| world.nodes[number - 1].get("/healthz").json()["generation"].as_u64();
    let highest = (2..=MACHINES).max_by_key(|number| generation(world, *number)).unwrap();
    let other = 5 - highest;
    // 2: its registry becomes writable.
    let registry = world.nodes[highest - 1].db();
    let _ = fs::remove_file(format!("{}-txid", registry.display()));
    assert!(world.nodes[highest - 1].sqlite3("PRAGMA journal_mode = WAL;").status.success());
    assert_eq!(world.nodes[highest - 1].stop().code(), Some(0));
    world.nodes[highest - 1].set("FAAS_FOLLOWER", "0");
    world.launch(highest);
    world.nodes[highest - 1].wait_until_ready();
    // 3: the other follower starts anew, and serves on meanwhile.
    if kind == Kind::Litestream {
        let registry = world.nodes[other - 1].db();
        fs::remove_file(&registry).unwrap();
        fs::remove_file(format!("{}-txid", registry.display())).unwrap();
    }
    assert_eq!(world.nodes[other - 1].get("/where").status, 200);
    // 4: a fresh machine replaces the lost one.
    world.nodes[0] = node(1, true);
    world.launch(1);
    assert_eq!(world.nodes[0].get("/healthz").json()["status"], "the registry is not loaded");
    world.nodes[0].get("/where").problem(503, "registry-not-loaded");
    world.carry(highest, &[1, other], 2);
    let began = Instant::now();
    world.nodes[0].wait_until_ready();
    println!("figure: {kind:?}: a fresh node serves after {} ms", began.elapsed().as_millis());
    let time = world.time_until_live("promoted", highest, &[1, 2, 3]);
    assert!(time < LIVE_MAX, "{time:?}");
}
