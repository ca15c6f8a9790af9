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
    let mut answers: Vec<_> = commands.iter().map(|_| None).collect();
    let mut each = commands.iter().cloned().enumerate();
    let (first, command) = each.next().expect("one");
    let mut joint = Joint::new(command, first, cautious);
    each.for_each(|(at, command)| joint.join(command, at).expect("they are alike"));
    let mut calls = 0;
    loop {
        while let Some(command) = joint.to_ask().filter(|_| !joint.is_empty()) {
            calls += 1;
            for (at, answer) in joint.handle(&table.apply(&command, NOW).expect("room")) {
                assert!(answers[at].replace(answer).is_none(), "{at} is answered once");
            }
        }
        let mut rest = joint.rest();
        let Some((command, at)) = rest.next() else { break };
        let mut next = Joint::new(command, at, true);
        rest.for_each(|(command, at)| next.join(command, at).expect("they are alike"));
        joint = next;
    }
    (answers.into_iter().map(|answer| answer.expect("answered")).collect(), calls)
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
    /// Whatever they cost and whatever their nodes know: together they are decided as one after the other, and leave
    /// the same behind. Who is refused may have been so before somebody that came later.
    #[test]
    fn together_is_as_one_after_the_other(
        kinds in prop::sample::subsequence(vec![0_u8, 1, 2, 3], 1..=3),
        costs in prop::collection::vec(1..4_u64, 1..40),
        same in any::<bool>(),
        level in any::<bool>(),
        ceilings in prop::collection::vec(15..25_u64, 40),
        floors in prop::collection::vec(0..8_u64, 40),
        used in 0..22_u64,
        cautious in any::<bool>(),
    ) {
        let command = |at: usize, floor: u64| {
            let at = if same { 0 } else { at };
            let (cost, ceiling) = (costs[at], ceilings[if level { 0 } else { at }]);
            StoreCommand::new(kinds.iter().map(|kind| charge(*kind, cost, ceiling, floor)).collect())
        };
        let commands: Vec<_> = (0..costs.len()).map(|at| command(at, floors[at])).collect();
        prop_assert!(commands.iter().all(may_be_joint));
        // What any of them knows all know.
        let floor = floors[..costs.len()].iter().copied().max().unwrap_or(0);
        let mut alone = table(&kinds, used.min(20));
        let mut together = alone.clone();
        let (found, calls) = ask(&mut together, &commands, cautious);
        let found = told(&found);
        let mut apply = |at: usize| told(&[alone.apply(&command(at, floor), NOW).expect("room")]);
        if same {
            let expected: Vec<_> = (0..costs.len()).flat_map(&mut apply).collect();
            prop_assert_eq!(&found, &expected);
        } else {
            // Those who are admitted are so one after the other, and then there is no room for any other.
            let mut order: Vec<_> = found.iter().enumerate().collect();
            order.sort_by_key(|(_, (admitted, limits))| (!admitted, limits[0].1.used));
            for (at, (admitted, _)) in order {
                prop_assert_eq!(apply(at)[0].0, *admitted, "{}", at);
            }
        }
        for (admitted, limits) in &found {
            // INV-7, INV-4.
            prop_assert!(limits.iter().all(|(_, counts, _)| counts.used >= floor));
            prop_assert_eq!(limits.iter().all(|(passes, ..)| *passes), *admitted);
        }
        if kinds == [0] && level {
            prop_assert!(calls <= 3, "{} calls", calls);
        }
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
    assert_eq!(calls(100, 100, false), 1);
    assert_eq!(calls(100, 100, true), 1);
    assert_eq!(calls(70, 100, true), 2);
    assert_eq!(calls(70, 100, false), 2);
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
        let mut joint = Joint::new(one.clone(), 1, false);
        assert_eq!(joint.join(other.clone(), 2), Err(Box::new((other, 2))));
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
        assert!(!may_be_joint(&alone), "{alone:?}");
    }
    let mut joint = Joint::new(one.clone(), 0, false);
    for tag in 1..Joint::<usize>::COMMANDS_MAX {
        assert_eq!(joint.join(one.clone(), tag), Ok(()));
    }
    assert!(joint.join(one, 0).is_err());
}

#[test]
fn who_is_to_label_anew_is_so_together() {
    let mut table = table(&[0], 1);
    let late = Operation { not_after: NOW, ..charge(0, 1, 100, 0) };
    let (answers, calls) = ask(&mut table, &vec![StoreCommand::new(vec![late]); 3], false);
    assert_eq!((answers.len(), calls), (3, 1));
    assert!(answers.iter().all(|reply| matches!(reply, StoreReply::Relabel { .. })));
}

/// A bucket that is used up, asked for at many costs: each has another time to wait for, and needs a call.
#[test]
fn calls_for_one_group_have_a_bound() {
    let mut table = table(&[3], 20);
    let commands: Vec<_> =
        (0..100).map(|n| StoreCommand::new(vec![charge(3, 1 + n % 50, 20, 0)])).collect();
    let mut joint = Joint::new(commands[0].clone(), 0, true);
    for (at, command) in commands.iter().enumerate().skip(1) {
        joint.join(command.clone(), at).expect("they are alike");
    }
    let (mut calls, mut answered) = (0, 0);
    while let Some(command) = joint.to_ask() {
        calls += 1;
        answered += joint.handle(&table.apply(&command, NOW).expect("room")).len();
    }
    assert_eq!((calls, answered), (Joint::<usize>::CALLS_MAX, 2 * Joint::<usize>::CALLS_MAX));
    assert_eq!(joint.rest().count(), 100 - answered);
}
