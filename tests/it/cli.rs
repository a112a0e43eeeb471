//! The command `faas` against a real instance: each verb, and its exit codes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cases::each;
use crate::instance::{Instance, run, signal, start, wait_until};

const FAAS: &str = env!("CARGO_BIN_EXE_faas");

/// The output of one call of `faas`, and its exit code.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn of(output: Output) -> Said {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|cause| panic!("{cause}: {}{}", self.out, self.err))
    }
}

fn call(instance: &Instance, arguments: &[&str]) -> Said {
    Said::of(run(instance.command(FAAS).args(arguments)))
}

fn ok(instance: &Instance, arguments: &[&str]) -> Said {
    let said = call(instance, arguments);
    assert_eq!(said.code, 0, "{arguments:?}: {}{}", said.out, said.err);
    said
}

/// Asserts exit code and one line on stderr, and returns it.
fn fails(instance: &Instance, code: i32, arguments: &[&str]) -> String {
    let said = call(instance, arguments);
    assert_eq!((said.code, said.err.lines().count()), (code, 1), "{arguments:?}: {}{}", said.out, said.err);
    said.err
}

fn write(instance: &Instance, name: &str, text: &str) -> String {
    let path = instance.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    instance.program(name, text).display().to_string()
}

#[test]
fn deploy_brings_a_file_into_service_before_it_returns() {
    let instance = Instance::start();
    let file = write(&instance, "hi.sh", "#!/bin/sh\necho \"$GREETING from $FAAS_FUNCTION\"\n");
    let said = ok(&instance, &["deploy", &file, "GET:/hi", "--env", "GREETING=hello", "--set", r#"name="hi""#]);
    assert!(said.out.contains("GET:/hi runs db:hi.sh (") && said.out.contains("is live after"), "{}", said.out);
    assert_eq!(instance.get("/hi").text(), "hello from hi\n");
    // Fields that are not given stay. The same deploy again is no change.
    write(&instance, "hi.sh", "#!/bin/sh\necho \"again $GREETING from $FAAS_FUNCTION\"\n");
    let said = ok(&instance, &["deploy", &file, "GET:/hi", "--memory", "64", "--timeout", "3", "--json"]).json();
    assert!(said["live_ms"].is_u64() && said["module"] == "db:hi.sh", "{said}");
    assert_eq!(instance.get("/hi").text(), "again hello from hi\n");
    let said = ok(&instance, &["deploy", &file, "GET:/hi"]);
    assert!(said.out.contains("nothing to change"), "{}", said.out);
    let descriptor = &ok(&instance, &["describe", "GET:/hi", "--json"]).json()["descriptor"];
    let fields = json!({"runtime": "native", "module": "db:hi.sh", "name": "hi", "memory": 64, "timeout": 3,
        "env": {"GREETING": "hello"}});
    assert_eq!(*descriptor, fields);
}

#[test]
fn calls_shows_what_was_recorded_and_stats_the_figures_of_each_route() {
    let instance = Instance::start();
    instance.script("GET:/good", "echo good");
    instance.script("GET:/bad", "echo 'it \u{1b}broke' >&2; exit 3");
    for number in 0..3 {
        instance.request("GET", "/good", &[("X-Request-Id", &format!("it-good-{number}"))], b"");
    }
    instance.request("GET", "/bad", &[("X-Request-Id", "it-bad")], b"");
    let recorded = |arguments: &[&str]| ok(&instance, arguments).json().as_array().unwrap().len();
    wait_until("all are recorded", || recorded(&["calls", "--json"]) == 4);
    assert_eq!(recorded(&["calls", "GET:/good", "--json"]), 3);
    assert_eq!(recorded(&["calls", "--limit", "2", "--json"]), 2);
    assert_eq!(recorded(&["calls", "--request", "it-good-1", "--json"]), 1);
    let failed = ok(&instance, &["calls", "--failed"]).out;
    assert!(
        failed.contains("it-bad") && failed.ends_with("\n  it ?broke\n") && !failed.contains("it-good"),
        "{failed}"
    );

    let stats = ok(&instance, &["stats", "--json"]).json();
    let of = |route: &str| stats["routes"].as_array().unwrap().iter().find(|row| row["route"] == route).unwrap();
    assert_eq!([&of("GET:/good")["calls"], &of("GET:/good")["errors"]], [&json!(3), &json!(0)]);
    assert_eq!([&of("GET:/bad")["calls"], &of("GET:/bad")["errors"]], [&json!(1), &json!(1)]);
    let figure = |name: &str| of("GET:/good")[name].as_f64().unwrap();
    assert!(0.0 < figure("p50_ms") && figure("p50_ms") <= figure("p95_ms") && figure("p95_ms") <= figure("p99_ms"));
    assert!((figure("per_s") - 3.0 / 3600.0).abs() < 1e-9 && figure("cpu_ms") > 0.0, "{stats}");
    assert!((figure("cpu_percent") + of("GET:/bad")["cpu_percent"].as_f64().unwrap() - 100.0).abs() < 1e-6, "{stats}");
    assert_eq!(ok(&instance, &["stats", "GET:/bad", "--json"]).json()["routes"].as_array().unwrap().len(), 1);
    assert!(ok(&instance, &["stats"]).out.lines().nth(2).is_some());

    each(["calls", "stats"], |verb| {
        assert!(ok(&instance, &[verb, "--help"]).out.contains("Example:"));
        assert!(fails(&instance, 2, &[verb, "--since", "yesterday"]).contains("--since takes"));
        let off = run(instance.command(FAAS).arg(verb).env("FAAS_LEDGER", ""));
        assert_eq!(off.status.code(), Some(3));
    });
}

#[test]
fn deploy_takes_a_folder_as_a_bundle_and_removes_what_it_lacks() {
    let instance = Instance::start();
    write(
        &instance,
        "shop/run",
        "#!/bin/sh\ncd \"$(dirname \"$0\")\" && cat lib/* \"/dev/null\"; echo \"$PATH_INFO\"\n",
    );
    write(&instance, "shop/lib/one", "one ");
    write(&instance, "shop/lib/two", "two ");
    let shop = instance.path("shop").display().to_string();
    ok(&instance, &["deploy", &shop, "*:/shop/*"]);
    assert_eq!(instance.request("PUT", "/shop/x", &[], b"").text(), "one two /x\n");
    fs::remove_file(instance.path("shop/lib/two")).unwrap();
    ok(&instance, &["deploy", &shop, "*:/shop/*"]);
    assert_eq!(instance.get("/shop/y").text(), "one /y\n");
    ok(&instance, &["rollback", "*:/shop/*"]);
    assert_eq!(instance.get("/shop/z").text(), "one two /z\n");
}

#[test]
fn deploy_refuses_what_cannot_work_in_one_sentence_and_changes_nothing() {
    let instance = Instance::start();
    let file = write(&instance, "good.sh", "#!/bin/sh\necho good\n");
    ok(&instance, &["deploy", &file, "GET:/good"]);
    let generation = instance.get("/healthz").json()["generation"].clone();
    let other = write(&instance, "other/good.sh", "#!/bin/sh\necho other\n");
    let empty = write(&instance, "empty.php", "");
    let plain = instance.path("plain.txt");
    fs::write(&plain, "text").unwrap();
    fs::create_dir(instance.path("folder")).unwrap();
    let [plain, folder] = [plain, instance.path("folder")].map(|path| path.display().to_string());
    let cases = [
        (2, vec!["deploy", &file], "the usage is: faas deploy FILE|FOLDER ROUTE"),
        (2, vec!["deploy", &file, "GET:/x", "--fast"], "--fast"),
        (2, vec!["deploy", &file, "GET:/x", "--memory", "much"], "--memory takes a whole number"),
        (2, vec!["deploy", &file, "GET:/x", "--env", "A"], "--env takes NAME=VALUE"),
        (2, vec!["deploy", &file, "GET:/x", "--set", "name=hi"], "--set name has no JSON"),
        (2, vec!["deploy", &plain, "GET:/x"], "could be of any runtime"),
        (3, vec!["deploy", "none.php", "GET:/x"], "no file or folder is at none.php"),
        (1, vec!["deploy", &empty, "GET:/x"], "is empty"),
        (1, vec!["deploy", &folder, "GET:/x"], "has none of index.php, main.wasm and run"),
        (1, vec!["deploy", &file, "get:/x"], "k is get:/x; it must be METHOD:/path"),
        (1, vec!["deploy", &file, "GET:/x", "--memory", "1"], "memory is 1; it must be"),
        (1, vec!["deploy", &file, "GET:/x", "--set", "memroy=64"], "the field memroy does not exist"),
        (1, vec!["deploy", &file, "GET:/x", "--set", r#"env={"A":1}"#], "env.A is a number; it must be"),
        (1, vec!["deploy", &file, "GET:/x", "--module", "../x"], "name must be a relative path"),
        (1, vec!["deploy", &other, "GET:/x"], "GET:/good has other code under the name good.sh"),
    ];
    each(cases, |(code, arguments, says)| {
        let line = fails(&instance, code, &arguments);
        assert!(line.starts_with("faas: ") && line.contains(says), "{line}");
    });
    let settings = "UPDATE settings SET value = 5 WHERE name = 'module_bytes_max';
        UPDATE settings SET value = 1 WHERE name = 'bundle_files_max'";
    instance.registry().execute_batch(settings).unwrap();
    assert!(fails(&instance, 1, &["deploy", &file, "GET:/x"]).contains("module_bytes_max"));
    write(&instance, "many/run", "#!/b");
    write(&instance, "many/other", "x");
    let many = instance.path("many").display().to_string();
    assert!(fails(&instance, 1, &["deploy", &many, "GET:/x"]).contains("more than 1 files"));
    assert_eq!(instance.get("/healthz").json()["generation"], generation);
    assert_eq!(instance.get("/good").text(), "good\n");
}

#[test]
fn a_deploy_waits_for_another_writer_and_then_names_it() {
    let instance = Instance::start();
    let file = write(&instance, "a.sh", "#!/bin/sh\necho a\n");
    let mut holder = instance.command("sqlite3");
    holder.arg(instance.db()).stdin(Stdio::piped()).stdout(Stdio::piped());
    crate::instance::need(&["sqlite3"]);
    let mut holder = start(&mut holder);
    let mut stdin = holder.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"BEGIN IMMEDIATE; SELECT 'held';\n").unwrap();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let began = Instant::now();
    let line = fails(&instance, 1, &["deploy", &file, "GET:/a"]);
    assert!(line.contains(&format!("process {} (sqlite3) has held the registry", holder.id())), "{line}");
    assert!(began.elapsed() >= Duration::from_secs(5));
    drop(stdin);
    holder.wait().unwrap();
    ok(&instance, &["deploy", &file, "GET:/a"]);
}

#[test]
fn list_describe_and_remove_show_and_end_a_route() {
    let instance = Instance::start();
    let file = write(&instance, "a.sh", "#!/bin/sh\necho a\n");
    ok(&instance, &["deploy", &file, "GET:/a", "--memory", "77"]);
    let listed = ok(&instance, &["list"]).out;
    let line = listed.lines().find(|line| line.starts_with("GET:/a ")).unwrap();
    assert_eq!(line.split_whitespace().take(4).collect::<Vec<_>>(), ["GET:/a", "native", "db:a.sh", "77"]);
    let all = ok(&instance, &["list", "--json"]).json();
    assert_eq!(all.as_array().unwrap().len(), 6);
    let described = ok(&instance, &["describe", "GET:/a"]).out;
    assert!(described.contains("\"memory\": 77") && described.contains("sha256 "), "{described}");
    assert!(described.contains(&format!("at http://{}/a", instance.address())), "{described}");
    assert!(fails(&instance, 3, &["describe", "GET:/none"]).contains("no route is GET:/none"));

    ok(&instance, &["remove", "GET:/a"]);
    assert_eq!(instance.get("/a").status, 404);
    let count = "SELECT count(*) FROM modules WHERE name = 'a.sh'";
    assert_eq!(instance.registry().query_row(count, [], |row| row.get::<_, u64>(0)).unwrap(), 0);
    fails(&instance, 3, &["remove", "GET:/a"]);
    ok(&instance, &["rollback", "GET:/a"]);
    assert_eq!(instance.get("/a").text(), "a\n");
}

#[test]
fn history_diff_and_rollback_tell_versions_apart() {
    let instance = Instance::start();
    let deploy = |version: u32| {
        let file = write(&instance, "v.sh", &format!("#!/bin/sh\necho version {version}\n"));
        let version = version.to_string();
        ok(&instance, &["deploy", &file, "GET:/v", "--timeout", &version, "--json"]).json()["generation"]
            .as_u64()
            .unwrap()
    };
    let generations = [deploy(1), deploy(2), deploy(3)];
    let history = ok(&instance, &["history", "GET:/v", "--json"]).json();
    let shown: Vec<String> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|change| format!("{} {}", change["change"].as_str().unwrap(), change["name"].as_str().unwrap()))
        .collect();
    let newest_first =
        ["changed GET:/v", "changed v.sh", "changed GET:/v", "changed v.sh", "added GET:/v", "added v.sh"];
    assert_eq!(shown, newest_first);
    assert_eq!(ok(&instance, &["history", "-n", "2"]).out.lines().count(), 3);
    fails(&instance, 3, &["history", "GET:/none"]);

    let [first, second, _] = generations.map(|generation| generation.to_string());
    let diff = ok(&instance, &["diff", &first, &second]).out;
    assert!(diff.contains("changed module v.sh\n  -echo version 1\n  +echo version 2\n"), "{diff}");
    assert!(diff.contains("changed route GET:/v\n  -  \"timeout\": 1\n  +  \"timeout\": 2\n"), "{diff}");
    assert_eq!(ok(&instance, &["diff", &first, &first]).out, "nothing differs\n");
    fails(&instance, 3, &["diff", &first, "999999"]);
    fails(&instance, 2, &["diff", &first, "newest"]);

    for version in [2, 1] {
        let said = ok(&instance, &["rollback", "GET:/v"]).out;
        assert!(said.contains("GET:/v is set back by one step; generation"), "{said}");
        assert_eq!(instance.get("/v").text(), format!("version {version}\n"));
    }
    assert!(fails(&instance, 1, &["rollback", "GET:/v"]).contains("there is no older version"));
    ok(&instance, &["rollback", "--to", &second]);
    assert_eq!(instance.get("/v").text(), "version 2\n");
    fails(&instance, 3, &["rollback", "--to", "999999"]);
    fails(&instance, 3, &["rollback", "GET:/none"]);
    fails(&instance, 2, &["rollback"]);
}

#[test]
fn invoke_sends_a_body_and_headers_and_its_exit_code_follows_the_status() {
    let instance = Instance::start();
    instance.script("GET://shop.example/cart", "echo shop");
    assert_eq!(ok(&instance, &["invoke", "GET://shop.example/cart"]).out, "shop\n");
    instance.script("*:/echo/{id}", "echo \"$REQUEST_METHOD $FAAS_PARAM_ID $HTTP_X_COLOR $QUERY_STRING\"; cat");
    instance.script("GET:/fails", "exit 3");
    let file = write(&instance, "body", "from a file");
    let body = format!("@{file}");
    let cases = [
        (vec!["GET:/echo/7?q=1"], "GET 7  q=1\n"),
        (vec!["*:/echo/7", "-d", "text", "-H", "X-Color: red"], "POST 7 red \ntext"),
        (vec!["PUT:/echo/8", "-d", &body], "PUT 8  \nfrom a file"),
    ];
    each(cases, |(arguments, says)| assert_eq!(ok(&instance, &[vec!["invoke"], arguments].concat()).out, says));
    let said = ok(&instance, &["invoke", "GET:/echo/7", "--explain"]);
    assert!(said.err.contains("\n200\n") && said.err.to_lowercase().contains("x-faas-explain: "), "{}", said.err);
    assert_eq!(ok(&instance, &["invoke", "GET:/echo/7", "--json"]).json()["status"], 200);
    assert_eq!(call(&instance, &["invoke", "GET:/fails"]).code, 1);
    fails(&instance, 3, &["invoke", "GET:/none"]);
    fails(&instance, 2, &["invoke", "*:/echo/{id}"]);
    fails(&instance, 2, &["invoke", "/echo/7"]);
    fails(&instance, 2, &["invoke", "GET:/echo/7", "-H", "no colon"]);
}

#[test]
fn logs_show_a_route_or_a_request_and_follow() {
    let instance = Instance::start();
    instance.script_with("GET:/noisy", "echo \"noise $QUERY_STRING\" >&2", json!({"name": "noisy"}));
    instance.script("GET:/other", "echo other >&2");
    fs::create_dir_all(instance.run_dir()).unwrap();
    let log = instance.run_dir().join("gateway.log");
    std::os::unix::fs::symlink(instance.path("gateway.log"), &log).unwrap();
    let answer = instance.get("/noisy?one");
    let id = answer.field("X-Request-Id").unwrap().to_string();
    instance.get("/noisy?two");
    instance.get("/other");
    instance.wait_for_log("route=GET:/noisy", 2);
    instance.wait_for_log("route=GET:/other", 1);
    let said = ok(&instance, &["logs", "GET:/noisy"]).out;
    assert!(said.contains("noise one") && said.contains("noise two") && !said.contains("other"), "{said}");
    let said = ok(&instance, &["logs", "--request", &id]).out;
    assert!(said.contains("noise one") && said.contains("route=GET:/noisy") && !said.contains("noise two"), "{said}");
    assert_eq!(ok(&instance, &["logs", "-n", "1", "--json"]).json().as_array().unwrap().len(), 1);

    let mut follow = instance.command(FAAS);
    let mut follow = start(follow.args(["logs", "GET:/noisy", "-f", "-n", "0"]).stdout(Stdio::piped()));
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut number = 0;
    // `logs -f` may begin after the first call.
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| lines.next().unwrap().unwrap());
        wait_until("a line follows", || {
            number += 1;
            instance.get(&format!("/noisy?{number}"));
            reader.is_finished()
        });
        reader.join().unwrap()
    });
    assert!(seen.contains("noisy"), "{seen}");
    signal("TERM", follow.id());
    follow.wait().unwrap();
}

