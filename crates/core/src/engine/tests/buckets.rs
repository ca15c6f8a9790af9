//! A store on several servers: each bucket of callers is on one of them, and in an epoch of its own.

use alloc::{collections::BTreeSet, format, string::String};

use super::*;
use crate::store::{BUCKETS, CallerBucket};

const SERVERS: usize = 4;

/// A node, and the servers that its store lies on.
struct Spread {
    engine: Engine<OneThread>,
    policies: PolicySet,
    now: Mono,
    /// Each with how far its clock is ahead.
    servers: Vec<(Table, Span)>,
}

/// What becomes of a healing command.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Done,
    AnswerLost,
    Refused,
    NotAsked,
}

impl Spread {
    fn new(buckets: usize) -> Self {
        let session = session("eu", "eu-0", 1);
        let settings = Settings {
            shards: 4,
            buckets,
            cells_max: 10_000,
            call_max: Some(Span::millis(30)),
            ..Settings::new(session)
        };
        let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
        let server = |at| (Table::new(4_000, StoreEpoch(at + 1)), Span::ZERO);
        let servers = (0..SERVERS as u64).map(server).collect();
        let engine = Engine::new(settings, Mono(0), START, random);
        Self { engine, policies: policies(), now: Mono(0), servers }
    }

    fn key(&self, name: &str, limit: usize) -> Key {
        let policy = &self.policies.policies[0];
        let attributes: &Attributes<'_> = &[("route", "/api/x"), ("api_key", name)];
        Key { caller: policy.caller(&SECRET, attributes), limit: policy.limits[limit].id }
    }

    /// Which bucket all callers of a command are in.
    fn bucket_of(&self, command: &StoreCommand) -> CallerBucket {
        let buckets = command.operations.iter().map(|o| self.engine.bucket_of(o.key.caller));
        let buckets: BTreeSet<_> = buckets.collect();
        assert_eq!(buckets.len(), 1, "a command is of one bucket");
        *buckets.first().expect("one")
    }

    fn apply(&mut self, command: &StoreCommand) -> StoreReply {
        let at = self.bucket_of(command).index() % SERVERS;
        let (table, ahead) = &mut self.servers[at];
        table.apply(command, wall(self.now) + *ahead).expect("room")
    }

    /// Asks for units; whether they were admitted, and how often the store was asked.
    fn ask(&mut self, name: &str, cost: u64) -> (Decision, u32) {
        let attributes: &Attributes<'_> = &[("route", "/api/x"), ("api_key", name)];
        let subject = [Subject { attributes, cost }];
        let plan = self.engine.plan(&self.policies, &SECRET, self.now, &subject, Purpose::Charge);
        let Plan::Ask(mut command, mut ticket) = plan.expect("planned") else { panic!("no room") };
        for asked in 1.. {
            let outcome = Outcome::Reply(self.apply(&command));
            match self.engine.complete(self.now, ticket, outcome) {
                Completion::Decided(decision) => return (decision, asked),
                Completion::Again(again, same) => (command, ticket) = (again, same),
                Completion::OtherRequest => panic!("it has no name"),
            }
        }
        unreachable!("it is decided")
    }

    /// A server forgets everything, and its buckets are looked at.
    fn wipe(&mut self, at: usize) {
        let newer = self.servers.iter().map(|(table, _)| table.epoch().0).max().expect("some") + 1;
        self.servers[at].0 = Table::new(4_000, StoreEpoch(newer));
        self.look(at);
    }

    fn look(&self, at: usize) {
        for bucket in self.buckets_of(at) {
            self.engine.handle_epoch(self.now, bucket, self.servers[at].0.epoch());
        }
    }

    fn buckets_of(&self, at: usize) -> impl Iterator<Item = CallerBucket> {
        let all = 0..self.engine.settings.buckets;
        all.filter(move |bucket| bucket % SERVERS == at).map(|bucket| CallerBucket(bucket as u16))
    }

    /// Has healing commands carried out for a while; what becomes of each is said by its server.
    fn heal(&mut self, steps: u64, mut fate: impl FnMut(usize) -> Fate) {
        for _ in 0..steps {
            while let Some((command, ticket)) = self.engine.poll_heal(&self.policies, self.now) {
                let at = self.bucket_of(&command).index() % SERVERS;
                let outcome = match fate(at) {
                    Fate::Done => Outcome::Reply(self.apply(&command)),
                    Fate::AnswerLost => {
                        self.apply(&command);
                        Outcome::Unknown
                    }
                    Fate::Refused => Outcome::Cancelled,
                    Fate::NotAsked => Outcome::Shed,
                };
                self.engine.handle_healed(self.now, ticket, &outcome);
            }
            self.now += Span::millis(5);
        }
    }

