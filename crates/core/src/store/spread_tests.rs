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
/// After which nobody waits for an answer.
const IN_TIME: Span = Span::millis(30);

fn key(caller: u64) -> Key {
    Key { caller: Caller([caller, 0]), limit: LimitId(1) }
}

fn place_of(key: &Key) -> u64 {
    key.caller.0[0] % PLACES
}

/// What happens to one of the commands under way, or besides.
#[derive(Debug, Clone)]
enum Event {
    Begin(Asked),
    /// One step further with one of them.
    Step(usize),
    /// Whoever has begun it is gone, or its store is; perhaps after the last command has arrived.
    GiveUp {
        which: usize,
        arrives: bool,
    },
    /// One of the ends that are to be carried out is, or never will be.
    End {
        which: usize,
        arrives: bool,
    },
    Pass(u64),
    /// So long each command is on its way from now on, in microseconds.
    Lag(u64),
    /// Whether what is asked of many arrives from now on, and the answers to it.
    Network {
        arrives: bool,
        answers: bool,
    },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let callers = prop::collection::btree_set(0..6_u64, 1..4);
    let asked = (callers, 1..5_u64, prop::option::of(0..4_u64));
    let asked = asked.prop_map(|(callers, cost, name)| Asked {
        callers: callers.into_iter().collect(),
        cost,
        name,
    });
    let event = prop_oneof![
        3 => asked.prop_map(Event::Begin),
        8 => (0..8_usize).prop_map(Event::Step),
        1 => (0..8_usize, any::<bool>())
            .prop_map(|(which, arrives)| Event::GiveUp { which, arrives }),
        4 => (0..8_usize, prop::bool::weighted(0.8))
            .prop_map(|(which, arrives)| Event::End { which, arrives }),
        1 => (0..7_000_000_u64).prop_map(Event::Pass),
        1 => prop_oneof![Just(0_u64), 0..20_000_u64].prop_map(Event::Lag),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(arrives, answers)| Event::Network { arrives, answers }),
    ];
    prop::collection::vec(event, 1..120)
}

/// A command on its way, what is to be asked next, and what it is.
type Begun = (Spread, (Key, StoreCommand), Asked);

/// Of whom somebody asks for how much, and under which name, if any.
#[derive(Debug, Clone)]
struct Asked {
    callers: Vec<u64>,
    cost: u64,
    name: Option<u64>,
}

struct World {
    tables: Vec<Table>,
    now: StoreTime,
    /// How long a command is on its way.
    lag: Span,
    /// What nodes have counted of each caller: the floors of all commands.
    admitted: BTreeMap<u64, u64>,
    begun: Vec<Begun>,
    ends: Vec<(Key, StoreCommand)>,
    commands: u64,
    /// Whether what is asked of many arrives, and their answers.
    arrives: bool,
    answers: bool,
    /// What was refused since nobody knows whether it was charged.
    unknown: BTreeMap<u64, u64>,
    /// What was asked first under each name, and how it was answered first.
    names: BTreeMap<u64, (Asked, Option<bool>)>,
}

