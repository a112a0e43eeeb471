//! The differences between two generations: routes by field, code by line.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::registry::Registry;
use super::{OperationError, Result, bytes};

/// Code with more lines is compared by size alone: the work grows with the square of the lines.
const LINES_MAX: usize = 2000;

/// Kind and name of a route or module, and its content.
type State = BTreeMap<(String, String), Vec<u8>>;

/// A route or module that differs between two generations.
pub(crate) struct Difference {
    pub kind: String,
    pub name: String,
    pub change: &'static str,
    /// Removed lines with a minus, and added lines with a plus; the sizes where the content is no text.
    pub details: String,
}

impl Difference {
    pub fn json(&self) -> Value {
        json!({"kind": self.kind, "name": self.name, "change": self.change, "details": self.details})
    }
}

/// The differences between two generations, by kind and name.
pub(crate) fn differences(registry: &Registry, from: u64, to: u64) -> Result<Vec<Difference>> {
    let [from, to] = [state(registry, from)?, state(registry, to)?];
    let keys: BTreeSet<_> = from.keys().chain(to.keys()).collect();
    let difference = |key: &&(String, String)| {
        let (old, new) = (from.get(*key), to.get(*key));
        let change = match (old, new) {
            _ if old == new => return None,
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        let (kind, name) = (key.0.clone(), key.1.clone());
        let details = details(&kind, old, new);
        Some(Difference { kind, name, change, details })
    };
    Ok(keys.iter().filter_map(difference).collect())
}

fn state(registry: &Registry, number: u64) -> Result<State> {
    let newest = registry.generation()?;
    let read = || -> rusqlite::Result<(u64, State)> {
        let oldest = registry.connection.query_row("SELECT oldest FROM history_state", [], |row| row.get(0))?;
        let sql = "SELECT kind, name, CAST(after AS BLOB) FROM history
            WHERE id <= ?1 AND (until IS NULL OR until > ?1)";
        let mut select = registry.connection.prepare(sql)?;
        let rows = select.query_map([number], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
        Ok((oldest, rows.collect::<rusqlite::Result<State>>()?))
    };
    let (oldest, state) = read().map_err(|cause| registry.error(cause))?;
    match number {
        _ if number > newest => {
            Err(OperationError::NotFound(format!("{newest} is the newest generation; {number} is none")))
        }
        _ if number < oldest => Err(OperationError::NotFound(format!(
            "generation {number} has been trimmed; {oldest} is the oldest that is left"
        ))),
        _ => Ok(state),
    }
}

fn details(kind: &str, old: Option<&Vec<u8>>, new: Option<&Vec<u8>>) -> String {
    let text = |code: Option<&Vec<u8>>| match code {
        None => Some(String::new()),
        // A descriptor is one line in the registry; the diff shows it by fields.
        Some(code) if kind == "route" => {
            serde_json::from_slice::<Value>(code).ok().map(|descriptor| format!("{descriptor:#}\n"))
        }
        Some(code) => String::from_utf8(code.clone()).ok().filter(|text| !text.contains('\0')),
    };
    let sizes = || {
        let size = |code: Option<&Vec<u8>>| code.map_or("nothing".to_string(), |code| bytes(code.len() as u64));
        format!("  {} → {}\n", size(old), size(new))
    };
    let (Some(old_text), Some(new_text)) = (text(old), text(new)) else { return sizes() };
    let (old_lines, new_lines): (Vec<&str>, Vec<&str>) = (old_text.lines().collect(), new_text.lines().collect());
    match old_lines.len().max(new_lines.len()) <= LINES_MAX {
        true => changed_lines(&old_lines, &new_lines),
        false => sizes(),
    }
}

/// Removed lines with a minus, and added lines with a plus, from the longest common subsequence.
fn changed_lines(old: &[&str], new: &[&str]) -> String {
    let width = new.len() + 1;
    // lengths[i * width + j]: length of the longest common subsequence of old[i..] and new[j..].
    let mut lengths = vec![0u16; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i * width + j] = match old[i] == new[j] {
                true => lengths[(i + 1) * width + j + 1] + 1,
                false => lengths[(i + 1) * width + j].max(lengths[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < old.len() || j < new.len() {
        let goes = j == new.len() || (i < old.len() && lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]);
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if goes {
            text += &format!("  -{}\n", old[i]);
            i += 1;
        } else {
            text += &format!("  +{}\n", new[j]);
            j += 1;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_went_and_came_are_shown() {
        let lines = |text: &'static str| text.split(' ').collect::<Vec<_>>();
        assert_eq!(changed_lines(&lines("a b c d"), &lines("a x c d e")), "  -b\n  +x\n  +e\n");
        assert_eq!(changed_lines(&[], &lines("a b")), "  +a\n  +b\n");
        assert_eq!(changed_lines(&lines("a b"), &lines("a b")), "");
    }
}
