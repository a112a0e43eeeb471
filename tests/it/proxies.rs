//! The gateway behind nginx, HAProxy and Caddy, each with its configuration in deploy/, which docs/OPERATING.md shows.
//!
//! A binary of its own, which `cargo test` leaves out: `cargo test --test it_proxies` runs it where Debian's packages
//! nginx-light, haproxy, caddy, openssl and curl are installed.

// The test binaries share the harness, and none of them uses all of it.
#[allow(dead_code)]
#[path = "../../src/cases.rs"]
mod cases;
#[allow(dead_code)]
mod http;
#[allow(dead_code)]
mod instance;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;

use crate::cases::each;
use crate::instance::{Instance, run, start, wait_until};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");

/// The clients' address, which differs from the proxy's, since the proxy's is trusted.
const CLIENT: &str = "127.0.0.2";

/// A proxy in front of an instance. The drop ends it.
struct Proxy {
    instance: Instance,
    process: Child,
    port: u16,
}

impl Proxy {
    /// `prepare` gets the configuration with the instance's address in it, the port to listen on and a folder with
    /// certificates, writes the configuration into the folder, and returns the command.
    fn start(file: &str, prepare: impl Fn(String, u16, &Path) -> Command) -> Proxy {
        let instance = Instance::with(&[("FAAS_TRUSTED_PROXIES", "127.0.0.1/32")]);
        instance.script_with("*:/env", "env", json!({"output": "raw"}));
        instance.script("POST:/echo", "cat");
        let config = fs::read_to_string(Path::new(DEPLOY).join(file)).unwrap();
        let docs = fs::read_to_string(Path::new(DEPLOY).with_file_name("docs/OPERATING.md")).unwrap();
        assert!(docs.contains(&format!("\n{config}```\n")), "docs/OPERATING.md shows another {file}");
        let config = replaced(&config, "127.0.0.1:8080", &instance.address().to_string());
        let port = free_port();
        let folder = certificates(&instance);
        let mut command = prepare(config, port, &folder);
        command.stdin(Stdio::null()).current_dir(&folder);
        let process = start(&mut command);
        let proxy = Proxy { instance, process, port };
        // Caddy listens before it has made its certificate.
        wait_until("the proxy serves by TLS", || proxy.try_curl("/healthz", &[]).status.success());
        proxy
    }

    /// The body of the response to a request by curl, over TLS.
    fn curl(&self, path: &str, arguments: &[&str]) -> String {
        let output = self.try_curl(path, arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn try_curl(&self, path: &str, arguments: &[&str]) -> Output {
        let (url, name) =
            (format!("https://localhost:{}{path}", self.port), format!("localhost:{}:127.0.0.1", self.port));
        let mut command = Command::new("curl");
        run(command
            .args(["-sSk", "--http1.1", "--interface", CLIENT, "--max-time", "20", "--resolve", &name, &url])
            .args(arguments))
    }

    fn check(&self) {
        let forged = ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: gopher", "Forwarded: for=6.6.6.6;proto=http"];
        let fields = forged.iter().flat_map(|field| ["-H", field]);
        let text = self.curl("/env", &fields.chain(["-H", "X-Request-Id: it-proxied"]).collect::<Vec<_>>());
        let port = format!("SERVER_PORT={}", self.port);
        let client = format!("REMOTE_ADDR={CLIENT}");
        each([&client, "HTTPS=on", "REQUEST_SCHEME=https", &port, "HTTP_X_FORWARDED_PROTO=https"], |line| {
            assert!(text.lines().any(|other| other == line), "is not in {text}");
        });
        assert!(!text.contains("6.6.6.6"), "{text}");
        let line = self.instance.wait_for_log("request=it-proxied ", 1).remove(0);
        assert!(line.contains(&format!(" client={CLIENT} ")), "{line}");
        let body = self.instance.path("body");
        fs::write(&body, vec![b'x'; 1 << 20]).unwrap();
        let echoed = self.curl("/echo", &["--data-binary", &format!("@{}", body.display())]);
        assert_eq!(echoed.len(), 1 << 20);
        // A trusted client that calls the gateway directly can name any client. This shows that the gateway reads the
        // list.
        let direct = self.instance.request("GET", "/env", &[("X-Forwarded-For", "203.0.113.9")], b"");
        assert!(direct.text().contains("REMOTE_ADDR=203.0.113.9\n"));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        crate::instance::signal("TERM", self.process.id());
        let _ = self.process.wait();
    }
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in {text}");
    text.replace(from, to)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A folder with a certificate, as `example.org.pem` with its key, and the key alone as `example.org.key`.
fn certificates(instance: &Instance) -> PathBuf {
    let folder = instance.path("proxy");
    fs::create_dir(&folder).unwrap();
    let [key, certificate] = ["example.org.key", "example.org.pem"].map(|name| folder.join(name));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]);
    let output = run(command.arg("-keyout").arg(&key).arg("-out").arg(&certificate));
    assert!(output.status.success(), "{output:?}");
    let both = [fs::read(&certificate).unwrap(), fs::read(&key).unwrap()].concat();
    fs::write(certificate, both).unwrap();
    folder
}

#[test]
fn behind_nginx_a_function_sees_the_client() {
    let proxy = Proxy::start("nginx.conf", |config, port, folder| {
        let config = replaced(&config, "listen 443 ssl", &format!("listen 127.0.0.1:{port} ssl"));
        let config = replaced(&config, "/etc/ssl/", &format!("{}/", folder.display()));
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {}/{name};", folder.display()));
        let main = format!(
            "daemon off; pid {0}/nginx.pid; error_log stderr; events {{}}\nhttp {{ access_log off; {1}\n{config}}}\n",
            folder.display(),
            paths.join(" ")
        );
        fs::write(folder.join("main.conf"), main).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-e").arg("stderr").arg("-p").arg(folder).arg("-c").arg(folder.join("main.conf"));
        command
    });
    proxy.check();
}

#[test]
fn behind_haproxy_a_function_sees_the_client() {
    let proxy = Proxy::start("haproxy-tls.cfg", |config, port, folder| {
        let config = replaced(&config, "bind :443", &format!("bind 127.0.0.1:{port}"));
        let config = replaced(&config, "/etc/haproxy/", &format!("{}/", folder.display()));
        fs::write(folder.join("haproxy.cfg"), config).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(folder.join("haproxy.cfg"));
        command
    });
    proxy.check();
}

#[test]
fn behind_caddy_a_function_sees_the_client() {
    let proxy = Proxy::start("Caddyfile", |config, port, folder| {
        // A public name would have Caddy ask for a certificate.
        let site = format!("https://localhost:{port} {{\n    tls internal");
        let config = replaced(&config, "example.org {", &site);
        let options = "{\n    admin off\n    auto_https disable_redirects\n    skip_install_trust\n}\n";
        fs::write(folder.join("Caddyfile"), format!("{options}{config}")).unwrap();
        let mut command = Command::new("caddy");
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(folder.join("Caddyfile"));
        // Caddy puts its certificates there.
        command.env("HOME", folder).env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
        command
    });
    proxy.check();
}
