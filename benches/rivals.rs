//! Rivals that are measured in the same run, where they are installed: nginx with php-fpm, and `wasmer run`.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::table::{Outcome, failed};

/// Time limit for the start, and for the end, of a rival.
const PATIENCE: Duration = Duration::from_secs(20);

/// nginx in front of php-fpm, each of whose children serves one request and ends (pm.max_requests=1): what keeps PHP's promise
/// of a process for every request with what Debian packages.
pub struct SingleUseFpm {
    fpm: Child,
    nginx: Child,
    folder: PathBuf,
    pub address: SocketAddr,
}

impl SingleUseFpm {
    /// Serves one script, whatever the path.
    pub fn start(script: &Path) -> Outcome<SingleUseFpm> {
        let fpm = installed("php-fpm").ok_or("php-fpm is not installed (apt-get install php-fpm)")?;
        let nginx = installed("nginx").ok_or("nginx is not installed (apt-get install nginx-light)")?;
        let folder = std::env::temp_dir().join(format!("faas-bench-fpm-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(failed("create the folder of php-fpm"))?;
        let place = folder.display();
        // A port that was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = address.map_err(failed("find a free port"))?;
        let write = |name: &str, text: String| {
            std::fs::write(folder.join(name), text).map_err(failed("write the configuration of a rival"))
        };
        // With a length, as clients expect that keep their connection.
        let text = format!(
            "<?php ob_start(function ($all) {{ header('Content-Length: ' . strlen($all)); return $all; }}); require '{}';",
            script.display()
        );
        write("index.php", text)?;
        let user = if faas::sys::own_uid() == 0 { "user = nobody\ngroup = nogroup\n" } else { "" };
        write(
            "fpm.conf",
            format!(
                "[global]\nerror_log = {place}/fpm.log\ndaemonize = no\n[www]\n{user}listen = {place}/fpm.sock\n\
                 listen.mode = 0666\npm = static\npm.max_children = 8\npm.max_requests = 1\n"
            ),
        )?;
        write(
            "nginx.conf",
            format!(
                "daemon off;\nworker_processes 2;\npid {place}/nginx.pid;\nerror_log {place}/nginx.log;\n\
                 events {{ worker_connections 256; }}\nhttp {{\n access_log off;\n client_body_temp_path {place}/body;\n \
                 proxy_temp_path {place}/proxy;\n fastcgi_temp_path {place}/fastcgi;\n uwsgi_temp_path {place}/uwsgi;\n \
                 scgi_temp_path {place}/scgi;\n keepalive_requests 1000000000;\n server {{\n  listen {address};\n  \
                 location / {{\n   include /etc/nginx/fastcgi_params;\n   fastcgi_param SCRIPT_FILENAME {place}/index.php;\n   \
                 fastcgi_pass unix:{place}/fpm.sock;\n  }}\n }}\n}}\n"
            ),
        )?;
        let start = |program: &Path, arguments: &[String]| {
            let command = &mut Command::new(program);
            let command = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().map_err(failed("start a rival"))
        };
        let allow_root = if faas::sys::own_uid() == 0 { vec!["-R".to_string()] } else { Vec::new() };
        let fpm = start(&fpm, &[allow_root, vec!["-y".into(), format!("{place}/fpm.conf")]].concat())?;
        let nginx = start(&nginx, &["-c".into(), format!("{place}/nginx.conf")])?;
        let rival = SingleUseFpm { fpm, nginx, folder, address };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() || !rival.folder.join("fpm.sock").exists() {
            if Instant::now() > deadline {
                return Err("nginx with php-fpm was not ready in time".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(rival)
    }
}

impl Drop for SingleUseFpm {
    fn drop(&mut self) {
        for process in [&mut self.nginx, &mut self.fpm] {
            let _ = Command::new("kill").args(["-TERM", &process.id().to_string()]).status();
            let deadline = Instant::now() + PATIENCE;
            while matches!(process.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = process.kill();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Where a server's program is: Debian puts them in /usr/sbin, php-fpm with its version behind the name.
fn installed(name: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/sbin").ok()?.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.file_name().is_some_and(|other| other.to_string_lossy().starts_with(name)));
    found.sort();
    found.pop()
}
