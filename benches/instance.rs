//! A gateway with its workers, in a folder of its own, for as long as the value lives.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;

use crate::table::{Outcome, failed};

/// Time limit for the start, and for the end, of an instance.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Instance {
    gateway: Child,
    pub folder: PathBuf,
    pub address: SocketAddr,
}

impl Instance {
    /// Starts a gateway with this many workers and the sample functions, and `rows` besides: keys and descriptors.
    /// Returns when it is ready.
    pub fn start(workers: u32, rows: &[(String, String)]) -> Outcome<Instance> {
        Instance::with(workers, rows, &[])
    }

    /// The same with further settings.
    pub fn with(workers: u32, rows: &[(String, String)], settings: &[(&str, &str)]) -> Outcome<Instance> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("faas-bench-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(failed("create the folder of an instance"))?;
        let initialised = command(&folder, workers, settings).arg("--init").stdout(Stdio::null()).status();
        initialised.map_err(failed("create a registry"))?;
        insert(&mut open_registry(&folder)?, rows)?;
        let log = File::create(folder.join("log")).map_err(failed("create the log"))?;
        let gateway = command(&folder, workers, settings).stdout(log).spawn().map_err(failed("start the gateway"))?;
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut instance = Instance { gateway, folder, address };
        instance.wait_until_ready(u64::from(workers))?;
        Ok(instance)
    }

    pub fn pid(&self) -> i32 {
        self.gateway.id() as i32
    }

    /// The gateway and its descendants.
    pub fn processes(&self) -> Vec<i32> {
        let descendants = faas::procfs::descendants(self.pid(), 4096);
        std::iter::once(self.pid()).chain(descendants.into_iter().map(|(pid, _)| pid)).collect()
    }

    pub fn registry(&self) -> Outcome<Connection> {
        open_registry(&self.folder)
    }

    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    fn wait_until_ready(&mut self, workers: u64) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.gateway.try_wait() {
                return Err(format!("the gateway ended with {status}; see {}", self.folder.join("log").display()));
            }
            if self.is_ready(workers) == Some(true) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err("the gateway was not ready in time".into())
    }

    fn is_ready(&mut self, workers: u64) -> Option<bool> {
        let text = std::fs::read_to_string(self.run_dir().join("gateway.address")).ok()?;
        self.address = text.trim().parse().ok()?;
        let status = self.status()?;
        let is_ready = status["status"] == "ready";
        Some(is_ready && status["workers"].as_array().is_some_and(|all| all.len() as u64 >= workers))
    }

    /// The gateway's state as its operator sees it: one line of run/status.sock.
    pub fn status(&self) -> Option<Value> {
        let stream = UnixStream::connect(self.run_dir().join("current/status.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }
}

impl Drop for Instance {
    /// The end is asked for, then enforced: the workers end with their gateway.
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.gateway.id().to_string()]).status();
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.gateway.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.gateway.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The gateway with settings of its own; relative modules, such as those of the samples, lie in this package.
fn command(folder: &Path, workers: u32, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FAAS_")) {
        command.env_remove(name);
    }
    command
        .env("FAAS_PORT", "0")
        .env("FAAS_HOST", "127.0.0.1")
        .env("FAAS_WORKERS", workers.to_string())
        .env("FAAS_CONSOLE", "")
        .env("FAAS_RUN_DIR", folder.join("run"))
        .env("FAAS_DB", folder.join("faas_meta.db"))
        .env("FAAS_CODE_DIR", folder.join("code"))
        .env("FAAS_MODULE_ROOT", env!("CARGO_MANIFEST_DIR"))
        .envs(settings.iter().copied())
        .stdin(Stdio::null());
    command
}

fn open_registry(folder: &Path) -> Outcome<Connection> {
    let registry = Connection::open(folder.join("faas_meta.db")).map_err(failed("open the registry"))?;
    registry.busy_timeout(PATIENCE).map_err(failed("open the registry"))?;
    Ok(registry)
}

/// Adds rows in one transaction.
pub fn insert(registry: &mut Connection, rows: &[(String, String)]) -> Outcome<()> {
    let mut insert = || {
        let transaction = registry.transaction()?;
        {
            let mut statement = transaction.prepare("INSERT INTO functions (k, v, updated) VALUES (?1, ?2, 0)")?;
            for (key, descriptor) in rows {
                statement.execute((key, descriptor))?;
            }
        }
        transaction.commit()
    };
    insert().map_err(failed("add rows to the registry"))
}

/// A row that calls a program.
pub fn native_row(key: &str, module: &Path) -> (String, String) {
    let descriptor = serde_json::json!({"runtime": "native", "module": module.to_string_lossy()});
    (key.to_string(), descriptor.to_string())
}
