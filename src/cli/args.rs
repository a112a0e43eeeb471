//! Command lines: each verb has a table of its options, which serves both the parser and the help.

use lexopt::{Arg, ValueExt};

use super::{CliError, Report, Result};

pub struct Verb {
    pub name: &'static str,
    /// The arguments in `faas NAME ARGUMENTS`.
    pub arguments: &'static str,
    pub about: &'static str,
    pub options: &'static [Opt],
    pub example: &'static str,
    pub run: fn(&Given) -> Result<Report>,
}

pub struct Opt {
    long: &'static str,
    short: Option<char>,
    /// The name of its value in the help; `None` where it takes none.
    value: Option<&'static str>,
    about: &'static str,
}

impl Opt {
    pub const fn flag(long: &'static str, short: Option<char>, about: &'static str) -> Opt {
        Opt { long, short, value: None, about }
    }

    pub const fn value(long: &'static str, short: Option<char>, value: &'static str, about: &'static str) -> Opt {
        Opt { long, short, value: Some(value), about }
    }

    fn usage(&self) -> String {
        let short = self.short.map_or(String::new(), |short| format!("-{short}, "));
        let value = self.value.map_or(String::new(), |value| format!(" {value}"));
        format!("{short}--{}{value}", self.long)
    }
}

impl Verb {
    pub fn help(&self, common: &[Opt]) -> String {
        let mut text = format!("faas {} {}\n\n{}\n\n", self.name, self.arguments, self.about);
        for option in self.options.iter().chain(common) {
            text.push_str(&format!("  {:<24} {}\n", option.usage(), option.about));
        }
        text.push_str(&format!("\nExample:\n  {}\n", self.example));
        text
    }
}

/// The arguments of one call.
pub struct Given {
    verb: &'static str,
    arguments: &'static str,
    plain: Vec<String>,
    /// Option and value, in the order of the command line.
    options: Vec<(&'static str, String)>,
}

impl Given {
    pub fn parse(verb: &Verb, common: &'static [Opt], arguments: &[String]) -> Result<Given> {
        let usage = |text: String| CliError::Usage(format!("{text}; faas {} --help says what it takes", verb.name));
        let mut given = Given { verb: verb.name, arguments: verb.arguments, plain: Vec::new(), options: Vec::new() };
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next().map_err(|cause| usage(cause.to_string()))? {
            let options = verb.options.iter().chain(common);
            let option = match &argument {
                Arg::Value(value) => {
                    let value = value.clone().string().map_err(|cause| usage(cause.to_string()))?;
                    given.plain.push(value);
                    continue;
                }
                Arg::Long(name) => options.into_iter().find(|option| option.long == *name),
                Arg::Short(letter) => options.into_iter().find(|option| option.short == Some(*letter)),
            };
            let option = option.ok_or_else(|| usage(argument.unexpected().to_string()))?;
            let value = match option.value {
                None => String::new(),
                Some(_) => {
                    let value = parser.value().and_then(|value| value.string());
                    value.map_err(|cause| usage(cause.to_string()))?
                }
            };
            given.options.push((option.long, value));
        }
        Ok(given)
    }

    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|(name, _)| *name == option)
    }

    /// The last value of an option.
    pub fn value(&self, option: &str) -> Option<&str> {
        self.options.iter().rev().find(|(name, _)| *name == option).map(|(_, value)| value.as_str())
    }

    /// All values of an option.
    pub fn values<'a>(&'a self, option: &'a str) -> impl Iterator<Item = &'a str> {
        self.options.iter().filter(move |(name, _)| *name == option).map(|(_, value)| value.as_str())
    }

    /// The value of an option as a whole number.
    pub fn number(&self, option: &str) -> Result<Option<u64>> {
        let number = |value: &str| {
            value.parse().map_err(|_| CliError::Usage(format!("--{option} takes a whole number, and {value} is none")))
        };
        self.value(option).map(number).transpose()
    }

    /// Exactly `N` arguments that are no options.
    pub fn exactly<const N: usize>(&self) -> Result<[&str; N]> {
        let plain: Vec<&str> = self.plain.iter().map(String::as_str).collect();
        plain.try_into().map_err(|_| self.wrong_count())
    }

    /// One argument, or none.
    pub fn at_most_one(&self) -> Result<Option<&str>> {
        match self.plain.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(self.wrong_count()),
        }
    }

    fn wrong_count(&self) -> CliError {
        CliError::Usage(format!("the usage is: faas {} {}", self.verb, self.arguments))
    }
}
