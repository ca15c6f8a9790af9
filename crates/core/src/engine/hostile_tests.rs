//! A peer with a good certificate that lies: what it may say counts, what cannot be does not.

use alloc::{vec, vec::Vec};

use super::{
    tests::{SECRET, START, World, policies, session},
    *,
};
use crate::{
    guard::OneThread,
    ids::Caller,
    policy::Scope,
    store::COUNT_MAX,
    time::Window,
    wire::{Frame, Header, Section, SlotEntry, Slots, Speaker, micros_of},
};

/// Which limit of the policy a lie is about.
const HOURLY: usize = 0;
const BURST: usize = 1;

fn world() -> World {
    let world = World::new(vec![session("eu", "eu-0", 2), session("us", "us-0", 1)]);
    world.connect(0, 1);
    world
}

fn header(number: u64) -> Header {
    Header {
        number,
        open: u64::from(number > 0),
        acknowledged: 0,
        unmerged: 0,
        sent: 0,
        echo: None,
    }
}

fn caller() -> Caller {
    policies().policies[0].caller(&SECRET, &[("route", "/api/x"), ("api_key", "k")])
}

fn lie(of: Option<Speaker>, limit: usize, used: u64) -> Slots {
    let limit = &policies().policies[0].limits[limit];
    let window: Window = limit.window;
    Slots {
        of,
        limit: limit.id.0,
        window: micros_of(window),
        global: limit.scope == Scope::Global,
        label: window.label_at(START).0,
        entries: vec![SlotEntry {
            caller: caller().to_bytes(),
            used,
            refunded: 0,
            refused: 0,
            note: 0,
        }],
    }
}

fn earlier_run_of_eu() -> Option<Speaker> {
    Some(Speaker { region: "eu".into(), node: "eu-0".into(), boot: 1 })
}

/// `us` says this to `eu`.
fn say(world: &World, slots: Slots) -> Result<(), FrameError> {
    let bytes = Frame { header: header(0), sections: vec![Section::Slots(slots)] }.encode();
    let us = world.nodes[1].0.session();
    world.nodes[0].0.handle_frame(world.now, us, &bytes)
}

fn sentence(world: &World) -> Option<Sentence> {
    let engine: &Engine<OneThread> = &world.nodes[0].0;
    let said = engine.poll_sentence();
    assert_eq!(engine.poll_sentence(), None);
    said
}

#[test]
fn who_claims_what_cannot_be_again_and_again_is_not_listened_to_for_a_while() {
    let mut world = world();
    let speaks_for_ap = Some(Speaker { region: "ap".into(), node: "a".into(), boot: 1 });
    let refunds_more =
        SlotEntry { caller: caller().to_bytes(), used: 1, refunded: 2, refused: 0, note: 0 };
    let impossible = [
        lie(speaks_for_ap, HOURLY, 1),
        lie(None, BURST, 1),
        lie(None, HOURLY, COUNT_MAX + 1),
        Slots { entries: vec![refunds_more], ..lie(None, HOURLY, 1) },
        Slots { window: 0, ..lie(None, HOURLY, 1) },
    ];
    let mut reasons = Vec::new();
    for slots in impossible {
        assert_eq!(sentence(&world), None);
        reasons.push(say(&world, slots).unwrap_err());
    }
    use FrameError::{SpeaksForAnother, Unsound};
    assert_eq!(reasons, [SpeaksForAnother, SpeaksForAnother, Unsound, Unsound, Unsound]);
    let us = world.nodes[1].0.session().clone();
    let said = sentence(&world).expect("five are too many");
    assert_eq!((&said.session, said.reason), (&us, Unsound));
    assert_eq!(world.nodes[0].0.quarantined(world.now), [(us.id.clone(), said.time)]);

    // What is under way and what it tries meanwhile counts for nothing; another run is no way round it.
    assert_eq!(say(&world, lie(None, HOURLY, 100)), Err(FrameError::Quarantined));
    for boot in [1, 2] {
        let again = world.nodes[0].0.handle_connected(world.now, &session("us", "us-0", boot));
        assert_eq!(again, Err(FrameError::Quarantined));
    }
    assert!(!world.nodes[0].0.peers(world.now)[0].connected);
    assert_eq!(world.used(0, "k"), 0);
    assert_eq!(world.nodes[0].0.stats().exchange.dropped[&FrameError::Quarantined], 1);

    // Then it is heard again.
    world.now += said.time;
    world.connect(0, 1);
    assert_eq!(say(&world, lie(None, HOURLY, 30)), Ok(()));
    assert_eq!(world.used(0, "k"), 30);
    assert_eq!(world.nodes[0].0.quarantined(world.now), []);
}

