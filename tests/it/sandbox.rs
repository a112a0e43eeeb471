//! The sandbox: files that a function may write, processes that it may reach, and its share of the machine.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use serde_json::{Value, json};

use crate::cases::each;
use crate::instance::{GATEWAY, Instance, WORKER, lacks_root, need, run, skip, wait_until};

/// The gateway's report on the sandbox.
fn described(instance: &Instance) -> Value {
    instance.status()["sandbox"].clone()
}

#[test]
fn a_function_writes_into_its_scratch_folder_and_what_its_row_lists_and_nowhere_else() {
    let instance = Instance::start();
    let script = "try() { (echo x >\"$1\") 2>/dev/null && echo \"$2 written\" || echo \"$2 refused\"; }\n\
        try \"$TMPDIR/file\" scratch\ntry \"$IT_FOLDER/file\" listed\ntry \"$OTHER/file\" other\ntry /dev/null null\n\
        echo \"$TMPDIR\"";
    let other = instance.path("other");
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o777)).unwrap();
    instance.script_with("GET:/write", script, json!({"env": {"IT_FOLDER": instance.shared(""), "OTHER": other}}));
    let answer = instance.get("/write").text();
    let lines: Vec<&str> = answer.lines().collect();
    let has_landlock = described(&instance)["landlock"].as_u64().unwrap() > 0;
    let elsewhere = if has_landlock { "other refused" } else { "other written" };
    assert_eq!(lines[..4], ["scratch written", "listed written", elsewhere, "null written"]);
    // The response does not wait for that.
    wait_until("the scratch folder is gone", || !fs::exists(lines[4]).unwrap());
    assert_ne!(instance.get("/write").text().lines().last(), Some(lines[4]), "each invocation has one of its own");
}

#[test]
fn a_function_cannot_read_the_registry_nor_the_run_dir_where_it_has_a_user_of_its_own() {
    let instance = Instance::start();
    if lacks_root() {
        return;
    }
    let script =
        "id -un\ncat \"$RUN/gateway.pid\" 2>&1 || true\nkill -0 $PPID 2>/dev/null && echo reached || echo out of reach";
    let env = json!({"RUN": instance.run_dir()});
    instance.script_with("GET:/look", script, json!({"env": env}));
    let answer = instance.get("/look").text();
    let lines: Vec<&str> = answer.lines().collect();
    assert_eq!(lines[0], described(&instance)["user"]);
    assert!(lines[1].contains("denied"), "{answer}");
    assert_eq!(lines[2], "out of reach");
}

#[test]
fn where_permissions_hide_nothing_the_registry_cannot_be_read_and_files_can_be_linked_from_folder_to_folder() {
    let mut instance = Instance::prepare(&[]);
    instance.init();
    let db = instance.path("registry.db");
    // Before the start: a worker that has looked at permissions does not look again at once.
    fs::set_permissions(&db, fs::Permissions::from_mode(0o666)).unwrap();
    instance.launch();
    instance.wait_until_ready();
    let landlock = described(&instance)["landlock"].as_u64().unwrap();
    // Version 2 of Landlock added the right to move files between folders; before, none could be moved (landlock(7)).
    if landlock < 2 {
        return skip("the kernel has no Landlock, or an old one");
    }
    let script = "cat \"$DB\" >/dev/null 2>&1 && echo read || echo hidden\n\
        cd \"$TMPDIR\" && mkdir a b && echo x >a/file && ln a/file b/linked; ls b\n\
        ln \"$DB\" \"$IT_FOLDER/stolen\" 2>/dev/null && echo linked || echo not linked";
    let env = json!({"DB": db, "IT_FOLDER": instance.shared("")});
    instance.script_with("GET:/move", script, json!({"env": env}));
    assert_eq!(instance.get("/move").text(), "hidden\nlinked\nnot linked\n");
}

