//! PHP: the module is a script for faas-php (runtimes/php). If that is not built, php-cgi runs it. If that is not
//! installed, the plain `php` program runs it: it gets the request on stdin and in the environment, and its output is
//! the response.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::confined::Confined;
use super::{Command, UNBUFFERED, c_string, data_mib_max, find_program, open_program, path_of, places_of};
use crate::error::start::{self, StartError};
use crate::log;
use crate::protocol::function_spec::FunctionSpec;
use crate::protocol::worker_protocol::Verdict;
use crate::worker::Worker;

/// The command that installs PHP, for an error.
const INSTALL: &str = "apt-get install libphp-embed php-dev, then ./start.sh, which builds faas-php";

/// Asks PHP which files it reads when it starts: one a line, php.ini and the folders for it first.
const QUESTION: &str = "<?php echo implode(\"\\n\", array_filter([php_ini_loaded_file(), PHP_CONFIG_FILE_PATH,
    PHP_CONFIG_FILE_SCAN_DIR, ini_get('extension_dir'), ...explode(\",\\n\", (string) php_ini_scanned_files())]));
";
/// Time for PHP to answer, and its memory in MiB. It takes 20 ms.
const ANSWER_MAX: Duration = Duration::from_secs(5);
const ANSWER_MEMORY_MIB: u64 = 256;
/// Bytes of the answer: php.ini and some hundred extensions.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Paths at which faas-php can be, and the files that PHP is given.
pub struct Php {
    programs: Vec<PathBuf>,
    question: PathBuf,
    /// The folder of the settings for php-cgi.
    cgi_folder: PathBuf,
    /// True once the log names the program that runs functions instead of faas-php.
    fallback_is_told: AtomicBool,
}

impl Php {
    /// Writes the files into `folder`; the other workers write the same ones.
    pub fn new(folder: &Path, programs: &Path) -> start::Result<Php> {
        let cgi_folder = folder.join("php-cgi.d");
        let failed = || StartError::io("make the folder", cgi_folder.display().to_string());
        fs::create_dir_all(&cgi_folder).map_err(failed())?;
        fs::set_permissions(&cgi_folder, fs::Permissions::from_mode(0o755)).map_err(failed())?;
        write(&cgi_folder, "faas.ini", &cgi_settings())?;
        Ok(Php {
            programs: places_of("faas-php", programs),
            question: write(folder, "question.php", QUESTION)?,
            cgi_folder,
            fallback_is_told: AtomicBool::new(false),
        })
    }

    /// The path of faas-php for the command, and the open file.
    pub fn open(&self) -> Option<(CString, File)> {
        self.programs.iter().find_map(|path| open_program(path))
    }

    fn tell_fallback(&self, program: &str) {
        if !self.fallback_is_told.swap(true, Ordering::Relaxed) {
            log!("php: faas-php is not built; {program} runs PHP functions (runtimes/build.sh says what is missing)");
        }
    }
}

/// Writes in one step, so that no process reads half of the file.
fn write(folder: &Path, name: &str, text: &str) -> start::Result<PathBuf> {
    let path = folder.join(name);
    let failed = || StartError::io("write", path.display().to_string());
    let unfinished = folder.join(format!("unfinished-{}-{name}.new", std::process::id()));
    fs::write(&unfinished, text).map_err(failed())?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o644)).map_err(failed())?;
    fs::rename(&unfinished, &path).map_err(failed())?;
    Ok(path)
}

pub fn command(worker: &Worker, spec: &FunctionSpec) -> Result<Command, Verdict> {
    let php = &worker.runtimes.php;
    if let Some(program) = php.open() {
        return Ok(own_command(program, spec, worker.settings.dev));
    }
    if let Ok(program) = find_program("php-cgi", "") {
        php.tell_fallback("php-cgi");
        return Ok(cgi_command(program, spec, &php.cgi_folder));
    }
    let Ok(program) = find_program("php", "") else {
        return Err(Verdict::RuntimeMissing { program: "faas-php".into(), install: INSTALL.into() });
    };
    php.tell_fallback("php");
    Ok(cli_command(program, spec))
}

/// faas-php: `run`, with the settings that a forked process would get.
fn own_command((program, file): (CString, File), spec: &FunctionSpec, dev: bool) -> Command {
    let mut arguments = ["faas-php", "run"].map(c_string).to_vec();
    let mut add = |name: &str, value: &str| arguments.extend([c_string(name), c_string(value)]);
    add("--route", &spec.route);
    add("--memory-mib", &spec.memory_mib.to_string());
    add("--output", spec.output.as_str());
    add("--dev", if dev { "1" } else { "0" });
    if !spec.handler.is_empty() {
        add("--handler", &spec.handler);
    }
    for (directive, value) in &spec.ini {
        add("--ini", &format!("{directive}={value}"));
    }
    if spec.stream {
        add("--ini", UNBUFFERED);
    }
    // Every user can read the arguments of a process. So the folder's name stands in the environment, which PHP
    // expands.
    add("--session-dir", "${FAAS_SESSION_DIR}");
    arguments.push(c_string(&spec.module));
    arguments.extend(spec.args.iter().map(c_string));
    let data_mib_max = data_mib_max(spec);
    Command { program, program_file: Some(file), arguments, data_mib_max, memfd: spec.memfd, environment: Vec::new() }
}

