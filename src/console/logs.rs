//! The tail of the gateway's log: all of it, or the lines of a function or of a request.

use serde_json::json;

use super::Console;
use super::call::Call;
use super::reply::Reply;
use crate::operator::Result;
use crate::operator::log_lines::{Place, Wanted, read_from};

const LINES_DEFAULT: u64 = 200;
const LINES_MAX: u64 = 2000;

/// `after` is the `place` of the last answer; without it, the log's end is read.
pub fn logs(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let limit = call.number("limit")?.unwrap_or(LINES_DEFAULT).min(LINES_MAX) as usize;
    let place = call.query("after").and_then(|after| {
        let (inode, offset) = after.split_once('-')?;
        Some(Place { inode: inode.parse().ok()?, offset: offset.parse().ok()? })
    });
    let route = call.query("route");
    let wanted = Wanted::new(route, call.query("request"));
    let (lines, place) = read_from(&console.settings.run_dir.join("gateway.log"), place)?;
    let lines: Vec<&String> = lines.iter().filter(|line| wanted.takes(line)).collect();
    let lines = &lines[lines.len().saturating_sub(limit)..];
    Ok(Reply::json(200, &json!({"lines": lines, "place": format!("{}-{}", place.inode, place.offset)})))
}
