//! Functions of each runtime through the whole system: rate at 4 keep-alive connections, median time at 1; each beside the
//! least that the same takes, and beside what others do for a process of its own for every call.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use faas::protocol::function_spec::Runtime;

use crate::floors::BareSpawn;
use crate::forked::BareForkServers;
use crate::instance::{Instance, native_row};
use crate::load::{Load, get, post};
use crate::rivals::SingleUseFpm;
use crate::table::{Outcome, Row, Samples, Unit, failed, take_turns, version};

const CONNECTIONS: usize = 4;
const GREETING: &[u8] = br#"{"name":"Alice"}"#;
/// Workers, and so fork servers of a function.
const WORKERS: u32 = 4;
const ROUNDS: usize = 7;
const TIME: Duration = Duration::from_millis(1000);

pub fn native() -> Outcome<Vec<Row>> {
    let folder = std::env::temp_dir().join(format!("faas-bench-native-{}", std::process::id()));
    let program = compile(&folder, "hello", HELLO);
    let rows = program.and_then(|program| {
        let instance = Instance::start(WORKERS, &[native_row("GET:/bench/hello", &program)])?;
        let load = load(&instance, get("/bench/hello"));
        let bare = BareSpawn { program: &program, arguments: &[], input: &[] };
        let [per_s, bare_per_s, latency, bare_latency] = take_turns(
            ROUNDS,
            [&mut || load.per_s(TIME), &mut || bare.per_s(2, TIME), &mut || load.latency_us(TIME / 2), &mut || {
                bare.latency_us(TIME / 2)
            }],
        )?;
        let ratio = per_s.ratio_to(&bare_per_s);
        let is_met = per_s.median() >= 2000.0 && ratio.median() >= 0.6;
        let (what, goal) = ("native (static C), 4 keep-alive connections", "≥ 2,000/s, ≥ 0.6 of bare");
        let rate = Row::new(what, goal, per_s.show(Unit::PerSecond), is_met);
        let rate = rate.beside("posix_spawn and wait, bare, 2 threads", &bare_per_s, Unit::PerSecond, &ratio);
        let time = median_row("native (static C)", 0.9, &latency).beside(
            "bare",
            &in_ms(&bare_latency),
            Unit::Milliseconds,
            &latency.ratio_to(&bare_latency),
        );
        Ok(vec![rate, time])
    });
    let _ = std::fs::remove_dir_all(&folder);
    rows
}

pub fn php() -> Outcome<Vec<Row>> {
    version("php").ok_or("php is not installed (apt-get install php-cli)")?;
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/hello.php");
    let instance = Instance::start(WORKERS, &[])?;
    let load = load(&instance, post("/api/hello", GREETING));
    let bare = BareForkServers::start(Runtime::Php, &module, GREETING, WORKERS as usize)?;
    let rival = SingleUseFpm::start(&module);
    let rival_load = rival.as_ref().ok().map(|rival| Load {
        address: rival.address,
        request: post("/", GREETING),
        status: 200,
        connections: CONNECTIONS,
    });
    let goals = Goals { of_rival: 4.0, median_ms: 0.8 };
    let per_s = rival_load.as_ref().ok_or_else(|| rival.as_ref().err().cloned().unwrap_or_default());
    let mut measure = per_s.map(|load| move || load.per_s(TIME));
    let rival = Rival {
        name: "nginx and php-fpm, pm.max_requests=1",
        per_s: measure.as_mut().map(|measure| measure as _).map_err(|why| why.clone()),
    };
    forked("PHP", &load, &bare, rival, &goals)
}

pub fn wasm() -> Outcome<Vec<Row>> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/ping.wasm");
    let instance = Instance::start(WORKERS, &[])?;
    let load = load(&instance, get("/ping"));
    let bare = BareForkServers::start(Runtime::Wasm, &module, &[], WORKERS as usize)?;
    let arguments = ["run", module.to_str().ok_or("the path of this package is no UTF-8")?];
    let wasmer = BareSpawn { program: Path::new("wasmer"), arguments: &arguments, input: &[] };
    let goals = Goals { of_rival: 15.0, median_ms: 1.2 };
    let mut measure = || wasmer.per_s(CONNECTIONS, TIME);
    let per_s: Result<&mut dyn FnMut() -> Outcome<f64>, String> = match version("wasmer") {
        Some(_) => Ok(&mut measure),
        None => Err("wasmer is not installed".into()),
    };
    forked("WASM", &load, &bare, Rival { name: "`wasmer run`, bare, 4 threads", per_s }, &goals)
}

