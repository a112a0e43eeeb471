//! Components of WASI 0.2, in text form: their ends, their limits, their descriptors, those that are refused. The
//! platform's own tests, which have real languages, cover arguments, environment, streams and folders.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const PROGRAM: &str = env!("CARGO_BIN_EXE_faas-wasm-component");

/// A component, compiled; its folder is removed at the end.
struct Function {
    folder: PathBuf,
}

impl Function {
    /// # Errors
    /// Of the compiler: what it says.
    fn compile(component: &str) -> Result<Function, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("faas-wasm-component-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let function = Function { folder: std::env::temp_dir().join(name) };
        fs::create_dir(&function.folder).unwrap();
        let artifact = File::create(function.artifact()).unwrap();
        artifact.set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("compile").stdin(Stdio::piped()).stdout(artifact).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that refuses the component early may read no more of it.
        let _ = child.stdin.take().unwrap().write_all(component.as_bytes());
        let output = child.wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => Ok(function),
            code => Err(format!("{code:?}: {}", said(&output))),
        }
    }

    fn new(body: &str) -> Function {
        Function::compile(&component(1, body)).unwrap()
    }

    fn artifact(&self) -> PathBuf {
        self.folder.join("artifact")
    }

    fn command(&self, settings: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--artifact"]).arg(self.artifact()).args(settings).arg("/functions/test.wasm");
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn call(&self, settings: &[&str]) -> Output {
        self.command(settings).output().unwrap()
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A component whose `run` is `body`, which gives 0 for success and 1 for failure. `$say` writes "said" to stdout.
fn component(memory_pages: u32, body: &str) -> String {
    format!(
        r#"(component
        (import "wasi:cli/exit@0.2.12" (instance $exit (export "exit-with-code" (func (param "status-code" u8)))))
        (import "wasi:io/error@0.2.12" (instance $error (export "error" (type (sub resource)))))
        (alias export $error "error" (type $error-type))
        (import "wasi:io/streams@0.2.12" (instance $streams
            (export "output-stream" (type $stream (sub resource)))
            (alias outer 1 $error-type (type $outer-error))
            (export "error" (type $error (eq $outer-error)))
            (type $failure (variant (case "last-operation-failed" (own $error)) (case "closed")))
            (export "stream-error" (type $stream-error (eq $failure)))
            (export "[method]output-stream.blocking-write-and-flush" (func
                (param "self" (borrow $stream)) (param "contents" (list u8)) (result (result (error $stream-error)))))))
        (alias export $streams "output-stream" (type $stream))
        (import "wasi:cli/stdout@0.2.12" (instance $stdout
            (alias outer 1 $stream (type $outer-stream))
            (export "output-stream" (type $stream (eq $outer-stream)))
            (export "get-stdout" (func (result (own $stream))))))
        (core module $memory (memory (export "memory") {memory_pages}) (data (i32.const 16) "said"))
        (core instance $memory (instantiate $memory))
        (core func $exit (canon lower (func $exit "exit-with-code")))
        (core func $stdout (canon lower (func $stdout "get-stdout")))
        (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
            (memory (core memory $memory "memory"))))
        (core module $program
            (import "" "exit" (func $exit (param i32)))
            (import "" "stdout" (func $stdout (result i32)))
            (import "" "write" (func $write (param i32 i32 i32 i32)))
            (import "memory" "memory" (memory 1))
            (func $say (call $write (call $stdout) (i32.const 16) (i32.const 4) (i32.const 32)))
            (func $run (export "run") (result i32) {body}))
        (core instance $program (instantiate $program (with "memory" (instance $memory)) (with "" (instance
            (export "exit" (func $exit)) (export "stdout" (func $stdout)) (export "write" (func $write))))))
        (func $run (result (result)) (canon lift (core func $program "run")))
        (instance $run (export "run" (func $run)))
        (export "wasi:cli/run@0.2.12" (instance $run)))"#
    )
}

#[test]
fn a_component_ends_as_it_says() {
    for (body, status) in
        [("(i32.const 0)", 0), ("(i32.const 1)", 1), ("(call $exit (i32.const 44)) (i32.const 0)", 44)]
    {
        let outcome = Function::new(body).call(&[]);
        assert_eq!((outcome.status.code(), &said(&outcome)[..]), (Some(status), ""), "{body}");
    }
    for (body, cause) in [("(unreachable)", "unreachable"), ("(call $run) (drop) (call $run)", "stack exhausted")] {
        let outcome = Function::new(body).call(&[]);
        assert!(outcome.status.code() == Some(134) && said(&outcome).contains(cause), "{outcome:?}");
    }
}

