//! What the change log cannot bring: differences are found by comparing, and what cannot be merged holds
//! up nothing.

use super::*;
use crate::wire::{Frame, Header, Section, SlotEntry, Slots};

const SLOW_PASS: u64 = 64_000;

/// A region whose last words only one of the two others has heard, and which is no more.
fn half_heard(world: &mut World) {
    world.run(500, |_, _| true);
    assert!(world.ask(2, "k", 7) && world.ask(2, "j", 3));
    world.run(200, |from, to| (from, to) != (2, 1));
    world.disconnect(2, 0);
    world.disconnect(2, 1);
    // Nothing comes from there or goes there any more.
    let sealed = |from, to| from != 2 && to != 2;
    world.run(300, sealed);
    assert_eq!((world.used(0, "k"), world.used(1, "k")), (7, 0));
}

#[test]
fn what_one_survivor_knows_of_a_dead_region_reaches_the_others() {
    let mut world = three_regions();
    world.run(12_000, |_, _| true); // the quick pass is over
    half_heard(&mut world);
    world.run(3_000 + 64 * 110 + 500, |from, to| from != 2 && to != 2);
    assert_eq!((world.used(1, "k"), world.used(1, "j")), (7, 3));
    let repair = world.nodes[1].0.stats().exchange.repair;
    assert_eq!(repair.repaired, 2, "{repair:?}");
    // What is equal is not told again.
    world.run(2 * SLOW_PASS, |from, to| from != 2 && to != 2);
    for at in 0..2 {
        let differing = world.nodes[at].0.stats().exchange.repair.differing;
        assert!(differing <= 2, "node {at}: {differing}");
    }
}

#[test]
fn after_a_cut_all_is_compared_quickly() {
    let mut world = three_regions();
    half_heard(&mut world);
    world.disconnect(0, 1);
    world.connect(0, 1);
    world.run(4_000 + 64 * 110 + 500, |from, to| from != 2 && to != 2);
    assert_eq!((world.used(1, "k"), world.used(1, "j")), (7, 3));
}

#[test]
fn a_dead_regions_part_of_a_busy_key_is_found_too() {
    let mut world = three_regions();
    world.run(12_000, |_, _| true);
    half_heard(&mut world);
    // The key never rests.
    let mut used = 7;
    for round in 0..60 {
        used += u64::from(world.ask(round % 2, "k", 1));
        world.run(200, |from, to| from != 2 && to != 2);
    }
    assert_eq!((world.used(0, "k"), world.used(1, "k")), (used, used));
}

#[test]
fn comparing_equal_counts_costs_next_to_nothing() {
    let mut world = three_regions();
    for n in 0..200 {
        assert!(world.ask(n % 3, &alloc::format!("key-{n}"), 2));
    }
    world.run(15_000, |_, _| true);
    let before = world.nodes[0].0.peers(world.now)[0].sent;
    world.run(60_000, |_, _| true);
    let sent = world.nodes[0].0.peers(world.now)[0].sent;
    assert_eq!(sent.changes, before.changes);
    // A minute's empty frames, clock readings and sums, to one of two peers.
    let bytes = sent.bytes - before.bytes;
    assert!(bytes < 60 * 80, "{bytes} bytes in a minute");
    let repair = world.nodes[0].0.stats().exchange.repair;
    assert!(repair.compared > 1_000);
    assert_eq!((repair.differing, repair.repaired), (0, 0));
}

fn frame_of_us(number: u64, label: u64, used: u64) -> Vec<u8> {
    let entry = SlotEntry { caller: [1; 16], used, refunded: 0, refused: 0, note: 0 };
    let window = 3_600_000_000;
    let slots = Slots { of: None, limit: 9, window, global: true, label, entries: vec![entry] };
    let header = Header { number, open: 1, acknowledged: 0, unmerged: 0, sent: 0, echo: None };
    Frame { header, sections: vec![Section::Slots(slots)] }.encode()
}

#[test]
fn a_label_that_is_too_far_ahead_is_asked_for_again_and_holds_up_nothing() {
    let world = three_regions();
    let (eu, us) = (&world.nodes[0].0, session("us", "us-0", 1));
    let label = START.0 / 3_600_000_000;
    while eu.poll_frame(Mono(0)).is_some() {}
    let take = |number, label| eu.handle_frame(Mono(0), &us, &frame_of_us(number, label, 5));
    assert_eq!(take(1, label + 2), Err(FrameError::LabelAhead));
    assert_eq!(take(2, label), Ok(()));
    let mut answered = None;
    while let Some((to, bytes)) = eu.poll_frame(Mono(100_000)) {
        if to == us {
            answered = Some(Frame::decode(&bytes).expect("our own").header);
        }
    }
    let header = answered.expect("an acknowledgement is owed");
    assert_eq!((header.acknowledged, header.unmerged), (2, 1));
}