#[test]
fn nonsense_counts_as_a_claim_and_lateness_does_not() {
    let world = world();
    world.nodes[0].0.clock.with(Clock::settle);
    let late = || Slots { label: 0, ..lie(None, HOURLY, 1) };
    let early = || Slots { label: u64::MAX - 1, ..lie(None, HOURLY, 1) };
    for _ in 0..100 {
        assert_eq!(say(&world, late()), Ok(()));
        assert_eq!(say(&world, early()), Err(FrameError::LabelAhead));
    }
    assert_eq!(sentence(&world), None);
    for _ in 0..5 {
        world.nodes[0].0.handle_unreadable(world.now, world.nodes[1].0.session());
    }
    assert!(sentence(&world).is_some());
}

#[test]
fn what_one_peer_tells_a_starting_node_weighs_no_more_than_the_quantity() {
    let mut world = world();
    // A regional limit is none of its business: it cannot close one.
    assert!(say(&world, lie(earlier_run_of_eu(), BURST, 50)).is_err());
    assert!(world.ask(0, "k", 1));
    // Of a global one it may say that all is used, and no more than that.
    assert_eq!(say(&world, lie(earlier_run_of_eu(), HOURLY, COUNT_MAX)), Ok(()));
    assert!(!world.ask(0, "k", 1));
    assert_eq!(world.used(0, "k"), 1 + 100, "our own, and the quantity");
    // The next window is open.
    world.now += Span::secs(3_600);
    assert!(world.ask(0, "k", 1));
    assert_eq!(world.used(0, "k"), 1);
}

#[test]
fn late_slots_of_invented_limits_take_no_memory() {
    let world = world();
    world.nodes[0].0.clock.with(Clock::settle);
    for limit in 0..1_000 {
        assert_eq!(say(&world, Slots { label: 0, limit, ..lie(None, HOURLY, 1) }), Ok(()));
    }
    let stats = world.nodes[0].0.stats();
    assert_eq!(stats.exchange.closed, 1_000);
    assert!(stats.over_admitted.is_empty(), "{}", stats.over_admitted.len());
}

#[test]
fn what_was_under_way_when_a_peer_was_sentenced_adds_nothing_to_it() {
    let world = world();
    for _ in 0..100 {
        world.nodes[0].0.handle_unreadable(world.now, world.nodes[1].0.session());
    }
    let said = sentence(&world).expect("five are too many");
    assert_eq!(said.time, Span::secs(30));
}

#[test]
fn invented_sessions_take_no_more_than_their_share_and_what_is_refused_is_counted() {
    let mut world = world();
    world.nodes[0].0.clock.with(Clock::settle);
    assert!(world.ask(0, "k", 1));
    let claim = lie(None, HOURLY, 1);
    let invented = |boot| Slots {
        of: Some(Speaker { region: "us".into(), node: "us-0".into(), boot }),
        ..claim.clone()
    };
    let (mut taken, mut refused) = (0, 0);
    for boot in 1_000..6_000 {
        match say(&world, invented(boot)) {
            Ok(()) => taken += 1,
            Err(error) => {
                assert_eq!(error, FrameError::Full);
                refused += 1;
            }
        }
    }
    assert_eq!((taken, refused), (4_094, 906), "all that a cell holds, but our own and one more");
    let stats = world.nodes[0].0.stats();
    assert_eq!((stats.exchange.refused, stats.exchange.dropped[&FrameError::Full]), (906, 906));
    assert_eq!(sentence(&world), None, "a full table is no lie");
    // What the peer tells of itself, where it has a slot, is heard; and we go on counting.
    assert!(!world.ask(0, "k", 1));
    assert!(world.ask(0, "another", 1));
}
