//! Code out of the registry: it runs, and changes together with its routes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::cases::each;
use crate::instance::{Instance, need, wait_until};

#[test]
fn a_module_and_its_row_come_into_service_by_the_sqlite3_program() {
    need(&["sqlite3"]);
    let instance = Instance::start();
    std::fs::write(instance.path("hi.sh"), "#!/bin/sh\necho \"hi from $FAAS_FUNCTION\"\n").unwrap();
    let output = instance.sqlite3(&format!(
        r#"BEGIN;
           INSERT INTO modules (name, code) VALUES ('hi.sh', readfile('{}'));
           INSERT INTO functions (k, v) VALUES ('GET:/hi', '{{"name":"hi","runtime":"native","module":"db:hi.sh"}}');
           COMMIT;"#,
        instance.path("hi.sh").display()
    ));
    assert!(output.stderr.is_empty(), "{output:?}");
    wait_until("it is in service", || instance.get("/hi").text() == "hi from hi\n");
    let output = instance.sqlite3("INSERT OR REPLACE INTO modules VALUES ('hi.sh', '#!/bin/sh\necho changed', 0);");
    assert!(output.stderr.is_empty(), "{output:?}");
    wait_until("the change is in service", || instance.get("/hi").text() == "changed\n");
    assert!(instance.sqlite3("INSERT INTO rollback VALUES ('GET:/hi');").stderr.is_empty());
    wait_until("it is set back", || instance.get("/hi").text() == "hi from hi\n");
}

#[test]
fn a_bundle_finds_its_own_files_and_other_functions_cannot_list_it() {
    let instance = Instance::start();
    let registry = instance.registry();
    let module = "INSERT INTO modules (name, code) VALUES (?1, ?2)";
    registry.execute(module, ("shop/run", "#!/bin/sh\ncat \"$(dirname \"$0\")/lib/text\"\n")).unwrap();
    registry.execute(module, ("shop/lib/text", "from the bundle")).unwrap();
    let code_dir = instance.path("code");
    instance.install(&[("GET:/shop", json!({"runtime": "native", "module": "db:shop/run"}))]);
    instance.script("GET:/spy", &format!("ls {0} 2>&1; touch {0}/x 2>&1; true", code_dir.display()));
    assert_eq!(instance.get("/shop").text(), "from the bundle");
    let said = instance.get("/spy").text();
    assert!(said.contains("cannot touch"), "{said}");
    // The code is secret only where functions have a user of their own.
    assert!(instance.is_run_as_plain_user() || said.contains("cannot open directory"), "{said}");
}

#[test]
fn a_route_with_a_host_beats_the_same_without() {
    let instance = Instance::start();
    instance.script("GET:/cart", "echo any");
    instance.script("GET://Shop.example/cart", "echo \"shop $SERVER_NAME $SCRIPT_NAME $FAAS_ROUTE\"");
    let at = |host: &str| instance.request("GET", "/cart", &[("Host", host)], b"").text();
    assert_eq!(at("shop.EXAMPLE:8080"), "shop shop.EXAMPLE /cart GET://Shop.example/cart\n");
    assert_eq!(at("other.example"), "any\n");
    assert_eq!(instance.get("/cart").text(), "any\n");
    let absolute = "GET http://shop.example/cart HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n";
    assert!(instance.exchange(absolute)[0].text().starts_with("shop "));
}

#[test]
fn each_answer_names_its_generation() {
    let instance = Instance::start();
    instance.script("GET:/steps", "echo one");
    let newest = || {
        let registry = instance.registry();
        registry.query_row("SELECT max(id) FROM history", [], |row| row.get::<_, u64>(0)).unwrap().to_string()
    };
    let first = newest();
    each([("GET", "/steps"), ("OPTIONS", "/steps"), ("PUT", "/steps"), ("GET", "/nowhere")], |(method, target)| {
        let answer = instance.request(method, target, &[], b"");
        assert_eq!(answer.field("X-Faas-Generation"), Some(first.as_str()));
    });
    instance.script_with(
        "GET:/steps",
        "printf 'Content-Type: text/plain\\nX-Faas-Generation: 1\\n\\n'",
        json!({"stream": true}),
    );
    assert_eq!(instance.get("/steps").field("X-Faas-Generation"), Some(newest().as_str()));
    assert_ne!(first, newest());
    instance.registry().execute_batch("DROP TABLE history").unwrap();
    wait_until("it has no history", || instance.get("/nowhere").field("X-Faas-Generation").is_none());
}

#[test]
fn each_response_is_of_one_version_while_rows_and_modules_change() {
    const TRANSACTIONS: usize = 1000;
    const CLIENTS: usize = 8;
    let instance = Instance::start();
    let write = |registry: &mut rusqlite::Connection, version: usize| {
        let transaction = registry.transaction().unwrap();
        for name in ["one.sh", "two.sh"] {
            let sql = "INSERT OR REPLACE INTO modules (name, code) VALUES (?1, ?2)";
            transaction.execute(sql, (name, format!("#!/bin/sh\necho {version} $VERSION\n"))).unwrap();
        }
        for (key, module) in [("GET:/a", "one.sh"), ("GET:/b", "two.sh"), ("GET:/c", "one.sh")] {
            let row = json!({"runtime": "native", "module": format!("db:{module}"),
                "env": {"VERSION": version.to_string()}});
            let sql = "INSERT OR REPLACE INTO functions (k, v) VALUES (?1, ?2)";
            transaction.execute(sql, (key, row.to_string())).unwrap();
        }
        transaction.commit().unwrap();
        registry.query_row("SELECT max(id) FROM history", [], |row| row.get::<_, u64>(0)).unwrap()
    };
    let mut registry = instance.registry();
    registry.execute_batch("PRAGMA synchronous = OFF").unwrap();
    instance.wait_for_generation(write(&mut registry, 0));
    let (done, responses) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (done, responses, instance) = (&done, &responses, &instance);
                scope.spawn(move || {
                    let mut newest = 0;
                    for path in ["/a", "/b", "/c"].iter().cycle().skip(client) {
                        let answer = instance.get(path);
                        let versions: Vec<usize> =
                            answer.text().split_whitespace().map(|text| text.parse().unwrap()).collect();
                        assert!(answer.status == 200 && versions.len() == 2, "{}", answer.text());
                        assert_eq!(versions[0], versions[1], "code and row of {path} are of two versions");
                        assert!(versions[0] >= newest, "{path} went back from {newest} to {}", versions[0]);
                        newest = versions[0];
                        responses.fetch_add(1, Ordering::Relaxed);
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    newest
                })
            })
            .collect();
        let mut generation = 0;
        for version in 1..=TRANSACTIONS {
            generation = write(&mut registry, version);
            if version % 100 == 0 {
                instance.wait_for_generation(generation);
            }
        }
        instance.wait_for_generation(generation);
        done.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| assert!(client.join().unwrap() > 0));
    });
    assert!(responses.load(Ordering::Relaxed) >= TRANSACTIONS, "{responses:?} responses");
    for path in ["/a", "/b", "/c"] {
        assert_eq!(instance.get(path).text(), format!("{TRANSACTIONS} {TRANSACTIONS}\n"));
    }
}
