//! Times as text: RFC 3339 for the log, IMF-fixdate (RFC 9110 5.6.7) for HTTP. Both in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]; // 1970-01-01 was a Thursday
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `2026-11-22T21:32:05.123Z`
pub fn rfc_3339(time: SystemTime) -> String {
    let Parts { year, month, day, second_of_day, millisecond, .. } = Parts::of(time);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// `Sun, 22 Nov 2026 21:32:05 GMT`
pub fn http_date(time: SystemTime) -> String {
    let Parts { year, month, day, weekday, second_of_day, .. } = Parts::of(time);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let (weekday, month) = (WEEKDAYS[weekday], MONTHS[month as usize - 1]);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

struct Parts {
    year: i64,
    /// 1 to 12.
    month: i64,
    day: i64,
    /// Index into [`WEEKDAYS`].
    weekday: usize,
    second_of_day: u64,
    millisecond: u32,
}

impl Parts {
    /// The Gregorian calendar, counted in eras of 400 years, which all have 146,097 days. A year starts in March, so
    /// that the leap day is its last day.
    fn of(time: SystemTime) -> Parts {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let days_since_epoch = (since_epoch.as_secs() / 86_400) as i64;
        let days = days_since_epoch + 719_468; // from 0000-03-01
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Parts {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            weekday: days_since_epoch.rem_euclid(7) as usize,
            second_of_day: since_epoch.as_secs() % 86_400,
            millisecond: since_epoch.subsec_millis(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_right_around_leap_days_and_at_both_ends() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 7);
        assert_eq!(rfc_3339(at(0)), "1970-01-01T00:00:00.007Z");
        assert_eq!(rfc_3339(at(951_782_400)), "2000-02-29T00:00:00.007Z");
        assert_eq!(rfc_3339(at(1_795_383_125)), "2026-11-22T21:32:05.007Z");
        assert_eq!(rfc_3339(at(4_107_542_399)), "2100-02-28T23:59:59.007Z");
        assert_eq!(rfc_3339(at(4_107_542_400)), "2100-03-01T00:00:00.007Z");
        assert_eq!(http_date(at(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(at(1_795_383_125)), "Sun, 22 Nov 2026 21:32:05 GMT");
        // The example of RFC 9110.
        assert_eq!(http_date(at(784_111_777)), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
