//! PHP: the module is a script for the `php` program (php-cli), which a prelude makes behave as php-cgi does.
//!
//! The prelude and the fork server are PHP (runtimes/php/). They are built into this program, and written where functions
//! can read them and only we write.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Command, c_string, find_program};
use crate::error::{self, Error};
use crate::limits::{MEMORY_GRACE_MIB, PHP_LOOK_MAX};
use crate::log;
use crate::protocol::function_spec::FunctionSpec;
use crate::protocol::worker_protocol::Verdict;
use crate::worker::Worker;
use crate::worker::fork_servers::{Key, Version};

/// What the prelude defines anew. PHP allows that for functions that `disable_functions` names.
const REDEFINED: &str = "header,header_remove,headers_list,http_response_code,setcookie,setrawcookie,filter_has_var,\
                         filter_input,filter_input_array";

/// What opcache needs to serve children of one parent.
const OPCACHE: [&str; 9] = [
    "opcache.enable=1",
    "opcache.enable_cli=1",
    // The compiler's code pages do not take to forks.
    "opcache.jit=0",
    "opcache.jit_buffer_size=0",
    // What a child includes is looked at in each child. What is younger than two seconds is not kept: opcache tells versions
    // apart by their time in seconds, and could take the next one for it.
    "opcache.validate_timestamps=1",
    "opcache.revalidate_freq=0",
    "opcache.file_update_protection=2",
    // In MiB: only what is used of it becomes memory, and one function with its libraries uses a few. What does not fit is
    // compiled in each child.
    "opcache.memory_consumption=64",
    "opcache.interned_strings_buffer=8",
];

/// What there is to know of the installed `php`.
#[derive(Debug, Default)]
struct Facts {
    /// As 80234 for 8.2.34; 0 where it could not be found out.
    version: u64,
    /// What php.ini says, and what our settings would else take the place of.
    disabled: String,
    prepended: String,
}

/// The PHP files, and what is known of the program that runs them.
pub struct Files {
    prelude: PathBuf,
    server: PathBuf,
    /// For the version of the program that it was asked of. Held while that is asked.
    facts: Mutex<Option<(Version, Arc<Facts>)>>,
}

impl Files {
    /// Writes them into `folder`, where the other workers write the same.
    pub fn write(folder: &Path) -> error::Result<Files> {
        let place = |name: &str, text: &str| {
            let path = folder.join(name);
            let failed = || Error::io("write", path.display().to_string());
            let unfinished = folder.join(format!("unfinished-{}-{}", std::process::id(), name.replace('/', "-")));
            fs::write(&unfinished, text).map_err(failed())?;
            fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o644)).map_err(failed())?;
            fs::rename(&unfinished, &path).map_err(failed())?;
            error::Result::Ok(path)
        };
        Ok(Files {
            prelude: place("prelude.php", include_str!("../../../runtimes/php/prelude.php"))?,
            // server.php reads memory.php from its own folder.
            server: {
                place("memory.php", include_str!("../../../runtimes/php/memory.php"))?;
                place("server.php", include_str!("../../../runtimes/php/server.php"))?
            },
            facts: Mutex::default(),
        })
    }

    /// Asks a `php` what it is, once for each version of it.
    fn facts(&self, program: &Path) -> Arc<Facts> {
        let version = Version::of_path(program);
        let mut known = self.facts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let (Some((of, facts)), Some(version)) = (known.as_ref(), version)
            && *of == version
        {
            return facts.clone();
        }
        let facts = Arc::new(ask(program).unwrap_or_else(|error| {
            log!(
                "php: could not ask {} about itself: {error}; header() and its like have no effect",
                program.display()
            );
            Facts::default()
        }));
        *known = version.map(|version| (version, facts.clone()));
        facts
    }
}

