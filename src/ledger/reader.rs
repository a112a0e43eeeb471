//! Reads the ledger while the gateway writes it: single calls, and figures of each route over a period.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OpenFlags, Result, params_from_iter};
use serde_json::{Map, Value};

use super::FAILED_FROM;
pub use super::file::now_ms;

/// Time to wait for a gateway that locks the file. In WAL mode only opening and closing lock it.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);

/// The ledger, open for reading.
pub struct Reader {
    connection: Connection,
}

/// A filter for calls.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    pub route: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub only_failed: bool,
    /// Only calls whose route or function contains this, in small or capital letters.
    pub named: Option<&'a str>,
    pub statuses: Option<RangeInclusive<u16>>,
    pub id: Option<u64>,
    /// Only calls with a smaller id: the next page of a list.
    pub before_id: Option<u64>,
    /// Only calls from this time on, in milliseconds since 1970.
    pub since_ms: i64,
    pub count_max: u64,
}

/// Figures of one route. Times run from the arrival of the request until its response was complete.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteStats {
    pub route: String,
    pub function: String,
    pub calls: u64,
    /// Number of failed calls: status 500 and above.
    pub errors: u64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub cpu_ms: f64,
}

/// Calls that are counted by minute: about half a second of work.
const MINUTE_CALLS_MAX: u32 = 500_000;

/// The calls of one route in one minute.
pub struct Minute {
    pub route: String,
    /// Since 1970.
    pub minute: u64,
    pub calls: u32,
    pub errors: u32,
}

#[derive(Default)]
struct Tally {
    function: String,
    errors: u64,
    cpu_ms: f64,
    times_ms: Vec<f64>,
}

impl Reader {
    /// # Errors
    /// Those of SQLite, also for a missing file.
    pub fn open(path: &Path) -> Result<Reader> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_WAIT_MAX)?;
        Ok(Reader { connection })
    }

    /// Calls as objects, a field for each column, the newest first.
    pub fn calls(&self, wanted: &Wanted<'_>) -> Result<Vec<Map<String, Value>>> {
        let mut sql = String::from("SELECT * FROM calls WHERE at >= ?");
        let mut values = vec![Sql::Integer(wanted.since_ms)];
        for (column, text) in [("route", wanted.route), ("request_id", wanted.request_id)] {
            if let Some(text) = text {
                sql.push_str(&format!(" AND {column} = ?"));
                values.push(Sql::Text(text.into()));
            }
        }
        if wanted.only_failed {
            sql.push_str(&format!(" AND status >= {FAILED_FROM}"));
        }
        if let Some(named) = wanted.named {
            sql.push_str(" AND instr(lower(route || ' ' || function), lower(?)) > 0");
            values.push(Sql::Text(named.into()));
        }
        if let Some(statuses) = &wanted.statuses {
            sql.push_str(&format!(" AND status BETWEEN {} AND {}", statuses.start(), statuses.end()));
        }
        for (condition, id) in [("id = ", wanted.id), ("id < ", wanted.before_id)] {
            if let Some(id) = id {
                sql.push_str(&format!(" AND {condition}{}", id.min(i64::MAX as u64)));
            }
        }
        sql.push_str(" ORDER BY at DESC LIMIT ?");
        values.push(Sql::Integer(wanted.count_max.min(i64::MAX as u64) as i64));
        let mut statement = self.connection.prepare(&sql)?;
        let names: Vec<String> = statement.column_names().into_iter().map(str::to_string).collect();
        let rows = statement.query_map(params_from_iter(values), |row| {
            let field = |(at, name): (usize, &String)| Ok((name.clone(), as_json(row.get(at)?)));
            names.iter().enumerate().map(field).collect()
        })?;
        rows.collect()
    }

    /// Figures of each route, or of one, over the calls since then; routes with the most CPU time first.
    pub fn stats(&self, since_ms: i64, route: Option<&str>) -> Result<Vec<RouteStats>> {
        let sql = "SELECT route, function, status, ms_queued + coalesce(ms_run, 0), cpu_ms FROM calls
            WHERE at >= ?1 AND (?2 IS NULL OR route = ?2)";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query((since_ms, route))?;
        let mut tallies: HashMap<String, Tally> = HashMap::new();
        while let Some(row) = rows.next()? {
            let route = row.get_ref(0)?.as_str()?;
            if !tallies.contains_key(route) {
                tallies.insert(route.to_string(), Tally { function: row.get(1)?, ..Tally::default() });
            }
            let tally = tallies.get_mut(route).expect("it was inserted above, if it was missing");
            tally.errors += u64::from(row.get::<_, u16>(2)? >= FAILED_FROM);
            tally.times_ms.push(row.get(3)?);
            tally.cpu_ms += row.get::<_, Option<f64>>(4)?.unwrap_or(0.0);
        }
        let mut stats: Vec<RouteStats> = tallies.into_iter().map(|(route, tally)| tally.stats(route)).collect();
        stats.sort_by(|a, b| b.cpu_ms.total_cmp(&a.cpu_ms).then_with(|| a.route.cmp(&b.route)));
        Ok(stats)
    }

    /// Calls and failures of each route by minute since 1970. Counts at most the newest [`MINUTE_CALLS_MAX`] calls.
    pub fn minutes(&self, since_ms: i64) -> Result<Vec<Minute>> {
        let sql = "SELECT route, at / 60000, count(*), sum(status >= ?2)
            FROM (SELECT route, at, status FROM calls WHERE at >= ?1 ORDER BY at DESC LIMIT ?3) GROUP BY 1, 2";
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map((since_ms, FAILED_FROM, MINUTE_CALLS_MAX), |row| {
            Ok(Minute { route: row.get(0)?, minute: row.get(1)?, calls: row.get(2)?, errors: row.get(3)? })
        })?;
        rows.collect()
    }

    /// Number of calls that were not recorded since the file was created.
    pub fn unrecorded(&self) -> Result<u64> {
        self.connection.query_row("SELECT calls FROM unrecorded", [], |row| row.get(0))
    }
}

impl Tally {
    fn stats(mut self, route: String) -> RouteStats {
        self.times_ms.sort_unstable_by(f64::total_cmp);
        let count = self.times_ms.len();
        // The nearest rank: the least time that `percent` of a hundred calls did not exceed.
        let percentile = |percent: usize| self.times_ms[(count * percent).div_ceil(100).max(1) - 1];
        RouteStats {
            route,
            function: self.function,
            calls: count as u64,
            errors: self.errors,
            p50_ms: percentile(50),
            p95_ms: percentile(95),
            p99_ms: percentile(99),
            cpu_ms: self.cpu_ms,
        }
    }
}

fn as_json(value: Sql) -> Value {
    match value {
        Sql::Null => Value::Null,
        Sql::Integer(number) => number.into(),
        Sql::Real(number) => number.into(),
        Sql::Text(text) => text.into(),
        Sql::Blob(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
    }
}
