//! The cost of forked processes as things grow: many different functions called in turn, what their fork servers hold of
//! memory, the number of workers, each with fork servers of its own, a burst out of nowhere, and a call that takes long.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use faas::procfs;
use image::{ImageFormat, Rgb, RgbImage};

use crate::floors::BareSpawn;
use crate::instance::Instance;
use crate::load::{Client, Load, get, post};
use crate::table::{Outcome, Row, Samples, Unit, failed, take_turns, version};

const WORKERS: u32 = 4;
const MB: f64 = 1e6;

/// 1, 10 and 100 PHP functions, called in turn.
pub fn many_functions() -> Outcome<Vec<Row>> {
    version("php").ok_or("php is not installed (apt-get install php-cli)")?;
    [1, 10, 100].into_iter().map(functions_in_turn).collect()
}

fn functions_in_turn(count: usize) -> Outcome<Row> {
    const ROUNDS: usize = 5;
    let folder = std::env::temp_dir().join(format!("faas-bench-many-{}", std::process::id()));
    let rows = (0..count).map(|number| row(&folder, number)).collect::<Outcome<Vec<_>>>()?;
    let instance = Instance::start(WORKERS, &rows)?;
    let mut client = Client::connect(instance.address)?;
    let mut in_turn = |calls: usize| -> Outcome<f64> {
        let began = Instant::now();
        for number in 0..calls {
            let (status, body) = client.call(&get(&format!("/bench/{}", number % count)))?;
            if status != 200 {
                return Err(format!("the answer was {status}: {}", String::from_utf8_lossy(&body).trim()));
            }
        }
        Ok(calls as f64 / began.elapsed().as_secs_f64())
    };
    // Until there are as many fork servers as there will be.
    in_turn(12 * count.max(10))?;
    let mut per_s = Samples::default();
    for _ in 0..ROUNDS {
        per_s.push(in_turn(300)?);
    }
    let forked = instance.processes().into_iter().filter(|pid| is_php(*pid));
    let memory: Vec<u64> = forked.filter_map(procfs::proportional_bytes).collect();
    drop(instance);
    let _ = std::fs::remove_dir_all(&folder);
    let functions = if count == 1 { "1 PHP function".into() } else { format!("{count} PHP functions in turn") };
    let what = format!("{functions}, 1 connection; its fork servers and waiting children, and their memory");
    let text = format!(
        "{}; {} processes, {:.1} MB",
        per_s.show(Unit::PerSecond),
        memory.len(),
        memory.iter().sum::<u64>() as f64 / MB
    );
    Ok(Row::without_goal(&what, text))
}

fn row(folder: &Path, number: usize) -> Outcome<(String, String)> {
    let module = folder.join(format!("{number}.php"));
    let text = "<?php header('Content-Type: application/json'); echo json_encode(['message' => 'Hello']);";
    std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&module, text)).map_err(failed("write a module"))?;
    let descriptor = serde_json::json!({"runtime": "php", "module": module});
    Ok((format!("GET:/bench/{number}"), descriptor.to_string()))
}

fn is_php(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"faas-php"))
}

