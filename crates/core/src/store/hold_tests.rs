//! The laws of holds, over the table that the memory store uses.

use alloc::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{
    algorithm::{Bucket, LabelTime, Rule},
    ids::{Caller, LimitId, StoreEpoch},
    rights::{Bases, Reopening, Row},
    time::{ClusterTime, Label, Span, StoreTime, Window},
};

const START: StoreTime = StoreTime(1_700_000_000_000_000);
const QUANTITY: u64 = 20;

fn key() -> Key {
    Key { caller: Caller([1, 0]), limit: LimitId(1) }
}

/// What may happen to a key.
#[derive(Debug, Clone)]
enum Event {
    Charge {
        cost: u64,
        lasts: Option<Span>,
    },
    /// Settles one of those that were held.
    Settle {
        which: usize,
        keep: u64,
    },
    Pass(Span),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let lasts = prop::option::of((0..2_000_000_u64).prop_map(Span));
    let event = prop_oneof![
        4 => (1..6_u64, lasts).prop_map(|(cost, lasts)| Event::Charge { cost, lasts }),
        2 => (0..40_usize, 0..6_u64).prop_map(|(which, keep)| Event::Settle { which, keep }),
        2 => (0..900_000_u64).prop_map(|micros| Event::Pass(Span(micros))),
    ];
    prop::collection::vec(event, 1..80)
}

fn operation(action: Action, rule: Rule, hold: Option<Terms>) -> Operation {
    Operation {
        key: key(),
        action,
        label: Label(5),
        not_before: StoreTime(0),
        not_after: StoreTime(u64::MAX),
        ceiling: QUANTITY,
        floor: Counts::default(),
        enforce: true,
        expires: StoreTime(u64::MAX),
        claim: None,
        rule,
        hold,
    }
}

