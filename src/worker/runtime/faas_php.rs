//! The program faas-php: where it lies, whether it starts, and which files it reads when it starts.
//!
//! It is linked with the machine's libphp. Where that has gone, or is older than the one it was built with, the dynamic
//! linker ends it before its first line. So each new version of it runs once before it runs a function.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::confined::Confined;
use super::{c_string, open_program, path_of, places_of, version_of_program};
use crate::error::start;
use crate::log;
use crate::worker::Worker;
use crate::worker::version::Version;

/// Asks PHP which files it reads when it starts: one a line, php.ini and the folders for it first.
const QUESTION: &str = "<?php echo implode(\"\\n\", array_filter([php_ini_loaded_file(), PHP_CONFIG_FILE_PATH,
    PHP_CONFIG_FILE_SCAN_DIR, ini_get('extension_dir'), ...explode(\",\\n\", (string) php_ini_scanned_files())]));
";
/// CPU time for PHP to answer, and its memory in MiB. It takes 20 ms.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const ANSWER_MEMORY_MIB: u64 = 256;
/// Bytes of the answer: php.ini and some hundred extensions.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Time until a program that did not start is tried again: its library may have been mended meanwhile.
const RETRY: Duration = Duration::from_secs(10);

pub struct FaasPhp {
    places: Vec<PathBuf>,
    question: PathBuf,
    /// The last program that was asked. Held for a look or a change, never while a program runs.
    asked: Mutex<Option<Asked>>,
}

struct Asked {
    path: PathBuf,
    version: Version,
    at: Instant,
    /// What it wrote, or how it ended, where it did not start.
    fault: Option<String>,
}

/// Why faas-php runs no function.
pub enum Absent {
    NotBuilt,
    CannotStart(String),
}

impl FaasPhp {
    /// Writes its question into `folder`. `programs` is the folder of the platform's programs.
    pub fn new(folder: &Path, programs: &Path) -> start::Result<FaasPhp> {
        let question = super::php::write(folder, "question.php", QUESTION)?;
        Ok(FaasPhp { places: places_of("faas-php", programs), question, asked: Mutex::default() })
    }

    /// Its path for the command, and the open file.
    pub fn open(&self, worker: &Worker) -> Result<(CString, File), Absent> {
        let (path, version, program) = self.find().ok_or(Absent::NotBuilt)?;
        if self.known(path, &version).is_none() {
            // Where the machine lacks what a new process needs, the invocation finds that out itself.
            let _ = self.ask(worker);
        }
        match self.known(path, &version) {
            Some(Some(fault)) => Err(Absent::CannotStart(fault)),
            _ => Ok(program),
        }
    }

    /// The program, and the files that PHP reports to read when it starts: php.ini, the folders of further settings and
    /// extensions, and the files with settings.
    pub fn files_read_at_start(&self, worker: &Worker) -> Vec<PathBuf> {
        let Some((_, _, (name, _))) = self.find() else { return Vec::new() };
        let mut files = vec![path_of(&name)];
        match self.ask(worker) {
            Ok(answer) => files.extend(answer.lines().map(|line| PathBuf::from(line.trim()))),
            Err(error) => log!("php: could not ask faas-php which files it reads when it starts: {error}"),
        }
        files
    }

    fn find(&self) -> Option<(&Path, Version, (CString, File))> {
        self.places.iter().find_map(|path| Some((path.as_path(), version_of_program(path)?, open_program(path)?)))
    }

    /// The fault of this program, if it is known whether it has one.
    fn known(&self, path: &Path, version: &Version) -> Option<Option<String>> {
        let asked = self.asked.lock().expect("nothing panics under this lock");
        let asked = asked.as_ref().filter(|asked| asked.path == path && asked.version == *version)?;
        let is_over = asked.fault.is_some() && asked.at.elapsed() >= RETRY;
        (!is_over).then(|| asked.fault.clone())
    }

    /// Runs the program, and records whether it starts.
    fn ask(&self, worker: &Worker) -> io::Result<String> {
        let (path, version, program) = self.find().ok_or(io::ErrorKind::NotFound)?;
        let scratch = worker.scratch_area.take(worker.sandbox.user.as_ref(), None)?;
        let environment = [b"TMPDIR=", scratch.path().as_os_str().as_bytes(), b"\0"].concat();
        let arguments = [c_string("faas-php"), c_string("run"), c_string(&self.question)];
        let (reader, writer) = io::pipe()?;
        let question = Confined {
            program,
            arguments: &arguments,
            environment: &environment,
            scratch: Some(scratch.path()),
            stdin: worker.null.as_fd(),
            stdout: writer.as_fd(),
            memory_mib: ANSWER_MEMORY_MIB,
            time_max: ANSWER_MAX,
        };
        let outcome = question.run(&worker.sandbox);
        drop(writer);
        let fault = match &outcome {
            Ok(()) => None,
            Err(error) if is_its_own(error) => Some(error.to_string()),
            // A machine that is busy, or lacks memory, says nothing about the program.
            Err(_) => return outcome.map(|()| String::new()),
        };
        let asked = Asked { path: path.to_path_buf(), version, at: Instant::now(), fault };
        *self.asked.lock().expect("nothing panics under this lock") = Some(asked);
        outcome?;
        let mut answer = String::new();
        reader.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
        // PHP writes a header before its answer.
        Ok(answer.split_once("\r\n\r\n").map_or(answer.clone(), |(_, body)| body.to_string()))
    }
}

/// True if the program itself is at fault: it has failed, or is none for this machine.
fn is_its_own(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other || matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOEXEC))
}
