//! PHP: the module is a script for faas-php (runtimes/php). If that is not built or cannot start, php-cgi runs it. If
//! that is not installed, the plain `php` program runs it: it gets the request on stdin and in the environment, and its
//! output is the response.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::faas_php::{Absent, FaasPhp};
use super::{Command, UNBUFFERED, c_string, find_program};
use crate::error::start::{self, StartError};
use crate::protocol::function_spec::FunctionSpec;
use crate::protocol::worker_protocol::Verdict;
use crate::worker::Worker;
use crate::{log, procfs};

/// The command that installs PHP, for an error.
const INSTALL: &str = "apt-get install libphp-embed php-dev, then ./start.sh, which builds faas-php";

/// The programs that run PHP, and the files that they are given.
pub struct Php {
    pub own: FaasPhp,
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
        Ok(Php { own: FaasPhp::new(folder, programs)?, cgi_folder, fallback_is_told: AtomicBool::new(false) })
    }

    /// Logs once why faas-php runs no functions, and the program that runs them instead, if one does.
    fn tell_fallback(&self, absent: &Absent, program: Option<&str>) {
        if self.fallback_is_told.swap(true, Ordering::Relaxed) {
            return;
        }
        let instead = program.map_or("PHP functions answer 503".into(), |name| format!("{name} runs PHP functions"));
        match absent {
            Absent::NotBuilt => {
                log!("php: faas-php is not built; {instead} (runtimes/build.sh says what is missing)");
            }
            Absent::CannotStart(why) => log!("php: faas-php cannot start; {instead}: {why}"),
        }
    }
}

/// Writes in one step, so that no process reads half of the file.
pub fn write(folder: &Path, name: &str, text: &str) -> start::Result<PathBuf> {
    let path = folder.join(name);
    let failed = || StartError::io("write", path.display().to_string());
    let unfinished = folder.join(format!("unfinished-{}-{name}.new", procfs::outer_pid()));
    fs::write(&unfinished, text).map_err(failed())?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o644)).map_err(failed())?;
    fs::rename(&unfinished, &path).map_err(failed())?;
    Ok(path)
}

pub fn command(worker: &Worker, spec: &FunctionSpec) -> Result<Command, Verdict> {
    let php = &worker.runtimes.php;
    let absent = match php.own.open(worker) {
        Ok(program) => {
            php.fallback_is_told.store(false, Ordering::Relaxed);
            return Ok(own_command(program, spec, worker.settings.dev));
        }
        Err(absent) => absent,
    };
    if let Ok(program) = find_program("php-cgi", "") {
        php.tell_fallback(&absent, Some("php-cgi"));
        return Ok(cgi_command(program, spec, &php.cgi_folder));
    }
    let Ok(program) = find_program("php", "") else {
        php.tell_fallback(&absent, None);
        return Err(Verdict::RuntimeMissing { program: "faas-php".into(), install: INSTALL.into() });
    };
    php.tell_fallback(&absent, Some("php"));
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
    Command::new(spec, program, Some(file), arguments)
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
    Command { environment, ..Command::new(spec, program, Some(file), arguments) }
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
    Command::new(spec, program, Some(file), arguments)
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
