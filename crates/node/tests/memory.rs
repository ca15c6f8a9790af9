//! What tables say that they hold is what the allocator has handed out for them.
//!
//! It is counted by thread, since what others do meanwhile, and what is kept for the next allocation, is not asked
//! for.

use rand::{SeedableRng as _, rngs::StdRng};
use tidegate_core::{
    check::{Purpose, Subject, Ticket},
    engine::{Completion, Engine, Outcome, Plan, Settings},
    guard::OneThread,
    ids::{Boot, NodeId, Secret, Session, StoreEpoch},
    policy::PolicySet,
    store::{Action, OperationReply, StoreCommand, StoreReply, Table},
    time::{ClusterTime, Mono, StoreTime},
};
use tidegate_node as _;
use tikv_jemalloc_ctl::thread;

/// Half past some hour, so that no label ends meanwhile.
const START: ClusterTime = ClusterTime(1_700_001_000_000_000);
const POLICIES: &str = include_str!("../../../bench/one-limit.toml");

fn session(region: &str, n: usize) -> Session {
    let id = NodeId::new(region, &format!("{region}-{n}")).expect("names");
    Session { id, boot: Boot(1) }
}

/// How many bytes `f` leaves allocated.
fn allocated(f: impl FnOnce()) -> f64 {
    let given = thread::allocatedp::read().expect("jemalloc keeps books");
    let taken_back = thread::deallocatedp::read().expect("jemalloc keeps books");
    let net = || given.get() as f64 - taken_back.get() as f64;
    let before = net();
    f();
    net() - before
}

fn plan(engine: &Engine<OneThread>, policies: &PolicySet, key: usize) -> (StoreCommand, Ticket) {
    let key = format!("key-{key}");
    let attributes = [("api_key", key.as_str()), ("route", "/api/orders")];
    let subjects = [Subject { attributes: &attributes, cost: 1 }];
    let plan = engine.plan(policies, &Secret([7; 16]), Mono(0), &subjects, Purpose::Charge);
    match plan.expect("a good request") {
        Plan::Ask(command, ticket) => (command, ticket),
        other => panic!("nothing to ask: {other:?}"),
    }
}

fn admit(engine: &Engine<OneThread>, policies: &PolicySet, key: usize) {
    let (command, ticket) = plan(engine, policies, key);
    let operations = command.operations.iter().map(|operation| {
        let mut counts = operation.floor;
        if let Action::Charge { cost } = operation.action {
            counts.used += cost;
        }
        OperationReply::new(true, counts)
    });
    let reply = StoreReply::Done {
        admitted: true,
        now: StoreTime(START.0),
        epoch: StoreEpoch(START.0),
        adopted: None,
        operations: operations.collect(),
    };
    let completion = engine.complete(Mono(0), ticket, Outcome::Reply(reply));
    assert!(matches!(completion, Completion::Decided(_)), "the clocks agree");
}

fn engine() -> Engine<OneThread> {
    let random = Box::new(StdRng::seed_from_u64(1));
    // What its store admits first is of its first epoch, so that labels are open under rights.
    let settings = Settings { founded: Some(START), ..Settings::new(session("eu", 0)) };
    Engine::new(settings, Mono(0), START, random)
}

/// An allocator rounds pieces up, and nodes of trees are more or less full.
fn close(what: &str, counted: usize, allocated: f64) {
    let ratio = allocated / counted as f64;
    assert!((0.8..1.25).contains(&ratio), "{what}: {counted} counted, {allocated} allocated");
}

#[test]
fn records_with_accounts_and_keys_in_demand_count_what_the_allocator_counts() {
    let strict = POLICIES.replace("consistency = \"plain\"", "consistency = \"strict\"");
    let policies = PolicySet::parse(&strict).expect("good policies");
    let engine = engine();
    let mut table = Table::new(10_000, StoreEpoch(START.0));
    let bare = table.memory_bytes();
    let counts = engine.stats().memory.counts;
    let allocated = allocated(|| {
        for key in 0..10_000 {
            let (command, ticket) = plan(&engine, &policies, key);
            let reply = table.apply(&command, StoreTime(START.0)).expect("there is room");
            let _ = engine.complete(Mono(0), ticket, Outcome::Reply(reply));
        }
    });
    // The first one is asked before the epoch is known.
    assert_eq!(table.len(), 9_999);
    let records = table.memory_bytes() - bare;
    close("records and counts", records + engine.stats().memory.counts - counts, allocated);
    // What has expired is given back, accounts and all.
    let after = START.0 + 10 * 86_400_000_000;
    table.sweep(StoreTime(after), usize::MAX);
    assert!(table.is_empty());
    let left = table.memory_bytes();
    assert!(left + 10_000 * 64 <= records + bare, "{left} of {}", records + bare);
}

#[test]
fn tables_count_what_the_allocator_counts() {
    let policies = PolicySet::parse(POLICIES).expect("good policies");
    let engine = engine();
    let empty = engine.stats().memory;
    let of_peers = allocated(|| {
        for n in 1..200 {
            engine.handle_connected(Mono(0), &session("us", n)).expect("a new peer is taken");
        }
    });
    let with_peers = engine.stats().memory;
    let counted = with_peers.peers + with_peers.sessions - empty.peers - empty.sessions;
    close("peers and sessions", counted, of_peers);

    let of_counts = allocated(|| (0..20_000).for_each(|key| admit(&engine, &policies, key)));
    let with_counts = engine.stats().memory;
    close("counts", with_counts.counts - with_peers.counts, of_counts);
    assert_eq!(engine.stats().cells, 20_000);

    // Frames that wait, and what is remembered of those under way.
    let mut frames = 0;
    let of_frames = allocated(|| {
        while let Some(frame) = engine.poll_frame(Mono(1_000_000)) {
            drop(frame);
            frames += 1;
        }
    });
    assert!(frames > 100, "{frames}");
    close("frames", engine.stats().memory.peers - with_counts.peers, of_frames);
}
