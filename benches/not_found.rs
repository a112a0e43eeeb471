//! The path of a request that no function answers: socket, parser, look-up, response.

use std::time::Duration;

use crate::floors::{ECHO, FloorServer};
use crate::instance::Instance;
use crate::load::{Load, get};
use crate::table::{Outcome, Row, Unit, take_turns};

const CONNECTIONS: usize = 16;
const MANY_CONNECTIONS: usize = 1000;
const ROUNDS: usize = 7;
const TIME: Duration = Duration::from_millis(1000);
/// Goal for a server that checks a request, bounds it and composes all fields of a response, beside one that does
/// none of that.
const GOAL_OF_ECHO: f64 = 0.65;
const GOAL_LATENCY_OF_ECHO: f64 = 1.5;
/// A thread for each of a thousand connections may cost this much of the rate.
const GOAL_OF_FEW: f64 = 0.6;

pub fn measure() -> Outcome<Vec<Row>> {
    let instance = Instance::start(4, &[])?;
    let echo = FloorServer::start(ECHO)?;
    let load = |address, connections| Load { address, request: get("/no/such/route"), status: 404, connections };
    let (few, many) = (load(instance.address, CONNECTIONS), load(instance.address, MANY_CONNECTIONS));
    let echo = load(echo.address, CONNECTIONS);
    let [per_s, echo_per_s, many_per_s, latency, echo_latency] = take_turns(
        ROUNDS,
        [
            &mut || few.per_s(TIME),
            &mut || echo.per_s(TIME),
            &mut || many.per_s(TIME),
            &mut || few.latency_us(TIME / 4),
            &mut || echo.latency_us(TIME / 4),
        ],
    )?;
    let name = "a thread per connection, no HTTP library";
    let row = |what: &str, goal: &str, ours: &_, theirs: (&str, &_), unit, is_met: fn(f64) -> bool| {
        let ratio = crate::table::Samples::ratio_to(ours, theirs.1);
        let row = Row::new(what, goal, ours.show(unit), is_met(ratio.median()));
        row.beside(theirs.0, theirs.1, unit, &ratio)
    };
    let (what, goal) = ("404 path, 16 keep-alive connections", format!("≥ {GOAL_OF_ECHO} of the reference"));
    let rate = row(what, &goal, &per_s, (name, &echo_per_s), Unit::PerSecond, |ratio| ratio >= GOAL_OF_ECHO);
    let (what, goal) = ("404 path, median on 1 connection", format!("≤ {GOAL_LATENCY_OF_ECHO} × the reference"));
    let is_met = |ratio| ratio <= GOAL_LATENCY_OF_ECHO;
    let median = row(what, &goal, &latency, (name, &echo_latency), Unit::Microseconds, is_met);
    let (what, goal) = ("404 path, 1,000 keep-alive connections", format!("≥ {GOAL_OF_FEW} of the reference"));
    let crowd =
        row(what, &goal, &many_per_s, ("16 connections", &per_s), Unit::PerSecond, |ratio| ratio >= GOAL_OF_FEW);
    Ok(vec![rate, median, crowd])
}
