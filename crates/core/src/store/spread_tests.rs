//! The laws of spread commands, over one table for each place.

use alloc::{collections::BTreeMap, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{
    algorithm::Rule,
    ids::{Caller, LimitId, StoreEpoch},
    time::{Label, Span, StoreTime},
};

const QUANTITY: u64 = 12;
const PLACES: u64 = 3;

fn key(caller: u64) -> Key {
    Key { caller: Caller([caller, 0]), limit: LimitId(1) }
}

fn place_of(key: &Key) -> u64 {
    key.caller.0[0] % PLACES
}

/// What happens to one of the commands under way, or besides.
#[derive(Debug, Clone)]
enum Event {
    /// Somebody asks for so much of each of some callers.
    Begin {
        callers: Vec<u64>,
        cost: u64,
    },
    /// One step further with one of them.
    Step(usize),
    /// Whoever has begun it is gone, or its store is.
    GiveUp(usize),
    /// One of the ends that are to be carried out is, or never will be.
    End {
        which: usize,
        arrives: bool,
    },
    Pass(u64),
    /// Whether confirmations arrive from now on, and their answers.
    Network {
        confirms: bool,
        answers: bool,
    },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let callers = prop::collection::btree_set(0..6_u64, 1..4);
    let event = prop_oneof![
        3 => (callers, 1..5_u64).prop_map(|(callers, cost)| Event::Begin {
            callers: callers.into_iter().collect(),
            cost,
        }),
        8 => (0..8_usize).prop_map(Event::Step),
        1 => (0..8_usize).prop_map(Event::GiveUp),
        4 => (0..8_usize, prop::bool::weighted(0.8))
            .prop_map(|(which, arrives)| Event::End { which, arrives }),
        1 => (0..7_000_000_u64).prop_map(Event::Pass),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(confirms, answers)| Event::Network { confirms, answers }),
    ];
    prop::collection::vec(event, 1..120)
}

/// A command on its way, what is to be asked next, and of whom it wants how much.
type Begun = (Spread, (Key, StoreCommand), Vec<u64>, u64);

struct World {
    tables: Vec<Table>,
    now: StoreTime,
    /// What nodes have counted of each caller: the floors of all commands.
    admitted: BTreeMap<u64, u64>,
    begun: Vec<Begun>,
    ends: Vec<(Key, StoreCommand)>,
    names: u64,
    /// Whether confirmations arrive, and their answers.
    confirms: bool,
    answers: bool,
    /// What was refused since nobody knows whether it was charged.
    unknown: BTreeMap<u64, u64>,
}

impl World {
    fn new() -> Self {
        let tables = (0..PLACES).map(|_| Table::new(100, StoreEpoch(1))).collect();
        let now = StoreTime(1_000_000_000);
        let (begun, ends) = (Vec::new(), Vec::new());
        let (admitted, unknown) = (BTreeMap::new(), BTreeMap::new());
        let (confirms, answers) = (true, true);
        Self { tables, now, admitted, begun, ends, names: 0, confirms, answers, unknown }
    }

    fn operation(&self, caller: u64, action: Action) -> Operation {
        let used = self.admitted.get(&caller).copied().unwrap_or(0);
        Operation {
            key: key(caller),
            action,
            label: Label(5),
            not_before: StoreTime(0),
            not_after: StoreTime(u64::MAX),
            ceiling: QUANTITY,
            floor: Counts { used, refunded: 0 },
            enforce: true,
            expires: StoreTime(u64::MAX),
            claim: None,
            rule: Rule::FixedWindow,
            hold: None,
        }
    }

    fn ask(&mut self, key: &Key, command: &StoreCommand) -> StoreReply {
        self.tables[place_of(key) as usize].apply(command, self.now).expect("room")
    }

    fn begin(&mut self, callers: Vec<u64>, cost: u64) {
        let operations = callers.iter().map(|c| self.operation(*c, Action::Charge { cost }));
        let command = StoreCommand::new(operations.collect());
        self.names += 1;
        match Spread::new(&command, place_of, HoldId(self.names)).expect("it has no name") {
            Some(mut spread) => {
                let Next::Ask(key, command) = spread.begin() else { panic!("nothing to ask") };
                self.begun.push((spread, (key, command), callers, cost));
            }
            // One place: one step.
            None => {
                let reply = self.ask(&key(callers[0]), &command);
                self.answered(&reply, &callers, cost);
            }
        }
    }

