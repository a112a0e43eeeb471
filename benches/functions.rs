//! Functions of each runtime through the whole system: rate at 4 keep-alive connections, median time at 1; beside the
//! same program started bare, which is how the C original ran it and the least that a process per call takes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::floors::BareSpawn;
use crate::instance::{Instance, native_row};
use crate::load::{Load, get, post};
use crate::table::{Outcome, Row, Samples, Unit, failed, take_turns, version};

const CONNECTIONS: usize = 4;
const GREETING: &[u8] = br#"{"name":"Alice"}"#;

/// The C original adds its HTTP to the bare program. On two cores, where a bare run of `php` takes 15 ms of processor time
/// and one of `wasmer run` 9 ms, it came to 71 and 119 requests per second.
const NO_SLOWER: &str = "no slower than the C original: ≥ 0.9 of bare";

/// What is asked of a runtime.
struct Goals {
    text: &'static str,
    per_s: f64,
    of_floor: f64,
}

pub fn native() -> Outcome<Vec<Row>> {
    let folder = std::env::temp_dir().join(format!("faas-bench-native-{}", std::process::id()));
    let program = compile(&folder, "hello", HELLO);
    let rows = program.and_then(|program| {
        let instance = Instance::start(4, &[native_row("GET:/bench/hello", &program)])?;
        let load = load(&instance, get("/bench/hello"));
        let bare = BareSpawn { program: &program, arguments: &[], input: &[] };
        let goals = Goals { text: "≥ 2,000/s, ≥ half of bare", per_s: 2000.0, of_floor: 0.5 };
        compare("native (static C)", &load, &bare, 2, &goals, 7, Duration::from_millis(1000))
    });
    let _ = std::fs::remove_dir_all(&folder);
    rows
}

pub fn php() -> Outcome<Vec<Row>> {
    version("php").ok_or("php is not installed (apt-get install php-cli)")?;
    let instance = Instance::start(4, &[])?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/hello.php");
    let arguments = [script.to_str().ok_or("the path of this package is no UTF-8")?];
    let bare = BareSpawn { program: Path::new("php"), arguments: &arguments, input: GREETING };
    let goals = Goals { text: NO_SLOWER, per_s: 0.0, of_floor: 0.9 };
    let load = load(&instance, post("/api/hello", GREETING));
    compare("PHP", &load, &bare, 4, &goals, 5, Duration::from_millis(2000))
}

pub fn wasm() -> Outcome<Vec<Row>> {
    version("wasmer").ok_or("wasmer is not installed (start.sh says how)")?;
    let instance = Instance::start(4, &[])?;
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/ping.wasm");
    let arguments = ["run", module.to_str().ok_or("the path of this package is no UTF-8")?];
    let bare = BareSpawn { program: Path::new("wasmer"), arguments: &arguments, input: &[] };
    let goals = Goals { text: NO_SLOWER, per_s: 0.0, of_floor: 0.9 };
    compare("WASM", &load(&instance, get("/ping")), &bare, 4, &goals, 5, Duration::from_millis(2000))
}

fn load(instance: &Instance, request: Vec<u8>) -> Load {
    Load { address: instance.address, request, status: 200, connections: CONNECTIONS }
}

/// Two rows: rate and median time, each in turns with the bare program's.
fn compare(
    runtime: &str,
    load: &Load,
    bare: &BareSpawn<'_>,
    bare_threads: usize,
    goals: &Goals,
    rounds: usize,
    time: Duration,
) -> Outcome<Vec<Row>> {
    let [per_s, bare_per_s, latency, bare_latency] = take_turns(
        rounds,
        [
            &mut || load.per_s(time),
            &mut || bare.per_s(bare_threads, time),
            &mut || load.latency_us(time / 2),
            &mut || bare.latency_us(time / 2),
        ],
    )?;
    let ratio = per_s.ratio_to(&bare_per_s);
    let is_met = per_s.median() >= goals.per_s && ratio.median() >= goals.of_floor;
    let what = format!("{runtime}, 4 keep-alive connections");
    let bare = format!("bare, {bare_threads} threads");
    let rate = Row::new(&what, goals.text, per_s.show(Unit::PerSecond), is_met);
    let in_ms = |samples: &Samples| samples.scaled(1e-3);
    let what = format!("{runtime}, median on 1 connection");
    let time = Row::without_goal(&what, in_ms(&latency).show(Unit::Milliseconds));
    Ok(vec![
        rate.beside(&bare, &bare_per_s, Unit::PerSecond, &ratio),
        time.beside("bare", &in_ms(&bare_latency), Unit::Milliseconds, &latency.ratio_to(&bare_latency)),
    ])
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
