//! How many changes of counts one core merges per second: `Engine::handle_frame` alone, on real frames.
//!
//! One node admits keys that the other does not know, and tells it: a frame with changes of new keys makes
//! a cell for each, which is the dear case. Then it admits the same keys again, and tells that. Only the
//! time that the hearing node's thread runs within `handle_frame` counts, by the scheduler's account.

use std::{error::Error, io::Write as _};

use clap::Parser;
use rand::{SeedableRng as _, rngs::StdRng};
use tidegate_core::{
    check::{Purpose, Subject},
    engine::{Completion, Engine, Outcome, Plan, Settings},
    guard::OneThread,
    ids::{Boot, NodeId, Secret, Session, StoreEpoch},
    policy::PolicySet,
    store::{Action, OperationReply, StoreCommand, StoreReply},
    time::{ClusterTime, Mono, Span, StoreTime},
};

type Failed = Box<dyn Error>;

const POLICIES: &str = include_str!("../../../bench/one-limit.toml");
const SECRET: Secret = Secret([7; 16]);
/// Half past some hour, so that no label ends meanwhile.
const START: ClusterTime = ClusterTime(1_700_001_000_000_000);
const GOSSIP: Span = Span::millis(50);

/// Measures the merge rate of one core.
#[derive(Debug, Parser)]
struct Arguments {
    /// Keys that one node tells the other, twice.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// How often all is measured; the median is told.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

fn main() -> Result<(), Failed> {
    let Arguments { keys, rounds } = Arguments::parse();
    let mut runs = (0..rounds.max(1)).map(|_| run(keys)).collect::<Result<Vec<_>, _>>()?;
    for (pass, what) in ["keys that are new", "keys that are known"].iter().enumerate() {
        runs.sort_by(|a, b| a[pass].rate().total_cmp(&b[pass].rate()));
        let rates: Vec<_> = runs.iter().map(|run| format!("{:.0}", run[pass].rate())).collect();
        let median = &runs[runs.len() / 2][pass];
        let line = format!(
            "{what}: {:.0} changes per second of one core (all runs: {}); {:.1} bytes of frames per change",
            median.rate(),
            rates.join(", "),
            median.bytes as f64 / median.changes as f64,
        );
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(())
}

/// What was told in one pass, and how long merging it took.
#[derive(Debug, Default)]
struct Pass {
    changes: u64,
    bytes: u64,
    nanoseconds: u64,
}

impl Pass {
    fn rate(&self) -> f64 {
        self.changes as f64 * 1e9 / self.nanoseconds as f64
    }
}

/// Admits all keys twice at one node, and tells the other each time.
fn run(keys: u64) -> Result<[Pass; 2], Failed> {
    let policies = PolicySet::parse(POLICIES).map_err(|mistakes| format!("{mistakes:?}"))?;
    let (teller, hearer) = (engine("eu")?, engine("us")?);
    teller.handle_connected(Mono(0), hearer.session())?;
    hearer.handle_connected(Mono(0), teller.session())?;
    // The walk at the start ends before there is anything to tell: else all would be told by it as well.
    let mut now = Mono(0) + GOSSIP;
    tell(&teller, &hearer, now, &mut Pass::default())?;
    let mut passes = [Pass::default(), Pass::default()];
    for pass in &mut passes {
        for key in 0..keys {
            admit(&teller, &policies, now, key)?;
        }
        let received =
            |now| hearer.peers(now).iter().map(|peer| peer.received.changes).sum::<u64>();
        let goal = received(now) + keys;
        while received(now) < goal {
            now += GOSSIP;
            tell(&teller, &hearer, now, pass)?;
            if pass.bytes > 100 * keys {
                return Err("the same is told again and again".into());
            }
        }
        pass.changes = keys;
    }
    Ok(passes)
}

fn engine(region: &str) -> Result<Engine<OneThread>, Failed> {
    let session = Session { id: NodeId::new(region, &format!("{region}-0"))?, boot: Boot(1) };
    let random = Box::new(StdRng::seed_from_u64(1));
    Ok(Engine::new(Settings::new(session), Mono(0), START, random))
}

/// Admits one request at a store that has room for everything.
fn admit(
    engine: &Engine<OneThread>,
    policies: &PolicySet,
    now: Mono,
    key: u64,
) -> Result<(), Failed> {
    let key = format!("key-{key}");
    let attributes = [("api_key", key.as_str()), ("route", "/api/orders")];
    let subject = [Subject { attributes: &attributes, cost: 1 }];
    let Plan::Ask(command, ticket) =
        engine.plan(policies, &SECRET, now, &subject, Purpose::Charge)?
    else {
        return Err("nothing to ask".into());
    };
    match engine.complete(now, ticket, Outcome::Reply(always_admitted(&command))) {
        Completion::Decided(_) => Ok(()),
        Completion::Again(..) | Completion::OtherRequest => Err("the clocks do not agree".into()),
    }
}

fn always_admitted(command: &StoreCommand) -> StoreReply {
    let operations = command.operations.iter().map(|operation| {
        let mut counts = operation.floor;
        if let Action::Charge { cost } = operation.action {
            counts.used += cost;
        }
        OperationReply::new(true, counts)
    });
    let now = StoreTime(START.0);
    StoreReply::Done {
        admitted: true,
        now,
        epoch: StoreEpoch(1),
        adopted: None,
        operations: operations.collect(),
    }
}

/// Carries what is due both ways; only the hearing of what is told is measured.
fn tell(
    teller: &Engine<OneThread>,
    hearer: &Engine<OneThread>,
    now: Mono,
    pass: &mut Pass,
) -> Result<(), Failed> {
    let frames: Vec<_> = std::iter::from_fn(|| teller.poll_frame(now)).collect();
    let before = running_nanoseconds()?;
    for (_, frame) in &frames {
        hearer.handle_frame(now, teller.session(), frame)?;
    }
    pass.nanoseconds += running_nanoseconds()? - before;
    pass.bytes += frames.iter().map(|(_, frame)| frame.len() as u64).sum::<u64>();
    while let Some((_, frame)) = hearer.poll_frame(now) {
        teller.handle_frame(now, hearer.session(), &frame)?;
    }
    Ok(())
}

/// For how long the scheduler has let this thread run.
fn running_nanoseconds() -> Result<u64, Failed> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split_whitespace().next().ok_or("no schedstat")?.parse()?)
}
