//! Hostile functions: the sandbox denies their attempts, and no trace of them stays.
//!
//! hostile.c makes most attempts: it reads one from each line of its body, and prints each result. As root, the tests
//! run three times: with functions as nobody, as root without its privileges, and with the whole platform as another
//! user.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cases::each;
use crate::http::Answer;
use crate::instance::{
    GATEWAY, Instance, WORKER, inner_pid, is_compiler, is_fork_server, lacks_root, need, poll_until, signal, skip,
    wait_for, wait_until,
};
use crate::soak::repeat;

/// A user id that most likely no other user has.
const PLAIN_USER: u32 = 47_114;
/// A process of an invocation may last this long after the response.
const GONE_MAX: Duration = Duration::from_millis(200);

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Calls `test` with an instance for each user that functions can run as.
pub fn for_each_user(settings: &[(&str, &str)], test: impl Fn(&Instance)) {
    if !is_root() {
        test(&Instance::with(settings));
        return;
    }
    for (more, user) in [(&[][..], None), (&[("FAAS_USER", "root")][..], None), (&[][..], Some(PLAIN_USER))] {
        let mut instance = Instance::prepare(&[settings, more].concat());
        if let Some(user) = user {
            instance.run_as(user);
        }
        instance.init();
        instance.launch();
        instance.wait_until_ready();
        test(&instance);
    }
}

/// Registers hostile.c at `POST:/hostile`, with further fields of the descriptor.
fn hostile(instance: &Instance, key: &str, more: serde_json::Value) -> PathBuf {
    let program = instance.path("hostile");
    if !program.exists() {
        instance.compile("hostile", include_str!("hostile.c"));
    }
    let mut descriptor = json!({"runtime": "native", "module": program});
    for (name, value) in more.as_object().unwrap() {
        descriptor[name] = value.clone();
    }
    instance.install(&[(key, descriptor)]);
    program
}

/// The results of these attempts.
fn attempt(instance: &Instance, target: &str, attempts: &[String]) -> Vec<(String, String)> {
    let answer = instance.post(target, attempts.join("\n") + "\n");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let outcomes: Vec<_> = answer.text().lines().filter_map(|line| line.rsplit_once(": ")).map(own).collect();
    assert_eq!(outcomes.len(), attempts.len(), "{}", answer.text());
    outcomes
}

fn own((left, right): (&str, &str)) -> (String, String) {
    (left.to_string(), right.to_string())
}

fn assert_all_fail(instance: &Instance, target: &str, attempts: &[String]) {
    let succeeded: Vec<_> =
        attempt(instance, target, attempts).into_iter().filter(|(_, outcome)| outcome == "ok").collect();
    assert_eq!(succeeded, [], "a function could do this");
}

fn assert_all_succeed(instance: &Instance, target: &str, attempts: &[String]) {
    let failed: Vec<_> =
        attempt(instance, target, attempts).into_iter().filter(|(_, outcome)| outcome != "ok").collect();
    assert_eq!(failed, [], "a function could not do this");
}

/// Processes of functions: descendants of this instance's gateway other than its workers, compilers and fork servers,
/// processes started from its folder, and processes that work in one of its scratch folders or have a file there open.
fn leftovers(instance: &Instance) -> Vec<u32> {
    let gateway = instance.gateway_pid();
    let (folder, spool) = (instance.path(""), instance.path("spool"));
    let is_ours = |pid: &u32| {
        let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let program = link("exe");
        let name = program.file_name().and_then(|name| name.to_str()).unwrap_or("");
        let is_platform = program == Path::new(GATEWAY)
            || program == Path::new(WORKER)
            || is_compiler(*pid)
            || is_fork_server(*pid)
            || program.parent() == Some(folder.as_path()) && ["gateway", "worker"].contains(&name);
        if is_platform || *pid == std::process::id() {
            return false;
        }
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut files = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        program.starts_with(&folder)
            || link("cwd").starts_with(&spool)
            || files.any(|file| file.starts_with(&spool))
            || descends(*pid, gateway)
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_ours(pid) && state(*pid).is_some()).collect()
}

/// The parent, session and state of a process, from /proc/PID/stat.
fn state(pid: u32) -> Option<(u32, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let words: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some((words[1].parse().ok()?, words[3].parse().ok()?))
}

fn descends(pid: u32, ancestor: u32) -> bool {
    let mut at = pid;
    // No tree here is deeper. A process that ends meanwhile ends the walk.
    for _ in 0..10_000 {
        match state(at) {
            Some((parent, _)) if parent == ancestor => return true,
            Some((parent, _)) if parent > 1 => at = parent,
            _ => return false,
        }
    }
    true
}