#[test]
fn a_peer_whose_table_is_full_still_hears_of_the_keys_it_has() {
    let mut world = World::new(vec![session("eu", "eu-0", 1), session("us", "us-0", 1)]);
    let settings = Settings { shards: 1, cells_max: 64, ..Settings::new(session("us", "us-0", 1)) };
    let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
    world.nodes[1].0 = Engine::new(settings, Mono(0), START, random);
    world.nodes[0].1 = Table::new(10_000, StoreEpoch(1));
    world.connect(0, 1);
    assert!(world.ask(0, "early", 1));
    world.run(200, |_, _| true);
    for n in 0..1_500 {
        assert!(world.ask(0, &alloc::format!("key-{n}"), 1));
        if n % 20 == 0 {
            world.run(60, |_, _| true);
        }
    }
    assert!(world.nodes[1].0.stats().exchange.dropped[&FrameError::Full] > 64);
    assert!(world.ask(0, "early", 1));
    world.run(150, |_, _| true);
    assert_eq!(world.used(1, "early"), 2, "a period, not a rewind, later");
    assert_eq!(engine_resends(&world), 0);
}

#[test]
fn hearsay_does_not_speak_for_who_is_connected() {
    use crate::wire::Speaker;
    let mut world = three_regions();
    world.run(500, |_, _| true);
    let us = session("us", "us-0", 1);
    let label = START.0 / 3_600_000_000;
    let hearsay = |node: &str, used| {
        let entry = SlotEntry { caller: [1; 16], used, refunded: 0, refused: 0, note: 0 };
        let of = Some(Speaker { region: "ap".into(), node: node.into(), boot: 1 });
        let window = 3_600_000_000;
        let slots = Slots { of, limit: 9, window, global: true, label, entries: vec![entry] };
        let header =
            Header { number: 0, open: 0, acknowledged: 0, unmerged: 0, sent: 0, echo: None };
        Frame { header, sections: vec![Section::Hearsay(slots)] }.encode()
    };
    let eu = &world.nodes[0].0;
    assert_eq!(eu.handle_frame(world.now, &us, &hearsay("ap-0", 5)), Ok(()));
    assert_eq!(eu.stats().cells, 0, "ap-0 is connected, and says what it has used");
    assert_eq!(eu.handle_frame(world.now, &us, &hearsay("ap-1", 5)), Ok(()));
    assert_eq!(eu.stats().cells, 1);
    assert_eq!(eu.stats().exchange.repair.repaired, 1);
}

#[test]
fn sums_of_an_impossible_shape_are_passed_over() {
    use crate::wire::{Ask, Digests};
    let mut world = three_regions();
    world.run(500, |_, _| true);
    let us = session("us", "us-0", 1);
    let eu = &world.nodes[0].0;
    let digests = |bits, first, step, sums: usize| {
        Section::Digests(Digests { bits, first, step, sums: vec![1; sums] })
    };
    for section in [
        digests(10, 0, 64, 17),
        digests(10, 64, 64, 16),
        digests(10, u32::MAX, 64, 16),
        digests(16, 0, 1, 64),
        digests(16, 1_024, 1_024, 64),
        digests(3, 0, 64, 16),
        digests(10, 0, 0, 16),
        Section::Ask(Ask { ranges: vec![u32::MAX] }),
        Section::Ask(Ask { ranges: vec![0; 65] }),
    ] {
        let header =
            Header { number: 0, open: 0, acknowledged: 0, unmerged: 0, sent: 0, echo: None };
        let bytes = Frame { header, sections: vec![section] }.encode();
        assert_eq!(eu.handle_frame(world.now, &us, &bytes), Ok(()));
    }
    assert_eq!(eu.stats().exchange.repair.differing, 0);
}

#[test]
fn many_differences_are_mended_in_the_quick_pass() {
    let mut world = three_regions();
    world.run(12_000, |_, _| true);
    for n in 0..200 {
        assert!(world.ask(2, &alloc::format!("key-{n}"), 2));
    }
    world.run(200, |from, to| (from, to) != (2, 1));
    world.disconnect(2, 0);
    world.disconnect(2, 1);
    let sealed = |from, to| from != 2 && to != 2;
    world.run(3_000 + 64 * 110 + 500, sealed);
    let known = (0..200).filter(|n| world.used(1, &alloc::format!("key-{n}")) == 2).count();
    // Where more than four ranges of a step differ, the rest waits for the next pass.
    assert!(known >= 180, "{known}");
}
