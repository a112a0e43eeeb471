//! Calls from the ledger: a list with filters, and one call with its stderr.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Console;
use super::call::Call;
use super::reply::Reply;
use crate::ledger::reader::{Reader, Wanted, now_ms};
use crate::settings::Settings;

const CALLS_DEFAULT: u64 = 100;
const CALLS_MAX: u64 = 1000;

/// Age limit of a list: a filter without matches has to search all of it.
const SINCE: Duration = Duration::from_secs(7 * 24 * 3600);

pub fn list(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let statuses = call.query("status").map(statuses).transpose()?;
    let wanted = Wanted {
        route: call.query("route"),
        request_id: call.query("request"),
        named: call.query("function"),
        statuses,
        before_id: call.number("before")?,
        since_ms: now_ms() - SINCE.as_millis() as i64,
        count_max: call.number("limit")?.unwrap_or(CALLS_DEFAULT).min(CALLS_MAX),
        ..Wanted::default()
    };
    let Some(mut calls) = read(&console.settings, &wanted)? else {
        return Ok(Reply::json(200, &json!({"is_recorded": false, "calls": []})));
    };
    calls.iter_mut().for_each(|call| drop(call.remove("stderr")));
    Ok(Reply::json(200, &json!({"is_recorded": true, "calls": calls})))
}

pub fn one(console: &Console, call: &mut Call) -> Result<Reply, Reply> {
    let not_found = || Reply::problem(404, "the ledger has no such call");
    let id = call.params[0].parse().map_err(|_| not_found())?;
    let wanted = Wanted { id: Some(id), count_max: 1, ..Wanted::default() };
    let found = read(&console.settings, &wanted)?.and_then(|mut calls| calls.pop());
    Ok(Reply::json(200, &Value::Object(found.ok_or_else(not_found)?)))
}

/// `None` where the gateway does not record calls.
fn read(settings: &Settings, wanted: &Wanted<'_>) -> Result<Option<Vec<Map<String, Value>>>, Reply> {
    let Some(path) = &settings.ledger else { return Ok(None) };
    let read = Reader::open(path).and_then(|ledger| ledger.calls(wanted));
    read.map(Some)
        .map_err(|cause| Reply::problem(500, &format!("could not read the ledger {}: {cause}", path.display())))
}

/// Number of calls that the ledger lacks; `None` where that is unknown.
pub fn unrecorded(settings: &Settings) -> Option<u64> {
    Reader::open(settings.ledger.as_ref()?).and_then(|ledger| ledger.unrecorded()).ok()
}

/// Adds the hour before the console started to the page's figures.
pub fn recall_last_hour(console: &Console) {
    let Some(path) = &console.settings.ledger else { return };
    let now_ms = now_ms();
    // A new ledger has no table yet.
    let minutes = Reader::open(path).and_then(|ledger| ledger.minutes(now_ms - 59 * 60_000)).unwrap_or_default();
    let this_minute = now_ms as u64 / 60_000;
    for one in minutes {
        console.live.recall(&one.route, this_minute.saturating_sub(one.minute), one.calls, one.errors);
    }
}

/// `404`, or `4xx` for the whole class.
fn statuses(text: &str) -> Result<RangeInclusive<u16>, Reply> {
    let wrong = || Reply::problem(400, "status must be a status such as 404, or 2xx, 4xx, 5xx");
    if let Some(kind) = text.strip_suffix("xx") {
        let kind: u16 = kind.parse().ok().filter(|kind| (1..=5).contains(kind)).ok_or_else(wrong)?;
        return Ok(kind * 100..=kind * 100 + 99);
    }
    let status: u16 = text.parse().map_err(|_| wrong())?;
    Ok(status..=status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::each;

    #[test]
    fn status_is_one_or_a_kind() {
        assert_eq!(statuses("404").unwrap(), 404..=404);
        assert_eq!(statuses("5xx").unwrap(), 500..=599);
        each(["", "xx", "9xx", "4xxx", "-1"], |text| assert!(statuses(text).is_err()));
    }
}
