//! Settings: environment variables, the same for the scripts, the gateway and the workers.
//!
//! Workers inherit the gateway's environment unchanged, so one table serves both. An unusable value stops the start
//! with one line that names the variable, the value and the rule.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::error::start::{Result, StartError};
use crate::networks::Networks;
use crate::scheduler_config::Weights;
use crate::{limits, log, log_file};

/// Name, default and meaning of every setting, for `--help`.
const TABLE: &[(&str, &str, &str)] = &[
    ("FAAS_PORT", "8080", "public port (PORT is taken where this is not set); 0 lets the kernel choose"),
    ("FAAS_HOST", "0.0.0.0", "address that the public port is opened on"),
    ("FAAS_WORKERS", "4", "worker processes, 1 to 256"),
    ("FAAS_WORKER_SLOTS", "8", "invocations at once per worker, 1 to 1024"),
    ("FAAS_FORK_SERVERS", "1", "0 starts every process anew"),
    ("FAAS_DEV", "0", "1 shows clients all that the log says of a failed call, and the end of its stderr"),
    ("FAAS_DB", "faas_meta.db", "the registry: a SQLite file"),
    ("FAAS_RUN_DIR", "run", "sockets, pid file and log; one instance per run dir"),
    ("FAAS_MODULE_ROOT", "folder of FAAS_DB", "where relative module paths start"),
    (
        "FAAS_CODE_DIR",
        "/var/lib/faas/… or the spool dir",
        "where code out of the registry is written; one run dir each",
    ),
    ("FAAS_USER", "nobody", "the user that functions run as, where the gateway runs as root; root only if named"),
    (
        "FAAS_REQUIRE_SANDBOX",
        "none",
        "strict refuses to start where a promise of the sandbox is not kept, and prepares no code",
    ),
    ("FAAS_BODY_MAX", "67108864", "bytes of a request body; more is answered 413"),
    ("FAAS_ANSWER_MAX", "1073741824", "bytes of an answer; more is answered 502"),
    ("FAAS_SPOOL_DIR", "the system's temporary folder", "where bodies and answers over 64 KiB wait, in unlinked files"),
    ("FAAS_SPOOL_MAX", "4294967296", "bytes of all of them together; full is answered 503"),
    ("FAAS_DRAIN_MS", "10000", "how long SIGTERM waits for what runs"),
    ("FAAS_LAME_DUCK_MS", "0", "how long SIGTERM goes on serving before that, while /healthz is 503 already"),
    ("FAAS_FOLLOWER", "0", "1: the registry is a copy that arrives from another machine; nothing here changes it"),
    ("FAAS_QUEUE_MAX", "256", "requests that may wait for a slot; more are answered 503"),
    ("FAAS_QUEUE_TIMEOUT_MS", "5000", "how long one may wait; then 503"),
    ("FAAS_TRUSTED_PROXIES", "none", "IP networks whose X-Forwarded-For and -Proto are believed: 127.0.0.1/32,…"),
    ("FAAS_CONSOLE", "127.0.0.1:8081", "address and port of the console, for the operator; empty is off"),
    ("FAAS_LEDGER", "faas_calls.db beside FAAS_DB", "where calls are recorded: a SQLite file; empty is off"),
    ("FAAS_LEDGER_DAYS", "90", "how long recorded calls stay"),
    ("FAAS_LEDGER_MAX", "1073741824", "bytes of that file, at least 1048576; the oldest calls go first"),
    ("FAAS_LOG", "text", "text or json: how each line of the log is written"),
    ("FAAS_ALPHA", "0.5", "weight of CPU in the score"),
    ("FAAS_BETA", "0.3", "weight of memory in the score"),
    ("FAAS_GAMMA", "0.2", "weight of I/O in the score"),
    ("FAAS_EMA", "0.7", "share of the old value when a sample is smoothed, 0 to below 1"),
];

