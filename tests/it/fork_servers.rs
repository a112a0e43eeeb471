//! Fork servers: one per program; its sharing, its replacement, and the cost of its end.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::cases::each;
use crate::instance::{Instance, inner_pid, need, needed, signal, wait_for, wait_until};

const WHO: &str = "<?php echo getmypid(), ' ', posix_getppid(), ' ', posix_getsid(0), ' ', getenv('A');";
/// Waits at the gate if asked to, and prints its version.
const WAITS: &str = "<?php if (isset($_GET['wait'])) fgets(fopen(getenv('IT_FOLDER') . '/gate', 'r')); echo 'done';";

fn numbers(text: &str) -> Vec<u32> {
    text.split(' ').filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn a_forked_invocation_is_a_process_of_its_own_and_a_child_of_the_fork_server() {
    need(&["faas-php"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.function("GET:/who", "php", WHO, json!({}));
    assert!(!instance.get("/who").is_warm(), "the first finds no fork server");
    instance.warm("/who");
    let [server] = instance.fork_servers()[..] else { panic!("one fork server") };
    let mut seen = Vec::new();
    for _ in 0..20 {
        let answer = instance.get("/who");
        assert!(answer.is_warm());
        let [pid, parent, session] = numbers(&answer.text())[..] else { panic!("{}", answer.text()) };
        assert_eq!((parent, session), (inner_pid(server).unwrap(), pid));
        assert!(!seen.contains(&pid), "{pid} twice");
        seen.push(pid);
    }
    wait_until("they are all gone", || instance.functions().is_empty());
}

#[test]
fn all_functions_share_one_fork_server_and_are_forked_at_their_first_call() {
    need(&["faas-php"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.function("GET:/first", "php", WHO, json!({}));
    instance.warm("/first");
    let servers = instance.fork_servers();
    for number in 0..10 {
        let key = format!("GET:/{number}");
        let env = json!({"A": number.to_string(), "IT_FOLDER": instance.shared("")});
        let more = json!({"memory": 64 + number, "net": number % 2 == 0, "env": env, "timeout": 5 + number});
        instance.function(&key, "php", WHO, more);
        let answer = instance.get(&format!("/{number}"));
        assert!(answer.is_warm(), "{number}");
        assert!(answer.text().ends_with(&format!(" {number}")), "{}", answer.text());
    }
    assert_eq!(instance.fork_servers(), servers);
    assert_eq!(servers.len(), 1);
}

#[test]
fn the_setting_zero_starts_every_process_anew() {
    need(&["faas-php"]);
    let instance = Instance::with(&[("FAAS_FORK_SERVERS", "0")]);
    instance.function("GET:/one", "php", WHO, json!({}));
    for _ in 0..5 {
        let answer = instance.get("/one");
        assert_eq!((answer.status, answer.is_warm()), (200, false));
    }
    assert!(instance.fork_servers().is_empty());
}

#[test]
fn the_death_of_a_fork_server_costs_only_what_it_had_begun() {
    need(&["faas-php"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.function("GET:/x", "php", WAITS, json!({}));
    let _gate = instance.gate("gate");
    instance.warm("/x");
    let [server] = instance.fork_servers()[..] else { panic!("one fork server") };
    wait_until("the process of the call before is gone", || instance.functions().is_empty());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| instance.get("/x?wait"));
        wait_until("it runs", || !instance.functions().is_empty());
        signal("KILL", server);
        running.join().unwrap().problem(502, "fork-server-lost");
    });
    instance.wait_for_log("the fork server of php has ended", 1);
    for _ in 0..5 {
        assert_eq!(instance.get("/x").text(), "done");
    }
    instance.warm("/x");
    assert!(!instance.fork_servers().contains(&server));
}

/// A component whose `run` is `body`.
fn component(body: &str) -> String {
    format!(
        r#"(component
        (core module $code (func (export "run") (result i32) {body}))
        (core instance $made (instantiate $code))
        (func $run (result (result)) (canon lift (core func $made "run")))
        (instance $command (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $command)))"#
    )
}

#[test]
fn components_have_a_fork_server_of_their_own_whose_death_costs_only_what_it_had_begun() {
    need(&["faas-wasm", "faas-wasm-component"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.function("GET:/a", "wasm", &component("(i32.const 0)"), json!({}));
    instance.function("GET:/fails", "wasm", &component("(i32.const 1)"), json!({}));
    instance.function("GET:/loops", "wasm", &component("(loop $again (br $again)) (unreachable)"), json!({}));
    assert!(!instance.get("/a").is_warm(), "the first finds no fork server");
    instance.warm("/a");
    let [server] = instance.fork_servers()[..] else { panic!("one fork server") };
    let failed = instance.get("/fails");
    assert_eq!((failed.status, failed.is_warm()), (500, true));
    instance.warm("/ping");
    assert_eq!(instance.fork_servers().len(), 2, "modules have another one");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| instance.get("/loops"));
        // The process of an earlier call may still be there.
        let is_titled = |pid: &u32| {
            let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            title.trim_end_matches('\0') == "faas-wasm-component: GET:/loops"
        };
        wait_until("it runs, under its title", || instance.functions().iter().any(is_titled));
        signal("KILL", server);
        running.join().unwrap().problem(502, "fork-server-lost");
    });
    instance.wait_for_log("the fork server of components has ended", 1);
    for _ in 0..5 {
        assert_eq!(instance.get("/a").status, 200);
    }
    instance.warm("/a");
    assert!(!instance.fork_servers().contains(&server));
}

#[test]
fn a_fork_server_whose_program_changed_is_replaced_and_lives_until_its_last_child_is_done() {
    let faas_php = needed("faas-php");
    let mut instance = Instance::prepare(&[("FAAS_WORKERS", "1"), ("PATH", "/usr/bin:/bin")]);
    let put = || {
        let new = instance.path("faas-php.new");
        fs::copy(&faas_php, &new).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, instance.path("faas-php")).unwrap();
    };
    put();
    instance.init();
    instance.launch_copies();
    instance.wait_until_ready();
    instance.function("GET:/x", "php", WAITS, json!({}));
    let mut gate = instance.gate("gate");
    instance.warm("/x");
    let [old] = instance.fork_servers()[..] else { panic!("one fork server") };
    wait_until("the process of the call before is gone", || instance.functions().is_empty());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| instance.get("/x?wait"));
        wait_until("it runs", || !instance.functions().is_empty());
        let new = instance.path("faas-php.new");
        fs::copy(&faas_php, &new).unwrap();
        fs::rename(new, instance.path("faas-php")).unwrap();
        let new = wait_for("another one is there", || instance.fork_servers().into_iter().find(|pid| *pid != old));
        wait_until("it serves", || {
            let answer = instance.get("/x");
            assert_eq!(answer.text(), "done");
            answer.is_warm()
        });
        assert!(instance.fork_servers().contains(&old) && instance.fork_servers().contains(&new));
        gate.write_all(b"\n").unwrap();
        let answer = running.join().unwrap();
        assert_eq!((answer.text().as_str(), answer.is_warm()), ("done", true));
    });
    wait_until("the old one is gone", || !instance.fork_servers().contains(&old));
}

