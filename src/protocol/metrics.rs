//! The metric sample: one JSON line that every worker writes to metrics.sock every 500 ms.
//!
//! ```text
//! {"version":"0.1.0-2","id":0,"pid":4711,"socket":"/srv/run/worker_0.sock","slots":8,"cpu":12.5,"mem":3.1,"io":0.0,"score":7.2}
//! ```
//!
//! The first line announces the worker: the gateway keeps no list of sockets. The end of the stream means that the
//! worker is gone. In the other direction the gateway sends only `DRAIN`, a line of its own, after which the worker
//! finishes what runs and exits. If the stream ends without it, the gateway has died.
//!
//! The C original sends a struct as it lies in memory; a line of text can be read with any tool, and can grow.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{ProtocolError, VERSION};
use crate::limits::{METRICS_LINE_BYTES_MAX, WORKER_SLOTS, WORKERS};

/// The gateway writes this line to a worker that is to end.
pub const DRAIN_LINE: &[u8] = b"DRAIN\n";
/// The gateway writes this line to a worker of another version.
pub const OTHER_LINE: &[u8] = b"OTHER\n";

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub id: u32,
    pub pid: i32,
    pub socket: PathBuf,
    /// Zero once the worker is to end: then the gateway does not choose it any more.
    pub slots: u32,
    /// Each smoothed and normalised: 0 is idle, 100 is full (scheduler_config.rs).
    pub cpu: f64,
    pub mem: f64,
    pub io: f64,
    pub score: f64,
}

impl Sample {
    /// The line, with its newline.
    pub fn to_line(&self) -> String {
        // A tenth of a per mille is finer than the measurement.
        let rounded = |value: f64| (value * 10_000.0).round() / 10_000.0;
        let object = json!({
            "version": VERSION,
            "id": self.id,
            "pid": self.pid,
            "socket": self.socket.to_string_lossy(),
            "slots": self.slots,
            "cpu": rounded(self.cpu),
            "mem": rounded(self.mem),
            "io": rounded(self.io),
            "score": rounded(self.score),
        });
        format!("{object}\n")
    }

    /// Reads a line without its newline.
    ///
    /// # Errors
    /// [`ProtocolError`] if it is too long, is not JSON, or a field is missing or out of its range.
    pub fn parse(line: &str) -> Result<Sample, ProtocolError> {
        let refuse = |what: &str| ProtocolError::malformed("a sample", what);
        if line.len() > METRICS_LINE_BYTES_MAX {
            return Err(refuse("the line is too long"));
        }
        let object: Value = serde_json::from_str(line).map_err(|_| refuse("the line is no JSON"))?;
        if object["version"] != VERSION {
            return Err(ProtocolError::OtherVersion(object["version"].as_str().map(str::to_string)));
        }
        let whole = |name: &str, range: std::ops::RangeInclusive<u64>| {
            object[name]
                .as_u64()
                .filter(|number| range.contains(number))
                .ok_or_else(|| refuse(&format!("{name} is missing or out of range")))
        };
        let figure = |name: &str| {
            object[name]
                .as_f64()
                .filter(|number| (0.0..1e9).contains(number))
                .ok_or_else(|| refuse(&format!("{name} is missing or out of range")))
        };
        Ok(Sample {
            id: whole("id", 0..=WORKERS.end() - 1)? as u32,
            pid: whole("pid", 1..=i32::MAX as u64)? as i32,
            socket: object["socket"].as_str().map(PathBuf::from).ok_or_else(|| refuse("socket is missing"))?,
            slots: whole("slots", 0..=*WORKER_SLOTS.end())? as u32,
            cpu: figure("cpu")?,
            mem: figure("mem")?,
            io: figure("io")?,
            score: figure("score")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_comes_back_as_it_was_sent() {
        let sample = Sample {
            id: 3,
            pid: 99,
            socket: "/run/w.sock".into(),
            slots: 8,
            cpu: 12.5,
            mem: 3.25,
            io: 0.0,
            score: 7.2,
        };
        let line = sample.to_line();
        assert!(line.ends_with('\n') && !line.trim_end().contains('\n'));
        assert_eq!(Sample::parse(line.trim_end()).unwrap(), sample);
    }

    #[test]
    fn a_line_that_is_no_sample_is_refused() {
        let good = r#"{"version":"V","id":0,"pid":1,"socket":"/s","slots":8,"cpu":0,"mem":0,"io":0,"score":0}"#;
        assert!(matches!(Sample::parse(good), Err(ProtocolError::OtherVersion(Some(version))) if version == "V"));
        let good = &good.replace(r#""V""#, &format!("{VERSION:?}"));
        assert!(Sample::parse(good).is_ok());
        let changes = [
            (r#""id":0"#, r#""id":-1"#),
            (r#""id":0"#, r#""id":256"#),
            (r#""pid":1"#, r#""pid":"1""#),
            (r#""slots":8"#, r#""slots":1025"#),
            (r#""cpu":0"#, r#""cpu":null"#),
            (r#""score":0"#, r#""scores":0"#),
            (r#""socket":"/s""#, r#""socket":7"#),
            ("{", "["),
        ];
        crate::cases::check(changes.map(|change| (change, true)), |(from, to)| {
            good.contains(from) && Sample::parse(&good.replace(from, to)).is_err()
        });
    }
}