/// What ps would tell of a process: its line in /proc/PID/stat, up to the session, and its arguments.
fn described(pid: u32) -> String {
    let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let stat: Vec<String> = read("stat").split(' ').take(6).map(String::from).collect();
    format!("{} {}", stat.join(" "), read("cmdline").replace('\0', " "))
}

/// Call this at once after a response.
pub fn assert_nothing_stays(instance: &Instance) {
    let answered = Instant::now();
    let mut late = String::new();
    let gone = poll_until(|| {
        let (found, folders) = (leftovers(instance), scratch_folders(instance));
        let is_gone = found.is_empty() && folders.is_empty();
        if !is_gone && answered.elapsed() >= GONE_MAX {
            let processes: Vec<String> = found.iter().map(|pid| described(*pid)).collect();
            late = format!("processes {processes:?} and folders {folders:?}");
        }
        is_gone.then(|| answered.elapsed())
    });
    assert!(late.is_empty() && gone.is_some(), "{late} stay, gone after {gone:?}");
}

/// Like [`assert_nothing_stays`], for what takes a while to remove.
pub fn wait_until_nothing_stays(instance: &Instance) {
    wait_until("nothing stays", || leftovers(instance).is_empty() && scratch_folders(instance).is_empty());
}

/// Scratch folders of invocations with something in them, spool/faas-…/worker_N/NAME; workers keep some empty ones.
fn scratch_folders(instance: &Instance) -> Vec<PathBuf> {
    let within = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    within(instance.path("spool"))
        .flat_map(within)
        .filter(|path| path.file_name().is_some_and(|name| name.to_str().unwrap().starts_with("worker_")))
        .flat_map(within)
        .filter(|path| within(path.clone()).next().is_some())
        .collect()
}

// ---- Files and processes of others --------------------------------------------------------------------------------

/// True, and the test is skipped, where the kernel lacks what the test asserts.
pub fn lacks_landlock(instance: &Instance) -> bool {
    let is_old = instance.status()["sandbox"]["landlock"].as_u64() < Some(6);
    if is_old {
        skip("the kernel has no Landlock, or an old one");
    }
    is_old
}