    fn answered(&mut self, reply: &StoreReply, callers: &[u64], cost: u64) {
        if matches!(reply, StoreReply::Done { admitted: true, .. }) {
            callers.iter().for_each(|caller| *self.admitted.entry(*caller).or_default() += cost);
        }
    }

    fn step(&mut self, which: usize) {
        if self.begun.is_empty() {
            return;
        }
        let (mut spread, (key, command), callers, cost) =
            self.begun.remove(which % self.begun.len());
        let reply = self.ask(&key, &command);
        match spread.handle(reply) {
            Next::Ask(key, command) => {
                self.begun.push((spread, (key, command), callers, cost));
            }
            Next::Confirm(reply, ends) => self.confirm(&reply, ends, &callers, cost),
            Next::Undo(_, ends) => self.ends.extend(ends),
        }
    }

    /// Some confirmations may get lost: then nobody knows, and the request is refused.
    fn confirm(
        &mut self,
        reply: &StoreReply,
        ends: Vec<(Key, StoreCommand)>,
        callers: &[u64],
        cost: u64,
    ) {
        let mut all = true;
        for (key, command) in ends {
            let arrives = self.confirms;
            let confirmed = arrives && is_confirmed(&self.ask(&key, &command));
            all &= confirmed;
            // The answer may be what is lost.
            all &= self.answers;
        }
        if all {
            self.answered(reply, callers, cost);
        } else {
            callers.iter().for_each(|caller| *self.unknown.entry(*caller).or_default() += cost);
        }
    }

    fn used(&mut self, caller: u64) -> u64 {
        let peek = StoreCommand::new([self.operation(caller, Action::Peek)].into());
        match self.ask(&key(caller), &peek) {
            StoreReply::Done { operations, .. } => operations[0].counts.net(),
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    /// However commands meet, whoever gives up, and whatever does not arrive: no caller is admitted more than there
    /// is, and in the end what is used is what was admitted.
    #[test]
    fn nothing_is_admitted_for_which_there_is_no_room_and_nothing_stays_of_what_was_not(
        events in events(),
    ) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Begin { callers, cost } => world.begin(callers, cost),
                Event::Step(which) => world.step(which),
                Event::GiveUp(which) if !world.begun.is_empty() => {
                    let at = which % world.begun.len();
                    world.begun.remove(at);
                }
                Event::GiveUp(_) => {}
                Event::End { which, arrives } if !world.ends.is_empty() => {
                    let at = which % world.ends.len();
                    let (key, command) = world.ends.remove(at);
                    if arrives {
                        world.ask(&key, &command);
                    }
                }
                Event::End { .. } => {}
                Event::Network { confirms, answers } => {
                    (world.confirms, world.answers) = (confirms, answers);
                }
                Event::Pass(micros) => world.now += Span(micros),
            }
            let most = world.admitted.values().max().copied().unwrap_or(0);
            prop_assert!(most <= QUANTITY, "{:?}", world.admitted);
        }
        world.now += Spread::HOLDS_FOR;
        for caller in 0..6 {
            let admitted = world.admitted.get(&caller).copied().unwrap_or(0);
            let unknown = world.unknown.get(&caller).copied().unwrap_or(0);
            let used = world.used(caller);
            prop_assert!((admitted..=admitted + unknown).contains(&used), "{} of {}", used, caller);
        }
    }
}

#[test]
fn what_was_undone_is_not_in_the_answer() {
    let mut world = World::new();
    world.begin([1].into(), 10);
    let charges = [(0, 4), (1, 4)].map(|(c, cost)| world.operation(c, Action::Charge { cost }));
    let shadow = Operation { enforce: false, ..world.operation(2, Action::Charge { cost: 13 }) };
    let command = StoreCommand::new(charges.into_iter().chain([shadow]).collect());
    let mut spread =
        Spread::new(&command, place_of, HoldId(9)).expect("no name").expect("three places");
    let mut next = spread.begin();
    let (reply, ends) = loop {
        next = match next {
            Next::Ask(key, command) => spread.handle(world.ask(&key, &command)),
            Next::Undo(reply, ends) => break (reply, ends),
            Next::Confirm(..) => panic!("there is no room"),
        };
    };
    let StoreReply::Done { admitted: false, operations, .. } = reply else { panic!("{reply:?}") };
    let told: Vec<_> = operations.iter().map(|o| (o.passes, o.counts.used)).collect();
    assert_eq!(told, [(true, 0), (false, 10), (false, 0)]);
    assert_eq!(ends.len(), 1, "one place holds something");
    let (key, command) = &ends[0];
    world.ask(key, command);
    assert_eq!((world.used(0), world.used(1)), (0, 10));
}

