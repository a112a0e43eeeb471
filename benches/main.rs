//! `cargo bench`: measures what the README states, and prints one Markdown table.
//!
//! ```text
//! cargo bench                   everything, in about eight minutes on two cores
//! cargo bench -- NAME …         only the rows whose name contains one of the words: lookup hop commit not-found
//!                               native php wasm cold resize many-functions workers burst ledger fair watched
//!                               rest sandboxed idle-memory body-memory slow-clients overload
//! cargo bench -- stats          what no run without a name measures: the reading of a ledger of 10 million calls
//! ```
//!
//! Figures in requests or microseconds say something about the machine first. So, where there is one, a floor is measured
//! next to each: the least that any program could do for the same service. The two take turns within the run, several
//! rounds of each, and the ratio is taken round by round: a neighbour that wants the processor meets both alike. A
//! figure is the median of the rounds, with the lowest and the highest behind it.
//!
//! A goal that is missed is shown and fails nothing: that is for a reader to judge, who knows the machine.
//!
//! | file | is |
//! |---|---|
//! | lookup.rs, hop.rs, commit.rs, not_found.rs, functions.rs, growth.rs, ledger.rs, fair.rs, watched.rs, sandboxed.rs, memory.rs, hostile.rs | the rows |
//! | floors.rs, forked.rs, rivals.rs | what a row is compared with |
//! | instance.rs, load.rs | a gateway to measure, and clients that keep it busy |
//! | table.rs | medians, rounds, and the table |

mod commit;
mod fair;
mod floors;
mod forked;
mod functions;
mod growth;
mod hop;
mod hostile;
mod instance;
mod ledger;
mod load;
mod lookup;
mod memory;
mod not_found;
mod rivals;
mod sandboxed;
mod table;
mod watched;

use std::time::Instant;

use table::{Outcome, Row, Table};

/// A row's name on the command line, and what measures it.
type Measurement = (&'static str, fn() -> Outcome<Vec<Row>>);

const MEASUREMENTS: [Measurement; 22] = [
    // First, because only an instance that has just been started has done nothing yet.
    ("idle-memory", memory::idle),
    ("body-memory", memory::bodies),
    ("lookup", lookup::measure),
    ("hop", hop::measure),
    ("commit", commit::measure),
    ("not-found", not_found::measure),
    ("native", functions::native),
    ("php", functions::php),
    ("wasm", functions::wasm),
    ("cold", functions::cold),
    ("resize", growth::resize),
    ("many-functions", growth::many_functions),
    ("workers", growth::workers),
    ("burst", growth::burst),
    ("ledger", ledger::measure),
    ("fair", fair::measure),
    ("watched", watched::measure),
    ("rest", watched::at_rest),
    ("sandboxed", sandboxed::measure),
    ("slow-clients", hostile::slow_clients),
    ("overload", hostile::overload),
    (ledger::STATS, ledger::stats),
];

fn main() {
    // Cargo itself adds --bench.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [flag, floor] = words.as_slice()
        && flag == floors::SERVE
    {
        return floors::serve(floor);
    }
    let is_wanted = |name: &str| {
        (words.is_empty() && name != ledger::STATS) || words.iter().any(|word| name.contains(word.as_str()))
    };
    let wanted: Vec<Measurement> = MEASUREMENTS.into_iter().filter(|(name, _)| is_wanted(name)).collect();
    if wanted.is_empty() {
        let names = MEASUREMENTS.map(|(name, _)| name).join(" ");
        eprintln!("no measurement is called {words:?}; there are: {names}");
        std::process::exit(2);
    }

    let machine = table::machine();
    let began = Instant::now();
    let mut table = Table::default();
    let mut is_complete = true;
    for (name, measure) in wanted {
        eprintln!("measuring {name}");
        match measure() {
            Ok(rows) => rows.into_iter().for_each(|row| table.add(row)),
            Err(why) => {
                table.add(Row::missing(name, &why));
                is_complete = false;
            }
        }
    }
    println!("{machine}");
    println!("{table}");
    eprintln!("measured in {} s", began.elapsed().as_secs());
    if !is_complete {
        std::process::exit(1);
    }
}