#[test]
fn a_function_cannot_read_or_change_or_reach_what_is_not_its_own() {
    let _alone = crate::alone();
    need(&["cc"]);
    for_each_user(&[], |instance| {
        if lacks_landlock(instance) {
            return;
        }
        hostile(instance, "POST:/hostile", json!({}));
        instance.script_with("POST:/sleep", "exec sleep 10000", json!({"timeout": 3600}));
        let (root, run, db) = (instance.path(""), instance.run_dir(), instance.db());
        let (root, run, db) = (root.display(), run.display(), db.display());
        let mut attempts: Vec<String> = vec![
            // The registry, the run dir, the modules, and places that all users may write to.
            format!("read {db}"),
            format!("write {db}"),
            format!("truncate {db}"),
            format!("unlink {db}"),
            format!("rename {db} {root}/other.db"),
            format!("link {db} {root}/other.db"),
            format!("chmod-again {db}"),
            format!("create {db}-wal"),
            format!("read {run}/gateway.pid"),
            format!("write {run}/gateway.pid"),
            format!("chmod-again {run}"),
            format!("mkdir {run}/folder"),
            format!("create {run}/file"),
            format!("unlink {run}/current/worker_0.sock"),
            format!("rename {run}/current/worker_0.sock {run}/current/worker_9.sock"),
            format!("write {root}/hostile"),
            format!("create {root}/file"),
            format!("mkdir {root}/shared/folder"),
            format!("create /tmp/faas-it-file-{}", std::process::id()),
            "create /dev/shm/faas-it-file".into(),
            "create /var/tmp/faas-it-file".into(),
            "write /proc/self/oom_score_adj".into(),
            // The platform's sockets.
            format!("talk {run}/handover.sock"),
            format!("talk {run}/current/worker_0.sock"),
            format!("talk {run}/current/metrics.sock {{}}"),
            // Objects that would stay behind.
            "shmget".into(),
            "msgget".into(),
            "semget".into(),
            "mq_open faas-it-queue".into(),
            "add_key faas-it-key".into(),
            // Processes that would not be its children, and namespaces: CLONE_PARENT, CLONE_NEWUSER, CLONE_NEWPID and
            // others.
            "clone 8000".into(),
            "clone 10000000".into(),
            "clone 30000000".into(),
            "clone 7e020000".into(),
            // A thread with descriptors of its own, of which no list is in sight: CLONE_THREAD without CLONE_FILES.
            "clone 10900".into(),
            "clone3".into(),
            // Files in memory, which no limit would count.
            "memfd".into(),
            "memfd_secret".into(),
            // Space on the disk that no sample sees in time, and requests of which the machine has one number for all.
            "reserve fallocate 2000".into(),
            "reserve keep-size 2000".into(),
            "reserve resvsp 2000".into(),
            "reserve resvsp64 2000".into(),
            "reserve zero-range 2000".into(),
            "leave-project attributes".into(),
            "leave-project flags".into(),
            "leave-project file_setattr".into(),
            "quotactl_fd".into(),
            "io_setup".into(),
            // The scheduling of all processes of its user.
            "nice-user".into(),
            "ionice-user".into(),
            // Other calling conventions: getpid, and socketcall, which hides its arguments from filters.
            "int80 20".into(),
            "socketcall".into(),
        ];
        // Only root can hide them.
        if !instance.is_run_as_plain_user() {
            attempts.push("terminal".into());
        }
        // The folder that holds the scratch folders of others.
        for all in fs::read_dir(instance.path("spool")).unwrap().flatten() {
            attempts.push(format!("read {}/worker_0", all.path().display()));
            attempts.push(format!("chmod-again {}/worker_0", all.path().display()));
        }
        std::thread::scope(|scope| {
            let other = scope.spawn(|| instance.try_request("POST", "/sleep", &[], b""));
            let sleeps = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|it| it.ends_with("sleep"));
            let function = wait_for("another function runs", || instance.functions().into_iter().find(sleeps));
            let worker = instance.worker_pid(0);
            let has_namespace = inner_pid(worker) != Some(worker);
            assert_eq!(has_namespace, inner_pid(function) != Some(function));
            // No process in a PID namespace can name the gateway.
            let gateway = (!has_namespace).then(|| instance.gateway_pid());
            for process in gateway.into_iter().chain([worker, function].map(|pid| inner_pid(pid).unwrap())) {
                attempts.push(format!("signal {process}"));
                attempts.push(format!("ptrace {process}"));
                for name in ["prlimit", "idle", "pin", "nice", "ionice"] {
                    attempts.push(format!("{name} {process}"));
                }
                if !instance.is_run_as_plain_user() {
                    attempts.push(format!("proc {process} cmdline"));
                }
                for file in ["environ", "mem", "maps", "fd/0", "root/etc/passwd"] {
                    attempts.push(format!("proc {process} {file}"));
                }
            }
            repeat(instance, || assert_all_fail(instance, "/hostile", &attempts));
            assert_all_succeed(instance, "/hostile", &["idle 0", "pin 0", "nice 0", "ionice 0"].map(String::from));
            signal("KILL", function);
            let _ = other.join();
        });
        instance.script("GET:/after", "echo served");
        assert_eq!(instance.get("/after").text(), "served\n");
    });
}

#[test]
fn no_function_has_a_capability_or_can_gain_one() {
    let _alone = crate::alone();
    for_each_user(&[], |instance| {
        instance.script("GET:/native", "cat /proc/self/status");
        instance.function("GET:/php", "php", "<?php readfile('/proc/self/status');", json!({}));
        let gateway_is_root = fs::metadata(format!("/proc/{}", instance.gateway_pid())).unwrap().uid() == 0;
        // Only root empties the bounding set; no_new_privs keeps all of it out of reach.
        let sets: &[&str] =
            if gateway_is_root { &["Bnd", "Inh", "Prm", "Eff", "Amb"] } else { &["Inh", "Prm", "Eff", "Amb"] };
        repeat(instance, || {
            each(["/native", "/php", "/php"], |target| {
                let status = instance.get(target).text();
                for set in sets {
                    assert!(status.contains(&format!("Cap{set}:\t0000000000000000\n")), "{set} in {status}");
                }
                assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
            });
        });
    });
}