    fn stored(&self, name: &str) -> u64 {
        let key = self.key(name, 0);
        let (table, ahead) = &self.servers[self.engine.bucket_of(key.caller).index() % SERVERS];
        table.get(&key, wall(self.now) + *ahead).map_or(0, |record| record.current.used)
    }

    fn is_at(&self, name: &str, at: usize) -> bool {
        self.engine.bucket_of(self.key(name, 0).caller).index() % SERVERS == at
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("key-{n}")).collect()
}

#[test]
fn only_buckets_that_begin_a_new_epoch_are_healed() {
    for buckets in [4, 64, BUCKETS] {
        let mut spread = Spread::new(buckets);
        let names = names(200);
        (0..SERVERS).for_each(|at| spread.look(at));
        for name in &names {
            assert!(spread.ask(name, 3).0.allowed);
        }
        assert_eq!(spread.engine.heal_status().epochs, 0, "the first epochs begin no walk");
        spread.wipe(1);
        let lost = names.iter().filter(|name| spread.is_at(name, 1)).count();
        assert!((20..90).contains(&lost), "{lost}");
        let status = spread.engine.heal_status();
        assert_eq!((status.epochs as usize, status.walks), (buckets / 4, buckets / 4));
        let mut commands = [0; SERVERS];
        spread.heal(600, |at| {
            commands[at] += 1;
            Fate::Done
        });
        let status = spread.engine.heal_status();
        assert!(!status.running, "{buckets}: {status:?}");
        assert_eq!(status.healed as usize, 4 * lost, "two limits, in two passes");
        assert!(commands[1] > 0 && commands.iter().sum::<u32>() == commands[1], "{commands:?}");
        assert!(names.iter().all(|name| spread.stored(name) == 3));
    }
}

#[test]
fn buckets_that_cannot_be_healed_hold_up_no_others() {
    let mut spread = Spread::new(64);
    let names = names(300);
    (0..SERVERS).for_each(|at| spread.look(at));
    for name in &names {
        assert!(spread.ask(name, 3).0.allowed);
    }
    spread.wipe(0);
    spread.wipe(1);
    spread.heal(500, |at| if at == 0 { Fate::NotAsked } else { Fate::Done });
    let status = spread.engine.heal_status();
    let left = spread.buckets_of(0).filter(|bucket| {
        names.iter().any(|name| spread.engine.bucket_of(spread.key(name, 0).caller) == *bucket)
    });
    assert_eq!((status.walks, status.left_out), (left.count(), 0), "{status:?}");
    for name in &names {
        assert_eq!(spread.stored(name), if spread.is_at(name, 0) { 0 } else { 3 });
    }
    spread.heal(600, |_| Fate::Done);
    assert!(!spread.engine.heal_status().running);
    assert!(names.iter().all(|name| spread.stored(name) == 3));
}

