//! The laws of the step, over the table that the memory store uses.

use alloc::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{
    algorithm::Rule,
    ids::{Caller, LimitId, StoreEpoch},
    time::{Label, StoreTime},
};

const NOW: StoreTime = StoreTime(10_000_000);

fn key(n: u64) -> Key {
    Key { caller: Caller([n, 0]), limit: LimitId(1) }
}

fn charge(n: u64, label: u64, cost: u64, ceiling: u64) -> Operation {
    Operation {
        key: key(n),
        action: Action::Charge { cost },
        label: Label(label),
        not_before: StoreTime(0),
        not_after: StoreTime(u64::MAX),
        ceiling,
        floor: Counts::default(),
        enforce: true,
        expires: StoreTime(20_000_000),
        claim: None,
        rule: Rule::FixedWindow,
        hold: None,
    }
}

fn ask(table: &mut Table, operations: Vec<Operation>) -> (bool, Vec<OperationReply>) {
    match table.apply(&StoreCommand::new(operations), NOW).expect("room") {
        StoreReply::Done { admitted, operations, .. } => (admitted, operations),
        other => panic!("{other:?}"),
    }
}

fn used(table: &mut Table, n: u64, label: u64) -> u64 {
    let peek = Operation { action: Action::Peek, ..charge(n, label, 1, 0) };
    ask(table, vec![peek]).1[0].counts.used
}

#[test]
fn charges_up_to_the_ceiling_and_no_further() {
    let mut table = Table::new(10, StoreEpoch(1));
    assert!(ask(&mut table, vec![charge(1, 5, 7, 10)]).0);
    assert!(!ask(&mut table, vec![charge(1, 5, 4, 10)]).0);
    assert!(ask(&mut table, vec![charge(1, 5, 3, 10)]).0);
    assert_eq!(used(&mut table, 1, 5), 10);
}

#[test]
fn a_new_label_starts_at_nothing_and_the_one_before_is_kept() {
    let mut table = Table::new(10, StoreEpoch(1));
    ask(&mut table, vec![charge(1, 5, 7, 10)]);
    ask(&mut table, vec![charge(1, 6, 2, 10)]);
    assert_eq!((used(&mut table, 1, 5), used(&mut table, 1, 6)), (7, 2));
    // A late charge in the previous label counts there.
    assert!(!ask(&mut table, vec![charge(1, 5, 4, 10)]).0);
    assert!(ask(&mut table, vec![charge(1, 5, 3, 10)]).0);
    assert_eq!((used(&mut table, 1, 5), used(&mut table, 1, 6)), (10, 2));
    // Two labels on, nothing is left of either.
    ask(&mut table, vec![charge(1, 8, 1, 10)]);
    assert_eq!((used(&mut table, 1, 7), used(&mut table, 1, 8)), (0, 1));
}

#[test]
fn a_label_older_than_the_previous_one_is_relabelled_and_nothing_is_done() {
    let mut table = Table::new(10, StoreEpoch(1));
    ask(&mut table, vec![charge(1, 8, 1, 10)]);
    let command = StoreCommand::new(vec![charge(2, 8, 1, 10), charge(1, 6, 1, 10)]);
    // The answer says how far each record is.
    let (newest, epoch) = (vec![Label(0), Label(8)], StoreEpoch(1));
    assert_eq!(table.apply(&command, NOW), Ok(StoreReply::Relabel { now: NOW, epoch, newest }));
    assert_eq!(used(&mut table, 2, 8), 0);
}

#[test]
fn a_label_outside_its_bounds_is_relabelled() {
    let mut table = Table::new(10, StoreEpoch(1));
    for (not_before, not_after) in [(NOW.0 + 1, u64::MAX), (0, NOW.0)] {
        let operation = Operation {
            not_before: StoreTime(not_before),
            not_after: StoreTime(not_after),
            ..charge(1, 5, 1, 10)
        };
        let command = StoreCommand::new(vec![operation]);
        let (newest, epoch) = (vec![Label(0)], StoreEpoch(1));
        assert_eq!(table.apply(&command, NOW), Ok(StoreReply::Relabel { now: NOW, epoch, newest }));
    }
    assert!(table.is_empty());
}