#[test]
fn a_function_may_write_its_scratch_folder_and_what_its_descriptor_lists_and_nothing_else() {
    let _alone = crate::alone();
    for_each_user(&[], |instance| {
        if lacks_landlock(instance) {
            return;
        }
        for name in ["listed", "beside"] {
            fs::create_dir(instance.path(name)).unwrap();
            fs::set_permissions(instance.path(name), fs::Permissions::from_mode(0o777)).unwrap();
        }
        fs::write(instance.path("listed-file"), "").unwrap();
        fs::set_permissions(instance.path("listed-file"), fs::Permissions::from_mode(0o666)).unwrap();
        fs::write(instance.path("readable"), "content").unwrap();
        let script = "try() { if ( \"$@\" ) 2>/dev/null; then echo \"$*: ok\"; else echo \"$*: refused\"; fi; }\n\
            set_to() { echo x >\"$1\"; }\n\
            cd $ROOT; try mkdir $TMPDIR/a; try set_to $TMPDIR/a/b; try mv $TMPDIR/a $TMPDIR/c; try rm -r $TMPDIR/c\n\
            try set_to listed/a; try mkdir -p listed/b; try set_to listed-file; try test -r readable\n\
            echo; try set_to beside/a; try mkdir beside/a; try set_to missing/a; try ln -s / beside/link\n\
            ln -s $ROOT/beside $TMPDIR/link; try set_to $TMPDIR/link/a; try ln $ROOT/readable $TMPDIR/hard\n\
            try mv listed/a beside/a; try rm readable; try touch ../x; pwd";
        let write = json!([instance.path("listed"), instance.path("listed-file"), instance.path("missing")]);
        let more = json!({"write": write, "env": {"ROOT": instance.path("")}, "output": "raw"});
        instance.script_with("GET:/write", script, more);
        repeat(instance, || {
            let text = instance.get("/write").text();
            let (allowed, refused) = text.split_once("\n\n").unwrap();
            assert!(allowed.lines().all(|line| line.ends_with(": ok")) && allowed.lines().count() == 8, "{text}");
            let attempts = refused.lines().filter(|line| line.contains(": "));
            assert!(attempts.clone().all(|line| line.ends_with(": refused")) && attempts.count() >= 9, "{text}");
            assert_eq!(fs::read_dir(instance.path("beside")).unwrap().count(), 0);
            assert_eq!(fs::read(instance.path("readable")).unwrap(), b"content");
            assert_nothing_stays(instance);
        });
    });
}

#[test]
fn without_net_a_function_has_unix_sockets_and_no_others() {
    let _alone = crate::alone();
    need(&["cc"]);
    for_each_user(&[], |instance| {
        hostile(instance, "POST:/with-net", json!({}));
        hostile(instance, "POST:/without-net", json!({"net": false}));
        let port = instance.address().port();
        let unix = ["socketpair".into(), format!("unix @faas-it-{port}")];
        let tcp = [format!("tcp {port}")];
        let more = ["tcp6 9", "udp 9", "netlink", "packet", "vsock", "inet-pair", "io_uring", "int80 20", "socketcall"];
        repeat(instance, || {
            assert_all_succeed(instance, "/with-net", &[&unix[..], &tcp].concat());
            assert_all_succeed(instance, "/without-net", &unix);
            assert_all_fail(instance, "/without-net", &[&tcp[..], &more.map(String::from)].concat());
        });
    });
}

// ---- Processes ----------------------------------------------------------------------------------------------------

/// Ways to outlive an invocation. Each records the ids of its sessions that differ from the function's.
const FUGITIVES: [(&str, &str); 10] = [
    ("a child", "sleep 1000 & echo answered"),
    ("a session of its own", "setsid sh -c 'echo $$ >>$IT_FOLDER/sessions; exec sleep 1000' & await 1; echo answered"),
    ("forked twice", "(setsid sh -c '(echo $$ >>$IT_FOLDER/sessions; sleep 1000 &) &' &) ; await 2; echo answered"),
    ("a cleared environment", "env -i setsid /bin/sh -c 'cd /; exec /bin/sleep 1000' & echo answered"),
    ("deaf to signals", "(trap '' TERM HUP INT QUIT PIPE; setsid sleep 1000 & sleep 1000) & echo answered"),
    ("holds stdout and stderr", "(setsid sleep 1000 &) ; (sleep 1000 >&1 2>&2 &) ; echo answered"),
    ("in the scratch folder", "cd $TMPDIR; mkdir d; cd d; (exec 9>f; setsid sleep 1000) & cd /; echo answered"),
    ("daemonised", "(setsid sh -c '(cd /; umask 0; exec sleep 1000 <&- >&- 2>&- &)' &) ; echo answered"),
    ("stopped", "(setsid sh -c 'kill -STOP $$' &) ; (kill -STOP $(sh -c 'echo $PPID') &) ; echo answered"),
    ("always anew", "(setsid sh -c 'while :; do setsid sh -c \"sleep 0.01\" & sleep 0.002; done' &) ; echo answered"),
];

