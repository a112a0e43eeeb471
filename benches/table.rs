//! Medians, rounds that take turns, and the table that comes of them.

use std::fmt;
use std::process::Command;
use std::time::SystemTime;

use faas::clock;

/// A measurement, or one sentence that says why there is none.
pub type Outcome<T> = Result<T, String>;

/// `could not STEP: CAUSE`, for `map_err`.
pub fn failed<E: fmt::Display>(step: &str) -> impl FnOnce(E) -> String + '_ {
    move |cause| format!("could not {step}: {cause}")
}

/// The same figure, measured several times.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl From<Vec<f64>> for Samples {
    fn from(figures: Vec<f64>) -> Samples {
        Samples(figures)
    }
}

impl Samples {
    pub fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The figure that `percent` of the samples do not exceed.
    pub fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let place = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(place.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
    }

    pub fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    pub fn max(&self) -> f64 {
        self.percentile(100.0)
    }

    /// The same in another unit.
    pub fn scaled(&self, factor: f64) -> Samples {
        Samples(self.0.iter().map(|figure| figure * factor).collect())
    }

    fn min(&self) -> f64 {
        self.percentile(0.0)
    }

    /// These figures in parts of those of `other`, round by round.
    pub fn ratio_to(&self, other: &Samples) -> Samples {
        Samples(self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    /// These figures less those of `other`, round by round.
    pub fn less(&self, other: &Samples) -> Samples {
        Samples(self.0.iter().zip(&other.0).map(|(ours, theirs)| ours - theirs).collect())
    }

    /// `median (lowest–highest)`
    pub fn show(&self, unit: Unit) -> String {
        let digits = digits(self.median());
        let number = |figure: f64| grouped(figure, digits);
        match self.0.len() {
            1 => format!("{}{}", number(self.median()), unit.name()),
            _ => format!("{}{} ({}–{})", number(self.median()), unit.name(), number(self.min()), number(self.max())),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Nanoseconds,
    Microseconds,
    Milliseconds,
    PerSecond,
    Megabytes,
    Times,
    Percent,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Nanoseconds => " ns",
            Unit::Microseconds => " µs",
            Unit::Milliseconds => " ms",
            Unit::PerSecond => "/s",
            Unit::Megabytes => " MB",
            Unit::Times => "×",
            Unit::Percent => " %",
        }
    }
}

/// Digits behind the point, so that three are told in all.
fn digits(figure: f64) -> usize {
    match figure.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    }
}

/// `12,345.6`
fn grouped(figure: f64, digits: usize) -> String {
    let text = format!("{figure:.digits$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at) % 3 == 0 && digit != '-' && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    out + fraction
}

/// Measures the given things in turn, `rounds` times; the samples come back in the same order.
pub fn take_turns<const N: usize>(
    rounds: usize,
    mut things: [&mut dyn FnMut() -> Outcome<f64>; N],
) -> Outcome<[Samples; N]> {
    let mut samples: [Samples; N] = std::array::from_fn(|_| Samples::default());
    for _ in 0..rounds {
        for (thing, samples) in things.iter_mut().zip(&mut samples) {
            samples.push(thing()?);
        }
    }
    Ok(samples)
}

/// One line of the table.
pub struct Row {
    what: String,
    goal: String,
    measured: String,
    is_met: Option<bool>,
    floor: String,
}

impl Row {
    pub fn new(what: &str, goal: &str, measured: String, is_met: bool) -> Row {
        let is_met = Some(is_met);
        Row { what: what.into(), goal: goal.into(), measured, is_met, floor: "–".into() }
    }

    /// A figure without a goal of its own, told for what it says beside the others.
    pub fn without_goal(what: &str, measured: String) -> Row {
        Row { what: what.into(), goal: "–".into(), measured, is_met: None, floor: "–".into() }
    }

    /// The reference: the floor's name, its figures, and ours in parts of them.
    pub fn beside(mut self, name: &str, floor: &Samples, unit: Unit, ratio: &Samples) -> Row {
        let next = format!("{name}: {}; {}", floor.show(unit), ratio.show(Unit::Times));
        self.floor = if self.floor == "–" { next } else { format!("{}<br>{next}", self.floor) };
        self
    }

    /// A reference that this machine does not have, and why.
    pub fn beside_missing(mut self, name: &str, why: &str) -> Row {
        let next = format!("{name}: not measured: {why}");
        self.floor = if self.floor == "–" { next } else { format!("{}<br>{next}", self.floor) };
        self
    }

    pub fn missing(what: &str, why: &str) -> Row {
        Row::without_goal(what, format!("not measured: {why}"))
    }
}

#[derive(Default)]
pub struct Table(Vec<Row>);

impl Table {
    pub fn add(&mut self, row: Row) {
        eprintln!("  {} | {} | {} | {}", row.what, row.goal, row.measured, row.floor);
        self.0.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "| | goal | ours: median (lowest–highest) | met | reference in the same run: median; ours ÷ reference |"
        )?;
        writeln!(out, "|---|---|---|---|---|")?;
        for Row { what, goal, measured, is_met, floor } in &self.0 {
            let met = is_met.map_or("–", |is_met| if is_met { "yes" } else { "no" });
            writeln!(out, "| {what} | {goal} | {measured} | {met} | {floor} |")?;
        }
        Ok(())
    }
}

/// A load average of a minute, before the first measurement, from which on figures are worth a warning.
const BUSY: f64 = 0.5;

/// When and where this is measured, as one paragraph; to be asked for before the first measurement.
pub fn machine() -> String {
    let date = clock::rfc_3339(SystemTime::now());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("processor of unknown make", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    let busy =
        if load > BUSY { format!(" The machine was busy with something else (load {load}).") } else { "".into() };
    format!(
        "Measured on {} with {cores} cores of {model}, Linux {}, {}, {}; the load generator on the same machine.{busy}\n",
        &date[..10],
        kernel.trim(),
        version("php").unwrap_or_else(|| "no php".into()),
        version("wasmer").unwrap_or_else(|| "no wasmer".into()),
    )
}

/// The first two words of `PROGRAM --version`; `None` where it is not installed.
pub fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = text.split_whitespace().take(2).collect();
    (words.len() == 2).then(|| words.join(" "))
}
