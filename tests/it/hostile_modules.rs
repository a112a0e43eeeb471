//! Hostile WASM modules and components: what they ask of WASI in bad faith is refused, and their limits hold.
//!
//! Each table runs as each user that functions can run as, once by a process of its own and once by a child of the fork
//! server. Components start in either way, as it comes.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::cases::each;
use crate::hostile_functions::{assert_nothing_stays, for_each_user, lacks_landlock, wait_until_nothing_stays};
use crate::http::Answer;
use crate::instance::{Instance, find, need, wait_until};
use crate::soak::repeat;

/// The functions of WASI that the modules here call. `$say` prints an error number as two digits and a newline.
const BEGIN: &str = r#"(module
    (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
    (import "wasi_snapshot_preview1" "fd_advise" (func $fd_advise (param i32 i64 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_allocate" (func $fd_allocate (param i32 i64 i64) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $fd_set_size (param i32 i64) (result i32)))
    (import "wasi_snapshot_preview1" "fd_pread" (func $fd_pread (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_dir_name" (func $fd_dir_name (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_seek" (func $fd_seek (param i32 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open" (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_readlink" (func $readlink (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_remove_directory" (func $rmdir (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_accept" (func $sock_accept (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_recv" (func $sock_recv (param i32 i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 8)
    (func $say (param $errno i32)
        (i32.store8 (i32.const 32) (i32.add (i32.const 48) (i32.div_u (local.get $errno) (i32.const 10))))
        (i32.store8 (i32.const 33) (i32.add (i32.const 48) (i32.rem_u (local.get $errno) (i32.const 10))))
        (i32.store8 (i32.const 34) (i32.const 10))
        (i32.store (i32.const 40) (i32.const 32))
        (i32.store (i32.const 44) (i32.const 3))
        (drop (call $fd_write (i32.const 1) (i32.const 40) (i32.const 1) (i32.const 48))))
    ;; Opens a path for reading and writing, made anew where `how` says so; the number of the file lies at 56.
    (func $open (param $fd i32) (param $path i32) (param $len i32) (param $how i32) (result i32)
        (call $path_open (local.get $fd) (i32.const 1) (local.get $path) (local.get $len) (local.get $how)
            (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 56)))
    (func $opened (result i32) (i32.load (i32.const 56)))
    ;; Writes a MiB to the opened file.
    (func $fill (result i32)
        (local $left i32)
        (local.set $left (i32.const 4))
        (i32.store (i32.const 40) (i32.const 65536))
        (i32.store (i32.const 44) (i32.const 262144))
        (loop $again
            (if (call $fd_write (call $opened) (i32.const 40) (i32.const 1) (i32.const 48)) (then (return (i32.const 1))))
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br_if $again (local.get $left)))
        (i32.const 0))
"#;

/// Texts in a module's memory.
struct Texts {
    data: String,
    next: usize,
}

impl Texts {
    /// The address and length of a text, as two operands.
    fn add(&mut self, text: &str) -> String {
        let at = self.next;
        write!(self.data, "(data (i32.const {at}) \"{text}\")").unwrap();
        self.next += text.len();
        format!("(i32.const {at}) (i32.const {})", text.len())
    }
}

/// One question to WASI, and the error number that answers it.
type Question = (&'static str, String, u32);

const MFILE: u32 = 33;
const SCRATCH: &str = "(i32.const 3)";
/// A folder that the function may write to, and one that it may only read. The folder `.` follows.
const SHARED: &str = "(i32.const 4)";
const READ_ONLY: &str = "(i32.const 5)";

fn questions(texts: &mut Texts) -> Vec<Question> {
    let mut questions = addresses(texts);
    questions.extend(numbers(texts));
    questions.extend(ways_out(texts));
    questions
}

/// Addresses and lengths beyond the memory, of 8 pages.
fn addresses(texts: &mut Texts) -> Vec<Question> {
    let x = texts.add("x");
    let questions = [
        ("args beyond memory", "(call $args_get (i32.const 0) (i32.const 524287))", 21),
        ("args pointers beyond memory", "(call $args_get (i32.const -4) (i32.const 0))", 21),
        ("environ beyond memory", "(call $environ_get (i32.const 0) (i32.const -1))", 21),
        ("4 GiB of random", "(call $random_get (i32.const 0) (i32.const -1))", 21),
        ("random at the end", "(call $random_get (i32.const 524288) (i32.const 1))", 21),
        ("iovec of 4 GiB", "(call $iovec (i32.const 0) (i32.const -1))", 21),
        ("iovec that wraps around", "(call $iovec (i32.const -1) (i32.const 2))", 21),
        ("iovecs beyond memory", "(call $fd_write (i32.const 1) (i32.const -8) (i32.const 4) (i32.const 0))", 21),
        ("iovecs that end behind", "(call $fd_write (i32.const 1) (i32.const 524280) (i32.const 2) (i32.const 0))", 21),
        ("4 Gi empty iovecs", "(call $fd_write (i32.const 1) (i32.const 262144) (i32.const -1) (i32.const 0))", 0),
        ("10^6 subscriptions", "(call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const 1000000) (i32.const 0))", 28),
        ("no subscription", "(call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))", 28),
        ("subscription beyond", "(call $poll_oneoff (i32.const -1) (i32.const 0) (i32.const 1) (i32.const 0))", 21),
        (
            "events beyond memory",
            "(call $poll_oneoff (i32.const 262144) (i32.const -8) (i32.const 1) (i32.const 0))",
            21,
        ),
        ("path beyond memory", "(call $open (i32.const 3) (i32.const -1) (i32.const 16) (i32.const 0))", 21),
        ("path of 4 GiB", "(call $open (i32.const 3) (i32.const 0) (i32.const -1) (i32.const 0))", 37),
        ("name of a folder beyond", "(call $fd_dir_name (i32.const 3) (i32.const -1) (i32.const 4000))", 21),
        (
            "entries beyond memory",
            "(call $fd_readdir (i32.const 3) (i32.const 1) (i32.const -1) (i64.const 0) (i32.const 0))",
            21,
        ),
    ];
    let mut questions: Vec<Question> = questions.map(|(name, call, errno)| (name, call.to_string(), errno)).into();
    questions.push(("result beyond memory", format!("(call $stat {SCRATCH} (i32.const 0) {x} (i32.const -1))"), 44));
    questions
}

/// Sizes, positions and descriptors that are out of range.
fn numbers(texts: &mut Texts) -> Vec<Question> {
    let file = texts.add("file");
    let own = |call: &str| call.replace("FD", "(call $opened)");
    vec![
        ("make a file", format!("(call $open {SCRATCH} {file} (i32.const 1))"), 0),
        ("allocate 2^60", own("(call $fd_allocate FD (i64.const 0) (i64.const 0x1000000000000000))"), 58),
        ("allocate 2 GiB", own("(call $fd_allocate FD (i64.const 0) (i64.const 0x80000000))"), 58),
        ("a size of 2^60", own("(call $fd_set_size FD (i64.const 0x1000000000000000))"), 22),
        ("a size below 0", own("(call $fd_set_size FD (i64.const -1))"), 28),
        ("seek before the start", own("(call $fd_seek FD (i64.const -1) (i32.const 0) (i32.const 64))"), 28),
        ("seek from nowhere", own("(call $fd_seek FD (i64.const 0) (i32.const 9) (i32.const 64))"), 28),
        (
            "read at 2^63",
            own("(call $fd_pread FD (i32.const 262144) (i32.const 1) (i64.const 0x8000000000000000) (i32.const 64))"),
            0,
        ),
        (
            "entries from 2^63",
            format!(
                "(call $fd_readdir {SCRATCH} (i32.const 1024) (i32.const 64) (i64.const 0x8000000000000000) (i32.const 64))"
            ),
            28,
        ),
        ("advice of no kind", own("(call $fd_advise FD (i64.const -1) (i64.const -1) (i32.const 99))"), 28),
        (
            "a descriptor of the process",
            "(call $fd_seek (i32.const 9) (i64.const 0) (i32.const 0) (i32.const 64))".into(),
            8,
        ),
        ("close none", "(call $fd_close (i32.const -1))".into(), 8),
        ("renumber to none", own("(call $fd_renumber FD (i32.const -1))"), 8),
        ("renumber none", "(call $fd_renumber (i32.const 1000000) (i32.const 1))".into(), 8),
        ("accept", "(call $sock_accept (i32.const 0) (i32.const 0) (i32.const 64))".into(), 57),
        (
            "receive",
            "(call $sock_recv (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 64))"
                .into(),
            57,
        ),
        ("accept from none", "(call $sock_accept (i32.const 77) (i32.const 0) (i32.const 64))".into(), 8),
    ]
}

/// Paths that lead out of a folder.
fn ways_out(texts: &mut Texts) -> Vec<Question> {
    let mut text = |text: &str| texts.add(text);
    let (file, folder, up) = (text("file"), text("folder"), text(".."));
    let (link, up_link, through, to_root) = (text("link"), text("../.."), text("link/etc"), text("/etc"));
    let (passwd, around, inside) = (text("/etc/passwd"), text("folder/../../x"), text("folder/.."));
    let (code, moved) = (text("code"), text("moved"));
    let open = |fd: &str, path: &str, how: u32| format!("(call $open {fd} {path} (i32.const {how}))");
    let link_to = |target: &str| format!("(call $symlink {target} {SCRATCH} {link})");
    let hard =
        |fd: &str, path: &str, to_fd: &str, to: &str| format!("(call $link {fd} (i32.const 0) {path} {to_fd} {to})");
    vec![
        ("open ..", open(SCRATCH, &up, 0), 76),
        ("open an absolute path", open(SCRATCH, &passwd, 0), 76),
        ("make a folder", format!("(call $mkdir {SCRATCH} {folder})"), 0),
        ("open around", open(SCRATCH, &around, 1), 76),
        ("a link to an absolute path", link_to(&to_root), 76),
        ("a link out", link_to(&up_link), 0),
        ("open through it", open(SCRATCH, &through, 0), 76),
        ("open what it leads to", open(SCRATCH, &link, 0), 76),
        ("look at what it leads to", format!("(call $stat {SCRATCH} (i32.const 1) {link} (i32.const 1024))"), 76),
        ("look above", format!("(call $stat {SCRATCH} (i32.const 1) {up} (i32.const 1024))"), 76),
        ("make through it", format!("(call $mkdir {SCRATCH} {through})"), 76),
        ("remove through it", format!("(call $unlink {SCRATCH} {through})"), 76),
        ("remove the folder above", format!("(call $rmdir {SCRATCH} {up})"), 55),
        ("remove its own", format!("(call $rmdir {SCRATCH} {inside})"), 55),
        (
            "read a link above",
            format!("(call $readlink {SCRATCH} {up} (i32.const 1024) (i32.const 64) (i32.const 64))"),
            28,
        ),
        ("move the folder above", format!("(call $rename {SCRATCH} {up} {SCRATCH} {moved})"), 10),
        ("move over the folder above", format!("(call $rename {SCRATCH} {file} {SCRATCH} {up})"), 10),
        ("move from around", format!("(call $rename {SCRATCH} {around} {SCRATCH} {moved})"), 76),
        ("a hard link to an absolute path", hard(SCRATCH, &passwd, SCRATCH, &moved), 76),
        ("a hard link to code", hard(READ_ONLY, &code, SCRATCH, &moved), 75),
        ("move code away", format!("(call $rename {READ_ONLY} {code} {SHARED} {moved})"), 2),
        ("write to code", open(READ_ONLY, &code, 0), 2),
        ("empty code", open(READ_ONLY, &code, 8), 2),
        ("make beside code", open(READ_ONLY, &moved, 1), 2),
        ("remove code", format!("(call $unlink {READ_ONLY} {code})"), 2),
        ("a folder in the place of a stream", format!("(call $fd_renumber {SHARED} (i32.const 0))"), 0),
        ("open by that", open("(i32.const 0)", &up, 0), 76),
    ]
}

/// A module that asks all of them, and then opens one file until it is refused.
fn asking(questions: &[Question], texts: &Texts) -> String {
    let mut text = String::from(BEGIN);
    text += "(func $iovec (param i32 i32) (result i32)
        (i32.store (i32.const 40) (local.get 0)) (i32.store (i32.const 44) (local.get 1))
        (call $fd_write (i32.const 1) (i32.const 40) (i32.const 1) (i32.const 48)))";
    text += &texts.data;
    text += "(func (export \"_start\") (local $errno i32)";
    for (_, call, _) in questions {
        write!(text, "(call $say {call})").unwrap();
    }
    // The text at 1024 is "x".
    text += "(loop $again (br_if $again (i32.eqz (local.tee $errno
        (call $open (i32.const 3) (i32.const 131072) (i32.const 1) (i32.const 1)))))) (call $say (local.get $errno))))";
    text
}

/// Fields of the descriptor: the folders that [`SHARED`] and [`READ_ONLY`] name.
fn folders(instance: &Instance) -> serde_json::Value {
    let code = instance.path("code-of-others");
    if !code.exists() {
        fs::create_dir(&code).unwrap();
        fs::set_permissions(&code, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(code.join("code"), "code").unwrap();
        fs::set_permissions(code.join("code"), fs::Permissions::from_mode(0o666)).unwrap();
    }
    json!({"dirs": {"/a": instance.shared(""), "/b": code}, "timeout": 20})
}

/// Puts copies of the runners where the user of the platform can reach them.
fn bring_runners(instance: &Instance) {
    for program in ["faas-wasm", "faas-wasm-component"] {
        if instance.is_run_as_plain_user()
            && let Some(path) = find(program)
        {
            instance.program(program, fs::read(path).unwrap());
        }
    }
}

#[test]
fn what_a_module_asks_in_bad_faith_is_refused() {
    let _alone = crate::alone();
    need(&["faas-wasm"]);
    for_each_user(&[("FAAS_WORKERS", "1")], |instance| {
        if lacks_landlock(instance) {
            return;
        }
        bring_runners(instance);
        let mut texts = Texts { data: String::new(), next: 131_072 };
        let questions = questions(&mut texts);
        instance.function("GET:/ask", "wasm", &asking(&questions, &texts), folders(instance));
        let expected: Vec<(&str, u32)> = questions.iter().map(|(name, _, errno)| (*name, *errno)).collect();
        let expected = [expected, vec![("descriptors without end", MFILE)]].concat();
        let mut is_warm = false;
        let ask = || {
            let answer = instance.get("/ask");
            assert_nothing_stays(instance);
            let text = answer.text();
            let answers: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
            assert_eq!(answers.len(), expected.len(), "{} {text}", answer.status);
            let names = expected.iter().map(|(name, _)| *name);
            let wrong: Vec<_> = names.zip(answers).filter(|pair| !expected.contains(pair)).collect();
            assert_eq!(wrong, [], "a module got this error number, or none");
            answer.is_warm()
        };
        ask();
        wait_until("a forked one was asked", || {
            is_warm |= ask();
            is_warm
        });
        repeat(instance, || {
            ask();
        });
        assert_eq!(fs::read(instance.path("code-of-others/code")).unwrap(), b"code");
        assert_eq!(fs::read_dir(instance.path("code-of-others")).unwrap().count(), 1);
    });
}

// ---- More than its share ------------------------------------------------------------------------------------------

/// Bodies of modules, and the kind of problem that answers each; the limits are memory 64 and scratch 8.
const EXCESSES: [(&str, &str, &str); 13] = [
    ("an endless loop", r#"(func (export "_start") (loop $l (br $l)))"#, "timed-out"),
    ("an endless start function", r#"(func $s (loop $l (br $l))) (start $s) (func (export "_start"))"#, "timed-out"),
    (
        "a wait without end",
        r#"(func (export "_start") (i64.store (i32.const 1048) (i64.const -1)) (i32.store (i32.const 1040) (i32.const 1))
            (drop (call $poll_oneoff (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 64))))"#,
        "timed-out",
    ),
    ("recursion without end", r#"(func $f (export "_start") (call $f) (call $f))"#, "function-exited"),
    (
        "memory without end",
        r#"(func (export "_start") (local $at i32) (loop $l
            (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then (unreachable)))
            (local.set $at (i32.mul (i32.const 65536) (i32.sub (memory.size) (i32.const 16))))
            (memory.fill (local.get $at) (i32.const 1) (i32.const 1048576)) (br $l)))"#,
        "memory-limit",
    ),
    (
        "tables without end",
        r#"(table $t 1 funcref) (func (export "_start") (loop $l
            (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 65536)) (i32.const -1)))) (unreachable))"#,
        "memory-limit",
    ),
    ("more memory than allowed", r#"(memory $m 2000) (func (export "_start") (unreachable))"#, "memory-limit"),
    (
        "a table larger than allowed",
        r#"(table 9000000 funcref) (func (export "_start") (unreachable))"#,
        "memory-limit",
    ),
    (
        "a large file",
        r#"(func (export "_start") (drop (call $open (i32.const 3) (i32.const 1024) (i32.const 1) (i32.const 1)))
            (loop $l (br_if $l (i32.eqz (call $fill)))))"#,
        "scratch-limit",
    ),
    (
        "a deleted file",
        r#"(func (export "_start") (drop (call $open (i32.const 3) (i32.const 1024) (i32.const 1) (i32.const 1)))
            (drop (call $unlink (i32.const 3) (i32.const 1024) (i32.const 1)))
            (loop $l (br_if $l (i32.eqz (call $fill)))))"#,
        "scratch-limit",
    ),
    (
        "entries without end",
        r#"(func (export "_start") (local $n i32) (loop $l
            (i32.store (i32.const 1024) (i32.or (i32.const 0x61616161) (i32.and (local.get $n) (i32.const 0x0f0f0f0f))))
            (i32.store (i32.const 1028) (i32.or (i32.const 0x61616161)
                (i32.and (i32.shr_u (local.get $n) (i32.const 4)) (i32.const 0x0f0f0f0f))))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (drop (call $symlink (i32.const 1024) (i32.const 1) (i32.const 3) (i32.const 1024) (i32.const 8)))
            (br $l)))"#,
        "scratch-limit",
    ),
    (
        "folders in folders without end",
        r#"(func (export "_start") (loop $l (drop (call $mkdir (i32.const 3) (i32.const 1024) (i32.const 1)))
            (drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 2)
                (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 56)))
            (drop (call $fd_renumber (call $opened) (i32.const 3))) (br $l)))"#,
        "scratch-limit",
    ),
    ("a status that no process has", r#"(func (export "_start") (call $proc_exit (i32.const -1)))"#, "function-exited"),
];