#[derive(Debug, Clone)]
pub struct Settings {
    /// The address for clients.
    pub address: SocketAddr,
    pub workers: u32,
    /// Invocations at once, per worker.
    pub worker_slots: u32,
    /// True if functions are forked from fork servers.
    pub has_fork_servers: bool,
    /// True if functions may show their faults to clients.
    pub dev: bool,
    pub db: PathBuf,
    pub run_dir: PathBuf,
    /// The number of the gateway's folder in the run dir: the gateway claims one, and tells its programs. Other
    /// programs get that of the current gateway, or `None` where none runs.
    pub instance: Option<u32>,
    pub module_root: PathBuf,
    /// FAAS_CODE_DIR where it is set.
    pub code_dir: Option<PathBuf>,
    /// FAAS_USER where it is set; sandbox.rs decides.
    pub user: Option<String>,
    /// True if the start fails when the sandbox cannot keep a promise (sandbox/promises.rs).
    pub requires_strict_sandbox: bool,
    pub body_bytes_max: u64,
    pub response_bytes_max: u64,
    pub spool_dir: PathBuf,
    pub spool_bytes_max: u64,
    pub drain: Duration,
    /// Time from SIGTERM to the drain, for balancers to notice.
    pub lame_duck: Duration,
    /// True if the registry is a copy of another machine's.
    pub is_follower: bool,
    pub queue_max: usize,
    pub queue_timeout: Duration,
    /// Proxies whose statements about their clients count.
    pub trusted_proxies: Networks,
    /// Address of the console; `None`: no console runs.
    pub console: Option<SocketAddr>,
    /// The file of recorded calls; `None`: none are recorded.
    pub ledger: Option<PathBuf>,
    pub ledger_days: u64,
    pub ledger_bytes_max: u64,
    pub log: log::Format,
    pub weights: Weights,
}

