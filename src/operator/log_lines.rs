//! Lines of the gateway's log, as start.sh keeps it in the run dir.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::registry::Route;
use super::{OperationError, Result, failed};

/// Bytes that are read at once: some thousand lines.
const READ_BYTES_MAX: u64 = 256 * 1024;

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub inode: u64,
    pub offset: u64,
}

/// Whole lines from a place on, or the log's end, and the place after them. A log that was rotated or cut is read anew.
pub(crate) fn read_from(path: &Path, place: Option<Place>) -> Result<(Vec<String>, Place)> {
    let step = format!("read {}", path.display());
    let mut log = File::open(path).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => OperationError::NotFound(format!(
            "no log is at {}; ./start.sh writes one there, a service manager keeps it elsewhere",
            path.display()
        )),
        _ => OperationError::Failed(format!("could not {step}: {cause}")),
    })?;
    let found = log.metadata().map_err(failed(&step))?;
    let known = place.filter(|place| place.inode == found.ino() && place.offset <= found.len());
    // Where more has come than is read at once, the oldest lines are left out.
    let newest = found.len().saturating_sub(READ_BYTES_MAX);
    let start = known.map_or(newest, |place| place.offset.max(newest));
    log.seek(SeekFrom::Start(start)).map_err(failed(&step))?;
    let mut bytes = Vec::new();
    log.take(READ_BYTES_MAX).read_to_end(&mut bytes).map_err(failed(&step))?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let is_within_line = start > 0 && known.is_none_or(|place| place.offset != start);
    let first = if is_within_line { bytes.iter().position(|byte| *byte == b'\n').map_or(end, |at| at + 1) } else { 0 };
    let text = String::from_utf8_lossy(&bytes[first.min(end)..end]).into_owned();
    let place = Place { inode: found.ino(), offset: start + end as u64 };
    Ok((text.lines().map(str::to_string).collect(), place))
}

/// Which lines are wanted.
pub(crate) struct Wanted {
    /// Words, one of which a line of the route has: `route=…` of its calls, `function=…` of what it writes to stderr.
    route: Vec<String>,
    request: Option<String>,
}

impl Wanted {
    /// `found` is the row of `route`, where it has one.
    pub fn new(route: Option<&str>, found: Option<&Route>, request: Option<&str>) -> Wanted {
        let mut words: Vec<String> = Vec::new();
        if let Some(key) = route {
            let name = found.and_then(|route| Some(route.descriptor["name"].as_str()?.to_string()));
            words.extend([format!("route={key}"), format!("{key}:")]);
            words.push(format!("function={}", name.as_deref().unwrap_or(key)));
        }
        Wanted { route: words, request: request.map(|id| format!("request={id}")) }
    }

    pub fn takes(&self, line: &str) -> bool {
        let has = |wanted: &String| line.split_whitespace().any(|word| word == wanted);
        let is_request =
            |wanted: &String| has(wanted) || line.split_whitespace().any(|word| word.strip_suffix(':') == Some(wanted));
        self.request.as_ref().is_none_or(is_request) && (self.route.is_empty() || self.route.iter().any(has))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_read_by_whole_lines_and_anew_when_it_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(matches!(read_from(&path, None), Err(OperationError::NotFound(_))));
        std::fs::write(&path, "one\ntwo\nhal").unwrap();
        let (lines, place) = read_from(&path, None).unwrap();
        assert_eq!((lines, place.offset), (vec!["one".to_string(), "two".to_string()], 8));
        std::fs::write(&path, "one\ntwo\nhalf\n").unwrap();
        let (lines, place) = read_from(&path, Some(place)).unwrap();
        assert_eq!(lines, ["half"]);
        assert!(read_from(&path, Some(place)).unwrap().0.is_empty());
        std::fs::write(&path, "new\n").unwrap();
        assert_eq!(read_from(&path, Some(place)).unwrap().0, ["new"]);
        std::fs::write(&path, "x".repeat(READ_BYTES_MAX as usize) + "\nlast\n").unwrap();
        assert_eq!(read_from(&path, None).unwrap().0, ["last"]);
    }
}
