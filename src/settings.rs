//! Settings: environment variables, the same for the scripts, the gateway and the workers.
//!
//! Workers inherit the gateway's environment unchanged, so one table serves both. An unusable value stops the start
//! with one line that names the variable, the value and the rule.

mod names;
mod places;
mod values;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::start::Result;
use crate::networks::Networks;
use crate::scheduler_config::Weights;
use crate::{limits, log};

pub use names::help;
use names::refuse_unknown;
use values::Values;

const CONSOLE_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);

#[derive(Debug, Clone)]
pub struct Settings {
    /// The address for clients.
    pub address: SocketAddr,
    pub workers: u32,
    /// Invocations at once, per worker.
    pub worker_slots: u32,
    /// True if functions are forked from fork servers.
    pub has_fork_servers: bool,
    /// True if functions are put into control groups, where some were delegated (sandbox/groups.rs).
    pub uses_cgroups: bool,
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
        let values = Values(lookup);
        let db = values.path("FAAS_DB", || "faas_meta.db".into())?;
        let folder_of_db = || db.parent().unwrap_or(Path::new("/")).to_path_buf();
        let run_dir = values.path("FAAS_RUN_DIR", || "run".into())?;
        let instance = values.get(INSTANCE_VARIABLE).and_then(|number| number.parse().ok());
        Ok(Settings {
            address: address(&values)?,
            workers: values.whole("FAAS_WORKERS", limits::WORKERS_DEFAULT, limits::WORKERS)? as u32,
            worker_slots: values.whole("FAAS_WORKER_SLOTS", limits::WORKER_SLOTS_DEFAULT, limits::WORKER_SLOTS)? as u32,
            has_fork_servers: values.flag("FAAS_FORK_SERVERS", true)?,
            uses_cgroups: values.flag("FAAS_CGROUP", true)?,
            dev: values.flag("FAAS_DEV", false)?,
            module_root: values.path("FAAS_MODULE_ROOT", folder_of_db)?,
            code_dir: values.path_if_set("FAAS_CODE_DIR")?,
            user: values.get("FAAS_USER"),
            requires_strict_sandbox: values.choice("FAAS_REQUIRE_SANDBOX", [("none", false), ("strict", true)])?,
            body_bytes_max: values.whole("FAAS_BODY_MAX", limits::BODY_MAX_DEFAULT, 0..=1 << 40)?,
            response_bytes_max: values.whole("FAAS_ANSWER_MAX", limits::RESPONSE_MAX_DEFAULT, 1..=1 << 40)?,
            spool_dir: values.path("FAAS_SPOOL_DIR", std::env::temp_dir)?,
            spool_bytes_max: values.whole("FAAS_SPOOL_MAX", limits::SPOOL_MAX_DEFAULT, 0..=1 << 50)?,
            drain: values.milliseconds("FAAS_DRAIN_MS", limits::DRAIN_MS_DEFAULT)?,
            lame_duck: values.milliseconds("FAAS_LAME_DUCK_MS", 0)?,
            is_follower: values.flag("FAAS_FOLLOWER", false)?,
            queue_max: values.whole("FAAS_QUEUE_MAX", limits::QUEUE_MAX_DEFAULT, limits::FUNCTION_QUEUE)? as usize,
            queue_timeout: values.milliseconds("FAAS_QUEUE_TIMEOUT_MS", limits::QUEUE_TIMEOUT_MS_DEFAULT)?,
            trusted_proxies: values
                .parsed("FAAS_TRUSTED_PROXIES", "at most 64 IP networks such as 127.0.0.1/32,10.0.0.0/8")?
                .unwrap_or_default(),
            console: match values.is_off("FAAS_CONSOLE") {
                true => None,
                false => values
                    .parsed("FAAS_CONSOLE", "ADDRESS:PORT such as 127.0.0.1:8081, or empty")?
                    .or(Some(CONSOLE_DEFAULT)),
            },
            ledger: match values.is_off("FAAS_LEDGER") {
                true => None,
                false => Some(values.path("FAAS_LEDGER", || folder_of_db().join("faas_calls.db"))?),
            },
            ledger_days: values.whole("FAAS_LEDGER_DAYS", limits::LEDGER_DAYS_DEFAULT, limits::LEDGER_DAYS)?,
            ledger_bytes_max: values.whole("FAAS_LEDGER_MAX", limits::LEDGER_MAX_DEFAULT, limits::LEDGER_MAX)?,
            log: values.choice("FAAS_LOG", [("text", log::Format::Text), ("json", log::Format::Json)])?,
            weights: weights(&values)?,
            instance: instance.or_else(|| places::current_instance(&run_dir)),
            db,
            run_dir,
        })
    }

    /// The reason why this machine must not change the registry; `None` where it may. Every writer asks first.
    pub fn read_only_reason(&self) -> Option<String> {
        let db = self.db.display();
        self.is_follower.then(|| format!("FAAS_FOLLOWER=1: {db} is a copy; change the registry on the writer"))
    }
}

fn address(values: &Values<impl Fn(&str) -> Option<String>>) -> Result<SocketAddr> {
    let port_name = if values.get("FAAS_PORT").is_some() { "FAAS_PORT" } else { "PORT" };
    let host = values.parsed("FAAS_HOST", "an IP address such as 127.0.0.1")?.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    Ok(SocketAddr::new(host, values.whole(port_name, 8080, 0..=65_535)? as u16))
}

fn weights(values: &Values<impl Fn(&str) -> Option<String>>) -> Result<Weights> {
    let defaults = Weights::default();
    Ok(Weights {
        alpha: values.fraction("FAAS_ALPHA", defaults.alpha, 1000.0)?,
        beta: values.fraction("FAAS_BETA", defaults.beta, 1000.0)?,
        gamma: values.fraction("FAAS_GAMMA", defaults.gamma, 1000.0)?,
        ema: values.fraction("FAAS_EMA", defaults.ema, 1.0)?,
    })
}

/// The variable in which a gateway hands its programs the number of its folder.
pub const INSTANCE_VARIABLE: &str = "FAAS_INSTANCE";

#[cfg(test)]
mod tests;
