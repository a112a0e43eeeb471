//! Carriers of the registry from the writer to the followers: Litestream through an SFTP server, or push.sh by SSH.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::instance::{run, wait_until};
use crate::network::{FRONT, Network, Process, address_of};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Litestream,
    Push,
}

/// The carrier's folder, with keys, logs and Litestream's replicas, and SSH servers on the front and all machines.
pub struct Carrier {
    kind: Kind,
    folder: tempfile::TempDir,
    _servers: Vec<Process>,
}

/// One node as the carrier sees it.
pub struct Place<'a> {
    pub machine: usize,
    pub registry: PathBuf,
    pub network: &'a Network,
}

impl Carrier {
    pub fn new(kind: Kind, network: &Network, machines: usize) -> Carrier {
        let folder = tempfile::Builder::new().prefix("faas-carrier-").tempdir().unwrap();
        for name in ["host_key", "client_key"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.path().join(name));
            assert!(run(&mut keygen).status.success());
        }
        let servers = (0..=machines).map(|machine| ssh_server(folder.path(), network, machine)).collect();
        Carrier { kind, folder, _servers: servers }
    }

    /// Logs of all its processes.
    pub fn logs(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the writer's side. `epoch` counts writers: each has a replica of its own.
    pub fn start_writer(&self, writer: &Place<'_>, followers: &[Place<'_>], epoch: u32) -> Vec<Process> {
        let log = self.folder.path().join(format!("writer-{epoch}.log"));
        vec![match self.kind {
            Kind::Litestream => {
                let mut command = writer.network.command(writer.machine, "litestream");
                command.args(["replicate", "-config", &deploy("litestream.yml")]);
                Process::start_again_and_again(self.environment(&mut command, writer, epoch), &log)
            }
            Kind::Push => {
                let mut command = writer.network.command(writer.machine, &deploy("push.sh"));
                let key = self.folder.path().join("client_key");
                let options = "-o BatchMode=yes -o ConnectTimeout=5 -o StrictHostKeyChecking=no -o LogLevel=ERROR";
                let known = "-o UserKnownHostsFile=/dev/null";
                command.env("SSH", format!("ssh -i {} {options} {known}", key.display()));
                command.arg(&writer.registry);
                for follower in followers {
                    command.arg(format!("root@{}:{}", address_of(follower.machine), follower.registry.display()));
                }
                Process::start(&mut command, &log)
            }
        }]
    }

    /// Starts the follower's side; push.sh has none.
    pub fn start_follower(&self, follower: &Place<'_>, epoch: u32) -> Vec<Process> {
        if self.kind == Kind::Push {
            return Vec::new();
        }
        let mut command = follower.network.command(follower.machine, "litestream");
        command.args(["restore", "-config", &deploy("litestream.yml"), "-f", "-follow-interval", "500ms"]);
        command.arg(&follower.registry);
        let log = self.folder.path().join(format!("follower-{}-{epoch}.log", follower.machine));
        vec![Process::start_again_and_again(self.environment(&mut command, follower, epoch), &log)]
    }

    fn environment<'a>(&self, command: &'a mut Command, place: &Place<'_>, epoch: u32) -> &'a Command {
        let replica = self.folder.path().join(format!("replica-{epoch}"));
        command.env("REGISTRY", &place.registry);
        command.env("REPLICA", format!("sftp://root@{FRONT}:22{}", replica.display()));
        command.env("SFTP_KEY", self.folder.path().join("client_key"))
    }
}

fn deploy(name: &str) -> String {
    format!("{}/deploy/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// An SSH server on a machine, for root with the client's key.
fn ssh_server(folder: &Path, network: &Network, machine: usize) -> Process {
    let address = if machine == 0 { FRONT.to_string() } else { address_of(machine) };
    let config = folder.join(format!("sshd-{machine}"));
    // A home without a .bashrc: bash would read it for each command, which can take a second.
    let lines = format!(
        "ListenAddress {address}:22\nHostKey {0}/host_key\nAuthorizedKeysFile {0}/client_key.pub\nPermitRootLogin yes\n\
         StrictModes no\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\nSetEnv HOME={0}\n",
        folder.display()
    );
    fs::write(&config, lines).unwrap();
    let mut command = network.command(machine, "/usr/sbin/sshd");
    let process = Process::start(command.args(["-D", "-e", "-f"]).arg(config), &folder.join("sshd.log"));
    wait_until("an SSH server listens", || std::net::TcpStream::connect((address.as_str(), 22)).is_ok());
    process
}
