//! The network of three machines, and processes on them.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::instance::{run, start};

/// The address of the balancer and the store.
pub const FRONT: &str = "10.0.0.1";

/// The address of machine `number`, 1 to 3. deploy/haproxy.cfg names the same.
pub fn address_of(number: usize) -> String {
    format!("10.0.0.{}", 10 + number)
}

/// A bridge with a namespace for each machine. The drop removes them.
pub struct Network {
    /// Suffix of all names that it makes, so that two networks never meet.
    mark: String,
    machines: usize,
}

impl Network {
    pub fn new(machines: usize) -> Network {
        let links = run(Command::new("ip").args(["-o", "link"])).stdout;
        let is_alone = String::from_utf8_lossy(&links).lines().count() == 1;
        assert!(is_alone, "these tests change the network; start them by tests/machines/run.sh");
        let mark = format!("{:x}", std::process::id());
        let network = Network { mark, machines };
        let bridge = network.bridge();
        ip(&format!("link add {bridge} type bridge"));
        ip(&format!("addr add {FRONT}/24 dev {bridge}"));
        ip(&format!("link set {bridge} up"));
        for number in 1..=machines {
            let (namespace, cable) = (network.namespace(number), network.cable(number));
            ip(&format!("netns add {namespace}"));
            ip(&format!("link add {cable} type veth peer name eth0 netns {namespace}"));
            ip(&format!("link set {cable} master {bridge} up"));
            ip(&format!("-n {namespace} addr add {}/24 dev eth0", address_of(number)));
            ip(&format!("-n {namespace} link set eth0 up"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        network
    }

    pub fn namespace(&self, number: usize) -> String {
        format!("faas-{number}-{}", self.mark)
    }

    fn bridge(&self) -> String {
        format!("faas-{}", self.mark)
    }

    /// The front's end of the cable to a machine.
    fn cable(&self, number: usize) -> String {
        format!("veth{number}-{}", self.mark)
    }

    /// Cuts the cable of a machine, or mends it: `down` or `up`.
    pub fn set_cable(&self, number: usize, state: &str) {
        ip(&format!("link set {} {state}", self.cable(number)));
    }

    /// A command that will run on machine `number`, or on the front where that is 0.
    pub fn command(&self, number: usize, program: &str) -> Command {
        if number == 0 {
            return Command::new(program);
        }
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(number), program]);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for number in 1..=self.machines {
            // The namespace outlives its removal for a moment, and would keep its end of the cable.
            run(Command::new("ip").args(["link", "del", &self.cable(number)]));
            run(Command::new("ip").args(["netns", "del", &self.namespace(number)]));
        }
        run(Command::new("ip").args(["link", "del", &self.bridge()]));
    }
}

fn ip(arguments: &str) {
    let output = run(Command::new("ip").args(arguments.split(' ')));
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A process with all its descendants. The drop kills them.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it; its output goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Process {
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        Process { child: start(command) }
    }

    /// Starts it in a loop, as a service manager would.
    pub fn start_again_and_again(command: &Command, log: &Path) -> Process {
        let mut shell = Command::new("sh");
        shell.args(["-c", "while :; do \"$@\"; sleep 0.2; done", "sh"]).arg(command.get_program());
        shell.args(command.get_args());
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Process::start(&mut shell, log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        run(Command::new("kill").args(["-s", "KILL", "--", &format!("-{}", self.child.id())]));
        // It may have left its group, as sshd does.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Prints the ends of these logs if the test has failed.
pub fn show_logs(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "log") {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("---- {} ----\n{}", entry.path().display(), lines[lines.len().saturating_sub(15)..].join("\n"));
        }
    }
}
