//! Decides which faults of the whole registry the log shows.
//!
//! Looks come many times a second and find the same fault again and again. The log shows it once, after it has lasted.
//! If a look catches a `cp` over the registry in the middle, it logs nothing. The end of a fault is logged once, if the
//! fault was.

use std::time::{Duration, Instant};

#[derive(Default)]
pub struct FaultLog {
    /// The fault that the last look found, and the time when it began.
    current: Option<(String, Instant)>,
    logged: Option<String>,
}

impl FaultLog {
    /// The present fault, if it was logged.
    pub fn logged(&self) -> Option<&str> {
        self.logged.as_deref()
    }

    /// Takes the result of a look and returns the line to log now. A fault must have lasted for `age_min`.
    pub fn update(&mut self, fault: Option<String>, now: Instant, age_min: Duration) -> Option<String> {
        let Some(fault) = fault else {
            self.current = None;
            return self.logged.take().map(|_| "it can be used again".to_string());
        };
        let since = match &self.current {
            Some((last, since)) if *last == fault => *since,
            _ => now,
        };
        let is_due = now.duration_since(since) >= age_min && self.logged.as_ref() != Some(&fault);
        self.current = Some((fault.clone(), since));
        if !is_due {
            return None;
        }
        self.logged = Some(fault.clone());
        Some(format!("could not be used: {fault}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_fault_and_its_end_are_logged_once() {
        let (mut log, start) = (FaultLog::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let age_min = Duration::from_millis(300);
        let fault = |text: &str| Some(text.to_string());
        assert_eq!(log.update(None, at(0), age_min), None);
        assert_eq!(log.update(fault("gone"), at(50), age_min), None);
        assert_eq!(log.update(None, at(100), age_min), None, "a passing fault is not worth a line");
        assert_eq!(log.update(fault("gone"), at(150), age_min), None);
        assert_eq!(log.update(fault("gone"), at(449), age_min), None);
        assert_eq!(log.update(fault("gone"), at(450), age_min), fault("could not be used: gone"));
        assert_eq!(log.update(fault("gone"), at(9999), age_min), None);
        assert_eq!(log.update(fault("torn"), at(10_000), age_min), None);
        assert_eq!(log.update(fault("torn"), at(10_300), age_min), fault("could not be used: torn"));
        assert_eq!(log.update(None, at(10_400), age_min), fault("it can be used again"));
        assert_eq!(log.update(None, at(10_500), age_min), None);
        assert_eq!(log.update(fault("gone"), at(10_600), Duration::ZERO), fault("could not be used: gone"));
    }
}