/// A server whose clock is ahead by more than a deadline judges that nobody waits any more: it says what its clock
/// shows, and is asked once more.
#[test]
fn servers_whose_clocks_differ_are_asked_twice_at_most_and_decide_all_checks() {
    for ahead in [0, 20, 45, 200, 400] {
        let mut spread = Spread::new(64);
        spread.servers[2].1 = Span::millis(ahead);
        let (mut most, mut again) = (0, 0);
        for round in 0..400_u64 {
            spread.now += Span::millis(7);
            let (decision, asked) = spread.ask(&format!("key-{}", round % 40), 1);
            assert!(decision.allowed && !decision.degraded, "{ahead} ms: {decision:?}");
            most = most.max(asked);
            again += u64::from(asked > 1);
        }
        assert!(most <= 2, "{ahead} ms: {most}");
        assert_eq!(again > 0, ahead > 30, "{ahead} ms: {again} asked again");
        for name in names(40) {
            assert_eq!(spread.stored(&name), 10, "{ahead} ms");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// INV-11, of buckets: whatever fails on the way, and whichever servers forget, in the end each has what the
    /// node knows.
    #[test]
    fn whichever_servers_forget_all_is_brought(
        steps in prop::collection::vec((0_usize..60, 1_u64..3, 0_u8..12), 1..60),
        buckets in 0_u32..=10,
        mut luck in any::<u32>(),
    ) {
        let mut spread = Spread::new(1 << buckets);
        let names = names(60);
        (0..SERVERS).for_each(|at| spread.look(at));
        for (key, cost, what) in steps {
            match what {
                0 => spread.wipe(key % SERVERS),
                1..4 => spread.heal(5, |_| {
                    luck = luck.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    [Fate::Done, Fate::AnswerLost, Fate::Refused, Fate::NotAsked][luck as usize >> 30]
                }),
                _ => { spread.ask(&names[key], cost); }
            }
        }
        for at in 0..SERVERS {
            spread.wipe(at);
        }
        spread.heal(1_500, |_| Fate::Done);
        prop_assert!(!spread.engine.heal_status().running);
        for name in &names {
            let known = spread.engine.known(spread.key(name, 0), Label(START.0 / 3_600_000_000));
            prop_assert_eq!(spread.stored(name), known.own_region());
        }
    }
}

/// Limits under rights of a store of many buckets.
mod rights {
    use super::*;
    use crate::{
        ids::{RegionName, RegionNumber},
        rights::{Regions, Split},
        store::{Counts, Holding, OperationReply},
    };

    const LONG: &str = r#"
[[policy]]
name = "a"
key = ["user"]
[[policy.limit]]
name = "short"
quantity = 1000
window = "1s"
scope = "global"
consistency = "strict"

[[policy]]
name = "b"
key = ["api_key"]
[[policy.limit]]
name = "long"
quantity = 1000
window = "10m"
scope = "global"
consistency = "strict"
"#;

    fn engine(founded: Option<ClusterTime>) -> Engine<OneThread> {
        let of = |name: &str| RegionNumber::of(&RegionName::new(name).expect("a name"));
        let regions = Regions::first(Split::even(&[of("eu"), of("us")]).expect("a split"));
        let settings = Settings {
            shards: 4,
            buckets: BUCKETS,
            cells_max: 10_000,
            regions,
            founded,
            fence: Span::secs(10),
            ..Settings::new(session("eu", "eu-0", 1))
        };
        let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
        Engine::new(settings, Mono(0), START, random)
    }

    #[test]
    fn nobody_is_asked_within_the_fence_of_any_bucket() {
        let policies = PolicySet::parse(LONG).expect("right");
        let engine = engine(None);
        let old = StoreEpoch(START.0);
        for bucket in 0..BUCKETS {
            engine.handle_epoch(Mono(0), CallerBucket(bucket as u16), old);
        }
        let now = Mono(60_000_000);
        engine.handle_store_clock(now, now, wall(now));
        let attributes: &Attributes<'_> = &[("user", "u"), ("api_key", "k")];
        let subject = [Subject { attributes, cost: 1 }];
        let plan = engine.plan(&policies, &SECRET, now, &subject, Purpose::Charge);
        let Plan::Ask(command, ticket) = plan.expect("planned") else { panic!() };
        let keys: Vec<_> = command.operations.iter().map(|o| (o.key, o.label)).collect();
        assert_ne!(engine.bucket_of(keys[0].0.caller), engine.bucket_of(keys[1].0.caller));
        // The second key's bucket has just begun another epoch; the first's has not.
        let new = StoreEpoch(START.0 + 60_000_000);
        let holding =
            |epoch, open| Some(Box::new(Holding { epoch, open, base: 500, ..Holding::default() }));
        let reply = |holding, passes| OperationReply {
            holding,
            ..OperationReply::new(passes, Counts::default())
        };
        let operations = vec![reply(holding(old, true), false), reply(holding(new, false), false)];
        let done = StoreReply::Done {
            admitted: false,
            now: wall(now),
            epoch: old,
            adopted: None,
            operations,
        };
        let Completion::Decided(_) = engine.complete(now, ticket, Outcome::Reply(done)) else {
            panic!()
        };
        let (key, label) = keys[1];
        let asked = engine.with_shard(key, |shard| {
            let book = shard.watched.books(&key).and_then(|books| books.of(label)).cloned();
            book.and_then(|book| book.question(engine.own_region))
        });
        assert_eq!(asked, None, "the epoch was met just now");
    }

    #[test]
    fn a_bucket_that_nobody_used_is_founded_although_another_slot_was_moved() {
        let policies = PolicySet::parse(LONG).expect("right");
        let engine = engine(Some(START));
        engine.views.with(|views| views.all_have_answered = true);
        let old = StoreEpoch(START.0);
        for bucket in 0..BUCKETS {
            engine.handle_epoch(Mono(0), CallerBucket(bucket as u16), old);
        }
        engine.handle_store_clock(Mono(0), Mono(0), wall(Mono(0)));
        let opens = |user: &str, now: Mono| {
            let attributes: &Attributes<'_> = &[("user", user), ("api_key", user)];
            let subject = [Subject { attributes, cost: 1 }];
            let plan = engine.plan(&policies, &SECRET, now, &subject, Purpose::Charge);
            let Plan::Ask(command, _ticket) = plan.expect("planned") else { panic!() };
            command.openings.iter().map(|(_, o)| o.opens).max()
        };
        assert_eq!(opens("u", Mono(1)), Some(ClusterTime(0)));
        engine.handle_epoch(Mono(2), CallerBucket(7), StoreEpoch(START.0 + 11_000_000));
        engine.clock.with(|clock| clock.settle());
        let now = Mono(300_000_000);
        engine.handle_store_clock(now, now, wall(now));
        assert_eq!(opens("v", now), Some(ClusterTime(0)));
    }
}
