//! A changed module is in service with the next call, and no call fails, whether functions start cold or warm.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::json;

use super::run::{instance, start_of, warm_up};
use super::traces::assert_nothing_stays;
use crate::instance::{Instance, need, wait_until};

const EDITS: u32 = 20;

/// Renames a new file over the old one, as editors and deployments do, so that no reader sees half a file.
fn replace(path: &Path, text: impl AsRef<[u8]>) {
    let new = path.with_file_name("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// Writes a module into a folder of its own and registers it. Beside the run dir, which functions may not enter,
/// Landlock allows each file by itself, and a new file only after a moment.
fn edited(instance: &Instance, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let folder = instance.path("modules");
    fs::create_dir(&folder).unwrap();
    let module = folder.join(name);
    fs::write(&module, text).unwrap();
    let runtime = module.extension().unwrap().to_str().unwrap();
    instance.install(&[("GET:/edited", json!({"runtime": runtime, "module": module, "output": "raw"}))]);
    warm_up(instance, "GET", "/edited");
    module
}

/// Replaces `module` repeatedly while clients call it: no call fails, and a call that begins after an edit sees the
/// edit.
fn edited_under_load(instance: &Instance, module: &Path, version: impl Fn(u32) -> Vec<u8>) {
    let written = AtomicU32::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let before = written.load(Ordering::SeqCst);
                        let answer = instance.get("/edited");
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        let seen: u32 = answer.text().trim().parse().unwrap();
                        assert!(seen >= before, "version {seen} is answered after {before} was written");
                    }
                })
            })
            .collect();
        for number in 1..=EDITS {
            replace(module, version(number));
            written.store(number, Ordering::SeqCst);
            for _ in 0..3 {
                assert_eq!(instance.get("/edited").text().trim(), number.to_string(), "at once after the edit");
            }
        }
        done.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    warm_up(instance, "GET", "/edited");
    assert_eq!(instance.get("/edited").text().trim(), EDITS.to_string());
    assert_nothing_stays(instance);
}

#[test]
fn a_php_module_is_edited_twenty_times_under_load_without_a_failed_or_an_old_answer() {
    need(&["faas-php"]);
    let instance = instance();
    // All versions have one size, and most of them one second as their time.
    let version = |number: u32| format!("<?php echo (int) '{number:03}';").into_bytes();
    let module = edited(&instance, "edited.php", version(0));
    edited_under_load(&instance, &module, version);
}

#[test]
fn a_wasm_module_is_edited_twenty_times_under_load_without_a_failed_or_an_old_answer() {
    need(&["faas-wasm"]);
    let instance = instance();
    let text = |number: u32| {
        format!(
            r#"(module
                (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") 1)
                (data (i32.const 0) "\10\00\00\00\03\00\00\00")
                (data (i32.const 16) "{number:3}")
                (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
        )
    };
    let version = |number| wat::parse_str(text(number)).unwrap();
    let module = edited(&instance, "edited.wasm", version(0));
    edited_under_load(&instance, &module, version);
}

#[test]
fn an_included_file_that_changes_is_seen_by_the_next_call() {
    need(&["faas-php"]);
    let instance = instance();
    let module = edited(&instance, "edited.php", "<?php echo @include __DIR__ . '/included.inc';");
    let included = module.with_file_name("included.inc");
    let mut warm = 0;
    for number in 1..=EDITS {
        // Versions have the same size and the same second. Every other one is written in place.
        let text = format!("<?php return '{number:03}';");
        if number % 2 == 0 {
            fs::write(&included, text).unwrap()
        } else {
            replace(&included, text)
        };
        for _ in 0..2 {
            let answer = instance.get("/edited");
            assert_eq!((answer.status, answer.text()), (200, format!("{number:03}")));
            warm += u32::from(start_of(&answer) == "warm");
        }
    }
    assert!(warm >= EDITS, "only {warm} of {} calls were warm", 2 * EDITS);
}

#[test]
fn a_module_that_breaks_fails_as_cold_ones_do_and_works_again_when_it_is_mended() {
    need(&["faas-php"]);
    let instance = instance();
    let module = edited(&instance, "edited.php", "<?php echo 'good';");
    for _ in 0..3 {
        replace(&module, "<?php if (");
        assert!(instance.get("/edited").problem(500, "function-exited").contains("code 255"));
        fs::remove_file(&module).unwrap();
        instance.get("/edited").problem(500, "module-missing");
        replace(&module, "<?php echo 'good';");
        assert_eq!(instance.get("/edited").text(), "good");
    }
    wait_until("it answers warm again", || start_of(&instance.get("/edited")) == "warm");
    assert_nothing_stays(&instance);
}