fn ask(program: &Path) -> io::Result<Facts> {
    const QUESTION: &str = "echo json_encode([PHP_VERSION_ID, (string) ini_get('disable_functions'), \
                            (string) ini_get('auto_prepend_file')], JSON_INVALID_UTF8_SUBSTITUTE);";
    let mut child = Program::new(program)
        .args(["-d", "display_errors=0", "-d", "log_errors=0", "-d", "auto_append_file=", "-r", QUESTION])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + PHP_LOOK_MAX;
    // What it says fits into the pipe: it is read when it has ended.
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut said = String::new();
    child.stdout.take().expect("it is piped").read_to_string(&mut said)?;
    let said: Value = serde_json::from_str(&said)?;
    let text = |at: usize| said[at].as_str().unwrap_or_default().to_string();
    Ok(Facts { version: said[0].as_u64().unwrap_or(0), disabled: text(1), prepended: text(2) })
}

/// The command of the fork server: that of the cold way, and the setting that has the prelude become one.
pub(super) fn server_command(files: &Files, key: &Key) -> Result<Command, String> {
    let (program, file) = find_program("php", "").map_err(|_| "php is not installed")?;
    let facts = files.facts(Path::new(&*program.to_string_lossy()));
    if facts.version < PRELUDE_VERSION_MIN {
        return Err("PHP is older than 8.1".into());
    }
    let mut settings = settings(&format!("{}M", key.memory_mib));
    settings.extend(prelude_settings(files, &facts));
    settings.extend(OPCACHE.map(String::from));
    settings.push(format!("faas.server={}", files.server.display()));
    Ok(php("php", (program, file), &settings, Some(&key.module), &[], key.memory_mib))
}

pub(super) fn command(worker: &Worker, spec: &FunctionSpec, _: &Path) -> Result<Command, Verdict> {
    let (program, file) = find_program("php", "apt-get install php-cli")?;
    let files = &worker.runtimes.php;
    let facts = files.facts(Path::new(&*program.to_string_lossy()));
    let mut settings = settings(&format!("{}M", spec.memory_mib));
    if facts.version >= PRELUDE_VERSION_MIN {
        settings.extend(prelude_settings(files, &facts));
    }
    Ok(php("php", (program, file), &settings, Some(&spec.module), &spec.args, spec.memory_mib))
}

/// The oldest PHP whose language the prelude is written in: 8.1.
const PRELUDE_VERSION_MIN: u64 = 80_100;

fn settings(memory: &str) -> Vec<String> {
    vec![
        // PHP's own limit speaks first and clearly: it names file and line on stderr, and exits with 255.
        format!("memory_limit={memory}"),
        // Time is the platform's business.
        "max_execution_time=0".into(),
        // Faults go to stderr, and so into the log, never into the answer.
        "display_errors=0".into(),
        "log_errors=1".into(),
        "error_log=".into(),
        "html_errors=0".into(),
    ]
}

/// What php.ini disables stays so, and what it prepends still is, by the prelude.
fn prelude_settings(files: &Files, facts: &Facts) -> Vec<String> {
    let disabled = match facts.disabled.as_str() {
        "" => REDEFINED.to_string(),
        theirs => format!("{theirs},{REDEFINED}"),
    };
    vec![
        format!("disable_functions={disabled}"),
        format!("auto_prepend_file={}", files.prelude.display()),
        format!("faas.prepend={}", facts.prepended),
    ]
}

fn php(
    name: &str,
    (program, file): (std::ffi::CString, File),
    settings: &[String],
    module: Option<&Path>,
    args: &[String],
    memory_mib: u64,
) -> Command {
    let mut arguments = vec![c_string(name)];
    for setting in settings {
        arguments.extend([c_string("-d"), c_string(setting)]);
    }
    if let Some(module) = module {
        arguments.extend([c_string("-f"), c_string(module)]);
        arguments.extend((!args.is_empty()).then(|| c_string("--")));
        arguments.extend(args.iter().map(c_string));
    }
    let data_mib_max = memory_mib + MEMORY_GRACE_MIB;
    Command { program, program_file: Some(file), arguments, data_mib_max, environment: Vec::new() }
}