impl Settings {
    /// Reads the settings from the process's environment. Paths become absolute, so that a later change of the working
    /// folder changes nothing.
    ///
    /// # Errors
    /// Where a value is unusable, or a name that begins with FAAS_ is no setting: it is most likely misspelt.
    pub fn from_env() -> Result<Settings> {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        refuse_unknown(names)?;
        Settings::from_lookup(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// Like `from_env`, from any source of values. An empty value counts as not set, except where empty means off.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Settings> {
        let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let (port_name, port_value) = match (get("FAAS_PORT"), get("PORT")) {
            (Some(value), _) => ("FAAS_PORT", Some(value)),
            (None, value) => ("PORT", value),
        };
        let port = whole(port_name, port_value, 8080, 0..=65_535)? as u16;
        let host: IpAddr = parsed("FAAS_HOST", get("FAAS_HOST"), "0.0.0.0", "an IP address such as 127.0.0.1")?;
        let number = |name, default, range| whole(name, get(name), default, range);
        let factor = |name, default, below| fraction(name, get(name), default, below);

        let db = absolute("FAAS_DB", get("FAAS_DB").unwrap_or("faas_meta.db".into()))?;
        let run_dir = absolute("FAAS_RUN_DIR", get("FAAS_RUN_DIR").unwrap_or("run".into()))?;
        let module_root = match get("FAAS_MODULE_ROOT") {
            Some(folder) => absolute("FAAS_MODULE_ROOT", folder)?,
            None => db.parent().unwrap_or(Path::new("/")).to_path_buf(),
        };
        let spool_dir = match get("FAAS_SPOOL_DIR") {
            Some(folder) => absolute("FAAS_SPOOL_DIR", folder)?,
            None => std::env::temp_dir(),
        };
        let console = match lookup("FAAS_CONSOLE") {
            Some(value) if value.is_empty() => None,
            value => {
                Some(parsed("FAAS_CONSOLE", value, "127.0.0.1:8081", "ADDRESS:PORT such as 127.0.0.1:8081, or empty")?)
            }
        };
        let trusted_proxies = match get("FAAS_TRUSTED_PROXIES") {
            None => Networks::default(),
            value => {
                parsed("FAAS_TRUSTED_PROXIES", value, "", "at most 64 IP networks such as 127.0.0.1/32,10.0.0.0/8")?
            }
        };
        let ledger = match lookup("FAAS_LEDGER") {
            Some(value) if value.is_empty() => None,
            Some(value) => Some(absolute("FAAS_LEDGER", value)?),
            None => Some(db.parent().unwrap_or(Path::new("/")).join("faas_calls.db")),
        };
        let defaults = Weights::default();
        Ok(Settings {
            address: SocketAddr::new(host, port),
            workers: number("FAAS_WORKERS", limits::WORKERS_DEFAULT, limits::WORKERS)? as u32,
            worker_slots: number("FAAS_WORKER_SLOTS", limits::WORKER_SLOTS_DEFAULT, limits::WORKER_SLOTS)? as u32,
            has_fork_servers: number("FAAS_FORK_SERVERS", 1, 0..=1)? != 0,
            dev: number("FAAS_DEV", 0, 0..=1)? != 0,
            db,
            instance: get(INSTANCE_VARIABLE)
                .and_then(|number| number.parse().ok())
                .or_else(|| current_instance(&run_dir)),
            run_dir,
            module_root,
            code_dir: get("FAAS_CODE_DIR").map(|folder| absolute("FAAS_CODE_DIR", folder)).transpose()?,
            user: get("FAAS_USER"),
            requires_strict_sandbox: match get("FAAS_REQUIRE_SANDBOX").as_deref() {
                None | Some("none") => false,
                Some("strict") => true,
                Some(value) => {
                    let (value, want) = (value.to_string(), "strict, none, or not set".to_string());
                    return Err(StartError::Setting { name: "FAAS_REQUIRE_SANDBOX", value, want });
                }
            },
            body_bytes_max: number("FAAS_BODY_MAX", limits::BODY_MAX_DEFAULT, 0..=1 << 40)?,
            response_bytes_max: number("FAAS_ANSWER_MAX", limits::RESPONSE_MAX_DEFAULT, 1..=1 << 40)?,
            spool_dir,
            spool_bytes_max: number("FAAS_SPOOL_MAX", limits::SPOOL_MAX_DEFAULT, 0..=1 << 50)?,
            drain: Duration::from_millis(number("FAAS_DRAIN_MS", limits::DRAIN_MS_DEFAULT, 0..=3_600_000)?),
            lame_duck: Duration::from_millis(number("FAAS_LAME_DUCK_MS", 0, 0..=3_600_000)?),
            is_follower: number("FAAS_FOLLOWER", 0, 0..=1)? != 0,
            queue_max: number("FAAS_QUEUE_MAX", limits::QUEUE_MAX_DEFAULT, 0..=limits::REQUESTS_MAX as u64)? as usize,
            queue_timeout: Duration::from_millis(number(
                "FAAS_QUEUE_TIMEOUT_MS",
                limits::QUEUE_TIMEOUT_MS_DEFAULT,
                0..=3_600_000,
            )?),
            trusted_proxies,
            console,
            ledger,
            ledger_days: number("FAAS_LEDGER_DAYS", limits::LEDGER_DAYS_DEFAULT, limits::LEDGER_DAYS)?,
            ledger_bytes_max: number("FAAS_LEDGER_MAX", limits::LEDGER_MAX_DEFAULT, limits::LEDGER_MAX)?,
            log: match get("FAAS_LOG").as_deref() {
                None | Some("text") => log::Format::Text,
                Some("json") => log::Format::Json,
                Some(value) => {
                    let (name, value, want) = ("FAAS_LOG", value.to_string(), "text or json".to_string());
                    return Err(StartError::Setting { name, value, want });
                }
            },
            weights: Weights {
                alpha: factor("FAAS_ALPHA", defaults.alpha, 1000.0)?,
                beta: factor("FAAS_BETA", defaults.beta, 1000.0)?,
                gamma: factor("FAAS_GAMMA", defaults.gamma, 1000.0)?,
                ema: factor("FAAS_EMA", defaults.ema, 1.0)?,
            },
        })
    }

    /// The reason why this machine must not change the registry; `None` where it may. Every writer asks first.
    pub fn read_only_reason(&self) -> Option<String> {
        let db = self.db.display();
        self.is_follower.then(|| format!("FAAS_FOLLOWER=1: {db} is a copy; change the registry on the writer"))
    }

    /// The gateway's own folder in the run dir (gateway/run_dir.rs).
    pub fn instance_dir(&self) -> PathBuf {
        self.instance.map_or(self.run_dir.clone(), |number| self.instance_dir_of(number))
    }

    pub fn instance_dir_of(&self, number: u32) -> PathBuf {
        self.run_dir.join(number.to_string())
    }

    /// The link to the folder of the current gateway.
    pub fn current_link(&self) -> PathBuf {
        self.run_dir.join("current")
    }

    /// The number of the current gateway's folder.
    pub fn current_instance(&self) -> Option<u32> {
        current_instance(&self.run_dir)
    }

    /// The current gateway's process id in decimal; open and locked while that gateway lives.
    pub fn current_pid_file(&self) -> PathBuf {
        self.run_dir.join("gateway.pid")
    }

    /// `HOST:PORT` and a newline, while a gateway listens.
    pub fn gateway_address_file(&self) -> PathBuf {
        self.run_dir.join("gateway.address")
    }

    /// The socket on which the current gateway hands its listening socket to a successor.
    pub fn handover_socket(&self) -> PathBuf {
        self.run_dir.join("handover.sock")
    }

    /// The socket on which worker `id` accepts invocations.
    pub fn worker_socket(&self, id: u32) -> PathBuf {
        self.instance_dir().join(format!("worker_{id}.sock"))
    }

    /// The socket on which workers announce themselves and send their samples.
    pub fn metrics_socket(&self) -> PathBuf {
        self.instance_dir().join("metrics.sock")
    }

    /// The folder for the scratch folders of all invocations. It lies outside the run dir, which functions must not
    /// enter; each run dir has one, so that instances do not meet.
    pub fn scratch_dir(&self) -> PathBuf {
        self.spool_dir.join(self.own_name())
    }

    /// A name that no other run dir and no other user has.
    fn own_name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.run_dir.hash(&mut hasher);
        format!("faas-{}-{:016x}", crate::sys::own_uid(), hasher.finish())
    }

