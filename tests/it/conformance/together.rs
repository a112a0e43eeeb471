//! Calls that run at once, cold or warm, of one fork server, cannot affect one another. And a client sees the output of
//! a function while it runs.

use std::fs;
use std::io::Write;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::run::{instance, log_of, settle_log, start_of, warm_up};
use super::traces::assert_nothing_stays;
use crate::cases::each;
use crate::http::{Answer, read_chunk};
use crate::instance::{Instance, need, skip, wait_until};

/// Registers a PHP function at `/cold` and `/warm`, the latter warm.
fn both(instance: &Instance, source: &str, more: Value) {
    let warm_or = "if (getenv('HTTP_X_WARM_UP') !== false) exit(0);";
    let row = instance.descriptor("php", &format!("<?php {warm_or} {source}"), more);
    let mut cold = row.clone();
    cold["start"] = "cold".into();
    instance.install(&[("GET:/cold", cold), ("GET:/warm", row)]);
    warm_up(instance, "GET", "/warm");
}

#[test]
fn events_arrive_one_by_one_from_cold_and_from_warm_functions() {
    need(&["faas-php"]);
    let instance = instance();
    let source = "header('Content-Type: text/event-stream');
        foreach ([1, 2, 3] as $n) { echo \"data: $n\\n\\n\"; flush(); fgets(fopen(getenv('IT_FOLDER') . '/gate', 'r')); }";
    let mut gate = instance.gate("gate");
    both(&instance, source, json!({"ini": {"output_buffering": "0"}}));
    each(["cold", "warm"], |start| {
        let mut stream = instance.connect();
        write!(stream.get_mut(), "GET /{start} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").unwrap();
        let head = Answer::read_head(&mut stream).unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(head.field("Content-Type"), Some("text/event-stream;charset=UTF-8"));
        for number in 1..=3 {
            // The function waits at the gate. An event that were sent only with the next one would never arrive.
            let event = read_chunk(&mut stream).unwrap().unwrap();
            assert_eq!(event, format!("data: {number}\n\n").as_bytes());
            gate.write_all(b"\n").unwrap();
        }
        assert_eq!(read_chunk(&mut stream).unwrap().unwrap(), b"");
        assert_nothing_stays(&instance);
    });
}

#[test]
fn a_function_whose_client_goes_away_is_killed_cold_and_warm() {
    need(&["faas-php"]);
    let instance = instance();
    both(
        &instance,
        "exec('setsid sleep 1000 >/dev/null 2>&1 &'); touch(getenv('IT_FOLDER') . '/runs'); sleep(1000);",
        json!({}),
    );
    each(["cold", "warm"], |start| {
        let mut stream = instance.connect();
        write!(stream.get_mut(), "GET /{start} HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
        wait_until("it runs", || instance.shared("runs").exists());
        drop(stream);
        wait_until("its slot is free", || instance.worker(0).unwrap()["in_flight"] == 0);
        assert_nothing_stays(&instance);
        wait_until("it is logged", || {
            let lines = instance.log_lines(&format!("path=/{start} "));
            lines.iter().filter(|line| line.contains(" status=499 ")).count() == 1
        });
        fs::remove_file(instance.shared("runs")).unwrap();
    });
}

#[test]
fn a_function_reaches_neither_one_that_runs_beside_it_nor_the_fork_server() {
    need(&["faas-php"]);
    let instance = instance();
    if instance.status()["sandbox"]["landlock"].as_u64() < Some(6) {
        skip("the kernel has no Landlock, or an old one");
        return;
    }
    // The victim records its process id and waits. The attacker tries all processes.
    let source = "$shared = getenv('IT_FOLDER');
        if (getenv('QUERY_STRING') === 'victim') {
            file_put_contents(getenv('TMPDIR') . '/secret', 'secret');
            file_put_contents(\"$shared/victim\", getmypid()); rename(\"$shared/victim\", \"$shared/waits\");
            fgets(fopen(\"$shared/gate\", 'r'));
            exit('unharmed');
        }
        $victim = file_get_contents(\"$shared/waits\");
        // The attacker knows the victim's process id, even if /proc does not show it.
        $others = array_diff(array_filter([...scandir('/proc'), $victim], ctype_digit(...)), [getmypid()]);
        foreach ($others as $pid) {
            if (posix_kill($pid, 0) || @posix_kill($pid, SIGTERM)) echo \"signals to $pid: \", @file_get_contents(\"/proc/$pid/cmdline\"), \"\\n\";
            foreach (['environ', 'mem', 'maps', 'fd/0', 'cwd/main.php'] as $name)
                if (@file_get_contents(\"/proc/$pid/$name\", length: 1)) echo \"$name of $pid: \", @file_get_contents(\"/proc/$pid/cmdline\"), \"\\n\";
        }
        echo posix_getsid((int) $victim) === (int) $victim ? 'tried' : 'the other one is not there';";
    let mut gate = instance.gate("gate");
    both(&instance, source, json!({}));
    each([("cold", "cold"), ("cold", "warm"), ("warm", "cold"), ("warm", "warm")], |(of, by)| {
        std::thread::scope(|scope| {
            let victim = scope.spawn(|| instance.get(&format!("/{of}?victim")));
            wait_until("the victim waits", || instance.shared("waits").exists());
            let attacker = instance.get(&format!("/{by}"));
            gate.write_all(b"\n").unwrap();
            assert_eq!((attacker.status, attacker.text().as_str()), (200, "tried"));
            assert_eq!(victim.join().unwrap().text(), "unharmed");
        });
        fs::remove_file(instance.shared("waits")).unwrap();
        assert_nothing_stays(&instance);
    });
    assert_eq!(
        start_of(&instance.request("GET", "/warm", &[("X-Warm-Up", "1")], b"")),
        "warm",
        "the fork server lives"
    );
}

#[test]
fn calls_at_once_mix_up_neither_bodies_nor_environments_nor_folders() {
    need(&["faas-php"]);
    let instance = instance();
    let source = "$mine = getenv('QUERY_STRING'); $file = getenv('TMPDIR') . '/file'; file_put_contents($file, $mine);
        mt_srand((int) $mine); usleep(mt_rand(0, 3000)); fwrite(STDERR, \"says $mine\\n\");
        echo json_encode([$mine, $_SERVER['QUERY_STRING'], file_get_contents($file), getenv('FAAS_REQUEST_ID'), count(scandir(dirname($file)))]);";
    both(&instance, source, json!({}));
    let said_by = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (instance, said_by) = (&instance, &said_by);
            scope.spawn(move || {
                for call in 0..25 {
                    let start = ["warm", "cold"][usize::from(call % 5 == 0)];
                    let number = (client * 100 + call).to_string();
                    let id = format!("it-mix-{number}");
                    let answer = instance.request("GET", &format!("/{start}?{number}"), &[("X-Request-Id", &id)], b"");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    let said = answer.json();
                    assert!(
                        (0..3).all(|place| said[place] == *number) && said[3] == *id && said[4] == 3,
                        "{number}: {said}"
                    );
                    said_by.lock().unwrap().push((id, number));
                }
            });
        }
    });
    assert_nothing_stays(&instance);
    settle_log(&instance, 0);
    for (id, number) in said_by.into_inner().unwrap() {
        assert_eq!(log_of(&instance, &id), [format!("says {number}")]);
    }
}
