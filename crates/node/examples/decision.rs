//! What one decision costs in process: plan, the memory store's step, complete; no HTTP around it.
//!
//! Prints nanoseconds per decision, the best of some rounds, for one and two limits, one and many keys.
//! `perf record` and `perf stat` on it show where they go.

#![allow(clippy::disallowed_methods, reason = "what is measured here is real time")]

use std::{error::Error, hint::black_box, io::Write as _, time::Instant};

use clap::Parser;
use rand::{SeedableRng as _, rngs::StdRng};
use tidegate_core::{
    check::{Purpose, Subject},
    engine::{Completion, Engine, Outcome, Plan, Settings},
    ids::{Boot, NodeId, Secret, Session},
    policy::PolicySet,
};
use tidegate_node::{clock::Clock, guard::Mutexes, store::MemoryStore};

type Failed = Box<dyn Error>;

const SECRET: Secret = Secret([7; 16]);

/// Measures decisions in process.
#[derive(Debug, Parser)]
struct Arguments {
    /// 1 or 2; without it, both.
    #[arg(long)]
    limits: Option<usize>,
    /// Callers; without it, 1 and 100,000.
    #[arg(long)]
    keys: Option<usize>,
    /// Decisions in a round.
    #[arg(long, default_value_t = 1_000_000)]
    decisions: usize,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

fn main() -> Result<(), Failed> {
    let arguments = Arguments::parse();
    let files = [
        include_str!("../../../bench/one-limit.toml"),
        include_str!("../../../bench/two-limits.toml"),
    ];
    for (limits, file) in (1..).zip(files) {
        for keys in [1, 100_000] {
            let wanted = arguments.limits.is_none_or(|wanted| wanted == limits)
                && arguments.keys.is_none_or(|wanted| wanted == keys);
            if wanted {
                let best = measure(file, keys, &arguments)?;
                writeln!(std::io::stdout(), "{limits} limit(s), {keys} key(s): {best:.0} ns")?;
            }
        }
    }
    Ok(())
}

/// Nanoseconds per decision in the best round.
fn measure(policies: &str, keys: usize, arguments: &Arguments) -> Result<f64, Failed> {
    let policies = PolicySet::parse(policies).map_err(|mistakes| format!("{mistakes:?}"))?;
    let clock = Clock::start();
    let session = Session { id: NodeId::new("eu", "eu-0")?, boot: Boot(1) };
    let random = Box::new(StdRng::seed_from_u64(1));
    let settings = Settings::new(session);
    let engine = Engine::<Mutexes>::new(settings, clock.now(), clock.cluster_guess(), random);
    let store = MemoryStore::new(4_000_000, clock);
    let names: Vec<String> = (0..keys).map(|key| format!("key-{key:06}")).collect();

    let mut best = f64::INFINITY;
    for _ in 0..arguments.rounds {
        let start = Instant::now();
        for i in 0..arguments.decisions {
            // A stride that meets every key, and neighbours never one after the other.
            let key = &names[i * 7_919 % keys];
            let attributes = [("api_key", key.as_str()), ("route", "/api/orders")];
            let subject = [Subject { attributes: &attributes, cost: 1 }];
            let plan = engine.plan(&policies, &SECRET, clock.now(), &subject, Purpose::Charge)?;
            let Plan::Ask(command, ticket) = plan else { return Err("nothing to ask".into()) };
            let reply = Outcome::Reply(store.apply(&command)?);
            let Completion::Decided(decision) = engine.complete(clock.now(), ticket, reply) else {
                return Err("the clocks do not agree".into());
            };
            if !black_box(decision).allowed {
                return Err("refused".into());
            }
        }
        // What a node's timers do between checks.
        engine.handle_timeout(clock.now());
        best = best.min(start.elapsed().as_nanos() as f64 / arguments.decisions as f64);
    }
    Ok(best)
}
