//! `faas diff`: two generations, row by row, and the code line by line.

use super::args::{Given, Verb};
use super::{CliError, Report, Result};
use crate::operator::diff::{Difference, differences};
use crate::operator::registry::Registry;
use crate::settings::Settings;

pub const VERB: Verb = Verb {
    name: "diff",
    arguments: "GENERATION GENERATION",
    about: "Show what differs between two generations: routes by field, code by line.",
    options: &[],
    example: "faas diff 417 423",
    run,
};

fn run(given: &Given) -> Result<Report> {
    let [from, to] = given.exactly()?;
    let number = |generation: &str| {
        let refusal = |_| CliError::Usage(format!("a generation is a whole number, and {generation} is none"));
        generation.parse().map_err(refusal)
    };
    let registry = Registry::open_with_history(&Settings::from_env()?)?;
    let found = differences(&registry, number(from)?, number(to)?)?;
    let line = |found: &Difference| format!("{} {} {}\n{}", found.change, found.kind, found.name, found.details);
    let text = match found.is_empty() {
        true => "nothing differs\n".into(),
        false => found.iter().map(line).collect::<String>(),
    };
    Ok(Report::new(text, found.iter().map(Difference::json).collect()))
}