#[test]
fn no_process_stays_after_the_answer_whatever_it_does_and_others_are_left_alone() {
    let _alone = crate::alone();
    for_each_user(&[], |instance| {
        let sessions = instance.shared("sessions");
        fs::write(&sessions, "").unwrap();
        fs::set_permissions(&sessions, fs::Permissions::from_mode(0o666)).unwrap();
        for (number, (_, script)) in FUGITIVES.iter().enumerate() {
            let more = json!({"output": "raw"});
            let script = format!("await() {{ until [ $(wc -l <$IT_FOLDER/sessions) -ge $1 ]; do :; done; }}\n{script}");
            instance.script_with(&format!("GET:/{number}"), &script, more);
        }
        repeat(instance, || {
            fs::write(&sessions, "").unwrap();
            each(FUGITIVES.iter().enumerate(), |(number, _)| {
                let answer = instance.get(&format!("/{number}"));
                assert_nothing_stays(instance);
                assert_eq!((answer.status, answer.text().as_str()), (200, "answered\n"));
            });
            // In a PID namespace nothing can leave its worker, below which `leftovers` has looked.
            let worker = instance.worker_pid(0);
            if inner_pid(worker) != Some(worker) {
                return;
            }
            let sessions: HashSet<u32> =
                fs::read_to_string(&sessions).unwrap().lines().map(|line| line.parse().unwrap()).collect();
            let entries = fs::read_dir("/proc").unwrap().flatten();
            let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            assert!(!pids.any(|pid| state(pid).is_some_and(|(_, session)| sessions.contains(&session))));
        });
    });
}

/// The same for PHP. Each call takes the names of the one before.
const PHP_FUGITIVES: [(&str, &str); 9] = [
    ("a child", "if (pcntl_fork() === 0) sleep(1000);"),
    ("a session of its own", "if (pcntl_fork() === 0) { posix_setsid(); sleep(1000); }"),
    (
        "forked twice",
        "if (pcntl_fork() === 0) { posix_setsid(); if (pcntl_fork() === 0) sleep(1000); posix_kill(getmypid(), 9); }",
    ),
    ("a program", "exec('setsid sleep 1000 >/dev/null 2>&1 &');"),
    (
        "deaf to signals",
        "if (pcntl_fork() === 0) {
            foreach ([1, 2, 3, 13, 15] as $signal) pcntl_signal($signal, SIG_IGN);
            while (true) sleep(1000);
        }",
    ),
    ("after its response", "fastcgi_finish_request(); if (pcntl_fork() === 0) { posix_setsid(); sleep(1000); }"),
    (
        "sockets",
        r#"foreach ([getenv('TMPDIR') . '/socket', "\0faas-it-" . getenv('SERVER_PORT')] as $name)
            ($sockets[] = stream_socket_server("unix://$name")) or exit(1);
        if (pcntl_fork() === 0) sleep(1000);"#,
    ),
    (
        "files and links",
        "mkdir(getenv('TMPDIR') . '/a/b/c', 0700, true); chdir(getenv('TMPDIR') . '/a/b/c'); symlink('/', 'link');
        file_put_contents('file', 'x'); @chmod('..', 0); if (pcntl_fork() === 0) sleep(1000);",
    ),
    ("a timer", "pcntl_alarm(1000); if (pcntl_fork() === 0) { pcntl_alarm(1000); sleep(1000); }"),
];

#[test]
fn no_process_of_php_stays_after_the_answer_executed_or_forked() {
    let _alone = crate::alone();
    need(&["faas-php"]);
    for_each_user(&[("FAAS_WORKERS", "1")], |instance| {
        for start in ["cold", "auto"] {
            for (number, (_, source)) in PHP_FUGITIVES.iter().enumerate() {
                let source = format!("<?php echo 'answered'; {source}");
                instance.function(&format!("GET:/{start}/{number}"), "php", &source, json!({"start": start}));
            }
        }
        instance.warm("/auto/0");
        repeat(instance, || {
            each(["cold", "auto"], |start| {
                each(PHP_FUGITIVES.iter().enumerate(), |(number, _)| {
                    let answer = instance.get(&format!("/{start}/{number}"));
                    assert_nothing_stays(instance);
                    assert_eq!((answer.status, answer.text().as_str()), (200, "answered"));
                });
            });
        });
    });
}

#[test]
fn a_function_that_stops_itself_is_killed_at_its_timeout() {
    let _alone = crate::alone();
    let instance = Instance::start();
    instance.script_with("GET:/stop", "kill -STOP $$", json!({"timeout": 1}));
    repeat(&instance, || {
        assert!(instance.get("/stop").problem(504, "timed-out").contains("timeout of 1 s"));
        assert_nothing_stays(&instance);
    });
}