    /// Possible folders for code from the registry, the best one first. None is in the run dir, which functions must
    /// not enter. Root has /var/lib, which no cleaner of temporary files empties.
    pub fn code_dirs(&self) -> Vec<PathBuf> {
        if let Some(folder) = &self.code_dir {
            return vec![folder.clone()];
        }
        let lasting = (crate::sys::own_uid() == 0).then(|| Path::new("/var/lib/faas").join(self.own_name()));
        lasting.into_iter().chain([self.spool_dir.join(format!("{}-code", self.own_name()))]).collect()
    }

    /// The scratch folders of one gateway's workers.
    pub fn instance_scratch_dir(&self) -> PathBuf {
        self.instance.map_or(self.scratch_dir(), |number| self.scratch_dir().join(number.to_string()))
    }

    /// The folder for compiled WASM modules, kept while the gateway runs.
    pub fn compiled_dir(&self) -> PathBuf {
        self.instance_scratch_dir().join("compiled")
    }

    /// The socket on which the gateway reports its state every 500 ms (gateway/status.rs).
    pub fn status_socket(&self) -> PathBuf {
        self.instance_dir().join("status.sock")
    }

    /// `ADDRESS:PORT` and a newline: the address of the console.
    pub fn console_address_file(&self) -> PathBuf {
        self.run_dir.join("console.address")
    }

    /// The console's private copy of the registry while it is made (operator/view.rs).
    pub fn console_copy(&self) -> PathBuf {
        self.instance_dir().join("console.copy")
    }

    /// The secret that every request to the console must show (gateway/operator_token.rs).
    pub fn operator_token_file(&self) -> PathBuf {
        self.run_dir.join("operator.token")
    }

    /// The folder for the session folders of PHP functions.
    pub fn sessions_dir(&self) -> PathBuf {
        self.scratch_dir().join("sessions")
    }

    /// The key that makes the names of those folders unguessable; functions cannot read it.
    pub fn session_key_file(&self) -> PathBuf {
        self.run_dir.join("session.key")
    }

    /// This gateway's process id in decimal, open and locked while it lives. Workers lock bytes of it, too.
    pub fn pid_file(&self) -> PathBuf {
        self.instance_dir().join("gateway.pid")
    }
}

/// The variable in which a gateway hands its programs the number of its folder.
pub const INSTANCE_VARIABLE: &str = "FAAS_INSTANCE";

fn current_instance(run_dir: &Path) -> Option<u32> {
    std::fs::read_link(run_dir.join("current")).ok()?.to_str()?.parse().ok()
}

/// Other names that begin with FAAS_: scripts, tests and measurements read them, or the gateway sets them for its
/// programs.
const OTHERS: [&str; 5] =
    ["FAAS_INSTALL", "FAAS_BENCH_OVERLOAD_S", "FAAS_REMOTE_TOKEN", log_file::VARIABLE, INSTANCE_VARIABLE];
const OF_TESTS: &str = "FAAS_TEST_";

fn refuse_unknown(names: impl Iterator<Item = String>) -> Result<()> {
    let known = || TABLE.iter().map(|(name, ..)| *name).chain(OTHERS);
    let is_unknown = |name: &String| {
        name.starts_with("FAAS_") && !name.starts_with(OF_TESTS) && known().all(|other| other != name.as_str())
    };
    let Some(name) = names.into_iter().find(is_unknown) else { return Ok(()) };
    let nearest = known().min_by_key(|other| distance(&name, other)).unwrap_or_default();
    Err(StartError::Usage(format!("{name} is no setting; is {nearest} meant?")))
}

/// Number of letters to add, remove or change to turn one text into the other (Levenshtein's distance).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, letter_there) in other.bytes().enumerate() {
            let change = diagonal + usize::from(letter != letter_there);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

/// The settings part of `--help`.
pub fn help() -> String {
    let mut text = String::from("Settings (environment variables):\n");
    for (name, default, meaning) in TABLE {
        text.push_str(&format!("  {name:<22} {meaning} [{default}]\n"));
    }
    text
}