#[test]
fn what_php_takes_only_at_its_start_goes_by_exec_and_everything_else_is_forked() {
    need(&["faas-php"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.function("GET:/who", "php", WHO, json!({}));
    instance.warm("/who");
    let ask = |directive: &str, value: &str| {
        let source = format!("<?php echo var_export(ini_get('{directive}'), true);");
        instance.function("GET:/ini", "php", &source, json!({"ini": {directive: value}}));
        let answers = [(); 3].map(|()| instance.get("/ini"));
        let told = answers.each_ref().map(|answer| answer.text());
        assert_eq!(told, [(); 3].map(|()| format!("'{value}'")), "{directive}");
        answers[0].is_warm()
    };
    assert!(ask("precision", "3"));
    assert!(ask("upload_max_filesize", "30M"));
    // In php.ini an = would be an error there, and a ; the begin of a comment.
    assert!(ask("user_agent", "a=b; c"));
    assert!(ask("session.save_path", "tcp://127.0.0.1:6379?prefix=visits:"));
    assert!(!ask("ffi.enable", "1"));
}

#[test]
fn arguments_stand_behind_the_module_in_every_way() {
    need(&["faas-php"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let args = json!(["-x", "a b", "--", ""]);
    let source = "<?php echo json_encode(array_slice($argv, 1));";
    instance.function("GET:/auto", "php", source, json!({"args": args}));
    instance.function("GET:/cold", "php", source, json!({"args": args, "start": "cold"}));
    assert_eq!(instance.warm("/auto").json(), args);
    assert_eq!(instance.get("/cold").json(), args);
    let script = "for word in \"$@\"; do echo \"<$word>\"; done";
    instance.script_with("GET:/native", script, json!({"args": args, "output": "raw"}));
    assert_eq!(instance.get("/native").text(), "<-x>\n<a b>\n<-->\n<>\n");
}

#[test]
fn sessions_last_and_belong_to_their_function() {
    need(&["faas-php"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "2")]);
    let source = "<?php session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; session_write_close();
        $path = $_GET['path'] ?? ''; $file = glob(session_save_path() . '/*')[0] ?? '';
        echo json_encode([$_SESSION['n'], session_save_path(), $path === '' ? null : @scandir($path),
            $path === '' ? null : @file_put_contents(\"$path/sess_x\", 'x')]);";
    instance.function("GET:/one", "php", source, json!({}));
    instance.function("GET:/other", "php", source, json!({"start": "cold"}));
    let cookie = [("Cookie", "PHPSESSID=0123456789abcdef0123456789")];
    let ask = |target: &str| instance.request("GET", target, &cookie, b"").json();
    for number in 1..=6 {
        assert_eq!(ask("/one")[0], number, "whichever worker it meets, and however it is started");
    }
    instance.function("POST:/one", "php", source, json!({}));
    assert_eq!(instance.request("POST", "/one", &cookie, b"").json()[0], 7, "a login by POST counts for GET");
    let (one, other) = (ask("/one")[1].clone(), ask("/other")[1].clone());
    assert_ne!(one, other);
    assert_eq!(ask("/other")[0], 2);
    let parent = std::path::Path::new(one.as_str().unwrap()).parent().unwrap().display().to_string();
    assert_eq!(ask(&format!("/other?path={parent}"))[2], false, "the folder of all cannot be listed");
    if instance.status()["sandbox"]["landlock"].as_u64() > Some(0) {
        let path = one.as_str().unwrap();
        assert_eq!(ask(&format!("/other?path={path}"))[3], false, "another's folder cannot be written to");
        assert_eq!(ask(&format!("/one?path={path}"))[3], 1);
    }
}

#[test]
fn streams_can_be_opened_by_name() {
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.script("POST:/streams", "cat /dev/stdin >/dev/stdout && echo said >/dev/stderr");
    assert_eq!(instance.post("/streams", "body").text(), "body");
    // A body of that length travels as a file.
    let long = "long body ".repeat(20_000);
    assert_eq!(instance.post("/streams", &long).text(), long);
    instance.wait_for_log("stderr: said", 2);
    need(&["faas-php"]);
    let source = "<?php $body = file_get_contents('/dev/stdin'); file_put_contents('/dev/stderr', \"said by php\\n\", FILE_APPEND);
        $out = fopen('/dev/stdout', 'w'); fwrite($out, $body); echo (int) @include '/dev/stdin';";
    each(["cold", "auto"].into_iter().enumerate(), |(times, start)| {
        instance.function("*:/php", "php", source, json!({"output": "raw", "start": start}));
        if start == "auto" {
            instance.warm("/php");
        }
        for body in ["body", &long] {
            assert_eq!(instance.post("/php", body).text(), format!("{body}0"));
        }
        instance.wait_for_log("stderr: said by php", 2 * (times + 1));
    });
}

/// A variable of which PHP reads the value at its start counts like `"start": "cold"`.
#[test]
fn a_function_that_must_start_anew_never_gets_a_fork_server() {
    need(&["faas-php"]);
    let instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    let folder = instance.path("ini");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("own.ini"), "precision = 5\n").unwrap();
    let source = "<?php echo ini_get('precision');";
    instance.function("GET:/cold", "php", source, json!({"start": "cold"}));
    instance.function("GET:/variable", "php", source, json!({"env": {"PHP_INI_SCAN_DIR": folder}}));
    for _ in 0..3 {
        assert!(!instance.get("/cold").is_warm());
        let answer = instance.get("/variable");
        assert_eq!((answer.text().as_str(), answer.is_warm()), ("5", false));
    }
    assert!(instance.fork_servers().is_empty());
}

#[test]
fn fork_servers_and_waiting_children_end_with_their_worker_and_with_the_gateway() {
    need(&["faas-php"]);
    let mut instance = Instance::with(&[("FAAS_WORKERS", "1")]);
    instance.function("GET:/who", "php", WHO, json!({}));
    instance.warm("/who");
    let servers = instance.fork_servers();
    signal("KILL", instance.worker_pid(0));
    wait_until("the fork server is gone", || servers.iter().all(|pid| !instance.fork_servers().contains(pid)));
    wait_for("there is a new worker", || instance.worker(0));
    instance.warm("/who");
    assert!(instance.stop().success());
    wait_until("nothing is left", || instance.processes().is_empty());
}