#[test]
fn a_function_that_closes_its_stdout_has_answered_when_it_ends() {
    let _alone = crate::alone();
    let instance = Instance::start();
    instance.script("GET:/closed", "echo before; exec >&- 2>&- <&-; sleep 0.1; exit 0");
    instance.script("GET:/late", "(sleep 0.05; echo late; sleep 1000) & echo early");
    repeat(&instance, || {
        assert_eq!(instance.get("/closed").text(), "before\n");
        for _ in 0..10 {
            assert_eq!(instance.get("/late").text(), "early\n");
            assert_nothing_stays(&instance);
        }
    });
}

#[test]
fn a_fork_bomb_is_found_and_gone_with_its_answer_while_others_are_served() {
    let _alone = crate::alone();
    need(&["cc"]);
    for_each_user(&[], |instance| {
        hostile(instance, "POST:/hostile", json!({"timeout": 60}));
        instance.script("GET:/other", "echo other");
        repeat(instance, || {
            bombs_go_off(instance, 1);
            bombs_go_off(instance, 2);
        });
    });
}

#[test]
fn a_fork_bomb_is_found_where_a_plain_user_has_no_user_namespaces() {
    let _alone = crate::alone();
    need(&["cc", "setpriv", "unshare"]);
    let mut instance = Instance::prepare(&[]);
    if is_root() {
        instance.run_as(PLAIN_USER);
    }
    instance.init();
    instance.launch_without_user_namespaces();
    instance.wait_until_ready();
    assert_eq!(instance.log_lines("above what their user runs beside them").len(), 1, "{}", instance.log());
    hostile(&instance, "POST:/hostile", json!({"timeout": 60}));
    instance.script("GET:/other", "echo other");
    repeat(&instance, || bombs_go_off(&instance, 1));
}

#[test]
fn a_fork_bomb_is_found_where_root_cannot_run_ahead_of_it() {
    let _alone = crate::alone();
    need(&["cc", "setpriv"]);
    if lacks_root() {
        return;
    }
    let mut instance = Instance::prepare(&[]);
    instance.init();
    instance.launch_by("setpriv", &["--bounding-set=-sys_nice", GATEWAY]);
    instance.wait_until_ready();
    assert_eq!(instance.log_lines("functions give way to the worker").len(), 1, "{}", instance.log());
    hostile(&instance, "POST:/hostile", json!({"timeout": 60}));
    instance.script("GET:/other", "echo other");
    repeat(&instance, || bombs_go_off(&instance, 1));
}

fn may_raise_priorities(pid: u32) -> bool {
    const CAP_SYS_NICE: u64 = 1 << 23;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(capabilities.trim(), 16).unwrap() & CAP_SYS_NICE != 0
}

/// Bombs of each kind, so many at once, while another function is called.
fn bombs_go_off(instance: &Instance, at_once: usize) {
    let done = AtomicBool::new(false);
    let (bombs, others) = std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut answers = Vec::new();
            while !done.load(Ordering::Relaxed) {
                answers.push(instance.get("/other"));
            }
            answers
        });
        let bombs: Vec<_> = ["", "sessions", "churn", "churn sessions"]
            .into_iter()
            .map(|kind| {
                let answers: Vec<_> = std::thread::scope(|scope| {
                    let calls: Vec<_> = (0..at_once)
                        .map(|_| scope.spawn(|| instance.post("/hostile", format!("bomb {kind}\n"))))
                        .collect();
                    calls.into_iter().map(|call| call.join().unwrap()).collect()
                });
                (kind, answers, wait_until_the_bomb_is_gone(instance))
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        (bombs, others.join().unwrap())
    });
    // A gateway that may not run at a higher priority than a bomb competes with it. If each process of the bomb has a
    // session, and the machine is busy with more, the worker may give up before the bomb has ended.
    let has_priority = may_raise_priorities(instance.gateway_pid());
    for (kind, answers, gone) in bombs {
        let is_lost = |answer: &&Answer| !has_priority && kind.contains("sessions") && answer.status == 502;
        let (lost, found): (Vec<_>, Vec<_>) = answers.iter().partition(is_lost);
        for answer in found {
            assert!(answer.problem(500, "process-limit").contains("256"), "{kind}");
        }
        for answer in &lost {
            answer.problem(502, "worker-lost");
        }
        assert!(gone < GONE_MAX || !lost.is_empty(), "{kind}: {gone:?}");
    }
    for answer in others {
        assert_eq!((answer.status, answer.text().as_str()), (200, "other\n"));
    }
    if has_priority {
        assert_nothing_stays(instance);
    } else {
        // After its worker, the gateway ends and collects them, one after another.
        wait_until_nothing_stays(instance);
    }
}

