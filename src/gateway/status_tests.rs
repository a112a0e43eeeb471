//! Tests of the status socket that need no gateway.

use super::*;

#[test]
fn client_that_does_not_read_is_dropped() {
    let (stream, other) = UnixStream::pair().unwrap();
    stream.set_nonblocking(true).unwrap();
    let client = Client { stream, pid: 1 };
    let line = "x".repeat(1000) + "\n";
    let taken = (0..100_000).take_while(|_| client.takes(&line)).count();
    assert!((1..100_000).contains(&taken), "{taken} lines");
    drop(other);
    assert!(!client.takes(&line));
}

#[test]
fn own_children_are_no_functions_and_grandchildren_are() {
    use std::io::BufRead;
    use std::process::{Command, Stdio};
    let script = "sleep 60 & echo $!; wait";
    let mut shell = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let grandchild: Pid = line.trim().parse().unwrap();
    assert!(is_function(grandchild));
    assert!(!is_function(shell.id() as Pid));
    assert!(!is_function(std::process::id() as Pid));
    sys::kill_child(grandchild);
    shell.wait().unwrap();
}
