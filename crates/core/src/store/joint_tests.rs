//! What is asked together is decided as one after the other.

use alloc::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{
    algorithm::{Bucket, LabelTime, Rule},
    ids::{Caller, LimitId, StoreEpoch},
    time::{Label, Span, StoreTime},
};

const NOW: StoreTime = StoreTime(1_700_000_000_000_000);
const LENGTH: Span = Span::secs(60);

fn label() -> LabelTime {
    LabelTime { starts: NOW - Span::secs(20), length: LENGTH, before: 0 }
}

fn rule(kind: u8) -> Rule {
    match kind {
        0 => Rule::FixedWindow,
        1 => Rule::SlidingWindow(label()),
        2 => Rule::SlidingLog(label()),
        _ => {
            let bucket = Bucket { capacity: 20, unit: 1_000, drain: 2, tick: 1_000, shapes: false };
            Rule::Bucket(label(), bucket)
        }
    }
}

fn charge(kind: u8, cost: u64, ceiling: u64, floor: u64) -> Operation {
    Operation {
        key: Key { caller: Caller([1, 0]), limit: LimitId(u32::from(kind)) },
        action: Action::Charge { cost },
        label: Label(5),
        not_before: StoreTime(0),
        not_after: StoreTime(u64::MAX),
        ceiling,
        floor: Counts { used: floor, refunded: 0 },
        enforce: true,
        expires: StoreTime(u64::MAX),
        claim: None,
        rule: rule(kind),
        hold: None,
    }
}

/// Asks for all of them together. Returns their answers in order, and how often the store was asked.
fn ask(table: &mut Table, commands: &[StoreCommand], cautious: bool) -> (Vec<StoreReply>, usize) {
    let mut each = commands.iter().cloned();
    let mut joint = Joint::new(each.next().expect("one"), cautious);
    each.for_each(|command| joint.join(command).expect("they are alike"));
    let (mut answers, mut calls) = (Vec::new(), 0);
    while let Some(command) = joint.to_ask() {
        calls += 1;
        answers.extend(joint.handle(&table.apply(&command, NOW).expect("room")));
    }
    (answers, calls)
}

/// Whether there was room, what is counted, and of others than counts what weighs and how long to wait.
type Stands = (bool, Counts, Option<(u64, Span)>);

/// Whether each was admitted, and how its limits stand. Until nothing counts any more is not told in turn.
fn told(replies: &[StoreReply]) -> Vec<(bool, Vec<Stands>)> {
    let each = |reply: &StoreReply| match reply {
        StoreReply::Done { admitted, operations, .. } => {
            let weighed = |o: &OperationReply| o.weighed.map(|w| (w.used, w.wait));
            let parts = operations.iter().map(|o| (o.passes, o.counts, weighed(o)));
            (*admitted, parts.collect())
        }
        other => panic!("{other:?}"),
    };
    replies.iter().map(each).collect()
}

fn table(kinds: &[u8], used: u64) -> Table {
    let mut table = Table::new(10, StoreEpoch(1));
    for kind in kinds.iter().filter(|_| used > 0) {
        table.apply(&StoreCommand::new(vec![charge(*kind, used, 100, 0)]), NOW).expect("room");
    }
    table
}

proptest! {
    /// Whatever they cost and whatever their nodes know: together they are answered as one after the other, and leave
    /// the same behind.
    #[test]
    fn together_is_as_one_after_the_other(
        kinds in prop::sample::subsequence(vec![0_u8, 1, 2, 3], 1..=3),
        costs in prop::collection::vec(1..4_u64, 1..40),
        same in any::<bool>(),
        ceilings in prop::collection::vec(15..25_u64, 40),
        floor in 0..8_u64,
        used in 0..22_u64,
        cautious in any::<bool>(),
    ) {
        let command = |at: usize, cost: u64| {
            let (cost, ceiling) = if same { (costs[0], ceilings[0]) } else { (cost, ceilings[at]) };
            StoreCommand::new(kinds.iter().map(|kind| charge(*kind, cost, ceiling, floor)).collect())
        };
        let commands: Vec<_> =
            costs.iter().enumerate().map(|(at, cost)| command(at, *cost)).collect();
        prop_assert!(commands.iter().all(Joint::may_be));
        let mut alone = table(&kinds, used.min(20));
        let mut together = alone.clone();
        let expected: Vec<_> =
            commands.iter().map(|command| alone.apply(command, NOW).expect("room")).collect();
        let (found, _) = ask(&mut together, &commands, cautious);
        prop_assert_eq!(told(&found), told(&expected));
        for kind in kinds {
            let peek = Operation { action: Action::Peek, ..charge(kind, 1, 20, 0) };
            let peek = StoreCommand::new(vec![peek]);
            let stands = |table: &mut Table| table.apply(&peek, NOW).expect("room");
            prop_assert_eq!(stands(&mut alone), stands(&mut together));
        }
    }
}

#[test]
fn equal_ones_need_few_calls() {
    let commands = |count| vec![StoreCommand::new(vec![charge(0, 1, 100, 0)]); count];
    let calls = |used, count, cautious| {
        let mut table = table(&[0], used);
        let (answers, calls) = ask(&mut table, &commands(count), cautious);
        let admitted = told(&answers).iter().filter(|(admitted, _)| *admitted).count();
        assert_eq!(admitted as u64, (100 - used).min(count as u64));
        calls
    };
    // There is room for all; for none; for some.
    assert_eq!(calls(0, 100, false), 1);
    assert_eq!(calls(100, 100, false), 2);
    assert_eq!(calls(100, 100, true), 1);
    assert_eq!(calls(70, 100, true), 3);
    assert_eq!(calls(70, 100, false), 3);
}

#[test]
fn what_differs_is_not_asked_together() {
    let one = StoreCommand::new(vec![charge(0, 1, 100, 0)]);
    let with = |change: fn(&mut Operation)| {
        let mut command = one.clone();
        change(&mut command.operations[0]);
        command
    };
    for other in [
        with(|o| o.label = Label(6)),
        with(|o| o.key.limit = LimitId(9)),
        with(|o| o.rule = rule(1)),
        StoreCommand::new(vec![charge(0, 1, 100, 0), charge(1, 1, 100, 0)]),
    ] {
        let mut joint = Joint::new(one.clone(), false);
        assert_eq!(joint.join(other.clone()), Err(Box::new(other)));
    }
    let terms = |o: &mut Operation| {
        o.hold = Some(Terms { id: HoldId(1), lasts: LENGTH, lapse: Lapse::GivenBack });
    };
    for alone in [
        with(|o| o.action = Action::Peek),
        with(|o| o.enforce = false),
        with(|o| o.rule = Rule::Concurrency),
        with(terms),
        StoreCommand::default(),
        StoreCommand::new(vec![charge(0, 1, 100, 0), charge(0, 1, 100, 0)]),
    ] {
        assert!(!Joint::may_be(&alone), "{alone:?}");
    }
    let mut joint = Joint::new(one.clone(), false);
    for _ in 1..Joint::COMMANDS_MAX {
        assert_eq!(joint.join(one.clone()), Ok(()));
    }
    assert!(joint.join(one).is_err());
}

#[test]
fn who_is_to_label_anew_is_so_together() {
    let mut table = table(&[0], 1);
    let late = Operation { not_after: NOW, ..charge(0, 1, 100, 0) };
    let (answers, calls) = ask(&mut table, &vec![StoreCommand::new(vec![late]); 3], false);
    assert_eq!((answers.len(), calls), (3, 1));
    assert!(answers.iter().all(|reply| matches!(reply, StoreReply::Relabel { .. })));
}