#[test]
fn a_floor_lifts_the_record_even_when_the_command_is_refused() {
    let mut table = Table::new(10, StoreEpoch(1));
    let floor = Counts { used: 9, refunded: 1 };
    assert!(!ask(&mut table, vec![Operation { floor, ..charge(1, 5, 3, 10) }]).0);
    assert_eq!(used(&mut table, 1, 5), 9);
    assert!(ask(&mut table, vec![charge(1, 5, 2, 10)]).0, "8 net + 2 fit in 10");
}

#[test]
fn a_shadow_limit_without_room_is_told_but_refuses_nothing() {
    let mut table = Table::new(10, StoreEpoch(1));
    let shadow = Operation { enforce: false, ..charge(1, 5, 3, 2) };
    let (admitted, replies) = ask(&mut table, vec![shadow, charge(2, 5, 3, 10)]);
    assert!(admitted);
    assert_eq!(replies.iter().map(|r| r.passes).collect::<Vec<_>>(), [false, true]);
    assert_eq!((used(&mut table, 1, 5), used(&mut table, 2, 5)), (0, 3));
}

#[test]
fn two_operations_on_one_key_see_each_other() {
    let mut table = Table::new(10, StoreEpoch(1));
    assert!(!ask(&mut table, vec![charge(1, 5, 6, 10), charge(1, 5, 6, 10)]).0);
    assert_eq!(used(&mut table, 1, 5), 0);
    assert!(ask(&mut table, vec![charge(1, 5, 5, 10), charge(1, 5, 5, 10)]).0);
    assert_eq!(used(&mut table, 1, 5), 10);
}

#[test]
fn a_full_table_takes_no_new_key_and_keeps_what_it_has() {
    let mut table = Table::new(1, StoreEpoch(1));
    ask(&mut table, vec![charge(1, 5, 1, 10)]);
    let both = StoreCommand::new(vec![charge(1, 5, 1, 10), charge(2, 5, 1, 10)]);
    assert_eq!(table.apply(&both, NOW), Err(TableFull));
    assert_eq!(used(&mut table, 1, 5), 1, "not half charged");
    assert_eq!(table.sweep(StoreTime(20_000_000), 100), 1);
    assert!(table.apply(&both, NOW).is_err());
    ask(&mut table, vec![charge(2, 5, 1, 10)]);
}

#[test]
fn a_full_table_makes_room_by_what_has_expired() {
    let mut table = Table::new(1, StoreEpoch(1));
    let mortal = Operation { expires: StoreTime(NOW.0 + 1), ..charge(1, 5, 1, 10) };
    ask(&mut table, vec![mortal]);
    let other = StoreCommand::new(vec![charge(2, 5, 1, 10)]);
    assert_eq!(table.apply(&other, NOW), Err(TableFull));
    assert!(table.apply(&other, StoreTime(NOW.0 + 1)).is_ok(), "without a sweep from outside");
    assert_eq!(table.len(), 1);
}

fn heal(n: u64, label: u64, used: u64) -> Operation {
    let floor = Counts { used, refunded: 0 };
    Operation { action: Action::Heal, floor, ceiling: 0, enforce: false, ..charge(n, label, 1, 0) }
}

#[test]
fn healing_lifts_and_charges_nothing() {
    let mut table = Table::new(10, StoreEpoch(1));
    ask(&mut table, vec![charge(1, 5, 7, 10)]);
    let (admitted, replies) = ask(&mut table, vec![heal(1, 5, 4), heal(2, 6, 9), heal(2, 5, 3)]);
    assert!(admitted && replies.iter().all(|reply| reply.passes));
    assert_eq!(replies.iter().map(|r| r.counts.used).collect::<Vec<_>>(), [7, 9, 3]);
    assert_eq!((used(&mut table, 1, 5), used(&mut table, 2, 5), used(&mut table, 2, 6)), (7, 3, 9));
}