#[test]
fn a_reservation_over_several_places_is_one_at_each() {
    let mut world = World::new();
    let terms = Terms { id: HoldId(77), lasts: Span::secs(60), lapse: Lapse::GivenBack };
    let charges = [0, 1].map(|caller| Operation {
        hold: Some(terms),
        ..world.operation(caller, Action::Charge { cost: 5 })
    });
    let command = StoreCommand::new(charges.into());
    let mut spread =
        Spread::new(&command, place_of, HoldId(9)).expect("no name").expect("two places");
    let mut next = spread.begin();
    let ends = loop {
        next = match next {
            Next::Ask(key, command) => spread.handle(world.ask(&key, &command)),
            Next::Confirm(_, ends) => break ends,
            Next::Undo(..) => panic!("there is room"),
        };
    };
    for (key, command) in &ends {
        world.ask(key, command);
    }
    world.now += Span::secs(30);
    assert_eq!((world.used(0), world.used(1)), (5, 5), "confirmed");
    for caller in [0, 1] {
        let settle =
            Operation { hold: Some(terms), ..world.operation(caller, Action::Settle { keep: 2 }) };
        world.ask(&key(caller), &StoreCommand::new([settle].into()));
    }
    assert_eq!((world.used(0), world.used(1)), (2, 2));
}

#[test]
fn what_charges_nothing_is_carried_out_everywhere_and_once() {
    let mut world = World::new();
    let terms = Terms { id: HoldId(77), lasts: Span::secs(60), lapse: Lapse::GivenBack };
    for caller in [0, 1] {
        let charge = world.operation(caller, Action::Charge { cost: 5 });
        let command = StoreCommand::new([Operation { hold: Some(terms), ..charge }].into());
        world.ask(&key(caller), &command);
    }
    let once =
        |says| Once { id: RequestId([1, 2]), of: 0, says, kept: Span::secs(60), refusals: false };
    let mut run = |keep, lost: bool| {
        let operations = [1, 0].map(|caller| Operation {
            hold: Some(terms),
            ..world.operation(caller, Action::Settle { keep })
        });
        let command =
            StoreCommand { once: Some(once(keep)), ..StoreCommand::new(operations.into()) };
        let mut spread =
            Spread::new(&command, place_of, HoldId(9)).expect("no charge").expect("two places");
        let mut next = spread.begin();
        loop {
            next = match next {
                Next::Ask(key, command) => {
                    let reply = world.ask(&key, &command);
                    if lost {
                        return (None, world.used(0), world.used(1));
                    }
                    spread.handle(reply)
                }
                Next::Undo(reply, ends) | Next::Confirm(reply, ends) => {
                    assert_eq!(ends, []);
                    return (Some(reply), world.used(0), world.used(1));
                }
            };
        }
    };
    assert_eq!(run(2, true), (None, 2, 5), "after one place nobody asks on");
    let (reply, ..) = run(2, false);
    let Some(StoreReply::Repeated { first, .. }) = reply else { panic!("{reply:?}") };
    assert_eq!(first.says, 2);
    let (reply, zero, one) = run(0, false);
    assert!(matches!(reply, Some(StoreReply::Repeated { .. })), "{reply:?}");
    assert_eq!((zero, one), (2, 2));

    let charges = [0, 1].map(|caller| world.operation(caller, Action::Charge { cost: 1 }));
    let named = StoreCommand { once: Some(once(0)), ..StoreCommand::new(charges.into()) };
    assert!(Spread::new(&named, place_of, HoldId(9)).is_err());
}