/// php-cgi finds its script in the environment, and runs it only if a variable says that a server has called it. It
/// takes no settings from its arguments if the query string begins with a hyphen, since that could be mistaken for
/// arguments. So the platform's settings come in a file; the row's `ini` has no effect with such a query string.
fn cgi_command((program, file): (CString, File), spec: &FunctionSpec, folder: &Path) -> Command {
    let mut arguments = vec![c_string("php-cgi")];
    let own = spec.ini.iter().map(|(directive, value)| format!("{directive}={value}"));
    for setting in spec.stream.then(|| UNBUFFERED.to_string()).into_iter().chain(own) {
        arguments.extend([c_string("-d"), c_string(setting)]);
    }
    let environment = vec![
        c_string("REDIRECT_STATUS=200"),
        // The folder before the colon is the one that php-cgi was built with.
        c_string(format!("PHP_INI_SCAN_DIR=:{}", folder.display())),
        c_string(format!("FAAS_MEMORY={}M", spec.memory_mib)),
    ];
    Command {
        program,
        program_file: Some(file),
        arguments,
        data_mib_max: data_mib_max(spec),
        memfd: spec.memfd,
        environment,
    }
}

/// The settings of php-cgi; the variables are those of its environment.
fn cgi_settings() -> String {
    let mut settings = settings("${FAAS_MEMORY}");
    settings.extend([
        "expose_php=0".into(),
        // Its memory would end with the process, and it writes a lock file to a folder that functions cannot write to.
        "opcache.enable=0".into(),
        "upload_tmp_dir=${TMPDIR}".into(),
        "session.save_path=${FAAS_SESSION_DIR}".into(),
    ]);
    settings.join("\n") + "\n"
}

/// The plain program, which imitates no server.
fn cli_command((program, file): (CString, File), spec: &FunctionSpec) -> Command {
    let mut arguments = vec![c_string("php")];
    let own = spec.ini.iter().map(|(directive, value)| format!("{directive}={value}"));
    for setting in settings(&format!("{}M", spec.memory_mib)).into_iter().chain(own) {
        arguments.extend([c_string("-d"), c_string(setting)]);
    }
    arguments.extend([c_string("-f"), c_string(&spec.module), c_string("--")]);
    arguments.extend(spec.args.iter().map(c_string));
    let data_mib_max = data_mib_max(spec);
    Command { program, program_file: Some(file), arguments, data_mib_max, memfd: spec.memfd, environment: Vec::new() }
}

fn settings(memory: &str) -> Vec<String> {
    vec![
        // PHP's own limit applies first, with a clear error: it names file and line on stderr, and exits with 255.
        format!("memory_limit={memory}"),
        // The platform limits the time.
        "max_execution_time=0".into(),
        // Errors go to stderr, and so into the log, never into the response.
        "display_errors=0".into(),
        "log_errors=1".into(),
        "error_log=".into(),
        "html_errors=0".into(),
    ]
}

/// faas-php, and the files that PHP reports to read when it starts: php.ini, the folders of further settings and
/// extensions, and the files with settings.
pub fn files_read_at_start(worker: &Worker) -> Vec<PathBuf> {
    let Some(program) = worker.runtimes.php.open() else { return Vec::new() };
    let mut files = vec![path_of(&program.0)];
    match ask(worker, program) {
        Ok(answer) => files.extend(answer.lines().map(|line| PathBuf::from(line.trim()))),
        Err(error) => log!("php: could not ask faas-php which files it reads when it starts: {error}"),
    }
    files
}

fn ask(worker: &Worker, program: (CString, File)) -> io::Result<String> {
    let scratch = worker.scratch_area.take(worker.sandbox.user.as_ref())?;
    let environment = [b"TMPDIR=", scratch.path().as_os_str().as_bytes(), b"\0"].concat();
    let arguments = [c_string("faas-php"), c_string("run"), c_string(&worker.runtimes.php.question)];
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
    question.run(&worker.sandbox)?;
    drop(writer);
    let mut answer = String::new();
    reader.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    // PHP writes a header before its answer.
    Ok(answer.split_once("\r\n\r\n").map_or(answer.clone(), |(_, body)| body.to_string()))
}