#[test]
fn no_row_lets_a_function_write_to_the_registry() {
    let instance = Instance::start();
    let db = instance.path("registry.db");
    let before = fs::read(&db).unwrap();
    let link = instance.path("link");
    fs::create_dir(&link).unwrap();
    // Whatever permissions say: the gateway's own user could be the functions'.
    fs::set_permissions(&db, fs::Permissions::from_mode(0o666)).unwrap();
    let script = "echo x 2>/dev/null >\"$DB\" && echo written || echo refused";
    let row = |path| json!({"env": {"DB": db}, "write": [path]});
    instance.script_with("GET:/later", script, row(&link));
    assert_eq!(instance.get("/later").text(), "refused\n");
    if described(&instance)["landlock"].as_u64().unwrap() > 0 {
        fs::remove_dir(&link).unwrap();
        symlink(".", &link).unwrap();
        assert_eq!(instance.get("/later").text(), "refused\n", "a link that was laid after the row was checked");
    }
    let all = instance.path("");
    instance.script_with("GET:/all", script, row(&all));
    let said = instance.get("/all").problem(500, "row-unusable");
    assert!(said.contains("neither hold nor lie in the registry"), "{said}");
    let after = fs::read(&db).unwrap();
    assert!(after.len() >= before.len() && after.starts_with(b"SQLite format 3\0"));
}

#[test]
fn a_pipe_where_a_row_lists_a_path_keeps_nobody_waiting() {
    let instance = Instance::start();
    let listed = instance.shared("listed");
    let row = json!({"write": [instance.shared(""), listed], "env": {"LISTED": listed}});
    instance.script_with("GET:/pipe", "[ -p \"$LISTED\" ] || mkfifo \"$LISTED\"; echo made", row);
    for _ in 0..3 {
        assert_eq!(instance.get("/pipe").text(), "made\n");
    }
}