#[test]
fn a_function_that_starts_a_hundred_processes_at_once_is_left_alone() {
    let _alone = crate::alone();
    for_each_user(&[], |instance| {
        instance.script("GET:/many", "for i in $(seq 100); do (sleep 0.5; echo one) & done; wait; echo all");
        repeat(instance, || {
            assert_eq!(instance.get("/many").text(), "one\n".repeat(100) + "all\n");
            assert_nothing_stays(instance);
        });
    });
}

#[test]
fn threads_count_as_processes_and_a_function_at_its_limit_fails_no_other() {
    let _alone = crate::alone();
    need(&["cc", "faas-php"]);
    for_each_user(&[("FAAS_WORKERS", "1"), ("FAAS_WORKER_SLOTS", "4")], |instance| {
        let program = hostile(instance, "POST:/hostile", json!({"timeout": 20}));
        let php = format!(
            "<?php $in = getenv('TMPDIR') . '/in'; copy('php://input', $in); passthru(\"exec {} <$in\");",
            program.display()
        );
        instance.function("POST:/forked", "php", &php, json!({"timeout": 20}));
        instance.function("POST:/executed", "php", &php, json!({"timeout": 20, "start": "cold"}));
        instance.function("GET:/warm", "php", "<?php echo 'served';", json!({}));
        instance.warm("/warm");
        repeat(instance, || {
            for attempts in ["threads 300\n", "lose-first-thread\nthreads 300\n"] {
                assert!(instance.post("/hostile", attempts).problem(500, "process-limit").contains("256"));
                assert_nothing_stays(instance);
            }
            std::thread::scope(|scope| {
                let targets = ["/hostile", "/hostile", "/executed", "/forked"];
                let calls: Vec<_> =
                    targets.map(|target| scope.spawn(move || instance.post(target, "threads 250\n"))).into();
                for call in calls {
                    assert_eq!(call.join().unwrap().text(), "threads 250: ok\n");
                }
            });
        });
    });
}

/// Time until none of its processes is left. The path is short, so that other tests may run meanwhile.
fn wait_until_the_bomb_is_gone(instance: &Instance) -> Duration {
    let program = instance.path("hostile");
    let answered = Instant::now();
    wait_until("the bomb is gone", || {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let mut programs = entries.filter_map(|entry| fs::read_link(entry.path().join("exe")).ok());
        !programs.any(|other| other == program)
    });
    answered.elapsed()
}

// ---- More than its share ------------------------------------------------------------------------------------------

#[test]
fn content_of_the_scratch_folder_counts_also_where_no_path_leads_to_it() {
    let _alone = crate::alone();
    need(&["cc"]);
    for_each_user(&[], |instance| {
        hostile(instance, "POST:/hostile", json!({"scratch": 8, "timeout": 20}));
        let hows = ["plain", "deleted", "deep", "buried", "closed", "mapped"].map(|how| format!("fill {how} 1000"));
        let unseen = ["deleted", "mapped"].map(|how| format!("lose-first-thread\nfill {how} 1000"));
        // 16 MiB of the list of mappings are read.
        // The platform leaves a function below its limit alone.
        let little = ["fill plain 2", "fill deleted 2"].map(String::from);
        repeat(instance, || {
            assert_each_exceeds(
                instance,
                "scratch-limit",
                "8 MiB",
                &[&hows[..], &unseen, &["map-behind 17 40".into()]].concat(),
            );
            assert_all_succeed(instance, "/hostile", &little);
        });
    });
}

#[test]
fn memory_counts_also_where_it_is_a_childs_or_a_process_forbids_the_look_at_it() {
    let _alone = crate::alone();
    need(&["cc"]);
    for_each_user(&[], |instance| {
        hostile(instance, "POST:/hostile", json!({"memory": 64, "timeout": 60}));
        let attempts = [
            "hold 80",
            "hold-shared 200",
            "page-tables 150",
            "children 8 20",
            "forbid-looks\nchildren 8 20",
            "lose-first-thread\nhold-shared 200",
            "lose-first-thread\nchildren 8 20",
            "lose-first-thread\nmappings 8 60000",
            "mappings 8 60000",
        ];
        hostile(instance, "POST:/memfd", json!({"memory": 64, "timeout": 20, "memfd": true}));
        repeat(instance, || {
            assert_each_exceeds(instance, "memory-limit", "64 MiB", &attempts.map(String::from));
            instance.post("/memfd", "fill-memfd 200\n").problem(500, "memory-limit");
            assert_all_succeed(instance, "/memfd", &["memfd".to_string()]);
        });
    });
}