/// One worker and four: each has fork servers of its own, which memory and the processors' caches hold.
pub fn workers() -> Outcome<Vec<Row>> {
    const ROUNDS: usize = 9;
    const TIME: Duration = Duration::from_millis(1000);
    version("php").ok_or("php is not installed (apt-get install php-cli)")?;
    let (one, four) = (Instance::start(1, &[])?, Instance::start(WORKERS, &[])?);
    let measure = |runtime: &str, request: Vec<u8>| -> Outcome<Row> {
        let on = |instance: &Instance| {
            let load = Load { address: instance.address, request: request.clone(), status: 200, connections: 4 };
            move || load.per_s(TIME)
        };
        let (mut on_one, mut on_four) = (on(&one), on(&four));
        // Until they have their fork servers.
        take_turns(1, [&mut on_one, &mut on_four])?;
        let [of_one, of_four] = take_turns(ROUNDS, [&mut on_one, &mut on_four])?;
        let what = format!("{runtime}, 4 keep-alive connections, 1 worker");
        let row = Row::without_goal(&what, of_one.show(Unit::PerSecond));
        Ok(row.beside("4 workers", &of_four, Unit::PerSecond, &of_one.ratio_to(&of_four)))
    };
    Ok(vec![measure("PHP", post("/api/hello", br#"{"name":"Alice"}"#))?, measure("WASM", get("/ping"))?])
}

/// 64 calls at once after a time of rest, with 32 slots.
pub fn burst() -> Outcome<Vec<Row>> {
    const ROUNDS: usize = 7;
    const REST: Duration = Duration::from_secs(3);
    version("php").ok_or("php is not installed (apt-get install php-cli)")?;
    let instance = Instance::start(WORKERS, &[])?;
    let measure = |runtime: &str, request: Vec<u8>| -> Outcome<Row> {
        let load = Load { address: instance.address, request, status: 200, connections: 64 };
        Load { connections: 4, ..load.clone() }.per_s(Duration::from_millis(500))?;
        let mut highest = Samples::default();
        for _ in 0..ROUNDS {
            std::thread::sleep(REST);
            highest.push(load.burst()?.percentile(99.0) * 1e-3);
        }
        let what = format!("{runtime}, 64 calls at once after a rest, 32 slots: 99th percentile");
        Ok(Row::without_goal(&what, highest.show(Unit::Milliseconds)))
    };
    Ok(vec![measure("PHP", post("/api/hello", br#"{"name":"Alice"}"#))?, measure("WASM", get("/ping"))?])
}

/// A 1920 x 1280 JPEG is made 800 wide.
pub fn resize() -> Outcome<Vec<Row>> {
    const ROUNDS: usize = 7;
    const GOAL: f64 = 1.2;
    const TIME: Duration = Duration::from_millis(1000);
    version("wasmer").ok_or("wasmer is not installed (start.sh says how)")?;
    let picture = RgbImage::from_fn(1920, 1280, |x, y| Rgb([(x / 8) as u8, (y / 5) as u8, ((x * y) >> 12) as u8]));
    let mut jpeg = Cursor::new(Vec::new());
    picture.write_to(&mut jpeg, ImageFormat::Jpeg).map_err(failed("make a JPEG"))?;
    let image = base64::engine::general_purpose::STANDARD.encode(jpeg.into_inner());
    let body = format!(r#"{{"image":"{image}","width":800}}"#).into_bytes();
    let instance = Instance::start(WORKERS, &[])?;
    let load = Load { address: instance.address, request: post("/resize", &body), status: 200, connections: 1 };
    load.per_s(TIME)?;
    let compiled = compile_for_wasmer()?;
    let arguments = ["run", compiled.to_str().ok_or("a temporary path is no UTF-8")?];
    let wasmer = BareSpawn { program: Path::new("wasmer"), arguments: &arguments, input: &body };
    let [ours, theirs] = take_turns(ROUNDS, [&mut || load.latency_us(TIME), &mut || wasmer.latency_us(TIME)])?;
    let _ = std::fs::remove_file(compiled);
    let (ours, theirs) = (ours.scaled(1e-3), theirs.scaled(1e-3));
    let ratio = ours.ratio_to(&theirs);
    let what = "resize of a 1920 × 1280 JPEG in WASM, median on 1 connection";
    let row = Row::new(what, "≤ 1.2 × `wasmer run`", ours.show(Unit::Milliseconds), ratio.median() <= GOAL);
    Ok(vec![row.beside("`wasmer run`, compiled before", &theirs, Unit::Milliseconds, &ratio)])
}

fn compile_for_wasmer() -> Outcome<PathBuf> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/resize.wasm");
    let compiled = std::env::temp_dir().join(format!("faas-bench-resize-{}.wasmu", std::process::id()));
    let mut command = std::process::Command::new("wasmer");
    let output = command.args(["compile", "--quiet", "-o"]).args([&compiled, &module]).output();
    let output = output.map_err(failed("run wasmer"))?;
    match output.status.success() {
        true => Ok(compiled),
        false => Err(format!("wasmer did not compile: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}
