//! Lines of the gateway's log, as start.sh keeps it in the run dir.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;

use super::{OperationError, Result, failed};

/// Bytes that are read at once: some thousand lines.
const READ_BYTES_MAX: u64 = 256 * 1024;

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub inode: u64,
    pub offset: u64,
}

/// Whole lines from a place on, or the log's end, and the place after them. Reads a rotated or cut log from its
/// beginning.
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
    // If the log grew by more than one read takes, the oldest lines are left out.
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

/// A filter for lines.
pub(crate) struct Wanted {
    route: Option<String>,
    request: Option<String>,
}

impl Wanted {
    pub fn new(route: Option<&str>, request: Option<&str>) -> Wanted {
        Wanted { route: route.map(str::to_string), request: request.map(str::to_string) }
    }

    pub fn takes(&self, line: &str) -> bool {
        // With FAAS_LOG=json a line is an object.
        let object: Option<Value> = line.starts_with('{').then(|| serde_json::from_str(line).ok()).flatten();
        let words = object.as_ref().map_or(Some(line), |object| object["message"].as_str()).unwrap_or_default();
        let has_word = |wanted: &str| words.split_whitespace().any(|word| word == wanted);
        let has = |name: &str, value: &str| match &object {
            Some(object) => object[name] == value,
            None => has_word(&format!("{name}={value}")),
        };
        // The registry names a row's route in this form.
        let is_route = |route: &String| has("route", route) || has_word(&format!("{route}:"));
        self.request.as_ref().is_none_or(|id| has("request", id)) && self.route.as_ref().is_none_or(is_route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_route_or_request_are_found_as_text_and_as_json() {
        let text = [
            "T request=a route=GET:/x function=f status=200",
            "T request=b route=GET:/x function=f stderr: route=GET:/y",
            "T registry: GET:/y: runtime is missing",
            r#"{"time":"T","request":"a","route":"GET:/y","stderr":"it broke"}"#,
            r#"{"time":"T","message":"registry: GET:/x: runtime is missing"}"#,
        ];
        let found = |route, request| {
            let wanted = Wanted::new(route, request);
            (0..text.len()).filter(|at| wanted.takes(text[*at])).collect::<Vec<_>>()
        };
        assert_eq!(found(None, None), [0, 1, 2, 3, 4]);
        assert_eq!(found(Some("GET:/x"), None), [0, 1, 4]);
        assert_eq!(found(None, Some("a")), [0, 3]);
        assert_eq!(found(Some("GET:/y"), Some("a")), [3]);
    }

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
