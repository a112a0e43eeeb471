//! The path of a request that no function answers: front door, private hop, tiny_http, handler, look-up, and back.

use std::time::Duration;

use crate::floors::{ECHO, FloorServer, RELAYED_TINY_HTTP};
use crate::instance::Instance;
use crate::load::{Load, get};
use crate::table::{Outcome, Row, Unit, take_turns};

const CONNECTIONS: usize = 16;
const ROUNDS: usize = 7;
const TIME: Duration = Duration::from_millis(1000);
const GOAL_PER_S: f64 = 20_000.0;
/// The front door may cost twice what a relay costs that checks nothing.
const GOAL_OF_RELAYED: f64 = 0.5;

pub fn measure() -> Outcome<Vec<Row>> {
    let instance = Instance::start(4, &[])?;
    let relayed = FloorServer::start(RELAYED_TINY_HTTP)?;
    let echo = FloorServer::start(ECHO)?;
    let load = |address| Load { address, request: get("/no/such/route"), status: 404, connections: CONNECTIONS };
    let (ours, relayed, echo) = (load(instance.address), load(relayed.address), load(echo.address));
    let [per_s, relayed_per_s, echo_per_s, latency, relayed_latency] = take_turns(
        ROUNDS,
        [
            &mut || ours.per_s(TIME),
            &mut || relayed.per_s(TIME),
            &mut || echo.per_s(TIME),
            &mut || ours.latency_us(TIME / 4),
            &mut || relayed.latency_us(TIME / 4),
        ],
    )?;
    let of_relayed = per_s.ratio_to(&relayed_per_s);
    let is_met = per_s.median() >= GOAL_PER_S && of_relayed.median() >= GOAL_OF_RELAYED;
    let what = "404 path, 16 keep-alive connections";
    let row = Row::new(what, "≥ 20,000/s, ≥ half of a bare relay", per_s.show(Unit::PerSecond), is_met)
        .beside("tiny_http behind a relay that checks nothing", &relayed_per_s, Unit::PerSecond, &of_relayed)
        .beside("a thread per connection, no HTTP library", &echo_per_s, Unit::PerSecond, &per_s.ratio_to(&echo_per_s));
    let ratio = latency.ratio_to(&relayed_latency);
    let alone = Row::without_goal("404 path, median on 1 connection", latency.show(Unit::Microseconds));
    let alone = alone.beside("relayed tiny_http", &relayed_latency, Unit::Microseconds, &ratio);
    Ok(vec![row, alone])
}