/// The cost of starting a process without a fork server: `"start": "cold"`.
pub fn cold() -> Outcome<Vec<Row>> {
    version("php").ok_or("php is not installed (apt-get install php-cli)")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/hello.php");
    let row = |key: &str, runtime: &str, module: &str| {
        let descriptor = serde_json::json!({"runtime": runtime, "module": module, "start": "cold"});
        (key.to_string(), descriptor.to_string())
    };
    let rows =
        [row("POST:/cold/php", "php", "functions/hello.php"), row("GET:/cold/wasm", "wasm", "functions/ping.wasm")];
    let instance = Instance::start(WORKERS, &rows)?;
    let (php, wasm) = (load(&instance, post("/cold/php", GREETING)), load(&instance, get("/cold/wasm")));
    let arguments = [script.to_str().ok_or("the path of this package is no UTF-8")?];
    let bare = BareSpawn { program: Path::new("php"), arguments: &arguments, input: GREETING };
    let [per_s, bare_per_s, wasm_per_s] =
        take_turns(ROUNDS, [&mut || php.per_s(TIME), &mut || bare.per_s(CONNECTIONS, TIME), &mut || wasm.per_s(TIME)])?;
    let goal = "no slower than the C original's 71/s";
    let php = Row::new(
        "PHP, started cold, 4 keep-alive connections",
        goal,
        per_s.show(Unit::PerSecond),
        per_s.median() >= 71.0,
    )
    .beside("`php` bare, 4 threads", &bare_per_s, Unit::PerSecond, &per_s.ratio_to(&bare_per_s));
    let goal = "no slower than the C original's 119/s";
    let is_met = wasm_per_s.median() >= 119.0;
    let wasm = Row::new("WASM, started cold, 4 keep-alive connections", goal, wasm_per_s.show(Unit::PerSecond), is_met);
    Ok(vec![php, wasm])
}

/// The goals of a runtime whose processes are forked.
struct Goals {
    of_rival: f64,
    median_ms: f64,
}

/// Of the bare fork server.
const OF_BARE: f64 = 0.8;

/// A rival that also runs a process for every call: its rate, or the reason why it cannot be measured here.
struct Rival<'a> {
    name: &'static str,
    per_s: Result<&'a mut dyn FnMut() -> Outcome<f64>, String>,
}

/// Two rows: rate and median time, each in turns with the bare fork server's.
fn forked(runtime: &str, load: &Load, bare: &BareForkServers, rival: Rival<'_>, goals: &Goals) -> Outcome<Vec<Row>> {
    // The first calls of each worker are cold, while its fork server starts.
    load.per_s(TIME)?;
    let (mut rival_per_s, missing) = match rival.per_s {
        Ok(measure) => (measure, None),
        Err(why) => (&mut (|| Ok(0.0)) as &mut dyn FnMut() -> Outcome<f64>, Some(why)),
    };
    let [per_s, bare_per_s, theirs_per_s, latency, bare_latency] = take_turns(
        ROUNDS,
        [
            &mut || load.per_s(TIME),
            &mut || bare.per_s(TIME),
            &mut rival_per_s,
            &mut || load.latency_us(TIME / 2),
            &mut || bare.latency_us(TIME / 2),
        ],
    )?;
    let (of_bare, of_theirs) = (per_s.ratio_to(&bare_per_s), per_s.ratio_to(&theirs_per_s));
    let is_met = of_bare.median() >= OF_BARE && missing.is_none() && of_theirs.median() >= goals.of_rival;
    let goal = format!("≥ {OF_BARE} of the bare fork server, ≥ {} × the rival", goals.of_rival);
    let rate = Row::new(&format!("{runtime}, 4 keep-alive connections"), &goal, per_s.show(Unit::PerSecond), is_met);
    let rate = rate.beside("the bare fork server", &bare_per_s, Unit::PerSecond, &of_bare);
    let rate = match missing {
        None => rate.beside(rival.name, &theirs_per_s, Unit::PerSecond, &of_theirs),
        Some(why) => rate.beside_missing(rival.name, &why),
    };
    let time = median_row(runtime, goals.median_ms, &latency);
    let ratio = latency.ratio_to(&bare_latency);
    Ok(vec![rate, time.beside("the bare fork server", &in_ms(&bare_latency), Unit::Milliseconds, &ratio)])
}

fn median_row(runtime: &str, goal_ms: f64, latency: &Samples) -> Row {
    let latency = in_ms(latency);
    let what = format!("{runtime}, median on 1 connection");
    Row::new(&what, &format!("≤ {goal_ms} ms"), latency.show(Unit::Milliseconds), latency.median() <= goal_ms)
}

fn in_ms(samples: &Samples) -> Samples {
    samples.scaled(1e-3)
}

fn load(instance: &Instance, request: Vec<u8>) -> Load {
    Load { address: instance.address, request, status: 200, connections: CONNECTIONS }
}

/// The least that is a function: it answers and ends.
pub const HELLO: &str = r#"
#include <unistd.h>
int main(void) {
    static const char answer[] = "{\"message\":\"Hello, Alice!\"}\n";
    return write(1, answer, sizeof answer - 1) < 0;
}
"#;

/// Compiles a static program; returns its path.
pub fn compile(folder: &Path, name: &str, source: &str) -> Outcome<PathBuf> {
    let (source_file, program) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&source_file, source)).map_err(failed("write C"))?;
    let output = Command::new("cc").args(["-static", "-O2", "-o"]).args([&program, &source_file]).output();
    let output = output.map_err(failed("run cc, the C compiler (apt-get install gcc libc6-dev)"))?;
    match output.status.success() {
        true => Ok(program),
        false => Err(format!("cc refused the program: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
