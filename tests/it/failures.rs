//! Functions that fail, and the error responses that their clients get.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::cases::each;
use crate::instance::{Instance, find, need, wait_until};

#[test]
fn a_function_past_its_timeout_is_killed_with_its_children_also_those_that_fled() {
    let instance = Instance::start();
    // Children in the background, in a session of their own, and forked twice. Each records its process id and sleeps.
    let script = "sleep_on() { echo $$ >>\"$IT_FOLDER/sleepers\"; exec sleep 1000; }\n\
        sleep_on &\n\
        setsid sh -c 'echo $$ >>\"$IT_FOLDER/sleepers\"; exec sleep 1000' &\n\
        (setsid sh -c 'echo $$ >>\"$IT_FOLDER/sleepers\"; sleep 1000 & wait' &)\n\
        (trap '' TERM HUP INT; sleep_on) &\n\
        sleep_on";
    instance.script_with("GET:/flee", script, json!({"timeout": 1}));
    let answer = instance.get("/flee");
    assert!(answer.problem(504, "timed-out").contains("timeout of 1 s"));
    assert!(answer.field("X-Faas-Worker").is_some() && answer.field("Server-Timing").is_some());
    wait_until("its processes are gone", || instance.functions().is_empty());
    assert_eq!(fs::read_to_string(instance.shared("sleepers")).unwrap().lines().count(), 5);
    assert_eq!(instance.get("/api/env").status, 200);
}

#[test]
fn a_module_that_is_missing_or_cannot_be_executed_answers_500_with_the_path_and_a_hint() {
    let instance = Instance::with(&[("FAAS_DEV", "1")]);
    let native = |module: &Path| instance.install(&[("GET:/x", json!({"runtime": "native", "module": module}))]);
    let detail = |kind: &str| instance.get("/x").problem(500, kind);

    let module = instance.path("nowhere.sh");
    native(&module);
    assert!(detail("module-missing").contains(module.to_str().unwrap()));

    native(&instance.path("run"));
    assert!(detail("module-missing").contains("not a regular file"));

    let module = instance.path("plain.sh");
    fs::write(&module, "#!/bin/sh\necho plain\n").unwrap();
    native(&module);
    let hint = format!("chmod +x {}", module.display());
    assert!(detail("module-not-executable").contains(&hint));

    native(&instance.program("lost.sh", "#!/nowhere/interpreter\n"));
    assert!(detail("module-not-executable").contains("interpreter"));

    let module = instance.program("windows it's.sh", "#!/bin/sh\r\necho lost\r\n");
    native(&module);
    let said = detail("module-not-executable");
    let remedy = format!(r"try: sed -i 's/\r$//' '{}'", module.display().to_string().replace('\'', r"'\''"));
    assert!(said.contains("ends with CR LF") && said.ends_with(&remedy), "{said}");
    fs::set_permissions(&module, fs::Permissions::from_mode(0o644)).unwrap();
    let said = detail("module-not-executable");
    assert!(said.ends_with(&remedy.replace(r"sed -i 's/\r$//'", "chmod +x")), "{said}");

    native(&instance.program("text", "neither a program nor a script\n"));
    assert!(detail("module-not-executable").contains("#!"));

    // A file that appears, or is mended, later works without a restart.
    instance.program("text", "#!/bin/sh\necho mended\n");
    assert_eq!(instance.get("/x").text(), "mended\n");
}