#[test]
fn status_and_top_show_the_workers() {
    let mut instance = Instance::start();
    let said = ok(&instance, &["status"]).out;
    assert!(said.starts_with("ready at http://") && said.contains("5 routes of generation 10"), "{said}");
    assert_eq!(said.lines().filter(|line| line.contains("0/8")).count(), 2, "{said}");
    let said = ok(&instance, &["status", "--json"]).json();
    assert_eq!((said["generation"].as_u64(), said["written_generation"].as_u64()), (Some(10), Some(10)));
    let said = ok(&instance, &["top", "-n", "2"]).out;
    assert_eq!(said.matches("WORKER").count(), 2, "{said}");
    instance.stop();
    assert!(fails(&instance, 1, &["status"]).contains("no gateway runs in"));
    let file = write(&instance, "a.sh", "#!/bin/sh\necho a\n");
    let said = ok(&instance, &["deploy", &file, "GET:/a"]).out;
    assert!(said.contains("is written; no gateway runs in"), "{said}");
}

#[test]
fn check_names_what_is_wrong_and_what_is_odd() {
    let instance = Instance::start();
    let said = ok(&instance, &["check"]).out;
    assert_eq!(said, "5 routes, 5 modules: 0 wrong, 0 odd\n");
    let registry = instance.registry();
    let row = "INSERT INTO functions (k, v) VALUES (?1, ?2)";
    registry.execute(row, ("GET:/gone", r#"{"runtime":"php","module":"/nowhere/x.php"}"#)).unwrap();
    registry.execute(row, ("GET:/{a}", r#"{"runtime":"php","module":"db:hello.php"}"#)).unwrap();
    registry.execute(row, ("GET:/{b}", r#"{"runtime":"php","module":"db:hello.php"}"#)).unwrap();
    registry.execute("INSERT INTO modules (name, code) VALUES ('unused.php', 'x')", []).unwrap();
    // As a newer program could have written it.
    registry.execute_batch("DROP TRIGGER functions_inserted").unwrap();
    registry.execute(row, ("GET:/new", r#"{"runtime":"php","module":"db:hello.php","colour":1}"#)).unwrap();
    let said = call(&instance, &["check"]);
    assert_eq!(said.code, 1);
    let cases = [
        "wrong: GET:/gone: no file is at /nowhere/x.php",
        "wrong: route GET:/new was changed past the triggers",
        "odd: GET:/new: the field colour does not exist",
        "odd: GET:/{b} is never called: GET:/{a} takes the same requests",
        "odd: no route runs the code of unused.php",
    ];
    each(cases, |line| assert!(said.out.contains(line), "{}", said.out));
}

#[test]
fn export_and_import_carry_a_registry_to_another() {
    let instance = Instance::start();
    let file = write(&instance, "a.sh", "#!/bin/sh\necho a\n");
    ok(&instance, &["deploy", &file, "GET:/a"]);
    let folder = instance.path("export").display().to_string();
    ok(&instance, &["export", &folder]);
    let routes = fs::read_to_string(Path::new(&folder).join("routes.json")).unwrap();
    assert!(routes.contains("\"GET:/a\": {\n    \"module\": \"db:a.sh\""), "{routes}");
    assert_eq!(fs::read_to_string(Path::new(&folder).join("modules/a.sh")).unwrap(), "#!/bin/sh\necho a\n");

    // Rows of init.sql have another text than those of an export.
    assert!(ok(&instance, &["import", &folder]).out.contains("nothing to change"));

    let other = Instance::start();
    let said = call(&other, &["import", &folder]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("+ route GET:/a\n+ module a.sh"), "{}", said.err);
    assert_eq!(other.get("/a").status, 404, "nothing is done without a yes");
    ok(&other, &["import", &folder, "--yes"]);
    assert_eq!(other.get("/a").text(), "a\n");
    assert!(ok(&other, &["import", &folder, "--yes"]).out.contains("nothing to change"));
    // Import removes routes that the folder lacks, unless told to keep them. Either way it is one transaction.
    other.script("GET:/own", "echo own");
    ok(&other, &["import", &folder, "--yes", "--keep"]);
    assert_eq!(other.get("/own").text(), "own\n");
    let said = ok(&other, &["import", &folder, "--yes"]).out;
    assert!(said.contains("- route GET:/own"), "{said}");
    assert_eq!(other.get("/own").status, 404);
    fails(&other, 3, &["import", "/nowhere"]);
    fs::remove_file(Path::new(&folder).join("modules/a.sh")).unwrap();
    assert!(fails(&other, 1, &["import", &folder, "--yes"]).contains("rows of functions name this module"));
    assert_eq!(other.get("/a").text(), "a\n");
}

#[test]
fn each_verb_has_help_with_an_example() {
    let instance = Instance::prepare(&[]);
    let overview = ok(&instance, &["--help"]).out;
    let verbs =
        overview.lines().filter(|line| line.starts_with("  ")).map(|line| line.split_whitespace().next().unwrap());
    let verbs: Vec<&str> = verbs.collect();
    assert_eq!(verbs.len(), 16);
    each(verbs, |verb| {
        let help = ok(&instance, &[verb, "--help"]).out;
        assert!(
            help.starts_with(&format!("faas {verb} ")) && help.contains(&format!("Example:\n  faas {verb}")),
            "{help}"
        );
    });
    fails(&instance, 2, &["fly"]);
    assert!(fails(&instance, 3, &["list"]).contains("no registry is at"));
}

#[test]
fn a_registry_without_history_is_listed_and_says_how_it_gets_one() {
    let instance = Instance::prepare(&[]);
    let table = "CREATE TABLE functions (k TEXT PRIMARY KEY, v TEXT NOT NULL, updated INTEGER);
        INSERT INTO functions VALUES ('GET:/old', '{\"runtime\":\"php\",\"module\":\"x\"}', 1)";
    instance.registry().execute_batch(table).unwrap();
    assert!(ok(&instance, &["list"]).out.contains("GET:/old"));
    assert!(fails(&instance, 1, &["history"]).contains("gateway --init"));
    let output = instance.gateway(&["--init"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("migrated the registry") && said.contains(".backup-1"), "{said}");
    assert!(ok(&instance, &["history"]).out.contains("GET:/old"));
}
