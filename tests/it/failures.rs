//! Functions that fail, and the error responses that their clients get.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::instance::{Instance, find, has, wait_until};

/// Asserts that a function past its timeout gets this response.
fn assert_timed_out(instance: &Instance, target: &str) {
    let answer = instance.get(target);
    assert!(answer.problem(504, "timed-out").contains("timeout of 1 s"));
    assert!(answer.field("X-Faas-Worker").is_some() && answer.field("Server-Timing").is_some());
    wait_until("its processes are gone", || instance.functions().is_empty());
}

#[test]
fn a_wasm_function_past_its_timeout_is_killed_and_answers_504() {
    if !has(&["wasmer"]) {
        return;
    }
    let instance = Instance::start();
    let source = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $on (br $on))))"#;
    instance.function("GET:/spin", "wasm", source, json!({"timeout": 1}));
    assert_timed_out(&instance, "/spin");
}

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
    assert_timed_out(&instance, "/flee");
    assert_eq!(fs::read_to_string(instance.shared("sleepers")).unwrap().lines().count(), 5);
    assert_eq!(instance.get("/api/env").status, 200);
}

#[test]
fn a_wasm_function_over_its_memory_answers_500_saying_so() {
    if !has(&["wasmer"]) {
        return;
    }
    let instance = Instance::start();
    // Grows by 1 MiB at a time and writes into each page.
    let source = r#"(module
        (memory (export "memory") 1)
        (func (export "_start") (local $at i32)
            (loop $on
                (drop (memory.grow (i32.const 16)))
                (loop $fill
                    (i32.store8 (local.get $at) (i32.const 1))
                    (local.set $at (i32.add (local.get $at) (i32.const 4096)))
                    (br_if $fill (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))))
                (br $on))))"#;
    instance.function("GET:/large", "wasm", source, json!({"memory": 96}));
    assert!(instance.get("/large").problem(500, "memory-limit").contains("limit of 96 MiB"));
    wait_until("its processes are gone", || instance.functions().is_empty());
}

#[test]
fn a_native_function_over_its_memory_answers_500_saying_so_also_where_it_is_shared_or_a_childs() {
    if !has(&["cc"]) {
        return;
    }
    let instance = Instance::start();
    // Takes 200 MiB and keeps them: anonymous, shared, or in eight children of 25 MiB each.
    let program = instance.compile(
        "large",
        r#"
        #include <string.h>
        #include <stdlib.h>
        #include <sys/mman.h>
        #include <unistd.h>
        static void take(size_t mib, int how) {
            char *memory = mmap(0, mib << 20, PROT_READ | PROT_WRITE, how | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED) exit(3);
            memset(memory, 1, mib << 20);
        }
        int main(void) {
            const char *kind = getenv("KIND");
            if (*kind == 'o') for (int i = 0; i < 200; i++) { take(1, MAP_PRIVATE); usleep(2000); }
            if (*kind == 's') take(200, MAP_SHARED);
            if (*kind == 'c') for (int i = 0; i < 8; i++) if (fork() == 0) { take(25, MAP_PRIVATE); pause(); }
            pause();
        }"#,
    );
    for kind in ["own", "shared", "children"] {
        let env = json!({"KIND": kind, "IT_FOLDER": instance.shared("")});
        let row = json!({"runtime": "native", "module": program, "memory": 64, "env": env});
        instance.install(&[("GET:/large", row)]);
        assert!(instance.get("/large").problem(500, "memory-limit").contains("limit of 64 MiB"), "{kind}");
        wait_until("its processes are gone", || instance.functions().is_empty());
    }
}

#[test]
fn an_exit_code_or_a_signal_answers_500_naming_it() {
    let instance = Instance::start();
    instance.script("GET:/exit", "echo some output\nexit 7");
    assert!(instance.get("/exit").problem(500, "function-exited").contains("code 7"));
    instance.script("GET:/signal", "echo some output\nkill -USR1 $$");
    assert!(instance.get("/signal").problem(500, "function-signaled").contains("signal 10 (SIGUSR1)"));
    instance.script("GET:/kill", "kill -9 $$");
    assert!(instance.get("/kill").problem(500, "function-signaled").contains("signal 9"));
    if has(&["faas-php"]) {
        instance.function("GET:/uncaught", "php", "<?php throw new Exception('it-uncaught');", json!({}));
        let detail = instance.get("/uncaught").problem(500, "function-exited");
        assert!(detail.ends_with("code 255, PHP's code for a fatal error"), "{detail}");
        wait_until("it is in the log", || !instance.log_lines("it-uncaught").is_empty());
    }
}

#[test]
fn a_malformed_cgi_answer_is_502() {
    let instance = Instance::start();
    for (output, text) in [
        ("cgi", "no head at all"),
        ("cgi", "Content-Type: text/plain\\n"),
        ("cgi", "Content-Type: text/plain\\nthis is no field\\n\\nbody"),
        ("cgi", "X-Other: 1\\n\\nbody"),
        ("cgi", "Status: abc\\n\\nbody"),
        ("cgi", "Status: 99\\n\\nbody"),
        ("auto", "Status: abc\\n\\nbody"),
        ("cgi", ""),
    ] {
        instance.script_with("GET:/cgi", &format!("printf '{text}'"), json!({"output": output}));
        instance.get("/cgi").problem(502, "cgi-malformed");
    }
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
    if !has(&["faas-wasm"]) {
        return;
    }
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
    let instance = Instance::with(&[("FAAS_SPOOL_MAX", "1000000"), ("FAAS_BODY_MAX", "10000000")]);
    instance.script("POST:/count", "wc -c");
    let answer = instance.post("/count", vec![b'x'; 2_000_000]);
    answer.problem(503, "spool-full");
    assert!(answer.field("Retry-After").is_some());
    for _ in 0..3 {
        assert_eq!(instance.post("/count", vec![b'x'; 900_000]).text().trim(), "900000");
    }
    instance.script("GET:/large", "exec head -c 2000000 /dev/zero");
    instance.get("/large").problem(503, "spool-full");
    assert_eq!(instance.post("/count", "few").text().trim(), "3");
}

#[test]
fn a_function_whose_client_goes_away_is_killed() {
    let instance = Instance::start();
    instance.script("GET:/sleep", "touch \"$IT_FOLDER/started\"\nsetsid sleep 1000 &\nsleep 1000");
    let mut stream = instance.connect();
    stream.get_mut().write_all(b"GET /sleep HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
    wait_until("it runs", || instance.shared("started").exists() && instance.functions().len() >= 3);
    drop(stream);
    wait_until("its processes are gone", || instance.functions().is_empty());
    wait_until("its slot is free", || (0..2).all(|id| instance.worker(id).unwrap()["in_flight"] == 0));
    wait_until("the log has its line", || !instance.log_lines("path=/sleep").is_empty());
    assert_eq!(instance.log_lines("path=/sleep").len(), 1);
    assert!(instance.log_lines("path=/sleep")[0].contains(" status=499 "));
}

#[test]
fn only_with_dev_does_a_client_learn_what_a_failed_function_said() {
    for (dev, is_shown) in [("0", false), ("1", true)] {
        let instance = Instance::with(&[("FAAS_DEV", dev)]);
        instance.script("GET:/fails", "echo a secret >&2\nexit 3");
        let detail = instance.get("/fails").problem(500, "function-exited");
        assert!(detail.starts_with("the function exited with code 3"), "{detail}");
        assert_eq!(detail.ends_with("\na secret"), is_shown, "{detail}");
        assert_eq!(!instance.log_lines("FAAS_DEV=1").is_empty(), is_shown);
    }
}