#[test]
fn a_runtime_that_is_not_installed_answers_503_naming_the_package() {
    let mut instance = Instance::prepare(&[("PATH", "/nowhere")]);
    instance.init();
    instance.launch_copies();
    instance.wait_until_ready();
    let detail = instance.post("/api/hello", "{}").problem(503, "runtime-missing");
    assert!(
        detail.contains("faas-php is not installed") && detail.contains("apt-get install libphp-embed php-dev"),
        "{detail}"
    );
    let detail = instance.get("/ping").problem(503, "runtime-missing");
    assert!(detail.contains("faas-wasm is not installed") && detail.contains("./start.sh"), "{detail}");
    // As start.sh notes its build: by an id that counts only while that process holds the file open.
    let pid_file = File::create(instance.run_dir().join("wasm-build.pid")).unwrap();
    fs::write(instance.run_dir().join("wasm-build.pid"), format!("{}\n", std::process::id())).unwrap();
    let detail = instance.get("/ping").problem(503, "runtime-missing");
    assert!(detail.contains("faas-wasm is being built, for 0 min so far; see run/wasm-build.log"), "{detail}");
    drop(pid_file);
    let detail = instance.get("/ping").problem(503, "runtime-missing");
    assert!(detail.contains("faas-wasm is not installed"), "{detail}");
    instance.install(&[("GET:/ping", json!({"runtime": "wasm", "module": "functions/ping.wasm", "engine": "wasmer"}))]);
    let detail = instance.get("/ping").problem(503, "runtime-missing");
    assert!(detail.contains("wasmer is not installed") && detail.contains("cargo install wasmer-cli"), "{detail}");
}

#[test]
fn a_component_needs_a_program_of_its_own() {
    need(&["faas-wasm"]);
    let programs = tempfile::tempdir().unwrap();
    symlink(find("faas-wasm").unwrap(), programs.path().join("faas-wasm")).unwrap();
    let mut instance = Instance::prepare(&[("PATH", programs.path().to_str().unwrap())]);
    instance.init();
    instance.launch_copies();
    instance.wait_until_ready();
    // Its header is enough to tell.
    let component = instance.program("component.wasm", b"\0asm\x0d\0\x01\0");
    instance.install(&[("GET:/component", json!({"runtime": "wasm", "module": component}))]);
    assert_eq!(instance.get("/ping").status, 200);
    let detail = instance.get("/component").problem(503, "runtime-missing");
    assert!(detail.contains("faas-wasm-component is not installed") && detail.contains("./start.sh"), "{detail}");
    let _build = File::create(instance.run_dir().join("wasm-build.pid")).unwrap();
    fs::write(instance.run_dir().join("wasm-build.pid"), format!("{}\n", std::process::id())).unwrap();
    let detail = instance.get("/component").problem(503, "runtime-missing");
    assert!(detail.contains("faas-wasm-component is being built"), "{detail}");
}

#[test]
fn an_answer_that_is_too_large_is_502_and_its_function_is_killed() {
    let instance = Instance::with(&[("FAAS_ANSWER_MAX", "1000000")]);
    instance.script("GET:/endless", "exec cat /dev/zero");
    assert!(instance.get("/endless").problem(502, "answer-too-large").contains("1000000 bytes"));
    wait_until("its process is gone", || instance.functions().is_empty());
    instance.script("GET:/fits", "exec head -c 999999 /dev/zero");
    assert_eq!(instance.get("/fits").body.len(), 999_999);
}

#[test]
fn a_full_spool_answers_503_and_has_room_again_afterwards() {
    let instance = Instance::with(&[("FAAS_SPOOL_MAX", "1000000")]);
    instance.script("GET:/large", "exec head -c 2000000 /dev/zero");
    let answer = instance.get("/large");
    answer.problem(503, "spool-full");
    assert!(answer.field("Retry-After").is_some());
    instance.script("GET:/fits", "exec head -c 900000 /dev/zero");
    assert_eq!(instance.get("/fits").body.len(), 900_000);
}

#[test]
fn only_with_dev_does_a_client_learn_what_a_failed_function_said() {
    each([("0", false), ("1", true)], |(dev, is_shown)| {
        let instance = Instance::with(&[("FAAS_DEV", dev)]);
        instance.script("GET:/fails", "echo a secret >&2\nexit 3");
        let detail = instance.get("/fails").problem(500, "function-exited");
        assert!(detail.starts_with("the function exited with code 3"), "{detail}");
        assert_eq!(detail.ends_with("\na secret"), is_shown, "{detail}");
        assert_eq!(!instance.log_lines("FAAS_DEV=1").is_empty(), is_shown);
    });
}
