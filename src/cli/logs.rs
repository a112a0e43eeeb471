//! `faas logs`: the gateway's log, as start.sh keeps it in the run dir.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::args::{Given, Opt, Verb};
use super::{CliError, Report, Result, failed};
use crate::operator::log_lines::Wanted;
use crate::settings::Settings;

pub const VERB: Verb = Verb {
    name: "logs",
    arguments: "[ROUTE] [OPTION]…",
    about: "Show the log: all of it, or the lines of a route or of one request.",
    options: &[
        Opt::flag("follow", Some('f'), "go on with what comes, until Ctrl-C"),
        Opt::value("request", None, "ID", "only lines of this request (X-Request-Id)"),
        Opt::value("limit", Some('n'), "COUNT", "at most the last COUNT lines; 100 without it"),
    ],
    example: "faas logs POST:/api/convert -f",
    run,
};

pub const LINES_SHOWN: u64 = 100;
const FOLLOW_PERIOD: Duration = Duration::from_millis(100);

fn run(given: &Given) -> Result<Report> {
    let route = given.at_most_one()?;
    let settings = Settings::from_env()?;
    let path = settings.run_dir.join("gateway.log");
    let open = || File::open(&path).map(BufReader::new);
    let mut log = open().map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => CliError::NotFound(format!(
            "no log is at {}; ./start.sh writes one there, a service manager keeps it elsewhere",
            path.display()
        )),
        _ => CliError::Failed(format!("could not read {}: {cause}", path.display())),
    })?;
    let wanted = Wanted::new(route, given.value("request"));
    let mut lines = std::collections::VecDeque::new();
    let limit = given.number("limit")?.unwrap_or(LINES_SHOWN) as usize;
    while let Some(line) = next_line(&mut log, &path)? {
        if wanted.takes(&line) {
            lines.push_back(line);
            if lines.len() > limit {
                lines.pop_front();
            }
        }
    }
    if !given.has("follow") {
        let json = json!(lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>());
        return Ok(Report::new(lines.into_iter().collect::<String>(), json));
    }
    let mut stdout = std::io::stdout();
    let mut write = |line: &str| stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
    let mut is_read = lines.iter().all(|line| write(line).is_ok());
    while is_read {
        match next_line(&mut log, &path)? {
            Some(line) => is_read = !wanted.takes(&line) || write(&line).is_ok(),
            None => {
                std::thread::sleep(FOLLOW_PERIOD);
                // A rotated log continues in a new file; a cut one starts again at its beginning.
                let (ours, now) = (log.get_ref().metadata(), path.metadata());
                if let (Ok(ours), Ok(now)) = (ours, now) {
                    if ours.ino() != now.ino() {
                        log = open().map_err(failed(format!("read {}", path.display())))?;
                    } else if log.stream_position().is_ok_and(|position| now.len() < position) {
                        log.seek(SeekFrom::Start(0)).map_err(failed(format!("read {}", path.display())))?;
                    }
                }
            }
        }
    }
    Ok(Report::new("", json!([])))
}

/// The next whole line; `None` at the end. Waits for the rest of half a line.
fn next_line(log: &mut BufReader<File>, path: &Path) -> Result<Option<String>> {
    let mut line = Vec::new();
    let count = log.read_until(b'\n', &mut line).map_err(failed(format!("read {}", path.display())))?;
    if !line.ends_with(b"\n") {
        log.seek_relative(-(count as i64)).map_err(failed(format!("read {}", path.display())))?;
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}
