//! Finds out which wasmtime is built in, for `--version`: artifacts of different ones do not fit each other.

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let lock = std::fs::read_to_string("Cargo.lock").expect("cargo writes Cargo.lock before it builds");
    let mut lines = lock.lines().skip_while(|line| *line != "name = \"wasmtime\"");
    let version =
        lines.nth(1).and_then(|line| line.strip_prefix("version = \"")).and_then(|rest| rest.strip_suffix('"'));
    println!("cargo::rustc-env=WASMTIME_VERSION={}", version.expect("wasmtime is among the dependencies"));
}
