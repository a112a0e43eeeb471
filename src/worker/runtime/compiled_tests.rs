//! Compilations without a compiler: their number, the time that a call waits, the results that are remembered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded as channel};

use super::*;

/// A folder, and a thread that compiles; the test ends each compilation.
struct World {
    _folder: tempfile::TempDir,
    compiled: Arc<Compiled>,
    begun: Receiver<()>,
    end: Sender<io::Result<&'static str>>,
    count: Arc<AtomicU32>,
}

fn world(slots: u32) -> World {
    let folder = tempfile::tempdir().unwrap();
    let compiled = Arc::new(Compiled::new(folder.path().to_path_buf(), slots));
    let ((begins, begun), (end, ends)) = (channel(), channel());
    let count = Arc::new(AtomicU32::new(0));
    let (worker, counter) = (compiled.clone(), count.clone());
    std::thread::spawn(move || {
        worker.work(|_, unfinished| {
            counter.fetch_add(1, Ordering::Relaxed);
            let _ = begins.send(());
            match ends.recv().unwrap_or(Err(ErrorKind::Other.into())) {
                Ok(text) => fs::write(unfinished, text),
                Err(cause) => Err(cause),
            }
        })
    });
    World { _folder: folder, compiled, begun, end, count }
}

impl World {
    fn get(&self) -> Result<PathBuf, Verdict> {
        self.compiled.get(Path::new("/m.wasm"), versions(), Compiler::Own(Runner::Module))
    }
}

/// Of some module and engine.
fn versions() -> Versions {
    let version = Version::of_path(Path::new("/")).unwrap();
    Versions { module: version, engine: version }
}

#[test]
fn a_burst_of_calls_compiles_once() {
    let world = world(64);
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| world.get())).collect();
        world.begun.recv().unwrap();
        world.end.send(Ok("code")).unwrap();
        for call in calls {
            assert_eq!(fs::read(call.join().unwrap().unwrap()).unwrap(), b"code");
        }
    });
    assert!(world.get().is_ok());
    assert_eq!(world.count.load(Ordering::Relaxed), 1);
}

#[test]
fn half_of_the_slots_wait_and_no_longer() {
    let world = world(2);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| world.get());
        world.begun.recv().unwrap();
        while world.compiled.lock().calls_waiting == 0 {
            std::thread::yield_now();
        }
        assert_eq!(world.get(), Err(Verdict::Compiling), "at once, while another call waits");
        assert_eq!(waiting.join().unwrap(), Err(Verdict::Compiling), "after a while");
    });
    world.end.send(Ok("code")).unwrap();
    while world.get().is_err() {
        std::thread::yield_now();
    }
    assert_eq!(world.count.load(Ordering::Relaxed), 1, "the compilation went on meanwhile");
}

#[test]
fn a_refused_module_is_remembered_and_a_passing_failure_is_not() {
    let world = world(8);
    world.end.send(Err(io::Error::from_raw_os_error(libc::EAGAIN))).unwrap();
    assert!(matches!(world.get(), Err(Verdict::Exhausted { .. })));
    world.end.send(Err(io::Error::other("it is no module"))).unwrap();
    for _ in 0..3 {
        assert!(matches!(world.get(), Err(Verdict::ModuleNotExecutable { cause, .. }) if cause == "it is no module"));
    }
    assert_eq!(world.count.load(Ordering::Relaxed), 2);
    let names: Vec<_> = fs::read_dir(&world.compiled.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [format!("{}.failed", versions()).as_str()]);
}

#[test]
fn a_call_waits_for_a_compilation_ahead_of_it() {
    let world = world(8);
    let (begins, begun) = channel::<()>();
    let (end, ends) = channel::<()>();
    let ahead = |compile: &dyn Fn(&Path) -> io::Result<()>| {
        let compiler = Compiler::Own(Runner::Module);
        world.compiled.compile_ahead(Path::new("/m.wasm"), versions(), compiler, |_, target| compile(target));
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            ahead(&|target| {
                begins.send(()).unwrap();
                ends.recv().unwrap();
                fs::write(target, "ahead")
            });
        });
        begun.recv().unwrap();
        let call = scope.spawn(|| world.get());
        while world.compiled.lock().calls_waiting == 0 {
            std::thread::yield_now();
        }
        ahead(&|_| panic!("it is being compiled"));
        end.send(()).unwrap();
        assert_eq!(fs::read(call.join().unwrap().unwrap()).unwrap(), b"ahead");
    });
    ahead(&|_| panic!("it has been compiled"));
    assert_eq!(world.count.load(Ordering::Relaxed), 0, "no call compiled it");
}
