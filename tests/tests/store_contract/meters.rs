//! Limits whose counts do not decide alone: what every store makes of them, and the memory store beside Redis on
//! random commands at the same instants.

use tidegate_core::{
    algorithm::{Bucket, LabelTime, Rule, Weighed},
    store::{Answer, Once, RequestId, Table},
    time::Window,
};
use tidegate_tests::skewed_redis::SkewedRedis;

use super::*;

const HOUR: Span = Span::secs(3_600);
/// One operation's part of an answer.
type Part = (bool, Counts, Option<Weighed>);

fn bucket(quantity: u64, capacity: u64) -> Bucket {
    Bucket::new(quantity, Window::new(HOUR).expect("in range"), capacity).expect("it fits")
}

impl Subject {
    /// A charge by a rule, in a label of an hour that began just now; of caller 1.
    fn metered(&self, rule: fn(LabelTime) -> Rule, cost: u64) -> Operation {
        let starts = self.clock.steady() - Span::secs(60);
        let label = LabelTime { starts, length: HOUR, before: 0 };
        Operation { rule: rule(label), ..self.charge(1, 5, cost, 10) }
    }

    async fn parts(&self, operations: Vec<Operation>) -> (bool, Vec<Part>) {
        match self.ask(operations).await {
            StoreReply::Done { admitted, operations, .. } => {
                let part = |o: OperationReply| (o.passes, o.counts, o.weighed);
                (admitted, operations.into_iter().map(part).collect())
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A rule with ten an hour, and how long who has just used all ten waits for one more, at least and at most.
type Case = (&'static str, fn(LabelTime) -> Rule, u64, u64);

const CASES: [Case; 3] = [
    // Until a tenth of an hour has passed of the next label.
    ("sliding window", Rule::SlidingWindow, 3_600 - 61 + 360, 3_600 - 60 + 361),
    ("sliding log", Rule::SlidingLog, 3_599, 3_600),
    ("bucket", |label| Rule::Bucket(label, bucket(10, 10)), 359, 360),
];

async fn of_every_rule(s: &Subject) {
    for (n, (name, rule, least, most)) in CASES.into_iter().enumerate() {
        let caller = 40 + n as u64;
        let key = s.charge(caller, 5, 1, 10).key;
        let with = |cost| Operation { key, ..s.metered(rule, cost) };
        let ask = async |operation| {
            let (admitted, mut parts) = s.parts(vec![operation]).await;
            let (passes, counts, weighed) = parts.remove(0);
            assert_eq!(admitted, passes, "{name}");
            (passes, counts.net(), weighed.unwrap_or_else(|| panic!("{name}")))
        };
        assert_eq!(ask(with(6)).await.2.used, 6, "{name}");
        let (passes, net, weighed) = ask(with(5)).await;
        assert_eq!((passes, net, weighed.used), (false, 6, 6), "{name}: 11 of 10");
        assert!(weighed.wait > Span::ZERO, "{name}");
        let (passes, net, weighed) = ask(with(4)).await;
        assert_eq!((passes, net, weighed.used, weighed.wait), (true, 10, 10, Span::ZERO), "{name}");
        assert!(weighed.reset > Span::secs(3_000), "{name}: {weighed:?}");
        let (passes, _, weighed) = ask(with(1)).await;
        assert!(!passes, "{name}");
        let waits = weighed.wait.as_secs_ceil();
        assert!((least..=most).contains(&waits), "{name}: {weighed:?}");

        // Who looks changes nothing; what is given back may be used again.
        let peek = Operation { action: Action::Peek, ..with(1) };
        let (_, net, weighed) = ask(peek).await;
        assert_eq!((net, weighed.used), (10, 10), "{name}");
        let refund = Operation { action: Action::Refund { amount: 3 }, ..with(1) };
        assert_eq!(ask(refund).await.1, 7, "{name}");
        assert!(ask(with(2)).await.0, "{name}");
        // Of a bucket what may have drained within a minute is not given back: a sixth of one.
        assert_eq!(ask(with(1)).await.0, name != "bucket", "{name}");
        assert!(!ask(with(1)).await.0, "{name}");

        // A floor that knows more counts as used now; one that knows less changes nothing.
        let other = Key { limit: LimitId(77), ..key };
        let floor = |used| Counts { used, refunded: 0 };
        let heal = |used| Operation {
            key: other,
            action: Action::Heal,
            enforce: false,
            floor: floor(used),
            ..with(1)
        };
        assert_eq!(ask(heal(8)).await.2.used, 8, "{name}");
        assert_eq!(ask(heal(5)).await.2.used, 8, "{name}");
        let lifting = Operation { key: other, floor: floor(9), ..with(2) };
        let (passes, net, weighed) = ask(lifting).await;
        assert_eq!((passes, net, weighed.used), (false, 9, 9), "{name}");
        assert!(ask(Operation { key: other, ..with(1) }).await.0, "{name}");

        // What weighed on a label that is over nobody knows; a bucket and a log do not ask.
        let before = Operation { label: Label(4), key: other, ..with(1) };
        let relabels = matches!(s.outcome(vec![before]).await, Outcome::Relabel(_));
        assert_eq!(relabels, name == "sliding window", "{name}");
    }
}

/// One check of limits of every kind: all of them, or none.
async fn mixed_limits(s: &Subject) {
    let all = |cost: u64, ceiling: u64| -> Vec<Operation> {
        let rules = CASES.into_iter().map(|(_, rule, ..)| s.metered(rule, cost));
        let last = Operation { ceiling, ..s.charge(1, 5, cost, 10) };
        let with_key = |(n, operation): (usize, Operation)| {
            let key = Key { limit: LimitId(n as u32), ..s.charge(60, 5, 1, 1).key };
            Operation { key, ..operation }
        };
        rules.chain([last]).enumerate().map(with_key).collect()
    };
    let (admitted, parts) = s.parts(all(4, 10)).await;
    assert!(admitted && parts.iter().all(|(passes, ..)| *passes));
    // Three have room, the last has not: nothing is charged.
    let (admitted, parts) = s.parts(all(4, 7)).await;
    assert!(!admitted);
    assert_eq!(parts.iter().map(|p| p.0).collect::<Vec<_>>(), [true, true, true, false]);
    assert!(parts.iter().all(|(_, counts, weighed)| {
        counts.used == 4 && weighed.is_none_or(|weighed| weighed.used == 4)
    }));
    let (admitted, parts) = s.parts(all(6, 10)).await;
    assert!(admitted && parts.iter().all(|(_, counts, _)| counts.used == 10));
}

#[tokio::test]
async fn every_store_counts_by_every_rule() {
    for (_, subject) in Subject::all().await {
        of_every_rule(&subject).await;
        mixed_limits(&subject).await;
    }
}

/// Random commands of every rule over few keys, at instants that mostly go on.
struct Traffic {
    random: Xoshiro256PlusPlus,
    now: StoreTime,
}

const WINDOW: Span = Span::secs(10);

impl Traffic {
    fn pass(&mut self) {
        let pause = match self.random.random_range(0..20) {
            0 => self.random.random_range(0..30_000_000),
            1..5 => self.random.random_range(0..2_000_000),
            _ => self.random.random_range(0..100_000),
        };
        // A clock that is set back.
        let back = self.random.random_bool(0.02);
        self.now = if back { self.now - Span(pause) } else { self.now + Span(pause) };
    }

    /// Some commands have a name; few enough that they meet.
    fn once(&mut self) -> Option<Once> {
        let random = &mut self.random;
        random.random_bool(0.2).then(|| Once {
            id: RequestId([1, random.random_range(0..200)]),
            of: random.random_range(0..2),
            says: random.random_range(0..9),
            kept: Span::secs(100_000_000),
            refusals: random.random_bool(0.5),
        })
    }

    /// Some decide for a whole.
    fn answer(&mut self) -> Option<Box<Answer>> {
        let random = &mut self.random;
        random.random_bool(0.2).then(|| {
            let each = (0..random.random_range(1..4)).map(|_| {
                let used = random.random_range(0..9);
                let counts = Counts { used, refunded: used / 3 };
                let reply = OperationReply::new(random.random_bool(0.5), counts);
                let weighed = random.random_bool(0.5).then(|| Weighed {
                    used,
                    wait: Span(random.random_range(0..9)),
                    reset: Span(random.random_range(0..9)),
                });
                (Label(random.random_range(0..9)), OperationReply { weighed, ..reply })
            });
            let operations = each.collect();
            Box::new(Answer { admitted: random.random_bool(0.5), operations })
        })
    }

    fn operation(&mut self) -> Operation {
        let (now, random) = (self.now, &mut self.random);
        let mut label = now.0 / WINDOW.0;
        label -= random.random_range(0..20) / 19;
        let before = if random.random_bool(0.1) { random.random_range(0..40) } else { 0 };
        let at = LabelTime { starts: StoreTime(label * WINDOW.0), length: WINDOW, before };
        let kind = random.random_range(0..6);
        let (quantity, burst) = if random.random_bool(0.9) { (20, 20) } else { (7, 30) };
        let window = Window::new(WINDOW).expect("in range");
        let rule = match kind {
            0 => Rule::FixedWindow,
            1 => Rule::SlidingWindow(at),
            2 => Rule::SlidingLog(at),
            3 => Rule::Bucket(at, Bucket::new(quantity, window, burst).expect("it fits")),
            5 => Rule::Concurrency,
            // Two tokens a second, in ticks of a millisecond.
            _ => {
                let (capacity, shapes) = (burst, random.random_bool(0.5));
                Rule::Bucket(at, Bucket { capacity, unit: 1_000, drain: 2, tick: 1_000, shapes })
            }
        };
        let amount = random.random_range(1..8);
        Operation {
            key: Key { caller: Caller([random.random_range(0..3), 0]), limit: LimitId(kind) },
            action: match random.random_range(0..12) {
                0 => Action::Peek,
                1 => Action::Heal,
                2 => Action::Refund { amount },
                3 if random.random_bool(0.7) => Action::Settle { keep: random.random_range(0..8) },
                3 => Action::Confirm,
                4 if kind == 5 => Action::Hold { amount },
                _ => Action::Charge { cost: amount },
            },
            label: Label(label),
            not_before: StoreTime(0),
            not_after: StoreTime(u64::MAX),
            ceiling: random.random_range(10..25),
            floor: Counts {
                used: if random.random_bool(0.1) { random.random_range(0..40) } else { 0 },
                refunded: 0,
            },
            enforce: random.random_bool(0.9),
            // Longer than the test: the server forgets by its own clock.
            expires: now + Span::secs(100_000_000 + u64::from(kind)),
            claim: None,
            rule,
            hold: random.random_bool(0.5).then(|| Terms {
                id: HoldId(random.random_range(1..30)),
                lasts: Span(random.random_range(0..20_000_000)),
                lapse: if random.random_bool(0.7) { Lapse::GivenBack } else { Lapse::Undone },
            }),
        }
    }
}

/// Ten thousand commands; as many as `RANDOM_OPERATIONS` says, if it is set.
#[tokio::test]
async fn redis_measures_as_memory_does() {
    let server = SkewedRedis::start().await.expect("redis-server");
    let redis = Subject::at(&server.url());
    redis.until_reachable().await;
    let (_, epoch) = redis.store.epochs().into_iter().next().expect("it was reached");
    let mut table = Table::new(1_000, epoch);
    let seed = rand::random::<u64>();
    // What is held before the epoch began does not come back by itself.
    let start = StoreTime(epoch.0) - Span::secs(300);
    let mut traffic = Traffic { random: Xoshiro256PlusPlus::seed_from_u64(seed), now: start };
    let mut clock = server.clock().await;
    let rounds = std::env::var("RANDOM_OPERATIONS").ok().and_then(|n| n.parse().ok());
    let (mut admitted, mut refused, mut repeated, mut others) = (0, 0, 0, 0);
    for round in 0..rounds.unwrap_or(10_000) {
        traffic.pass();
        clock.set_at(traffic.now.0).await;
        let operations = traffic.random.random_range(1..=3);
        let operations: Vec<_> = (0..operations).map(|_| traffic.operation()).collect();
        let once = traffic.once();
        let answer = traffic.answer();
        let command = StoreCommand { once, answer, ..StoreCommand::new(operations) };
        let story = format!("seed {seed}, round {round} at {:?}: {command:?}", traffic.now);
        let expected = table.apply(&command, traffic.now).expect("room");
        let found = redis.store.apply(&command).await.expect("answered");
        match &expected {
            StoreReply::Done { admitted: true, .. } => admitted += 1,
            _ => refused += 1,
        }
        let mut measured = |reply: StoreReply| match reply {
            StoreReply::Done { now, operations, .. } => (now, Outcome::weighed(&operations), None),
            StoreReply::Relabel { now, newest, .. } => (now, Vec::new(), Some(newest)),
            StoreReply::Repeated { now, first, .. } => {
                repeated += 1;
                let Answer { admitted, operations } = first.answer;
                let (labels, replies): (Vec<_>, Vec<_>) = operations.into_iter().unzip();
                let told = [first.says, first.at.0, u64::from(admitted)].map(Label);
                (now, Outcome::weighed(&replies), Some([&labels[..], &told].concat()))
            }
            StoreReply::OtherRequest { now, .. } => {
                others += 1;
                (now, Vec::new(), None)
            }
        };
        assert_eq!(measured(found), measured(expected), "{story}");
    }
    assert!(admitted > 1_000 && refused > 1_000, "{admitted} and {refused}");
    assert!(repeated > 100 && others > 100, "{repeated} and {others}");
}

impl Outcome {
    fn weighed(operations: &[OperationReply]) -> Vec<Part> {
        operations.iter().map(|o| (o.passes, o.counts, o.weighed)).collect()
    }
}
