//! Files and folders that follow from the settings: those in the run dir, for code, and for scratch folders.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use super::Settings;
use crate::limits::INSTANCES_MAX;

impl Settings {
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

    /// Beginning of the names of the control groups of gateway `number` (sandbox/groups.rs).
    pub fn group_name(&self, number: u32) -> String {
        format!("{}-{number}", self.own_name())
    }

    /// The numbers of gateways that do not run: whose folder does not exist, or is ours and still new.
    pub fn free_instances(&self) -> impl Iterator<Item = u32> {
        (1..=INSTANCES_MAX).filter(|number| self.instance == Some(*number) || !self.instance_dir_of(*number).exists())
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

    /// The scratch folder of processes that try the sandbox (sandbox/probe.rs).
    pub fn probe_dir(&self) -> PathBuf {
        self.spool_dir.join(format!("{}-probe-{}", self.own_name(), std::process::id()))
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

/// The number of the folder that `current` leads to.
pub(super) fn current_instance(run_dir: &Path) -> Option<u32> {
    std::fs::read_link(run_dir.join("current")).ok()?.to_str()?.parse().ok()
}