#[test]
fn what_can_be_asked_for_no_more_is_left_out_of_a_heal() {
    let mut table = Table::new(10, StoreEpoch(1));
    ask(&mut table, vec![charge(1, 8, 1, 10)]);
    let ended = Operation { not_after: NOW, ..heal(3, 5, 6) };
    let (admitted, replies) =
        ask(&mut table, vec![heal(1, 6, 5), ended, heal(2, 5, 4), charge(1, 8, 2, 10)]);
    assert!(admitted);
    assert_eq!(replies.iter().map(|r| r.passes).collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(replies[0].counts, Counts::default());
    assert_eq!((used(&mut table, 1, 8), used(&mut table, 2, 5)), (3, 4));
    assert_eq!(table.len(), 2);
}

#[test]
fn every_answer_says_in_which_epoch_it_was_given() {
    let mut table = Table::new(10, StoreEpoch(7));
    for not_after in [u64::MAX, NOW.0] {
        let operation = Operation { not_after: StoreTime(not_after), ..charge(1, 5, 1, 10) };
        let reply = table.apply(&StoreCommand::new(vec![operation]), NOW).expect("room");
        assert_eq!(reply.epoch(), StoreEpoch(7));
    }
}

#[test]
fn a_table_that_begins_an_epoch_keeps_its_records() {
    let mut table = Table::new(10, StoreEpoch(1));
    ask(&mut table, vec![charge(1, 5, 7, 10)]);
    table.begin_epoch(StoreEpoch(2));
    let reply = table.apply(&StoreCommand::default(), NOW).expect("room");
    assert_eq!((reply.epoch(), used(&mut table, 1, 5)), (StoreEpoch(2), 7));
}

#[test]
fn a_walk_over_the_table_sees_every_record_that_stays() {
    let mut table = Table::new(1_000, StoreEpoch(1));
    for n in 0..300 {
        ask(&mut table, vec![charge(n, 5, 1, 10)]);
    }
    let (mut seen, mut from) = (Vec::new(), Some(0));
    while let Some(place) = from {
        from = table.copy_from(place, 64, &mut seen);
        assert!(seen.len() <= 64 * (place as usize / 64 + 1));
    }
    let mut callers: Vec<_> = seen.iter().map(|(key, _)| key.caller.0[0]).collect();
    callers.sort_unstable();
    assert_eq!(callers, (0..300).collect::<Vec<_>>());
}

#[test]
fn a_peek_leaves_no_trace() {
    let mut table = Table::new(10, StoreEpoch(1));
    assert_eq!(used(&mut table, 1, 5), 0);
    assert!(table.is_empty());
}

proptest! {
    /// INV-4: a command is admitted whole or charges nothing; and no label exceeds its ceiling.
    #[test]
    fn all_or_nothing_and_never_above_the_ceiling(
        commands in prop::collection::vec(
            prop::collection::vec((0_u64..4, 1_u64..6, 0_u64..2, any::<bool>()), 1..5), 1..60)
    ) {
        const CEILING: u64 = 12;
        let mut table = Table::new(100, StoreEpoch(1));
        for parts in commands {
            let operations: Vec<_> = parts
                .iter()
                .map(|(n, cost, label, enforce)| Operation {
                    enforce: *enforce, ..charge(*n, 5 + label, *cost, CEILING)
                })
                .collect();
            let before: Vec<_> =
                (0..4).flat_map(|n| [used(&mut table, n, 5), used(&mut table, n, 6)]).collect();
            let command = StoreCommand::new(operations.clone());
            let reply = table.apply(&command, NOW).expect("room");
            let after: Vec<_> =
                (0..4).flat_map(|n| [used(&mut table, n, 5), used(&mut table, n, 6)]).collect();
            prop_assert!(after.iter().all(|used| *used <= CEILING));
            let StoreReply::Done { admitted, operations: replies, .. } = reply else {
                panic!("labels are in bounds")
            };
            let charged: u64 = if admitted {
                parts.iter().zip(&replies).filter(|(_, r)| r.passes).map(|(p, _)| p.1).sum()
            } else {
                0
            };
            prop_assert_eq!(after.iter().sum::<u64>(), before.iter().sum::<u64>() + charged);
        }
    }
}