#[test]
fn a_registry_behind_a_link_is_hidden_with_what_sqlite_lays_beside_it() {
    let mut instance = Instance::prepare(&[]);
    let real = instance.path("data/real.db");
    fs::create_dir(instance.path("data")).unwrap();
    instance.init();
    fs::rename(instance.db(), &real).unwrap();
    symlink("data/real.db", instance.db()).unwrap();
    // Before the start, as above. The write-ahead log has the same permissions.
    fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
    instance.launch();
    instance.wait_until_ready();
    if described(&instance)["landlock"] == 0 {
        return skip("the kernel has no Landlock");
    }
    let script = "cat \"$REAL-wal\" >/dev/null 2>&1 && echo read || echo hidden";
    // As long as a connection has read from it, the file stays.
    let open = instance.registry();
    open.query_row("SELECT count(*) FROM functions", [], |_| Ok(())).unwrap();
    instance.script_with("GET:/look", script, json!({"env": {"REAL": real}}));
    let mode = fs::metadata(instance.path("data/real.db-wal")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    assert_eq!(instance.get("/look").text(), "hidden\n");
    drop(open);
}

#[test]
fn a_function_without_net_reaches_nobody_and_one_with_it_does() {
    need(&["faas-php"]);
    let instance = Instance::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let source =
        format!("<?php echo @stream_socket_client('tcp://{address}', $code, $text, 5) ? 'reached' : 'cut off';");
    instance.function("GET:/net", "php", &source, json!({}));
    assert_eq!(instance.get("/net").text(), "reached");
    instance.function("GET:/net", "php", &source, json!({"net": false}));
    assert_eq!(instance.get("/net").text(), "cut off");
}

#[test]
fn a_function_that_fills_its_scratch_folder_or_forks_without_end_is_killed_and_answers_500() {
    let instance = Instance::start();
    let script = "head -c 50000000 /dev/zero >\"$TMPDIR/large\"\nsleep 1000";
    instance.script_with("GET:/fill", script, json!({"scratch": 16}));
    assert!(instance.get("/fill").problem(500, "scratch-limit").contains("16 MiB"));

    let script = "n=0\nwhile [ $n -lt 400 ]; do sleep 1000 & n=$((n + 1)); done\nwait";
    instance.script_with("GET:/fork", script, json!({"memory": 1024}));
    instance.assert_process_limit("/fork");
    wait_until("its processes are gone", || instance.functions().is_empty());
    assert_eq!(instance.get("/api/env").status, 200);
}

#[test]
fn functions_never_run_as_root_by_themselves() {
    let closed = tempfile::tempdir().unwrap();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    if lacks_root() {
        return;
    }
    fs::write(closed.path().join("closed.sh"), "#!/bin/sh\nid -u\n").unwrap();
    fs::set_permissions(closed.path().join("closed.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let instance = Instance::with(&[("FAAS_MODULE_ROOT", closed.path().to_str().unwrap())]);
    instance.script("GET:/open", "id -u");
    assert_ne!(instance.get("/open").text(), "0\n");
    instance.install(&[("GET:/closed", json!({"runtime": "native", "module": "closed.sh"}))]);
    let remedy = format!("chmod o+x {}", closed.path().display());
    instance.get("/closed").problem(500, "module-missing");
    // At the start, and for the call.
    instance.wait_for_log(&remedy, 2);
}

#[test]
fn processes_are_hidden_also_in_a_chroot_whose_root_is_no_mount() {
    if lacks_root() {
        return;
    }
    need(&["unshare", "chroot"]);
    let root = tempfile::tempdir().unwrap();
    let script = "cd \"$0\" && cp \"$1\" worker && for folder in bin lib lib64 usr etc dev proc tmp; do \
        mkdir $folder && { [ ! -d /$folder ] || mount --rbind /$folder $folder; } || exit; \
        done && exec chroot . /worker --sandbox";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(root.path()).arg(WORKER);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    if !mounts.lines().any(|line| line.split(' ').nth(4) == Some("/")) {
        // The test itself runs in such a chroot.
        command = Command::new(WORKER);
        command.arg("--sandbox");
    }
    let output = run(&mut command);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("a /proc with hidepid=ptraceable"), "{output:?}");
}

#[test]
fn each_promise_is_named_with_what_keeps_it_and_strict_demands_them_all() {
    let instance = Instance::with(&[]);
    let promises = instance.status()["sandbox"]["promises"].clone();
    let promises = promises.as_array().unwrap();
    assert!(promises.len() > 10, "{promises:?}");
    each(promises, |row| {
        each(["promise", "level", "kept_by"], |name| {
            assert!(row[name].as_str().is_some_and(|text| !text.is_empty()), "{name} in {row}");
        });
        let promise = row["promise"].as_str().unwrap();
        assert_eq!(instance.log_lines(&format!("sandbox: {promise} ")).len(), 1);
    });
    let not_kept: Vec<&str> =
        promises.iter().filter(|row| row["level"] == "not kept").map(|row| row["promise"].as_str().unwrap()).collect();
    let mut strict = Instance::prepare(&[("FAAS_REQUIRE_SANDBOX", "strict")]);
    strict.init();
    if not_kept.is_empty() {
        strict.launch();
        strict.wait_until_ready();
        strict.script("GET:/served", "echo served");
        assert_eq!(strict.get("/served").text(), "served\n");
    } else {
        assert_refuses(&strict, not_kept[0]);
    }
    if !instance.is_run_as_plain_user() {
        // Only root can hide processes from functions.
        let mut plain = Instance::prepare(&[("FAAS_REQUIRE_SANDBOX", "strict")]);
        plain.run_as(47_115);
        plain.init();
        assert_refuses(&plain, "Functions do not see other processes");
    }
}

/// Clients that stay connected: more than the processes that functions may have where they share the gateway's user.
const CLIENTS: usize = 600;

#[test]
fn a_thread_for_each_client_takes_no_process_from_functions() {
    need(&["faas-php", "setpriv", "unshare"]);
    let mut instance = Instance::prepare(&[("FAAS_WORKERS", "1")]);
    if !instance.is_run_as_plain_user() {
        instance.run_as(47_115);
    }
    instance.init();
    // With them, the threads would not count for functions.
    instance.launch_without_user_namespaces();
    instance.wait_until_ready();
    let php = "<?php echo shell_exec('(echo a); echo b');";
    instance.script("GET:/native", "(echo a)\necho b");
    instance.function("GET:/forked", "php", php, json!({}));
    instance.function("GET:/executed", "php", php, json!({"start": "cold"}));
    instance.warm("/forked");
    assert_functions_share_a_count(&instance);
    let clients: Vec<_> = (0..CLIENTS).map(|_| instance.connect()).collect();
    wait_until("each client has a thread", || {
        let threads = fs::read_dir(format!("/proc/{}/task", instance.gateway_pid())).unwrap();
        threads.count() > CLIENTS
    });
    for path in ["/native", "/forked", "/executed"] {
        let answer = instance.get(path);
        assert_eq!((answer.text().as_str(), answer.is_warm()), ("a\nb\n", path == "/forked"), "{path}");
    }
    drop(clients);
}

#[test]
fn functions_give_way_where_their_worker_cannot_run_ahead_of_them() {
    need(&["faas-php", "setpriv"]);
    let check = |instance: &Instance, niceness: &str, kept_by: &str| {
        instance.script("GET:/executed", "nice");
        instance.function("GET:/forked", "php", "<?php echo shell_exec('nice');", json!({}));
        instance.warm("/forked");
        for path in ["/executed", "/forked"] {
            assert_eq!(instance.get(path).text().trim(), niceness, "{path}");
        }
        let promise = instance.log_lines("Functions have few threads");
        assert!(promise[0].contains(kept_by), "{promise:?}");
    };
    let mut plain = Instance::prepare(&[]);
    if !plain.is_run_as_plain_user() {
        let root = Instance::start();
        check(&root, "0", "the worker runs ahead");
        // As in a service or a container that leaves the capability out; then with too few descriptors for namespaces.
        for (limit, kept_by) in [("", "functions give way"), ("ulimit -n 250 &&", "not kept: 256")] {
            let mut weak = Instance::prepare(&[("FAAS_WORKERS", "1"), ("FAAS_WORKER_SLOTS", "128")]);
            weak.init();
            let script = format!("{limit} exec setpriv --bounding-set=-sys_nice {GATEWAY}");
            weak.launch_by("sh", &["-c", &script]);
            weak.wait_until_ready();
            check(&weak, "10", kept_by);
        }
        plain.run_as(47_115);
    }
    plain.init();
    plain.launch();
    plain.wait_until_ready();
    check(&plain, "10", "functions give way");
}

#[test]
fn a_worker_with_too_few_descriptors_for_user_namespaces_promises_none() {
    need(&["setpriv"]);
    let mut instance = Instance::prepare(&[("FAAS_WORKERS", "1"), ("FAAS_WORKER_SLOTS", "128")]);
    if !instance.is_run_as_plain_user() {
        instance.run_as(47_115);
    }
    instance.init();
    instance.launch_under("ulimit -n 250");
    instance.wait_until_ready();
    instance.script("GET:/served", "echo served");
    assert_eq!(instance.get("/served").text(), "served\n");
    assert_functions_share_a_count(&instance);
}

/// The promise of few processes, and the worker's reason.
fn assert_functions_share_a_count(instance: &Instance) {
    for text in ["above what their user runs beside them", "worker: cannot make user namespaces ("] {
        assert!(!instance.log_lines(text).is_empty(), "{text}: {}", instance.log());
    }
}

fn assert_refuses(instance: &Instance, promise: &str) {
    let output = instance.gateway(&[]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("FAAS_REQUIRE_SANDBOX=strict") && error.contains(promise), "{error}");
}