fn ask(table: &mut Table, now: StoreTime, operation: Operation) -> (bool, OperationReply) {
    match table.apply(&StoreCommand::new(vec![operation]), now).expect("room") {
        StoreReply::Done { admitted, mut operations, .. } => (admitted, operations.remove(0)),
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// In one label: what is used is what was charged, less what was settled and what has lapsed; a charge passes if
    /// and only if that leaves room.
    #[test]
    fn what_is_held_is_charged_until_it_is_settled_or_over(
        events in events(),
        undone in any::<bool>(),
    ) {
        let lapse = if undone { Lapse::Undone } else { Lapse::GivenBack };
        let mut table = Table::new(10, StoreEpoch(1));
        let mut now = START;
        let mut kept = 0;
        // What is held: until when, and how much.
        let mut held: Vec<Option<(StoreTime, u64)>> = Vec::new();
        for event in events {
            for hold in &mut held {
                *hold = hold.filter(|(ends, _)| *ends > now);
            }
            let used = kept + held.iter().flatten().map(|(_, amount)| amount).sum::<u64>();
            match event {
                Event::Pass(span) => now += span,
                Event::Charge { cost, lasts } => {
                    let id = HoldId(1 + held.len() as u64);
                    let terms = lasts.map(|lasts| Terms { id, lasts, lapse });
                    let charge = operation(Action::Charge { cost }, Rule::FixedWindow, terms);
                    let (admitted, reply) = ask(&mut table, now, charge);
                    prop_assert_eq!(admitted, used + cost <= QUANTITY);
                    prop_assert_eq!(reply.counts.net(), if admitted { used + cost } else { used });
                    match lasts.filter(|_| admitted) {
                        Some(lasts) => held.push(Some((now + lasts, cost))),
                        None if admitted => kept += cost,
                        None => {}
                    }
                }
                Event::Settle { which, keep } => {
                    let id = HoldId(1 + which as u64);
                    let terms = Some(Terms { id, lasts: Span::ZERO, lapse });
                    let settle = operation(Action::Settle { keep }, Rule::FixedWindow, terms);
                    let (found, _) = ask(&mut table, now, settle);
                    let hold = held.get_mut(which).and_then(Option::take);
                    prop_assert_eq!(found, hold.is_some());
                    kept += hold.map_or(0, |(_, amount)| amount.min(keep));
                }
            }
        }
    }

    /// A bucket from which something is reserved and given back never admits more than one in which all that was
    /// kept was charged when it was reserved.
    #[test]
    fn a_bucket_gives_back_no_more_than_it_was_charged(events in events()) {
        let window = Window::new(Span::secs(10)).expect("in range");
        let bucket = Bucket::new(QUANTITY, window, QUANTITY).expect("it fits");
        let label = LabelTime { starts: START, length: Span::secs(10), before: 0 };
        let rule = Rule::Bucket(label, bucket);
        let mut table = Table::new(10, StoreEpoch(1));
        let mut now = START;
        // When and how much was charged and not given back, and by which hold.
        let mut charged: Vec<(StoreTime, u64, StoreTime)> = Vec::new();
        let lapse = Lapse::GivenBack;
        for event in events {
            match event {
                Event::Pass(span) => now += span,
                Event::Charge { cost, lasts } => {
                    let id = HoldId(1 + charged.len() as u64);
                    let terms = lasts.map(|lasts| Terms { id, lasts, lapse });
                    let charge = operation(Action::Charge { cost }, rule, terms);
                    if ask(&mut table, now, charge).0 {
                        let ends = lasts.map_or(StoreTime(u64::MAX), |lasts| now + lasts);
                        charged.push((now, cost, ends));
                    }
                }
                Event::Settle { which, keep } => {
                    let id = HoldId(1 + which as u64);
                    let terms = Some(Terms { id, lasts: Span::ZERO, lapse });
                    let (found, _) = ask(&mut table, now, operation(Action::Settle { keep }, rule, terms));
                    if found {
                        let (_, amount, ends) = &mut charged[which];
                        (*amount, *ends) = ((*amount).min(keep), StoreTime(u64::MAX));
                    }
                }
            }
        }
        for (_, amount, ends) in &mut charged {
            *amount = if *ends <= now { 0 } else { *amount };
        }
        // The level that what was kept alone would have left.
        let (mut level, mut at) = (0_u128, START);
        for (when, amount, _) in charged {
            level = level.saturating_sub(u128::from(when.since(at).0) * u128::from(QUANTITY));
            level += u128::from(amount) * 10_000_000;
            at = when;
        }
        level = level.saturating_sub(u128::from(now.since(at).0) * u128::from(QUANTITY));
        let peek = operation(Action::Peek, rule, None);
        let used = ask(&mut table, now, peek).1.weighed.expect("a bucket").used;
        prop_assert!(u128::from(used) >= level / 10_000_000, "{} of {}", used, level);
    }
}

#[test]
fn a_table_has_room_for_so_many_answers_and_records() {
    let mut table = Table::new(3, StoreEpoch(1));
    let command = |id| {
        let once =
            Once { id: RequestId([0, id]), of: 1, says: 0, kept: Span::secs(1), refusals: true };
        let operation = operation(Action::Charge { cost: 1 }, Rule::FixedWindow, None);
        StoreCommand { once: Some(once), ..StoreCommand::new(vec![operation]) }
    };
    assert!(table.apply(&command(1), START).is_ok());
    assert!(table.apply(&command(2), START).is_ok());
    let bytes = table.memory_bytes();
    assert_eq!(table.apply(&command(3), START), Err(TableFull));
    // Nothing was charged, and who asks again is answered; later there is room.
    assert!(matches!(table.apply(&command(2), START), Ok(StoreReply::Repeated { .. })));
    assert_eq!(table.memory_bytes(), bytes);
    let later = START + Span::secs(2);
    let Ok(StoreReply::Done { operations, .. }) = table.apply(&command(3), later) else {
        panic!("there is room")
    };
    assert_eq!(operations[0].counts.used, 3);
}

/// Whoever reserves while a thousand do waits for the first of them to end, not for the window.
#[test]
fn a_fixed_window_without_a_place_says_when_there_is_one() {
    let mut table = Table::new(10, StoreEpoch(1));
    let terms = |id: u64, lasts| Terms { id: HoldId(id), lasts, lapse: Lapse::GivenBack };
    let charge = |id, lasts| Operation {
        ceiling: 5_000,
        ..operation(Action::Charge { cost: 1 }, Rule::FixedWindow, Some(terms(id, lasts)))
    };
    for id in 1..=HOLDS_MAX as u64 {
        assert!(ask(&mut table, START, charge(id, Span::secs(10 + id))).0);
    }
    let (admitted, reply) = ask(&mut table, START, charge(9_999, Span::secs(60)));
    let weighed = reply.weighed.expect("it says how long to wait");
    assert!(!admitted);
    assert_eq!((weighed.wait, weighed.used), (Span::secs(11), HOLDS_MAX as u64));
    assert!(ask(&mut table, START + weighed.wait, charge(9_999, Span::secs(60))).0);
}

/// A replica that was promoted has a hold of which it does not know that it was undone.
#[test]
fn what_is_held_and_undone_takes_nothing_from_what_a_reopened_label_has_used() {
    let claim = |reopening| {
        Some(Box::new(Claim {
            bases: Bases { now: 100, before: Some(100) },
            label_start: ClusterTime(1_000),
            reopening,
            ..Claim::default()
        }))
    };
    let opening = |epoch: u64, opens: u64| {
        let opening = Opening { epoch: StoreEpoch(epoch), opens: ClusterTime(opens) };
        vec![(CallerBucket::ALL, opening)]
    };
    let tell = |table: &mut Table, now, openings, operation: Operation| {
        let command = StoreCommand { openings, ..StoreCommand::new(vec![operation]) };
        match table.apply(&command, now).expect("room") {
            StoreReply::Done { admitted, mut operations, .. } => (admitted, operations.remove(0)),
            other => panic!("{other:?}"),
        }
    };
    let charge = |cost, terms, reopening| Operation {
        claim: claim(reopening),
        ceiling: u64::MAX >> 12,
        ..operation(Action::Charge { cost }, Rule::FixedWindow, terms)
    };
    // The primary holds 30 of a spread command. Its replica has that.
    let mut primary = Table::new(10, StoreEpoch(1));
    let terms = Terms { id: HoldId(9), lasts: Span::secs(10), lapse: Lapse::Undone };
    assert!(tell(&mut primary, START, opening(1, 0), charge(30, Some(terms), None)).0);
    let mut replica = Table::new(10, StoreEpoch(2));
    replica.put(&key(), primary.get(&key(), START).expect("there"));
    // Unknown to the replica it is undone, and all is spent.
    let undo = operation(Action::Settle { keep: 0 }, Rule::FixedWindow, Some(terms));
    assert!(ask(&mut primary, START, undo).0);
    assert!(tell(&mut primary, START, opening(1, 0), charge(100, None, None)).0);
    // The replica is promoted, and reopened by what the others know: that 100 may have been used.
    let now = START + Span::secs(2);
    let reopening =
        Reopening { epoch: StoreEpoch(2), used: 100, given: Row::new(), received: vec![] };
    let (admitted, reply) =
        tell(&mut replica, now, opening(2, 2_000), charge(1, None, Some(reopening)));
    assert!(!admitted && reply.holding.expect("told").open, "reopened, and used up");
    let later = START + Span::secs(11);
    let (admitted, reply) = tell(&mut replica, later, opening(2, 2_000), charge(30, None, None));
    assert!(!admitted, "{:?}: 130 of 100 were admitted", reply.counts);
}