#[test]
fn a_components_memory_is_limited_and_its_lack_is_said() {
    let grow = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (i32.const 1)";
    let grow = Function::new(grow);
    for limit in ["64", "32"] {
        let outcome = grow.call(&["--memory-mib", limit]);
        let cause = format!("out of memory: the function asked for more than its {limit} MiB");
        assert!(outcome.status.code() == Some(1) && said(&outcome).contains(&cause), "{outcome:?}");
    }
    let large = Function::compile(&component(1000, "(i32.const 0)")).unwrap();
    assert_eq!(large.call(&[]).status.code(), Some(0));
    let outcome = large.call(&["--memory-mib", "32"]);
    assert!(outcome.status.code() == Some(1) && said(&outcome).contains("needs more than its 32 MiB"), "{outcome:?}");
}

#[test]
fn a_folder_that_is_missing_ends_the_component_before_it_begins() {
    let outcome = Function::new("(i32.const 0)").call(&["--dir", "/data=/nowhere"]);
    let cause = "could not open the folder /nowhere: No such file or directory";
    assert!(outcome.status.code() == Some(127) && said(&outcome).contains(cause), "{outcome:?}");
}

/// A call that has written to stdout and goes on for good; killed at its end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The files that a process has open.
fn open_files(process: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    entries.filter_map(|fd| Some(fs::read_link(fd.ok()?.path()).ok()?.display().to_string())).collect()
}

#[test]
fn a_component_has_one_thread_and_can_write_to_its_streams_alone() {
    let function = Function::new("(call $say) (loop $again (br $again)) (unreachable)");
    for net in ["0", "1"] {
        let ((mut stdout, to_stdout), (_stderr, to_stderr)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let mut command = function.command(&["--net", net]);
        let running = Running(command.stdout(to_stdout).stderr(to_stderr).spawn().unwrap());
        drop(command);
        let mut word = [0; 4];
        stdout.read_exact(&mut word).unwrap();
        assert_eq!((&word, fs::read_dir(format!("/proc/{}/task", running.0.id())).unwrap().count()), (b"said", 1));
        let artifact = function.artifact().canonicalize().unwrap().display().to_string();
        // The streams' other ends are here, as is what both have inherited. Its memory is mapped from the artifact, and its seeds come from /dev/urandom; it can only read either. With
        // sockets, the runtime waits by an epoll, whose eventfd wakes it.
        let is_expected = |file: &String| {
            *file == artifact || file == "/dev/urandom" || net == "1" && file.starts_with("anon_inode:[event")
        };
        let own = open_files("self");
        let mut files = open_files(&running.0.id().to_string());
        files.retain(|file| file != "/dev/null" && !own.contains(file));
        assert!(files.iter().all(is_expected) && files.contains(&artifact), "{files:?}");
    }
}

#[test]
fn a_component_that_cannot_run_is_refused_when_it_is_compiled() {
    let refusal = |source: &str| Function::compile(source).err().unwrap();
    for import in ["wasi:http/types@0.2.0", "wasi:cli/stdin@0.3.0", "a:b/c"] {
        let said = refusal(&format!(r#"(component (import "{import}" (instance)))"#));
        assert!(said.contains(&format!("it imports {import}; what a component finds here")), "{said}");
    }
    // An interface that is there, a function that is not.
    let said = refusal(r#"(component (import "wasi:cli/stdin@0.2.0" (instance (export "get-nothing" (func)))))"#);
    assert!(said.contains("get-nothing"), "{said}");
    let said = refusal("(component)");
    assert!(said.contains("could not run the module") && said.contains("wasi:cli/run"), "{said}");
    let said = refusal("(module)");
    assert!(said.contains("it is no component"), "{said}");
}

#[test]
fn an_artifact_that_others_could_change_is_not_run() {
    let function = Function::new("(i32.const 0)");
    fs::set_permissions(function.artifact(), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(function.call(&[]).status.code(), Some(3));
}
