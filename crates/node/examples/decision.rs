//! What one decision costs in process: plan, the memory store's step, complete; no HTTP around it. Beside it what
//! `governor`, a limiter for use within one process, takes for a keyed check.
//!
//! Prints nanoseconds of processor time per decision, the median of some rounds in which all take turns, for several
//! kinds of limits, one and many keys. `perf record` and `perf stat` on it show where they go.

#![allow(clippy::disallowed_methods, reason = "what is measured here is real time")]

use std::{error::Error, fs, hint::black_box, io::Write as _, num::NonZeroU32};

use clap::Parser;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
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
/// What `governor` has: a rate and a burst.
const BUCKET: &str = "[[policy]]\nname = \"p\"\nkey = [\"api_key\"]\n[[policy.limit]]\nname = \"l\"\n\
                      quantity = 1_000_000_000\nwindow = \"1h\"\nalgorithm = \"token-bucket\"\n";

/// Measures decisions in process.
#[derive(Debug, Parser)]
struct Arguments {
    /// One of: governor, bucket, one-limit, two-limits; without it, all.
    #[arg(long)]
    only: Option<String>,
    /// Callers; without it, 1, 100,000 and 1,000,000.
    #[arg(long)]
    keys: Option<usize>,
    /// Decisions in a round; so many for each key at least in the first, which does not count.
    #[arg(long, default_value_t = 1_000_000)]
    decisions: usize,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

fn main() -> Result<(), Failed> {
    let arguments = Arguments::parse();
    let files = [
        ("bucket", BUCKET),
        ("one-limit", include_str!("../../../bench/one-limit.toml")),
        ("two-limits", include_str!("../../../bench/two-limits.toml")),
    ];
    let is_wanted = |name: &str| arguments.only.as_deref().is_none_or(|only| only == name);
    for keys in [1, 100_000, 1_000_000] {
        if arguments.keys.is_some_and(|wanted| wanted != keys) {
            continue;
        }
        let names: Vec<String> = (0..keys).map(|key| format!("key-{key:07}")).collect();
        let mut subjects: Vec<(&str, Box<dyn Decides>)> = Vec::new();
        if is_wanted("governor") {
            let rate = NonZeroU32::new(1_000_000_000).expect("it is not zero");
            let governor: DefaultKeyedRateLimiter<String> =
                RateLimiter::keyed(Quota::per_second(rate));
            subjects.push(("governor", Box::new(governor)));
        }
        for (name, text) in files.iter().filter(|(name, _)| is_wanted(name)) {
            subjects.push((*name, Box::new(InProcess::new(text)?)));
        }
        let mut figures: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
        for round in 0..=arguments.rounds {
            let decisions = if round == 0 { keys } else { arguments.decisions };
            for ((_, subject), figures) in subjects.iter().zip(&mut figures) {
                let before = on_processor()?;
                for i in 0..decisions {
                    // A stride that meets every key, and neighbours never one after the other.
                    if !black_box(subject.decide(&names[i * 7_919 % keys])?) {
                        return Err("refused".into());
                    }
                }
                subject.rest();
                if round > 0 {
                    figures.push((on_processor()? - before) as f64 / decisions as f64);
                }
            }
        }
        let medians = figures.into_iter().map(|mut of| {
            of.sort_by(f64::total_cmp);
            of[of.len() / 2]
        });
        let medians: Vec<f64> = medians.collect();
        for ((name, _), median) in subjects.iter().zip(&medians) {
            let (all, of) = (medians[0], subjects[0].0);
            let ratio = median / all;
            writeln!(
                std::io::stdout(),
                "{keys:>9} keys, {name:<10} {median:>7.0} ns, {ratio:.2} of {of}"
            )?;
        }
    }
    Ok(())
}

/// Nanoseconds that this thread was on a processor since its start.
fn on_processor() -> Result<u64, Failed> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split(' ').next().ok_or("no number")?.parse()?)
}

/// What is measured.
trait Decides {
    /// Whether one more request of a caller may pass.
    #[expect(clippy::ptr_arg, reason = "`governor` asks for the key's own type")]
    fn decide(&self, key: &String) -> Result<bool, Failed>;

    /// What timers do between checks.
    fn rest(&self);
}

impl Decides for DefaultKeyedRateLimiter<String> {
    fn decide(&self, key: &String) -> Result<bool, Failed> {
        Ok(self.check_key(key).is_ok())
    }

    fn rest(&self) {}
}

struct InProcess {
    policies: PolicySet,
    clock: Clock,
    engine: Engine<Mutexes>,
    store: MemoryStore,
}

impl InProcess {
    fn new(policies: &str) -> Result<Self, Failed> {
        let policies = PolicySet::parse(policies).map_err(|mistakes| format!("{mistakes:?}"))?;
        let clock = Clock::start();
        let session = Session { id: NodeId::new("eu", "eu-0")?, boot: Boot(1) };
        let random = Box::new(StdRng::seed_from_u64(1));
        let settings = Settings::new(session);
        let engine = Engine::<Mutexes>::new(settings, clock.now(), clock.cluster_guess(), random);
        let store = MemoryStore::new(4_000_000, clock);
        Ok(Self { policies, clock, engine, store })
    }
}

impl Decides for InProcess {
    fn decide(&self, key: &String) -> Result<bool, Failed> {
        let attributes = [("api_key", key.as_str()), ("route", "/api/orders")];
        let subject = [Subject { attributes: &attributes, cost: 1 }];
        let (clock, engine) = (self.clock, &self.engine);
        let plan = engine.plan(&self.policies, &SECRET, clock.now(), &subject, Purpose::Charge)?;
        let Plan::Ask(command, ticket) = plan else { return Err("nothing to ask".into()) };
        let reply = Outcome::Reply(self.store.apply(&command)?);
        match engine.complete(clock.now(), ticket, reply) {
            Completion::Decided(decision) => Ok(decision.allowed),
            other => Err(format!("{other:?}").into()),
        }
    }

    fn rest(&self) {
        self.engine.handle_timeout(self.clock.now());
    }
}
