//! Tidegate's deterministic simulator: try limits, traffic and places before trusting them.
//!
//! It drives the very engine, store step and frames that the server uses, in virtual time. One seed
//! derives everything: the same seed gives the same trace hash on every machine. Checkers watch every run;
//! an all-knowing central limiter sees the same arrivals, and over- and under-admission are measured
//! against it.
//!
//! [`run`] is the way in. [`scenario`] says what a run is given, [`report`] what it comes to, [`world`]
//! what happens in between, [`checker`] what must hold of it.
//!
//! How to write a scenario and read a report is described in `docs/simulator.md`.

pub mod central;
pub mod checker;
pub mod compare;
pub mod explore;
pub mod frames;
pub mod guard;
pub mod ledger;
mod locks;
pub mod network;
pub mod node;
pub mod queue;
pub mod report;
pub mod rng;
pub mod scenario;
pub mod slots;
pub mod store;
pub mod subjects;
pub mod swarm;
mod table;
pub mod targets;
pub mod topology;
pub mod trace;
pub mod workload;
pub mod world;

use ledger::TooMuch;
use report::Report;
use scenario::Scenario;
use world::World;

/// Runs a scenario with a seed.
pub fn run(scenario: &Scenario, seed: u64) -> Result<Report, TooMuch> {
    let mut finished = World::new(scenario, seed)?.run();
    Ok(Report::new(scenario, seed, &mut finished))
}
