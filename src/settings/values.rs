//! Reads values of settings: each by its kind, with one error that names the variable, the value and the rule.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::error::start::{Result, StartError};

/// A longest time, so that a typing error makes nothing wait for days: an hour.
const MILLISECONDS_MAX: u64 = 3_600_000;

/// The values, by name. An empty one counts as not set, except where [`Values::is_off`] is asked.
pub(super) struct Values<F>(pub F);

impl<F: Fn(&str) -> Option<String>> Values<F> {
    pub fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    /// True if the value is set and empty.
    pub fn is_off(&self, name: &str) -> bool {
        (self.0)(name).is_some_and(|value| value.is_empty())
    }

    pub fn whole(&self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> Result<u64> {
        let want = || format!("a whole number from {} to {}", range.start(), range.end());
        let number = self.read(name, want, |value| value.parse().ok().filter(|number| range.contains(number)))?;
        Ok(number.unwrap_or(default))
    }

    pub fn flag(&self, name: &'static str, default: bool) -> Result<bool> {
        Ok(self.whole(name, default.into(), 0..=1)? == 1)
    }

    pub fn milliseconds(&self, name: &'static str, default: u64) -> Result<Duration> {
        Ok(Duration::from_millis(self.whole(name, default, 0..=MILLISECONDS_MAX)?))
    }

    /// A number from 0 to below `below`.
    pub fn fraction(&self, name: &'static str, default: f64, below: f64) -> Result<f64> {
        let want = || format!("a number from 0 to below {below}");
        let number =
            self.read(name, want, |value| value.parse().ok().filter(|number| (0.0..below).contains(number)))?;
        Ok(number.unwrap_or(default))
    }

    pub fn parsed<T: FromStr>(&self, name: &'static str, want: &str) -> Result<Option<T>> {
        self.read(name, || want.to_string(), |value| value.parse().ok())
    }

    /// One of several words. The first one is the default.
    pub fn choice<T: Copy, const N: usize>(&self, name: &'static str, choices: [(&str, T); N]) -> Result<T> {
        let want = || choices.map(|(word, _)| word).join(" or ");
        let find = |value: &str| choices.iter().find(|(word, _)| *word == value).map(|(_, choice)| *choice);
        Ok(self.read(name, want, find)?.unwrap_or(choices[0].1))
    }

    /// An absolute path, also of the default.
    pub fn path(&self, name: &'static str, default: impl FnOnce() -> PathBuf) -> Result<PathBuf> {
        match self.path_if_set(name)? {
            Some(path) => Ok(path),
            None => absolute(name, default()),
        }
    }

    pub fn path_if_set(&self, name: &'static str) -> Result<Option<PathBuf>> {
        self.get(name).map(|path| absolute(name, path.into())).transpose()
    }

    /// `None` if it is not set.
    fn read<T>(
        &self,
        name: &'static str,
        want: impl FnOnce() -> String,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match read(&value) {
            Some(read) => Ok(Some(read)),
            None => Err(StartError::Setting { name, value, want: want() }),
        }
    }
}

fn absolute(name: &'static str, path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).map_err(|_| StartError::Setting {
        name,
        value: path.display().to_string(),
        want: "a path".into(),
    })
}