impl World {
    fn new() -> Self {
        let tables = (0..PLACES).map(|_| Table::new(100, StoreEpoch(1))).collect();
        Self {
            tables,
            now: StoreTime(1_000_000_000),
            lag: Span::ZERO,
            admitted: BTreeMap::new(),
            begun: Vec::new(),
            ends: Vec::new(),
            commands: 0,
            arrives: true,
            answers: true,
            unknown: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    fn operation(&self, caller: u64, action: Action) -> Operation {
        let used = self.admitted.get(&caller).copied().unwrap_or(0);
        Operation {
            key: key(caller),
            action,
            label: Label(5),
            not_before: StoreTime(0),
            not_after: self.now + IN_TIME,
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
        self.now += self.lag;
        self.tables[place_of(key) as usize].apply(command, self.now).expect("room")
    }

    /// Under a name the same is asked for as before.
    fn begin(&mut self, asked: Asked) {
        let first = asked.name.map(|name| self.names.entry(name).or_insert((asked.clone(), None)));
        let asked = first.map_or(asked, |(first, _)| first.clone());
        let operations =
            asked.callers.iter().map(|c| self.operation(*c, Action::Charge { cost: asked.cost }));
        let operations = operations.collect();
        self.commands += 1;
        let once = asked.name.map(|name| Once {
            id: RequestId([7, name]),
            of: 1,
            says: self.commands,
            kept: Span::secs(3_600),
            refusals: true,
        });
        let command = StoreCommand { once, ..StoreCommand::new(operations) };
        match Spread::new(&command, place_of, HoldId(self.commands)) {
            Some(mut spread) => {
                let Next::Ask(key, command) = spread.begin() else { panic!("nothing to ask") };
                self.begun.push((spread, (key, command), asked));
            }
            // One place: one step.
            None => {
                let reply = self.ask(&key(asked.callers[0]), &command);
                self.answered(&reply, &asked);
            }
        }
    }

    /// A name is answered as it was first; and counted then.
    fn answered(&mut self, reply: &StoreReply, asked: &Asked) {
        let admitted = match reply {
            StoreReply::Done { admitted, .. } => *admitted,
            StoreReply::Repeated { first, .. } => first.answer.admitted,
            // It came too late, and nothing was done.
            StoreReply::Relabel { .. } => return,
            other @ StoreReply::OtherRequest { .. } => panic!("{other:?}"),
        };
        let said = asked.name.and_then(|name| self.names.get_mut(&name)).map(|(_, said)| said);
        if let Some(said) = said {
            let is_first = said.is_none();
            assert_eq!(*said.get_or_insert(admitted), admitted, "{asked:?}");
            if !is_first {
                return;
            }
        }
        if admitted {
            self.count(asked);
        }
    }

    fn count(&mut self, asked: &Asked) {
        for caller in &asked.callers {
            *self.admitted.entry(*caller).or_default() += asked.cost;
        }
    }

    fn step(&mut self, which: usize) {
        if self.begun.is_empty() {
            return;
        }
        let (mut spread, (key, command), asked) = self.begun.remove(which % self.begun.len());
        let reply = self.ask(&key, &command);
        let mut next = spread.handle(reply);
        loop {
            next = match next {
                Next::Ask(key, command) => {
                    self.begun.push((spread, (key, command), asked));
                    return;
                }
                // Some may get lost, or their answers.
                Next::AskAll(commands) => {
                    let answers = commands.into_iter().map(|(key, command)| {
                        let answer = self.arrives.then(|| self.ask(&key, &command));
                        answer.filter(|_| self.answers)
                    });
                    let answers = answers.collect();
                    spread.handle_all(answers)
                }
                Next::Answer(reply, undo) => {
                    self.ends.extend(undo);
                    self.answered(&reply, &asked);
                    return;
                }
                Next::Unknown(undo) => {
                    self.ends.extend(undo);
                    self.note_unknown(&asked);
                    return;
                }
            };
        }
    }

    /// Nobody knows whether it was charged: the request is refused.
    fn note_unknown(&mut self, asked: &Asked) {
        if asked.name.is_none() {
            for caller in &asked.callers {
                *self.unknown.entry(*caller).or_default() += asked.cost;
            }
        }
    }

    /// How a command goes on until it is answered; what is to be undone is.
    fn run(&mut self, command: &StoreCommand) -> StoreReply {
        let mut spread = Spread::new(command, place_of, HoldId(9)).expect("several places");
        let mut next = spread.begin();
        loop {
            next = match next {
                Next::Ask(key, command) => spread.handle(self.ask(&key, &command)),
                Next::AskAll(commands) => {
                    let answers = commands.into_iter().map(|(key, c)| Some(self.ask(&key, &c)));
                    let answers = answers.collect();
                    spread.handle_all(answers)
                }
                Next::Answer(reply, undo) => {
                    for (key, command) in &undo {
                        self.ask(key, command);
                    }
                    return reply;
                }
                Next::Unknown(_) => panic!("all have answered"),
            };
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
    /// is, a name is answered as it was first, and in the end what is used is what was admitted.
    #[test]
    fn nothing_is_admitted_for_which_there_is_no_room_and_nothing_stays_of_what_was_not(
        events in events(),
    ) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Begin(asked) => world.begin(asked),
                Event::Step(which) => world.step(which),
                Event::GiveUp { which, arrives } if !world.begun.is_empty() => {
                    let at = which % world.begun.len();
                    let (_, (key, command), _) = world.begun.remove(at);
                    if arrives {
                        world.ask(&key, &command);
                    }
                }
                Event::End { which, arrives } if !world.ends.is_empty() => {
                    let at = which % world.ends.len();
                    let (key, command) = world.ends.remove(at);
                    if arrives {
                        world.ask(&key, &command);
                    }
                }
                Event::GiveUp { .. } | Event::End { .. } => {}
                Event::Network { arrives, answers } => {
                    (world.arrives, world.answers) = (arrives, answers);
                }
                Event::Pass(micros) => world.now += Span(micros),
                Event::Lag(micros) => world.lag = Span(micros),
            }
            let most = world.admitted.values().max().copied().unwrap_or(0);
            prop_assert!(most <= QUANTITY, "{:?}", world.admitted);
        }
        world.now += Spread::HOLDS_FOR;
        // Whoever got no answer asks again.
        (world.arrives, world.answers, world.lag) = (true, true, Span::ZERO);
        world.begun.clear();
        for (asked, _) in world.names.clone().into_values() {
            world.begin(asked);
            while !world.begun.is_empty() {
                world.step(0);
            }
        }
        world.now += Spread::HOLDS_FOR;
        for caller in 0..6 {
            let admitted = world.admitted.get(&caller).copied().unwrap_or(0);
            let unknown = world.unknown.get(&caller).copied().unwrap_or(0);
            // One that was charged at its home and then found no room elsewhere.
            let refused = world.names.values().filter(|(asked, said)| {
                *said == Some(false) && asked.callers.contains(&caller)
            });
            let refused = refused.map(|(asked, _)| asked.cost).sum::<u64>();
            let used = world.used(caller);
            let most = admitted + unknown + refused;
            prop_assert!((admitted..=most).contains(&used), "{} of {}", used, caller);
            prop_assert!(admitted <= QUANTITY, "{:?}", world.admitted);
        }
    }
}

#[test]
fn what_was_undone_is_not_in_the_answer() {
    let mut world = World::new();
    world.begin(Asked { callers: [1].into(), cost: 10, name: None });
    let charges = [(0, 4), (1, 4)].map(|(c, cost)| world.operation(c, Action::Charge { cost }));
    let shadow = Operation { enforce: false, ..world.operation(2, Action::Charge { cost: 13 }) };
    let command = StoreCommand::new(charges.into_iter().chain([shadow]).collect());
    let mut spread = Spread::new(&command, place_of, HoldId(9)).expect("three places");
    let mut next = spread.begin();
    let (reply, undo) = loop {
        next = match next {
            Next::Ask(key, command) => spread.handle(world.ask(&key, &command)),
            Next::Answer(reply, undo) => break (reply, undo),
            other => panic!("there is no room: {other:?}"),
        };
    };
    let StoreReply::Done { admitted: false, operations, .. } = reply else { panic!("{reply:?}") };
    let told: Vec<_> = operations.iter().map(|o| (o.passes, o.counts.used)).collect();
    assert_eq!(told, [(true, 0), (false, 10), (false, 0)]);
    assert_eq!(undo.len(), 1, "one place holds something");
    let (key, command) = &undo[0];
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
    world.run(&command);
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
        if lost {
            let spread = Spread::new(&command, place_of, HoldId(9));
            let Next::Ask(key, command) = spread.expect("two places").begin() else {
                panic!("nothing to ask")
            };
            world.ask(&key, &command);
            return (None, world.used(0), world.used(1));
        }
        let reply = world.run(&command);
        (Some(reply), world.used(0), world.used(1))
    };
    assert_eq!(run(2, true), (None, 2, 5), "after one place nobody asks on");
    let (reply, ..) = run(2, false);
    let Some(StoreReply::Repeated { first, .. }) = reply else { panic!("{reply:?}") };
    assert_eq!(first.says, 2);
    let (reply, zero, one) = run(0, false);
    assert!(matches!(reply, Some(StoreReply::Repeated { .. })), "{reply:?}");
    assert_eq!((zero, one), (2, 2));
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
        world.run(&command).epoch()
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
    let settling = |world: &World, keep| {
        let operations = [0, 1].map(|caller| Operation {
            hold: Some(terms),
            ..world.operation(caller, Action::Settle { keep })
        });
        let id = RequestId([1, 2]);
        let once = Once { id, of: 0, says: keep, kept: Span::secs(60), refusals: false };
        StoreCommand { once: Some(once), ..StoreCommand::new(operations.into()) }
    };
    let mut first = Spread::new(&settling(&world, 2), place_of, HoldId(9)).expect("two places");
    let Next::Ask(place, command) = first.begin() else { panic!("nothing to ask") };
    world.ask(&place, &command);
    let second = settling(&world, 4);
    let reply = world.run(&second);
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
    world.begin(Asked { callers: [3].into(), cost: 12, name: None });
    world.begin(Asked { callers: [0].into(), cost: 6, name: None });
    let charges = [0, 3, 1].map(|c| world.operation(c, Action::Charge { cost: 4 }));
    let floor = charges[0].floor;
    let reply = world.run(&StoreCommand::new(charges.into()));
    let StoreReply::Done { admitted: false, operations, .. } = reply else { panic!("{reply:?}") };
    assert!(operations[0].counts.used >= floor.used, "{:?} < {floor:?}", operations[0]);
}

/// A check of callers 1 and 2, who are of two places, under a name; the home is the second that is asked.
fn named(world: &World, says: u64, hold: Option<Terms>) -> StoreCommand {
    let charges = [2, 1]
        .map(|caller| Operation { hold, ..world.operation(caller, Action::Charge { cost: 5 }) });
    let (id, kept) = (RequestId([1, 2]), Span::secs(3_600));
    let once = Once { id, of: 0, says, kept, refusals: true };
    StoreCommand { once: Some(once), ..StoreCommand::new(charges.into()) }
}

/// What a named check asks until its home has decided, and nothing after.
fn decide_only(world: &mut World, command: &StoreCommand) {
    let mut spread = Spread::new(command, place_of, HoldId(9)).expect("two places");
    let mut next = spread.begin();
    while let Next::Ask(key, command) = next {
        next = spread.handle(world.ask(&key, &command));
    }
    assert!(matches!(next, Next::AskAll(_)), "{next:?}");
}

/// A place that has carried out what it was asked, and whose answer is lost: the same command is sent again.
#[test]
fn what_is_sent_again_is_not_in_its_own_way() {
    let mut world = World::new();
    let charges = [2, 1].map(|caller| world.operation(caller, Action::Charge { cost: 7 }));
    let once = Once { id: RequestId([1, 2]), of: 0, says: 5, kept: Span::secs(60), refusals: true };
    let command = StoreCommand { once: Some(once), ..StoreCommand::new(charges.into()) };
    let mut lost = Spread::new(&command, place_of, HoldId(9)).expect("two places");
    let Next::Ask(key, first) = lost.begin() else { panic!("nothing to ask") };
    world.ask(&key, &first);
    assert_eq!(lost.fail(true), (false, Vec::new()));
    assert!(matches!(world.run(&command), StoreReply::Done { admitted: true, .. }));
    world.now += Spread::HOLDS_FOR;
    assert_eq!((world.used(1), world.used(2)), (7, 7));
}

/// The home has decided, and a place that was not told is found by who asks again: it is the same place.
#[test]
fn a_place_that_was_decided_on_is_confirmed_and_not_taken_twice() {
    let mut world = World::new();
    let named = |world: &World, says: u64| {
        let charges = [2, 1].into_iter().enumerate().map(|(at, caller)| {
            let lasts = Span::secs(60);
            let hold = Terms { id: Once::hold(says, at), lasts, lapse: Lapse::GivenBack };
            let charge = world.operation(caller, Action::Charge { cost: 1 });
            Operation { ceiling: 1, rule: Rule::Concurrency, hold: Some(hold), ..charge }
        });
        let (id, kept) = (RequestId([1, 2]), Span::secs(3_600));
        let once = Once { id, of: 0, says, kept, refusals: true };
        StoreCommand { once: Some(once), ..StoreCommand::new(charges.collect()) }
    };
    let command = named(&world, 1);
    decide_only(&mut world, &command);
    for says in [2, 3] {
        let command = named(&world, says);
        assert_eq!(repeats(&world.run(&command)), (true, 1));
    }
}

/// When the name is forgotten where it was decided, it is another one everywhere.
#[test]
fn a_name_that_its_home_has_forgotten_is_decided_anew() {
    let mut world = World::new();
    let command = named(&world, 1, None);
    decide_only(&mut world, &command);
    // Its other place confirms half an hour later, and so remembers for longer.
    world.now += Span::secs(1_800);
    let command = named(&world, 2, None);
    assert_eq!(repeats(&world.run(&command)), (true, 1));
    world.now += Span::secs(1_900);
    let command = named(&world, 3, None);
    assert!(matches!(world.run(&command), StoreReply::Done { admitted: true, .. }));
    assert_eq!((world.used(1), world.used(2)), (10, 10));
}

#[test]
fn a_decision_that_was_not_sent_is_undone() {
    for done in [true, false] {
        let mut world = World::new();
        let command = named(&world, 1, None);
        let mut spread = Spread::new(&command, place_of, HoldId(9)).expect("two places");
        let Next::Ask(key, first) = spread.begin() else { panic!("nothing to ask") };
        let Next::Ask(key, second) = spread.handle(world.ask(&key, &first)) else {
            panic!("{key:?}")
        };
        let next = spread.handle(world.ask(&key, &second));
        assert!(matches!(next, Next::Ask(..)), "{next:?}");
        let (may_be, undo) = spread.fail(done);
        assert_eq!((may_be, undo.len()), if done { (true, 0) } else { (false, 2) });
        for (key, command) in &undo {
            world.ask(key, command);
        }
        let held = if done { 5 } else { 0 };
        assert_eq!((world.used(1), world.used(2)), (held, held));
    }
}

fn repeats(reply: &StoreReply) -> (bool, u64) {
    let StoreReply::Repeated { first, .. } = reply else { panic!("{reply:?}") };
    (first.answer.admitted, first.says)
}

#[test]
fn a_name_is_charged_once_at_each_place_and_a_refusal_is_remembered() {
    let mut world = World::new();
    let command = named(&world, 1, None);
    assert!(matches!(world.run(&command), StoreReply::Done { admitted: true, .. }));
    for says in [2, 3] {
        let command = named(&world, says, None);
        let reply = world.run(&command);
        assert_eq!(repeats(&reply), (true, 1));
        assert_eq!((world.used(1), world.used(2)), (5, 5));
    }
    world.begin(Asked { callers: [4].into(), cost: 10, name: None });
    let other = |world: &World, of: u64, says| {
        let charges = [2, 4].map(|caller| world.operation(caller, Action::Charge { cost: 5 }));
        let (id, kept) = (RequestId([3, 4]), Span::secs(60));
        let once = Once { id, of, says, kept, refusals: true };
        StoreCommand { once: Some(once), ..StoreCommand::new(charges.into()) }
    };
    let command = other(&world, 0, 4);
    assert!(matches!(world.run(&command), StoreReply::Done { admitted: false, .. }));
    world.now += Span::secs(30);
    let command = other(&world, 0, 5);
    assert_eq!(repeats(&world.run(&command)), (false, 4));
    let command = other(&world, 1, 6);
    let reply = world.run(&command);
    assert!(matches!(reply, StoreReply::OtherRequest { .. }), "{reply:?}");
    assert_eq!((world.used(2), world.used(4)), (5, 10));
}

#[test]
fn who_asks_again_has_what_was_decided_confirmed() {
    let mut world = World::new();
    let terms = |id| Terms { id: HoldId(id), lasts: Span::secs(60), lapse: Lapse::GivenBack };
    let command = named(&world, 1, Some(terms(1)));
    decide_only(&mut world, &command);
    let command = named(&world, 2, Some(terms(2)));
    let reply = world.run(&command);
    assert_eq!(repeats(&reply), (true, 1));
    // It is the reservation that was decided on, at both.
    world.now += Span::secs(30);
    assert_eq!((world.used(1), world.used(2)), (5, 5));
    let settle = |caller| {
        let action = Action::Settle { keep: 2 };
        Operation { hold: Some(terms(1)), ..world.operation(caller, action) }
    };
    let reply = world.run(&StoreCommand::new([1, 2].map(settle).into()));
    assert!(matches!(reply, StoreReply::Done { admitted: true, .. }), "{reply:?}");
    assert_eq!((world.used(1), world.used(2)), (2, 2));
}

#[test]
fn what_ended_before_it_was_confirmed_is_charged_if_there_is_room() {
    for room in [true, false] {
        let mut world = World::new();
        let command = named(&world, 1, None);
        decide_only(&mut world, &command);
        world.now += Spread::HOLDS_FOR;
        assert_eq!((world.used(1), world.used(2)), (0, 5));
        let cost = if room { 7 } else { 8 };
        world.begin(Asked { callers: [1].into(), cost, name: None });
        for says in [2, 3] {
            let command = named(&world, says, None);
            assert_eq!(repeats(&world.run(&command)), (room, 1));
        }
        // Also when there is room again.
        let back = world.operation(1, Action::Refund { amount: cost });
        world.ask(&key(1), &StoreCommand::new([back].into()));
        let command = named(&world, 4, None);
        assert_eq!(repeats(&world.run(&command)), (room, 1));
        assert_eq!(world.used(1), if room { 5 } else { 0 });
    }
}
