//! Tables that fit the terminal, and sizes and times for people.

use std::time::{Duration, UNIX_EPOCH};

pub(crate) use crate::operator::bytes;
use crate::{clock, sys};

/// Between two columns.
const GAP: &str = "  ";

/// The least width that a column is cut to.
const COLUMN_MIN: usize = 8;

/// Rows under a head, each line no wider than the terminal: the widest columns are cut. If stdout is no terminal,
/// nothing is cut.
pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    fitted(head, rows, sys::terminal_columns())
}

fn fitted<const N: usize>(head: [&str; N], rows: &[[String; N]], columns: Option<usize>) -> String {
    let mut widths = head.map(|text| text.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    if let Some(columns) = columns {
        let room = columns.saturating_sub(GAP.len() * (N - 1));
        while widths.iter().sum::<usize>() > room {
            let widest = widths.iter_mut().max().expect("a table has columns");
            if *widest <= COLUMN_MIN {
                break;
            }
            *widest -= 1;
        }
    }
    let mut text = line(&head.map(str::to_string), &widths);
    rows.iter().for_each(|row| text.push_str(&line(row, &widths)));
    text
}

fn line<const N: usize>(cells: &[String; N], widths: &[usize; N]) -> String {
    let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{:<width$}", cut(cell, *width)));
    format!("{}\n", cells.collect::<Vec<_>>().join(GAP).trim_end())
}

fn cut(text: &str, width: usize) -> String {
    // An escape sequence in a name must not reach the terminal.
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().count() <= width {
        return text;
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A time of the registry, in seconds since 1970.
pub fn time(seconds: f64) -> String {
    match seconds {
        0.0.. => clock::rfc_3339(UNIX_EPOCH + Duration::from_secs_f64(seconds.min(1e11))),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_no_wider_than_the_terminal() {
        let rows = [["GET:/a/very/long/route/that/does/not/fit".to_string(), "php\u{1b}[2J".to_string()]];
        let text = fitted(["ROUTE", "RUNTIME"], &rows, Some(30));
        assert!(text.lines().all(|line| line.chars().count() <= 30), "{text}");
        assert!(text.contains("GET:/a/very/long") && text.contains('…') && !text.contains('\u{1b}'), "{text}");
        assert!(fitted(["ROUTE", "RUNTIME"], &rows, None).contains("does/not/fit"));
    }
}
