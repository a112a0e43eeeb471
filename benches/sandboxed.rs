//! The time that the sandbox adds to a native invocation. The same program is spawned with all of it and with none of it, in
//! turns; the difference is compared with a whole invocation through the gateway on one connection.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{PipeWriter, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use faas::procfs;
use faas::sandbox::namespaces::Namespaces;
use faas::sandbox::{Sandbox, functions_user};
use faas::settings::Settings;
use faas::sys::{self, Confinement, Spawn, Watched};

use crate::functions::{HELLO, compile};
use crate::instance::{Instance, native_row};
use crate::load::{Load, get};
use crate::table::{Outcome, Row, Samples, Unit, failed, take_turns};

const ROUNDS: usize = 9;
const SPAWNS: usize = 200;
/// A native invocation ÷ one without the sandbox.
const GOAL: f64 = 1.25;

pub fn measure() -> Outcome<Vec<Row>> {
    let folder = std::env::temp_dir().join(format!("faas-bench-sandboxed-{}", std::process::id()));
    let rows = compile(&folder, "hello", HELLO).and_then(|program| compare(&folder, &program));
    let _ = fs::remove_dir_all(&folder);
    rows
}

fn compare(folder: &Path, program: &Path) -> Outcome<Vec<Row>> {
    let instance = Instance::start(1, &[native_row("GET:/bench/hello", program)])?;
    let load = Load { address: instance.address, request: get("/bench/hello"), status: 200, connections: 1 };
    let settings = Settings::from_lookup(|name| match name {
        "FAAS_RUN_DIR" => Some(instance.run_dir().display().to_string()),
        "FAAS_DB" => Some(instance.folder.join("faas_meta.db").display().to_string()),
        "FAAS_MODULE_ROOT" => Some(folder.display().to_string()),
        _ => None,
    });
    let settings = settings.map_err(failed("make settings"))?;
    let user = functions_user(&settings).map_err(failed("find the functions' user"))?;
    let namespaces = Namespaces::new(1, user.as_ref()).map_err(failed("make a user namespace"))?;
    let sandbox = Sandbox::new(&settings, procfs::outer_pid(), namespaces).map_err(failed("make a sandbox"))?;
    fs::create_dir(folder.join("spare")).map_err(failed("make a scratch folder"))?;
    let [whole, sandboxed, bare] = take_turns(
        ROUNDS,
        [
            &mut || load.latency_us(Duration::from_millis(500)),
            &mut || median_us(|| spawn_sandboxed(folder, program, &sandbox)),
            &mut || median_us(|| spawn(program, None)),
        ],
    )?;
    let added = sandboxed.less(&bare);
    let without = whole.less(&added);
    let ratio = whole.ratio_to(&without);
    let shown = format!("{}, + {}", ratio.show(Unit::Times), added.show(Unit::Microseconds));
    let row = Row::new("sandbox, of a native invocation", "≤ 1.25×", shown, ratio.median() <= GOAL);
    Ok(vec![row.beside("spawned without it", &bare, Unit::Microseconds, &sandboxed.ratio_to(&bare))])
}

fn median_us(mut spawn: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let mut samples = Samples::default();
    for _ in 0..SPAWNS {
        let began = Instant::now();
        spawn()?;
        samples.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(samples.median())
}

/// As worker/process.rs does it: with a scratch folder, and rulesets made for this one invocation.
fn spawn_sandboxed(folder: &Path, program: &Path, sandbox: &Sandbox) -> Outcome<()> {
    // The worker renames a scratch folder that no function touched, twice.
    let (spare, scratch) = (folder.join("spare"), folder.join("scratch"));
    fs::rename(&spare, &scratch).map_err(failed("take a scratch folder"))?;
    let writable = sandbox.ruleset(Some(&scratch), &[], None, false).map_err(failed("make a ruleset"))?;
    let readable = sandbox.readable().map_err(failed("make a ruleset"))?;
    let landlock =
        [writable.as_ref().map(|ruleset| ruleset.as_fd()), readable.as_ref().map(|readable| readable.landlock.as_fd())];
    let namespace = sandbox.namespace().map_err(failed("take a user namespace"))?;
    let confinement = sandbox.confinement(None, 160, true, false, landlock, namespace.as_ref());
    spawn(program, Some(confinement))?;
    fs::read_dir(&scratch).map_err(failed("look into a scratch folder"))?;
    fs::rename(&scratch, &spare).map_err(failed("put away a scratch folder"))
}

/// Starts the program, reads what it says, waits for its end.
fn spawn(program: &Path, confinement: Option<Confinement<'_>>) -> Outcome<()> {
    let null = File::open("/dev/null").map_err(failed("open /dev/null"))?;
    let (mut stdout, for_child): (_, PipeWriter) = std::io::pipe().map_err(failed("make a pipe"))?;
    let program = CString::new(program.as_os_str().as_bytes()).map_err(failed("name the program"))?;
    let child = sys::spawn(&Spawn {
        program: &program,
        arguments: std::slice::from_ref(&program),
        environment: b"",
        folder: Some(c"/"),
        stdin: null.as_fd(),
        stdout: for_child.as_fd(),
        stderr: null.as_fd(),
        control: None,
        confinement,
        group: None,
    });
    let child = child.map_err(|error| format!("could not {}: {}", error.step, error.cause))?;
    drop(for_child);
    let mut output = Vec::new();
    stdout.read_to_end(&mut output).map_err(failed("read what it says"))?;
    sys::poll(&mut [Watched::read(child.pidfd.as_fd())], None).map_err(failed("wait for it"))?;
    sys::reap(child.pid).map_err(failed("take note of its end"))?;
    if output.is_empty() { Err("the program said nothing".into()) } else { Ok(()) }
}