/// Makes these attempts at `/hostile`, each by itself, and names those that did not end as this kind of problem, with
/// `limit` in its words.
fn assert_each_exceeds(instance: &Instance, kind: &str, limit: &str, attempts: &[String]) {
    each(attempts, |attempt| {
        let answer = instance.post("/hostile", format!("{attempt}\n"));
        assert_nothing_stays(instance);
        assert!(answer.problem(500, kind).contains(limit), "{}", answer.text());
    });
}

/// Attacks in PHP: name, source, and the kind of problem that answers it.
const PHP_ATTACKS: [(&str, &str, &str); 6] = [
    (
        "memory in children",
        "for ($i = 0; $i < 8; $i++) if (pcntl_fork() === 0) { $held = str_repeat('x', 20 << 20); sleep(1000); } sleep(1000);",
        "memory-limit",
    ),
    (
        "a deleted file",
        "$file = fopen(getenv('TMPDIR') . '/file', 'w'); unlink(getenv('TMPDIR') . '/file');
        for ($i = 0; $i < 64; $i++) { fwrite($file, str_repeat('x', 1 << 20)); usleep(2000); } sleep(1000);",
        "scratch-limit",
    ),
    (
        "many children",
        "for ($i = 0; $i < 300; $i++) if (pcntl_fork() === 0) sleep(1000); sleep(1000);",
        "process-limit",
    ),
    ("memory of its own", "while (true) $held[] = str_repeat('x', 1 << 20);", "memory-limit"),
    ("recursion without end", "function f($n) { return f($n + 1) + 1; } f(0);", "memory-limit"),
    (
        "folders in folders",
        "chdir(getenv('TMPDIR')); for ($i = 0; $i < 1000; $i++) { mkdir('x'); chdir('x'); } sleep(1000);",
        "scratch-limit",
    ),
];

#[test]
fn limits_hold_for_php_executed_and_forked() {
    let _alone = crate::alone();
    need(&["php-cgi"]);
    for_each_user(&[("FAAS_WORKERS", "1")], |instance| {
        for (number, (_, source, _)) in PHP_ATTACKS.iter().enumerate() {
            let more = json!({"memory": 128, "scratch": 8, "timeout": 20});
            instance.function(&format!("GET:/{number}"), "php", &format!("<?php {source}"), more);
        }
        instance.function("GET:/warm", "php", "<?php echo 'served';", json!({}));
        let attack_all = || {
            each(PHP_ATTACKS.iter().enumerate(), |(number, (_, _, kind))| {
                let answer = instance.get(&format!("/{number}"));
                assert_eq!(answer.json()["type"], format!("urn:faas:{kind}"), "{}", answer.text());
                wait_until("its processes are gone", || instance.functions().is_empty());
            });
        };
        // The first round has no fork server, at least for its first call.
        attack_all();
        instance.warm("/warm");
        repeat(instance, attack_all);
    });
}

#[test]
fn floods_of_output_are_cut_off_and_fill_neither_memory_nor_log() {
    let _alone = crate::alone();
    let instance = Instance::with(&[("FAAS_ANSWER_MAX", "50000000")]);
    instance.script("GET:/stdout", "exec cat /dev/zero");
    // More than the bound of memory below; with 300 MB the timeout came first on a busy machine.
    let script = "head -c 80000000 /dev/zero | tr '\\0' 'x' >&2; yes line | head -c 10000000 >&2; echo done";
    instance.script("GET:/stderr", script);
    let pids = [instance.gateway_pid(), instance.worker_pid(0), instance.worker_pid(1)];
    repeat(&instance, || {
        assert!(instance.get("/stdout").problem(502, "answer-too-large").contains("50000000"));
        assert_nothing_stays(&instance);
    });
    let before_stderr = instance.log().len();
    assert_eq!(instance.get("/stderr").text(), "done\n");
    assert_nothing_stays(&instance);
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak_kib: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        assert!(peak_kib < 64 * 1024, "{peak_kib} KiB");
    }
    assert_eq!(instance.wait_for_log("more bytes were dropped", 1).len(), 1);
    let before_escaped = instance.log().len();
    // Escaped characters take seven times their bytes.
    instance.script("GET:/escaped", "head -c 80000000 /dev/zero | tr '\\0' '\\001' >&2; echo done");
    assert_eq!(instance.get("/escaped").text(), "done\n");
    instance.wait_for_log("more bytes were dropped", 2);
    let lengths = [before_escaped - before_stderr, instance.log().len() - before_escaped];
    assert!(lengths[0] < 256 << 10 && lengths[1] < 128 << 10, "{lengths:?}");
}