fn module(body: &str) -> String {
    format!("{BEGIN} {body} (data (i32.const 1024) \"x\"))")
}

#[test]
fn limits_hold_for_modules_executed_and_forked() {
    let _alone = crate::alone();
    need(&["faas-wasm"]);
    for_each_user(&[("FAAS_WORKERS", "1")], |instance| {
        bring_runners(instance);
        let modules: Vec<_> = EXCESSES
            .iter()
            .enumerate()
            .map(|(number, (_, body, kind))| {
                let timeout = if *kind == "timed-out" { 1 } else { 30 };
                let more = json!({"memory": 64, "scratch": 8, "timeout": timeout});
                let descriptor = instance.descriptor("wasm", &module(body), more);
                (format!("GET:/{number}"), descriptor)
            })
            .collect();
        let rows: Vec<_> = modules.iter().map(|(key, descriptor)| (key.as_str(), descriptor.clone())).collect();
        instance.install(&rows);
        instance.function("GET:/warm", "wasm", &module(r#"(func (export "_start"))"#), json!({}));
        // The fork server may not be there for the first round.
        assert_each_exceeds(instance, &EXCESSES);
        instance.warm("/warm");
        repeat(instance, || assert_each_exceeds(instance, &EXCESSES));
    });
}

/// Bodies of components that define a core instance `$made` with the function `run`, and the kind of problem that answers
/// each; limits as above.
const COMPONENT_EXCESSES: [(&str, &str, &str); 7] = [
    (
        "an endless loop",
        r#"(core module $code (func (export "run") (result i32) (loop $l (br $l)) (unreachable)))
        (core instance $made (instantiate $code))"#,
        "timed-out",
    ),
    (
        "an endless start function",
        r#"(core module $code (func $s (loop $l (br $l))) (start $s) (func (export "run") (result i32) (i32.const 0)))
        (core instance $made (instantiate $code))"#,
        "timed-out",
    ),
    (
        "recursion without end",
        r#"(core module $code (func $f (export "run") (result i32) (i32.add (call $f) (call $f))))
        (core instance $made (instantiate $code))"#,
        "function-exited",
    ),
    (
        "memory without end",
        r#"(core module $code (memory 1) (func (export "run") (result i32) (loop $l
            (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)))
        (core instance $made (instantiate $code))"#,
        "memory-limit",
    ),
    (
        "memories of several instances",
        r#"(core module $other (memory 500)) (core instance (instantiate $other)) (core instance (instantiate $other))
        (core instance (instantiate $other)) (core module $code (func (export "run") (result i32) (i32.const 0)))
        (core instance $made (instantiate $code))"#,
        "memory-limit",
    ),
    (
        // The host makes the list before it asks for room in the memory.
        "random numbers of 16 TiB",
        r#"(import "wasi:random/random@0.2.0" (instance $random
            (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
        (core module $memory (memory (export "memory") 1)
            (func (export "room") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
        (core instance $memory (instantiate $memory))
        (core func $get (canon lower (func $random "get-random-bytes")
            (memory (core memory $memory "memory")) (realloc (core func $memory "room"))))
        (core module $code (import "random" "get" (func $get (param i64 i32)))
            (func (export "run") (result i32) (call $get (i64.const 0x100000000000) (i32.const 16)) (i32.const 0)))
        (core instance $made (instantiate $code (with "random" (instance (export "get" (func $get))))))"#,
        "function-exited",
    ),
    (
        // The engine bounds the number of handles.
        "resources without end",
        r#"(import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
        (alias export $poll "pollable" (type $pollable))
        (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
            (alias outer 1 $pollable (type $outer)) (export "pollable" (type $own (eq $outer)))
            (export "subscribe-duration" (func (param "when" u64) (result (own $own))))))
        (core func $subscribe (canon lower (func $clock "subscribe-duration")))
        (core module $code (import "clock" "subscribe" (func $subscribe (param i64) (result i32)))
            (func (export "run") (result i32) (loop $l (drop (call $subscribe (i64.const -1))) (br $l)) (unreachable)))
        (core instance $made (instantiate $code (with "clock" (instance (export "subscribe" (func $subscribe))))))"#,
        "function-exited",
    ),
];

#[test]
fn limits_hold_for_components() {
    let _alone = crate::alone();
    need(&["faas-wasm-component"]);
    for_each_user(&[("FAAS_WORKERS", "1")], |instance| {
        bring_runners(instance);
        let end = r#"(func $run (result (result)) (canon lift (core func $made "run")))
            (instance $command (export "run" (func $run))) (export "wasi:cli/run@0.2.0" (instance $command)))"#;
        for (number, (_, body, kind)) in COMPONENT_EXCESSES.iter().enumerate() {
            let timeout = if *kind == "timed-out" { 1 } else { 30 };
            let more = json!({"memory": 64, "scratch": 8, "timeout": timeout});
            instance.function(&format!("GET:/{number}"), "wasm", &format!("(component {body} {end}"), more);
        }
        repeat(instance, || assert_each_exceeds(instance, &COMPONENT_EXCESSES));
    });
}

/// Calls to find that a function exceeds its limit. On a crowded machine one may get too little time to make 16,384
/// files within its timeout.
const CALLS_MAX: usize = 4;

/// Calls the functions at `/0` and so on, and asserts the kind of each problem.
fn assert_each_exceeds(instance: &Instance, table: &[(&str, &str, &str)]) {
    each(table.iter().enumerate(), |(number, (_, _, kind))| {
        let call = || {
            let answer = instance.get(&format!("/{number}"));
            wait_until_nothing_stays(instance);
            answer
        };
        let is_kind = |answer: &Answer, kind: &str| answer.json()["type"] == format!("urn:faas:{kind}");
        let mut answer = call();
        for _ in 1..CALLS_MAX {
            if is_kind(&answer, "timed-out") && *kind != "timed-out" {
                answer = call();
            }
        }
        assert!(is_kind(&answer, kind), "{}", answer.text());
    });
}
