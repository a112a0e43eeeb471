//! Shared by the tests of this folder: a registry in a folder of its own, and the plain sqlite3 program.

use std::fs;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rusqlite::Connection;

use super::config_loader::Function;
use super::create::add_readfile;
use super::kv::Kv;
use super::kv_sqlite_sync::Sync;
use super::routes::Found;
use crate::settings::Settings;

/// A folder of its own, with a registry, its reader and the resulting routes.
pub struct Fixture {
    pub folder: PathBuf,
    pub db: PathBuf,
    pub kv: Arc<Kv>,
    pub sync: Sync,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Only root can remove what lies in folders without write permission.
        for folder in fs::read_dir(self.folder.join("code")).into_iter().flatten().flatten() {
            let _ = fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The C original's table, which accepts every row.
pub const WITHOUT_CHECKS: &str = "PRAGMA journal_mode = WAL;
    CREATE TABLE functions (k TEXT PRIMARY KEY, v TEXT NOT NULL, updated INTEGER);";

/// Gives each row of a table many pages, so that a torn reading of them shows.
pub const MANY_ROWS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
    INSERT INTO functions SELECT 'GET:/n/' || i, '{\"runtime\":\"php\",\"module\":\"x\",\"timeout\":1}', 0 FROM n;";

impl Fixture {
    /// Without a registry.
    pub fn empty() -> Fixture {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("faas-sync-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let db = folder.join("faas_meta.db");
        let kv = Arc::new(Kv::new());
        let sync = Sync::new(&settings(&db, &folder.join("run")), kv.clone(), None, |_| {});
        Fixture { folder, db, kv, sync }
    }

    pub fn with(sql: &str) -> Fixture {
        let mut fixture = Fixture::empty();
        execute(&fixture.db, sql);
        assert!(fixture.sync.look());
        fixture
    }

    pub fn set(&self, key: &str, fields: &str) {
        let sql = "INSERT INTO functions VALUES (?1, ?2, 0) ON CONFLICT (k) DO UPDATE SET v = excluded.v";
        let text = format!(r#"{{"runtime":"php","module":"x.php",{fields}}}"#);
        Connection::open(&self.db).unwrap().execute(sql, (key, text)).unwrap();
    }

    pub fn found(&self, method: &str, path: &str) -> Found {
        self.kv.find(method, "localhost", path).0
    }

    pub fn function(&self, path: &str) -> Option<Arc<Function>> {
        self.function_of("GET", path)
    }

    pub fn function_of(&self, method: &str, path: &str) -> Option<Arc<Function>> {
        match self.found(method, path) {
            Found::Route { route, .. } => route.serves().ok().cloned(),
            _ => None,
        }
    }

    pub fn timeout_s(&self, path: &str) -> u64 {
        self.function(path).map_or(0, |function| function.timeout.as_secs())
    }

    pub fn fault(&self, path: &str) -> String {
        match self.found("GET", path) {
            Found::Route { route, .. } => route.serves().expect_err("the row has a fault").to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// The same run dir, and a new gateway.
    pub fn restart(&mut self) {
        self.kv = Arc::new(Kv::new());
        self.sync = Sync::new(&settings(&self.db, &self.folder.join("run")), self.kv.clone(), None, |_| {});
        assert!(self.sync.look());
    }

    /// A second reader, as of a gateway that has just been started.
    pub fn restarted(&self) -> Fixture {
        let mut other = Fixture::empty();
        other.sync = Sync::new(&settings(&self.db, &other.folder.join("run")), other.kv.clone(), None, |_| {});
        assert!(other.sync.look());
        other
    }
}

pub fn settings(db: &Path, run_dir: &Path) -> Settings {
    Settings::from_lookup(|name| match name {
        "FAAS_DB" => Some(db.display().to_string()),
        "FAAS_RUN_DIR" => Some(run_dir.display().to_string()),
        "FAAS_CODE_DIR" => Some(run_dir.with_file_name("code").display().to_string()),
        _ => None,
    })
    .unwrap()
}

pub fn execute(db: &Path, sql: &str) {
    let connection = Connection::open(db).unwrap();
    add_readfile(&connection, Path::new("/nowhere")).unwrap();
    connection.execute_batch(sql).unwrap();
}

/// The plain sqlite3 program, with `sql` on its standard input as in `sqlite3 faas_meta.db << EOF`.
pub fn sqlite3(db: &Path, sql: &str) -> Output {
    let mut child = session(db);
    child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn session(db: &Path) -> Child {
    let mut command = Command::new("sqlite3");
    command.arg(db).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("these tests need the sqlite3 program")
}

/// Runs `sql` in a sqlite3 program and kills it as soon as it has done all of it.
pub fn killed_after(db: &Path, sql: &str) {
    let mut child = session(db);
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{sql}\nSELECT 'done';").unwrap();
    let lines = io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map(|line| line.unwrap()).any(|line| line == "done"));
    child.kill().unwrap();
    child.wait().unwrap();
}

pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