/// Of another place's epoch the whole answer does not speak.
#[test]
fn an_answer_has_the_epoch_of_the_first_operations_place_or_none() {
    let mut world = World::new();
    world.tables = (0..PLACES).map(|place| Table::new(100, StoreEpoch(10 + place))).collect();
    let run = |world: &mut World, order: [u64; 2], late: u64| {
        let operations = order.map(|caller| {
            let charge = world.operation(caller, Action::Charge { cost: 1 });
            let not_after = if caller == late { StoreTime(0) } else { charge.not_after };
            Operation { not_after, ..charge }
        });
        let command = StoreCommand::new(operations.into());
        let spread = Spread::new(&command, place_of, HoldId(9));
        let mut spread = spread.expect("no name").expect("two places");
        let mut next = spread.begin();
        loop {
            next = match next {
                Next::Ask(key, command) => spread.handle(world.ask(&key, &command)),
                Next::Confirm(reply, _) | Next::Undo(reply, _) => return reply.epoch(),
            };
        }
    };
    let nobody = 99;
    assert_eq!(run(&mut world, [0, 1], nobody), StoreEpoch(10));
    assert_eq!(run(&mut world, [1, 0], nobody), StoreEpoch(11));
    // The place with the lower number is asked first.
    assert_eq!(run(&mut world, [0, 1], 0), StoreEpoch(10));
    assert_eq!(run(&mut world, [1, 0], 0), StoreEpoch(0), "what 1 has is not known");
    assert_eq!(run(&mut world, [0, 1], 1), StoreEpoch(10));
    assert_eq!(run(&mut world, [1, 0], 1), StoreEpoch(11));
}

/// Two settlings that say different amounts: the one that was first at one place holds at all.
#[test]
fn who_settles_first_anywhere_settles_everywhere() {
    let mut world = World::new();
    let terms = Terms { id: HoldId(77), lasts: Span::secs(60), lapse: Lapse::GivenBack };
    for caller in [0, 1] {
        let charge = world.operation(caller, Action::Charge { cost: 5 });
        let command = StoreCommand::new([Operation { hold: Some(terms), ..charge }].into());
        world.ask(&key(caller), &command);
    }
    let spread = |world: &World, keep| {
        let operations = [0, 1].map(|caller| Operation {
            hold: Some(terms),
            ..world.operation(caller, Action::Settle { keep })
        });
        let id = RequestId([1, 2]);
        let once = Once { id, of: 0, says: keep, kept: Span::secs(60), refusals: false };
        let command = StoreCommand { once: Some(once), ..StoreCommand::new(operations.into()) };
        Spread::new(&command, place_of, HoldId(9)).expect("no charge").expect("two places")
    };
    let mut first = spread(&world, 2);
    let Next::Ask(place, command) = first.begin() else { panic!("nothing to ask") };
    world.ask(&place, &command);
    let mut second = spread(&world, 4);
    let mut next = second.begin();
    let reply = loop {
        next = match next {
            Next::Ask(key, command) => second.handle(world.ask(&key, &command)),
            Next::Confirm(reply, _) | Next::Undo(reply, _) => break reply,
        };
    };
    assert!(
        matches!(reply, StoreReply::Repeated { ref first, .. } if first.says == 2),
        "{reply:?}"
    );
    assert_eq!((world.used(0), world.used(1)), (2, 2));
}

#[test]
fn a_place_that_refused_has_charged_nothing() {
    let mut world = World::new();
    // Callers 0 and 3 are of one place; 3 is full, 0 has used 6, which its node knows.
    world.begin([3].into(), 12);
    world.begin([0].into(), 6);
    let charges = [0, 3, 1].map(|c| world.operation(c, Action::Charge { cost: 4 }));
    let floor = charges[0].floor;
    let command = StoreCommand::new(charges.into());
    let mut spread =
        Spread::new(&command, place_of, HoldId(9)).expect("no name").expect("two places");
    let mut next = spread.begin();
    let reply = loop {
        next = match next {
            Next::Ask(key, command) => spread.handle(world.ask(&key, &command)),
            Next::Undo(reply, _) => break reply,
            Next::Confirm(..) => panic!("there is no room"),
        };
    };
    let StoreReply::Done { operations, .. } = reply else { panic!("{reply:?}") };
    assert!(operations[0].counts.used >= floor.used, "{:?} < {floor:?}", operations[0]);
}