fn whole(name: &'static str, value: Option<String>, default: u64, range: std::ops::RangeInclusive<u64>) -> Result<u64> {
    let Some(value) = value else { return Ok(default) };
    match value.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let want = format!("a whole number from {} to {}", range.start(), range.end());
            Err(StartError::Setting { name, value, want })
        }
    }
}

fn fraction(name: &'static str, value: Option<String>, default: f64, below: f64) -> Result<f64> {
    let Some(value) = value else { return Ok(default) };
    match value.parse::<f64>() {
        Ok(number) if (0.0..below).contains(&number) => Ok(number),
        _ => Err(StartError::Setting { name, value, want: format!("a number from 0 to below {below}") }),
    }
}

fn parsed<T: FromStr>(name: &'static str, value: Option<String>, default: &str, want: &str) -> Result<T> {
    let value = value.unwrap_or_else(|| default.to_string());
    value.parse().map_err(|_| StartError::Setting { name, value, want: want.to_string() })
}

fn absolute(name: &'static str, path: String) -> Result<PathBuf> {
    std::path::absolute(&path).map_err(|_| StartError::Setting { name, value: path, want: "a path".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_lookup(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let settings = with(&[]).unwrap();
        assert_eq!(settings.address.to_string(), "0.0.0.0:8080");
        assert_eq!((settings.workers, settings.worker_slots), (4, 8));
        assert_eq!(settings.weights, Weights::default());
        assert_eq!(settings.console.unwrap().to_string(), "127.0.0.1:8081");
        assert!(settings.db.is_absolute() && settings.db.ends_with("faas_meta.db"));
        assert_eq!(settings.module_root, settings.db.parent().unwrap());
    }

    #[test]
    fn a_misspelt_setting_is_refused_with_the_nearest_name() {
        let refused = |name: &str| refuse_unknown([name.to_string()].into_iter()).err().map(|error| error.to_string());
        for (name, meant) in
            [("FAAS_PRT", "FAAS_PORT"), ("FAAS_WORKER", "FAAS_WORKERS"), ("FAAS_DRAIN", "FAAS_DRAIN_MS")]
        {
            let text = refused(name).unwrap();
            assert!(text.starts_with(&format!("{name} is no setting; is {meant} meant?")), "{text}");
        }
        for name in ["FAAS_PORT", "FAAS_INSTALL", "FAAS_TEST_SOAK", "PATH", "faas_port"] {
            assert_eq!(refused(name), None, "{name}");
        }
    }

    #[test]
    fn faas_port_wins_over_port() {
        assert_eq!(with(&[("PORT", "81")]).unwrap().address.port(), 81);
        assert_eq!(with(&[("PORT", "81"), ("FAAS_PORT", "82")]).unwrap().address.port(), 82);
        assert_eq!(with(&[("PORT", "81"), ("FAAS_PORT", "")]).unwrap().address.port(), 81);
    }

    #[test]
    fn an_empty_console_address_is_off() {
        assert_eq!(with(&[("FAAS_CONSOLE", "")]).unwrap().console, None);
        assert_eq!(with(&[("FAAS_CONSOLE", "[::1]:0")]).unwrap().console.unwrap().to_string(), "[::1]:0");
    }

    #[test]
    fn a_value_that_cannot_be_used_is_named() {
        let bad = [
            ("FAAS_PORT", "http"),
            ("FAAS_PORT", "65536"),
            ("PORT", "-1"),
            ("FAAS_HOST", "localhost"),
            ("FAAS_WORKERS", "0"),
            ("FAAS_WORKERS", "4 "),
            ("FAAS_FORK_SERVERS", "2"),
            ("FAAS_REQUIRE_SANDBOX", "1"),
            ("FAAS_EMA", "1"),
            ("FAAS_EMA", "NaN"),
            ("FAAS_ALPHA", "-0.1"),
            ("FAAS_QUEUE_MAX", "1e3"),
            ("FAAS_CONSOLE", "8081"),
            ("FAAS_CONSOLE", "localhost:8081"),
            ("FAAS_TRUSTED_PROXIES", "localhost"),
        ];
        for (name, value) in bad {
            let error = with(&[(name, value)]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().starts_with(&format!("{name}={value:?} cannot be used")), "{error}");
        }
    }

    #[test]
    fn help_names_every_setting_that_is_read() {
        let asked = std::cell::RefCell::new(Vec::new());
        let _ = Settings::from_lookup(|name| {
            asked.borrow_mut().push(name.to_string());
            None
        });
        for name in asked.into_inner() {
            // The gateway sets it for its programs; users do not set it.
            assert!(name == INSTANCE_VARIABLE || help().contains(&name), "{name} is missing in --help");
        }
    }
}
