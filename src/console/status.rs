//! What the gateway last said of itself on status.sock (gateway/status.rs): one JSON line every 500 ms.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use serde_json::Value;

use crate::error::start::{Result, StartError};

/// Bytes of one line; with 256 workers it has about 40,000.
const LINE_BYTES_MAX: u64 = 1 << 20;

pub struct Status {
    /// Guards the last line, which is a JSON object, and when it came.
    last: Mutex<(Value, Instant)>,
}

/// The lines that come after the first.
pub type Lines = BufReader<UnixStream>;

impl Status {
    /// Connects, and waits for the first line, so that there is always one to show.
    pub fn connect(socket: &Path) -> Result<(Arc<Status>, Lines)> {
        let stream = UnixStream::connect(socket).map_err(StartError::io("reach a gateway at", socket.display()))?;
        let mut lines = BufReader::new(stream);
        let ended = || StartError::Io {
            step: "read",
            subject: socket.display().to_string(),
            cause: std::io::ErrorKind::UnexpectedEof.into(),
        };
        let first = read(&mut lines)?.ok_or_else(ended)?;
        Ok((Arc::new(Status { last: Mutex::new((first, Instant::now())) }), lines))
    }

    /// Takes line after line until the gateway closes the stream, which means that it has ended.
    pub fn follow(&self, mut lines: Lines) -> Result<()> {
        while let Some(line) = read(&mut lines)? {
            *self.last() = (line, Instant::now());
        }
        Ok(())
    }

    /// The last line, with its age.
    pub fn show(&self) -> Value {
        let (mut line, at) = self.last().clone();
        line["age_ms"] = (at.elapsed().as_millis() as u64).into();
        line
    }

    fn last(&self) -> MutexGuard<'_, (Value, Instant)> {
        self.last.lock().expect("nothing panics under this lock")
    }
}

/// The next line; `None` at the end, also where that cuts a line short.
fn read(lines: &mut Lines) -> Result<Option<Value>> {
    let mut line = String::new();
    let count =
        lines.take(LINE_BYTES_MAX).read_line(&mut line).map_err(StartError::io("read", "the gateway's status"))?;
    if (count as u64) < LINE_BYTES_MAX && !line.ends_with('\n') {
        return Ok(None);
    }
    match serde_json::from_str(&line) {
        Ok(value @ Value::Object(_)) => Ok(Some(value)),
        _ => {
            let cause = std::io::ErrorKind::InvalidData.into();
            Err(StartError::Io { step: "understand", subject: "the gateway's status".into(), cause })
        }
    }
}
