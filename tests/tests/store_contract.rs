//! One contract for every store, and a comparison of Redis with the memory store on random commands.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use tidegate_core::{
    algorithm::Rule,
    calls,
    ids::{Caller, ConfigEpoch, Key, LimitId, RegionNumber, StoreEpoch},
    rights::{Adopted, Bases, Proposed, Received, Reopening, Row},
    store::{
        Action, Bound, CallerBucket, Claim, Counts, HoldId, Holding, Lapse, Opening, Operation,
        OperationReply, StoreCommand, StoreReply, Terms,
    },
    time::{ClusterTime, Label, Span, StoreTime},
};
use tidegate_node::{
    clock::Clock,
    store::{
        Doubt, MemoryStore, RedisCluster, RedisSettings, RedisStore, Store, StoreError, StoreGuard,
        is_cluster,
    },
};
use tidegate_tests::{
    ensure, eventually, forwarder::Forwarder, redis_cluster, redis_server::RedisServer,
    sentinel::Sentinel,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

#[path = "store_contract/cluster.rs"]
mod cluster;
#[path = "store_contract/epochs.rs"]
mod epochs;
#[path = "store_contract/holds.rs"]
mod holds;
#[path = "store_contract/meters.rs"]
mod meters;
#[path = "store_contract/rights.rs"]
mod rights;

/// A store, what keeps it going, and what it runs on.
struct Subject {
    store: Arc<Store>,
    keeper: Option<JoinHandle<()>>,
    redis: Option<RedisServer>,
    sentinel: Option<Sentinel>,
    cluster: Option<redis_cluster::RedisCluster>,
    clock: Clock,
    /// The bucket that all callers are in.
    bucket: u16,
}

impl Subject {
    /// One of each kind, by name.
    async fn all() -> Vec<(&'static str, Self)> {
        vec![
            ("memory", Self::memory()),
            ("standalone", Self::redis().await),
            ("sentinel", Self::sentinel().await),
            ("cluster", Self::cluster().await),
        ]
    }

    async fn sentinel() -> Self {
        let redis = RedisServer::start().await.expect("redis-server");
        let sentinel = Sentinel::of(redis.port());
        let mut subject = Self::at(&sentinel.url());
        (subject.redis, subject.sentinel) = (Some(redis), Some(sentinel));
        subject.until_reachable().await;
        subject
    }

    /// On three primaries.
    async fn cluster() -> Self {
        let cluster = redis_cluster::RedisCluster::start(3, 0).await;
        let mut subject = Self::at(&cluster.url());
        subject.cluster = Some(cluster);
        subject.until_whole().await;
        subject
    }

    /// The same store, of which other callers are asked.
    fn in_bucket(mut self, bucket: u16) -> Self {
        self.bucket = bucket;
        self
    }

    /// The epoch that the bucket was last seen in.
    fn seen_epoch(&self) -> Option<StoreEpoch> {
        let own = CallerBucket(if self.cluster.is_some() { self.bucket } else { 0 });
        let mut epochs = self.store.epochs().into_iter();
        epochs.find_map(|(bucket, epoch)| (bucket == own).then_some(epoch))
    }

    fn memory() -> Self {
        let clock = Clock::start();
        let store = Arc::new(Store::Memory(MemoryStore::new(100_000, clock)));
        Self { store, keeper: None, redis: None, sentinel: None, cluster: None, clock, bucket: 0 }
    }

    async fn redis() -> Self {
        let redis = RedisServer::start().await.expect("redis-server");
        Self::redis_at(redis).await
    }

    async fn redis_at(redis: RedisServer) -> Self {
        let port = redis.port();
        Self::redis_behind(redis, port).await
    }

    /// The store reaches its server by `port`.
    async fn redis_behind(redis: RedisServer, port: u16) -> Self {
        let subject = Self::redis_as("", redis, port);
        subject.until_reachable().await;
        subject
    }

    /// As another user, such as `name:password@`. It need not be reachable.
    fn redis_as(user: &str, redis: RedisServer, port: u16) -> Self {
        Self::redis_in(0, user, redis, port)
    }

    /// The same, in this database.
    fn redis_in(database: u32, user: &str, redis: RedisServer, port: u16) -> Self {
        let mut subject = Self::at(&format!("redis://{user}127.0.0.1:{port}/{database}"));
        subject.redis = Some(redis);
        subject
    }

    /// A store on a server that is kept elsewhere.
    fn at(url: &str) -> Self {
        let settings = RedisSettings {
            url: url.to_owned(),
            tls: None,
            timeout: Duration::from_secs(2),
            namespace: "test".into(),
        };
        let clock = Clock::start();
        let store = Arc::new(if is_cluster(url) {
            let guard = Box::new(move || {
                let random = Box::new(Xoshiro256PlusPlus::seed_from_u64(1));
                StoreGuard::new(calls::Settings::default(), clock, random)
            });
            Store::Cluster(Box::new(RedisCluster::new(settings, guard).expect("a URL")))
        } else {
            Store::Redis(Box::new(RedisStore::new(settings).expect("a URL")))
        });
        let keeper = tokio::spawn({
            let store = Arc::clone(&store);
            async move {
                match &*store {
                    Store::Redis(redis) => redis.keep_connected().await,
                    Store::Cluster(cluster) => cluster.keep_connected().await,
                    Store::Memory(_) => {}
                }
            }
        });
        let keeper = Some(keeper);
        Self { store, keeper, redis: None, sentinel: None, cluster: None, clock, bucket: 0 }
    }

    /// A connection of the test's own.
    async fn connection(&self) -> redis::aio::MultiplexedConnection {
        self.redis.as_ref().expect("a server").connection().await.expect("connected")
    }

    /// The epoch of an answer to a charge.
    async fn epoch(&self) -> StoreEpoch {
        self.ask(vec![self.charge(77, 5, 1, 1_000)]).await.epoch()
    }

    fn heal(&self, caller: u64, label: u64, used: u64) -> Operation {
        let floor = Counts { used, refunded: 0 };
        let charge = self.charge(caller, label, 1, 0);
        Operation { action: Action::Heal, floor, enforce: false, ..charge }
    }

    async fn until_reachable(&self) {
        eventually(Duration::from_secs(10), "the store is reachable", async || {
            ensure(self.store.is_reachable(), || "unreachable".into())
        })
        .await;
    }

    /// Waits until all parts of a cluster can be asked, and each bucket was looked at.
    async fn until_whole(&self) {
        eventually(Duration::from_secs(10), "the store is whole", async || {
            let (ailing, epochs) = (self.store.ailing(), self.store.epochs().len());
            let is_whole = self.store.is_reachable() && ailing.is_empty() && epochs == 1_024;
            ensure(is_whole, || format!("{ailing:?}, {epochs} epochs, {:?}", self.store.trouble()))
        })
        .await;
    }

    async fn ask(&self, operations: Vec<Operation>) -> StoreReply {
        self.store.apply(&StoreCommand::new(operations)).await.expect("answered")
    }

    /// As [`ask`](Self::ask), without the times.
    async fn outcome(&self, operations: Vec<Operation>) -> Outcome {
        Outcome::of(self.ask(operations).await)
    }

    fn charge(&self, caller: u64, label: u64, cost: u64, ceiling: u64) -> Operation {
        let now = self.clock.steady();
        Operation {
            key: self.key(caller),
            action: Action::Charge { cost },
            label: Label(label),
            not_before: now - Span::secs(3_600),
            not_after: now + Span::secs(3_600),
            ceiling,
            floor: Counts::default(),
            enforce: true,
            expires: now + Span::secs(7_200),
            claim: None,
            rule: Rule::FixedWindow,
            hold: None,
        }
    }

    fn key(&self, caller: u64) -> Key {
        let place = u64::from(self.bucket) << 32;
        let limit = LimitId(caller as u32 % 3);
        Key { caller: Caller([caller | place, caller << 32]), limit }
    }

    /// A charge of a limit under rights, of which the region has a base of 10.
    fn claim(&self, caller: u64, label: u64, cost: u64) -> Operation {
        let label_start = ClusterTime(label * 10);
        let claim = Claim { bases: 10.into(), label_start, ..Claim::default() };
        Operation { claim: Some(Box::new(claim)), ..self.charge(caller, label, cost, 1_000) }
    }

    /// As [`ask`](Self::ask), with the word that labels of the store's epoch are whole from an instant on.
    /// What is said of epoch 1 is said of the store's own.
    async fn ask_since(&self, opens: u64, operations: Vec<Operation>) -> StoreReply {
        self.propose(opens, Proposed::default(), operations).await
    }

    /// The same, by a configuration of regions.
    async fn propose(
        &self,
        opens: u64,
        proposed: Proposed,
        mut operations: Vec<Operation>,
    ) -> StoreReply {
        let (epoch, opens) = (self.epoch().await, ClusterTime(opens));
        let own = |of: &mut StoreEpoch| *of = if *of == StoreEpoch(1) { epoch } else { *of };
        for claim in operations.iter_mut().filter_map(|operation| operation.claim.as_deref_mut()) {
            claim.granted.iter_mut().for_each(|(of, _)| own(of));
            claim.bound.iter_mut().for_each(|bound| own(&mut bound.epoch));
            claim.reopening.iter_mut().for_each(|reopening| own(&mut reopening.epoch));
        }
        let bucket = CallerBucket(self.bucket);
        let openings = vec![(bucket, Opening { epoch, opens })];
        let command = StoreCommand { openings, proposed, ..StoreCommand::new(operations) };
        self.store.apply(&command).await.expect("answered")
    }

    async fn used(&self, caller: u64, label: u64) -> u64 {
        let peek = Operation { action: Action::Peek, ..self.charge(caller, label, 1, 0) };
        match self.outcome(vec![peek]).await {
            Outcome::Done { operations, .. } => operations[0].1.net(),
            Outcome::Relabel(_) => panic!("relabel"),
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

/// Each store has an epoch of its own.
fn of_any_epoch(holding: &Holding) -> Holding {
    Holding { epoch: StoreEpoch(0), ..holding.clone() }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Relabel(Vec<Label>),
    Done {
        admitted: bool,
        adopted: Option<Adopted>,
        operations: Vec<(bool, Counts)>,
        holdings: Vec<Option<Holding>>,
    },
}

impl Outcome {
    fn of(reply: StoreReply) -> Self {
        match reply {
            StoreReply::Relabel { newest, .. } => Self::Relabel(newest),
            StoreReply::Done { admitted, adopted, operations, .. } => Self::Done {
                admitted,
                adopted,
                operations: operations.iter().map(|o| (o.passes, o.counts)).collect(),
                holdings: operations
                    .iter()
                    .map(|o| o.holding.as_deref().map(of_any_epoch))
                    .collect(),
            },
            other => panic!("it has no name: {other:?}"),
        }
    }

    /// How a command of one operation stands with its account.
    fn holding(&self) -> &Holding {
        match self {
            Self::Done { holdings, .. } => holdings[0].as_ref().expect("a holding"),
            Self::Relabel(_) => panic!("relabel"),
        }
    }

    /// Whether the only operation passed, and its record's counts.
    fn only(&self) -> (bool, Counts) {
        match self {
            Self::Done { operations, .. } => operations[0],
            Self::Relabel(_) => panic!("relabel"),
        }
    }
}

fn admitted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { admitted: true, .. })
}

/// What every store must keep.
async fn contract(s: &Subject) {
    // Charges up to the ceiling and no further.
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
    assert!(!admitted(&s.outcome(vec![s.charge(1, 5, 4, 10)]).await));
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 3, 10)]).await));
    assert_eq!(s.used(1, 5).await, 10);

    // A new label starts at nothing, the one before is kept, an older one is relabelled, and told how far
    // each record is.
    assert!(admitted(&s.outcome(vec![s.charge(1, 6, 2, 10)]).await));
    assert_eq!((s.used(1, 5).await, s.used(1, 6).await), (10, 2));
    assert!(!admitted(&s.outcome(vec![s.charge(1, 5, 1, 10)]).await));
    let relabelled = s.outcome(vec![s.charge(30, 4, 1, 10), s.charge(1, 4, 1, 10)]).await;
    assert_eq!(relabelled, Outcome::Relabel(vec![Label(0), Label(6)]));

    // All or nothing, over several callers.
    assert!(!admitted(&s.outcome(vec![s.charge(2, 5, 1, 10), s.charge(3, 5, 9, 8)]).await));
    assert_eq!((s.used(2, 5).await, s.used(3, 5).await), (0, 0));
    assert!(admitted(&s.outcome(vec![s.charge(2, 5, 1, 10), s.charge(3, 5, 8, 8)]).await));

    // A shadow limit refuses nothing, and charges only itself where it has room.
    let shadow = Operation { enforce: false, ..s.charge(3, 5, 1, 8) };
    assert!(admitted(&s.outcome(vec![shadow, s.charge(2, 5, 1, 10)]).await));
    assert_eq!((s.used(2, 5).await, s.used(3, 5).await), (2, 8));

    // Two operations on one key see each other.
    assert!(!admitted(&s.outcome(vec![s.charge(4, 5, 6, 10), s.charge(4, 5, 6, 10)]).await));
    assert_eq!(s.used(4, 5).await, 0);

    // A floor lifts the record, whatever becomes of the command.
    let floor = Counts { used: 9, refunded: 1 };
    let lifting = Operation { floor, ..s.charge(5, 5, 3, 10) };
    assert!(!admitted(&s.outcome(vec![lifting]).await));
    assert_eq!(s.used(5, 5).await, 8);

    // Healing lifts, charges nothing, refuses nothing, and leaves out what can be asked for no more.
    assert!(admitted(&s.outcome(vec![s.charge(10, 8, 4, 10)]).await));
    let ended = Operation { not_after: s.clock.steady() - Span::secs(60), ..s.heal(12, 5, 9) };
    let heal = vec![s.heal(10, 7, 5), s.heal(10, 8, 3), s.heal(10, 6, 9), s.heal(11, 5, 6), ended];
    let Outcome::Done { admitted: true, operations, .. } = s.outcome(heal).await else {
        panic!("a heal was refused")
    };
    let told: Vec<_> = operations.iter().map(|(passes, counts)| (*passes, counts.used)).collect();
    assert_eq!(told, [(true, 5), (true, 4), (false, 0), (true, 6), (false, 0)]);
    assert_eq!((s.used(10, 7).await, s.used(10, 8).await, s.used(11, 5).await), (5, 4, 6));
    assert_eq!(s.used(12, 5).await, 0);

    // Every answer says in which epoch it was given, and while nothing is lost it stays the same.
    let epoch = s.epoch().await;
    assert!(epoch > StoreEpoch(0));
    let late = Operation { not_after: s.clock.steady() - Span::secs(60), ..s.charge(6, 5, 1, 9) };
    // A command of no callers is one of the first bucket.
    let nobody = s.bucket == 0 || s.cluster.is_none();
    for operations in [vec![], vec![late], vec![s.heal(11, 5, 6)]] {
        if operations.is_empty() && !nobody {
            continue;
        }
        assert_eq!(s.ask(operations).await.epoch(), epoch);
    }
    assert_eq!(s.seen_epoch(), Some(epoch));

    // A label outside its bounds is relabelled with the store's clock, and nothing is done.
    let now = s.clock.steady();
    let early = Operation { not_before: now + Span::secs(60), ..s.charge(6, 5, 1, 10) };
    let late = Operation { not_after: now - Span::secs(60), ..s.charge(6, 5, 1, 10) };
    for operation in [early, late] {
        match s.ask(vec![s.charge(7, 5, 1, 10), operation]).await {
            StoreReply::Relabel { now: shown, .. } => {
                assert!(shown.since(now).max(now.since(shown)) < Span::secs(5), "{shown:?}");
            }
            other => panic!("done outside its bounds: {other:?}"),
        }
    }
    assert_eq!((s.used(6, 5).await, s.used(7, 5).await), (0, 0));

    // No operations at all: the clock is told.
    match s.ask(vec![]).await {
        StoreReply::Done { admitted: true, now: shown, operations, .. }
            if operations.is_empty() =>
        {
            assert!(shown.since(now).max(now.since(shown)) < Span::secs(5), "{shown:?}");
        }
        other => panic!("{other:?}"),
    }

    // A record is forgotten when it expires, and not before.
    let expires = s.clock.steady() + Span::millis(300);
    let mortal = Operation { expires, ..s.charge(8, 5, 4, 10) };
    assert!(admitted(&s.outcome(vec![mortal]).await));
    let used_until = |clock: Clock, used: u64| (clock.steady() < expires, used);
    let mut seen = used_until(s.clock, s.used(8, 5).await);
    assert!(!seen.0 || seen.1 == 4, "forgotten early");
    while seen.1 != 0 {
        assert!(s.clock.steady() < expires + Span::secs(5), "not forgotten");
        seen = used_until(s.clock, s.used(8, 5).await);
    }

    // Nothing above the ceiling under concurrency.
    let calls = (0..64).map(|_| {
        let (store, operation) = (Arc::clone(&s.store), s.charge(9, 5, 1, 40));
        tokio::spawn(async move { store.apply(&StoreCommand::new(vec![operation])).await })
    });
    let mut passed = 0;
    for call in calls.collect::<Vec<_>>() {
        let reply = call.await.expect("no panic").expect("answered");
        passed += usize::from(matches!(reply, StoreReply::Done { admitted: true, .. }));
    }
    assert_eq!((passed, s.used(9, 5).await), (40, 40));
}

/// What every store must keep of limits under rights.
async fn contract_of_rights(s: &Subject) {
    const THERE: RegionNumber = RegionNumber(7);
    let ask = async |operation| Outcome::of(s.ask_since(1_000, vec![operation]).await);
    let grant = |caller, label, amount| {
        let mut grant = Operation { action: Action::Grant, ..s.claim(caller, label, 1) };
        if let Some(claim) = &mut grant.claim {
            claim.grants = vec![(THERE, amount)];
        }
        grant
    };

    // Nobody has said when labels are whole: nothing is spent or granted.
    let unsaid = s.outcome(vec![s.claim(20, 100, 1)]).await;
    assert!(!admitted(&unsaid) && !unsaid.holding().open);
    // A label that began before is closed, and stays so.
    assert!(!admitted(&ask(s.claim(20, 99, 1)).await));
    assert!(ask(grant(20, 99, 3)).await.holding().given.is_empty());
    // In a later one the base is spent, and no more.
    assert!(admitted(&ask(s.claim(20, 100, 6)).await));
    assert!(!admitted(&ask(s.claim(20, 100, 5)).await));
    // What is granted can no longer be spent; and no more is granted than is left.
    let granted = ask(grant(20, 100, 3)).await;
    assert_eq!((granted.holding().given.of(THERE), granted.holding().held()), (3, 7));
    assert!(!admitted(&ask(s.claim(20, 100, 2)).await));
    assert_eq!(ask(grant(20, 100, 9)).await.holding().given.of(THERE), 4);
    // What comes counts once.
    for _ in 0..2 {
        let mut told = s.claim(20, 100, 2);
        if let Some(claim) = &mut told.claim {
            let (from, epoch) = (THERE, StoreEpoch(3));
            claim.received = vec![Received { from, epoch, amount: 3, ceiling: 0 }];
        }
        ask(told).await;
    }
    let after = ask(Operation { action: Action::Peek, ..s.claim(20, 100, 1) }).await;
    assert_eq!((after.holding().received.sum(), after.holding().held()), (3, 9));
    assert_eq!(s.used(20, 100).await, 8);
    // An account ends with its label, and of the label before nothing is spent.
    assert!(admitted(&ask(s.claim(20, 101, 10)).await));
    assert!(!admitted(&ask(s.claim(20, 100, 1)).await));
    // Up to its ceiling a limit may be overdrawn.
    let overdrawn = |ceiling| {
        let mut charge = Operation { ceiling, ..s.claim(20, 101, 1) };
        if let Some(claim) = &mut charge.claim {
            claim.allowance = 2;
        }
        charge
    };
    assert!(!admitted(&ask(overdrawn(10)).await));
    assert!(admitted(&ask(overdrawn(11)).await));
    assert!(admitted(&ask(overdrawn(99)).await));
    assert!(!admitted(&ask(overdrawn(99)).await), "12 of 10 and 2");
    // What is given back may be spent again; no more than there is, and nothing of the label before.
    let refund = |label, amount| {
        let action = Action::Refund { amount };
        Operation { action, enforce: false, ..s.claim(20, label, 1) }
    };
    let given = ask(refund(101, 5)).await;
    assert_eq!(given.only(), (true, Counts { used: 12, refunded: 5 }));
    assert!(
        admitted(&ask(s.claim(20, 101, 3)).await) && !admitted(&ask(s.claim(20, 101, 1)).await)
    );
    assert_eq!(ask(refund(101, 99)).await.only(), (true, Counts { used: 15, refunded: 15 }));
    assert!(!ask(refund(100, 1)).await.only().0);
    assert_eq!(s.used(20, 100).await, 8);
    assert!(!ask(refund(98, 1)).await.only().0, "left out");
}

/// What every store must keep of long labels: bounded by what others hold, and reopened by what they know.
async fn contract_of_long_labels(s: &Subject) {
    const THERE: RegionNumber = RegionNumber(7);
    let epoch = s.epoch().await;
    let ask = async |operation| Outcome::of(s.ask_since(1_000, vec![operation]).await);
    let with = |cost, label, change: &dyn Fn(&mut Claim)| {
        let mut charge = s.claim(30, label, cost);
        charge.claim.iter_mut().for_each(|claim| change(claim));
        charge
    };
    let bounded = |ceiling, of: StoreEpoch| {
        move |claim: &mut Claim| claim.bound = Some(Bound { block: 2, ceiling, epoch: of })
    };
    // A block beyond the ceiling that somebody holds, and no more.
    assert!(admitted(&ask(with(2, 100, &bounded(0, epoch))).await));
    assert!(!admitted(&ask(with(1, 100, &bounded(0, epoch))).await));
    assert!(!admitted(&ask(with(1, 100, &bounded(3, StoreEpoch(epoch.0 - 1)))).await));
    assert!(admitted(&ask(with(3, 100, &bounded(3, epoch))).await));
    // What is held of others is told, ceilings and newer epochs among it.
    let told = |of: u64, amount, ceiling| {
        let word = Received { from: THERE, epoch: StoreEpoch(of), amount, ceiling };
        move |claim: &mut Claim| claim.received = vec![word]
    };
    ask(with(9, 100, &told(3, 1, 4))).await;
    let held = ask(with(9, 100, &told(5, 0, 0))).await.holding().received.of(THERE);
    assert_eq!(held, Some(Received { from: THERE, epoch: StoreEpoch(5), amount: 1, ceiling: 4 }));
    ask(with(9, 100, &told(3, 6, 9))).await;
    assert_eq!(ask(with(9, 100, &|_| {})).await.holding().received.of(THERE), held);
    // A label that the store's epoch has forgotten is closed, until the epoch is reopened in it.
    let reopening = |of: StoreEpoch| {
        let received = vec![Received { from: THERE, epoch: StoreEpoch(5), amount: 2, ceiling: 7 }];
        let given = Row::from_iter([(THERE, 1)]);
        move |claim: &mut Claim| {
            let (given, received) = (given.clone(), received.clone());
            claim.reopening = Some(Reopening { epoch: of, used: 6, given, received });
        }
    };
    let grant = |change: &dyn Fn(&mut Claim)| Operation {
        action: Action::Grant,
        key: s.claim(31, 99, 1).key,
        ..with(1, 99, change)
    };
    let charge = |cost| Operation { key: s.claim(31, 99, 1).key, ..with(cost, 99, &|_| {}) };
    assert!(!admitted(&ask(charge(1)).await));
    assert!(!ask(grant(&reopening(StoreEpoch(epoch.0 - 1)))).await.holding().open);
    for _ in 0..2 {
        let reopened = ask(grant(&reopening(epoch))).await;
        assert!(reopened.holding().open);
        assert_eq!((reopened.holding().held(), s.used(31, 99).await), (11, 6));
    }
    assert!(!admitted(&ask(charge(6)).await));
    assert!(admitted(&ask(charge(5)).await));
}

#[tokio::test]
async fn every_store_keeps_the_contract() {
    for (kind, mut subject) in Subject::all().await {
        // Three buckets that a cluster has on three servers.
        for bucket in if kind == "cluster" { &[0, 1, 3][..] } else { &[0] } {
            subject = subject.in_bucket(*bucket);
            contract(&subject).await;
            contract_of_rights(&subject).await;
            contract_of_long_labels(&subject).await;
        }
    }
}

/// What some of three regions have told.
fn random_words(random: &mut Xoshiro256PlusPlus) -> Vec<Received> {
    let word = |random: &mut Xoshiro256PlusPlus| Received {
        from: RegionNumber(random.random_range(1..4)),
        epoch: StoreEpoch(random.random_range(1..3)),
        amount: random.random_range(0..15),
        ceiling: random.random_range(0..15),
    };
    (0..random.random_range(0..3)).map(|_| word(random)).collect()
}

/// A random claim of one of two labels' worth of time, of which the later ones are whole. What it knows to
/// be granted is of the epoch that each store is given as its own.
fn random_claim(random: &mut Xoshiro256PlusPlus, label: u64) -> Claim {
    let region = |random: &mut Xoshiro256PlusPlus| RegionNumber(random.random_range(1..4));
    let received = random_words(random);
    let grants = (0..random.random_range(0..3))
        .map(|_| (region(random), random.random_range(0..9)))
        .collect();
    Claim {
        bases: Bases {
            now: random.random_range(0..20),
            before: random.random_bool(0.8).then(|| random.random_range(0..20)),
        },
        allowance: random.random_range(0..3),
        label_start: ClusterTime(label * 10),
        bound: random.random_bool(0.3).then(|| Bound {
            block: random.random_range(1..10),
            ceiling: random.random_range(0..15),
            epoch: StoreEpoch(random.random_range(0..2)),
        }),
        reopening: random.random_bool(0.1).then(|| Reopening {
            epoch: StoreEpoch(random.random_range(0..2)),
            used: random.random_range(0..15),
            given: (0..random.random_range(0..3))
                .map(|_| (region(random), random.random_range(0..9)))
                .collect(),
            received: random_words(random),
        }),
        granted: random.random_bool(0.3).then(|| {
            let known = (0..random.random_range(0..3))
                .map(|_| (region(random), random.random_range(0..9)))
                .collect();
            (StoreEpoch(random.random_range(0..2)), known)
        }),
        received,
        grants,
    }
}

/// A configuration, mostly of the time in which there are four of them.
fn random_proposal(random: &mut Xoshiro256PlusPlus, base: u64) -> Proposed {
    let newest = base.saturating_sub(105) / 25;
    let near = |random: &mut Xoshiro256PlusPlus| {
        random.random_bool(0.6).then(|| ClusterTime((base + random.random_range(0..4)) * 10))
    };
    Proposed {
        epoch: ConfigEpoch((newest + random.random_range(0..3)).saturating_sub(1)),
        from: near(random),
        agreed: near(random).filter(|_| random.random_bool(0.2)),
        since: random.random_bool(0.5).then(|| ClusterTime(random.random_range(0..base) * 10)),
        until: if random.random_bool(0.9) { StoreTime(u64::MAX) } else { StoreTime(0) },
    }
}

/// Random commands over few keys and labels, so that they meet.
fn random_command(s: &Subject, random: &mut Xoshiro256PlusPlus, base: u64) -> Vec<Operation> {
    let operations = random.random_range(1..=4);
    (0..operations)
        .map(|_| {
            let label = base + random.random_range(0..4);
            let charge = s.charge(random.random_range(0..6), label, random.random_range(1..8), 20);
            // Records are written otherwise from some thousands on.
            let used = random.random_range(0..6) * if random.random_bool(0.05) { 4_000 } else { 1 };
            Operation {
                action: match random.random_range(0..14) {
                    0 => Action::Peek,
                    1 | 2 => Action::Heal,
                    3 | 4 => Action::Grant,
                    5 => Action::Refund { amount: random.random_range(1..8) },
                    6 => Action::Settle { keep: random.random_range(0..8) },
                    7 => Action::Confirm,
                    _ => charge.action,
                },
                claim: random.random_bool(0.5).then(|| random_claim(random, label).into()),
                ceiling: random.random_range(0..40)
                    * if random.random_bool(0.1) { 1_000 } else { 1 },
                floor: if random.random_bool(0.2) {
                    Counts { used, refunded: random.random_range(0..=used) }
                } else {
                    Counts::default()
                },
                enforce: random.random_bool(0.8),
                hold: random.random_bool(0.3).then(|| Terms {
                    id: HoldId(random.random_range(1..20)),
                    lasts: Span::secs(3_600),
                    lapse: if random.random_bool(0.5) { Lapse::GivenBack } else { Lapse::Undone },
                }),
                not_before: if random.random_bool(0.02) {
                    charge.not_after
                } else {
                    charge.not_before
                },
                ..charge
            }
        })
        .collect()
}

#[tokio::test]
async fn redis_answers_as_memory_does() {
    answers_as_memory_does(&Subject::redis().await).await;
}

#[tokio::test]
async fn a_cluster_answers_as_memory_does() {
    answers_as_memory_does(&Subject::cluster().await.in_bucket(700)).await;
}

async fn answers_as_memory_does(redis: &Subject) {
    let memory = Subject::memory().in_bucket(redis.bucket);
    let seed = rand::random::<u64>();
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    for round in 0..4_000 {
        let operations = random_command(&memory, &mut random, 100 + round / 40);
        let story = format!("seed {seed}, round {round}: {operations:?}");
        // Labels are whole from the second half on.
        let proposed = random_proposal(&mut random, 100 + round / 40);
        let expected = Outcome::of(memory.propose(1_500, proposed, operations.clone()).await);
        let found = Outcome::of(redis.propose(1_500, proposed, operations).await);
        assert_eq!(found, expected, "{story}");
    }
}

#[tokio::test]
async fn a_restarted_redis_is_found_again_and_is_empty() {
    let mut s = Subject::redis().await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
    let mut redis = s.redis.take().expect("a server");
    redis.kill().expect("killed");
    let charge = vec![s.charge(1, 5, 1, 10)];
    let down = s.store.apply(&StoreCommand::new(charge)).await;
    assert!(down.is_err(), "{down:?}");
    redis.restart().await.expect("restarted");
    s.redis = Some(redis);
    for _ in 0..2_000 {
        let peek = vec![Operation { action: Action::Peek, ..s.charge(1, 5, 1, 0) }];
        if let Ok(reply) = s.store.apply(&StoreCommand::new(peek)).await {
            let StoreReply::Done { operations, .. } = reply else { panic!("relabel") };
            assert_eq!(operations[0].counts.used, 0);
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("redis was not found again");
}

#[tokio::test]
async fn a_connection_that_goes_dead_without_a_word_is_replaced() {
    let redis = RedisServer::start().await.expect("redis-server");
    let network = Network::to(redis.port()).await.expect("a port");
    let s = Subject::redis_behind(redis, network.port).await;
    assert_eq!(s.used(1, 1).await, 0);

    // What was connected stays connected and carries nothing any more: a firewall has forgotten it.
    let mut accepted = network.accepted.subscribe();
    let before = *accepted.borrow_and_update();
    network.generation.send_modify(|generation| *generation += 1);
    // The store may be without a connection for a moment only: what shows is the next one.
    let replaced = accepted.wait_for(|accepted| *accepted > before);
    let replaced = tokio::time::timeout(Duration::from_secs(10), replaced).await;
    assert!(replaced.is_ok_and(|made| made.is_ok()), "no other connection was made");
    s.until_reachable().await;
    assert_eq!(s.used(1, 1).await, 0);
}

/// Passes connections on to a port.
struct Network {
    port: u16,
    /// Connections of earlier generations carry nothing.
    generation: watch::Sender<u64>,
    /// Connections made so far.
    accepted: watch::Sender<u64>,
}

impl Network {
    async fn to(target: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (generation, current) = watch::channel(0);
        let accepted = watch::Sender::new(0);
        let count = accepted.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                count.send_modify(|accepted| *accepted += 1);
                let mut current = current.clone();
                current.mark_unchanged();
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(("127.0.0.1", target)).await?;
                    tokio::select! {
                        ended = copy_bidirectional(&mut from, &mut to) => ended.map(drop),
                        // Both ends stay open until the test is over.
                        Ok(()) = current.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Ok(Self { port, generation, accepted })
    }
}

#[tokio::test]
async fn a_record_of_another_version_or_type_is_an_error_and_nothing_is_charged() {
    let s = Subject::redis().await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
    let redis = s.redis.as_ref().expect("a server");
    let mut connection = redis.connection().await.expect("connected");
    let keys: Vec<Vec<u8>> =
        redis::cmd("KEYS").arg("test:*").query_async(&mut connection).await.expect("keys");
    let keys: Vec<_> = keys.into_iter().filter(|key| key.len() == "test:".len() + 16).collect();
    assert_eq!(keys.len(), 1);
    let shown: String = keys[0]
        .iter()
        .map(|byte| match byte {
            b'!'..=b'~' => char::from(*byte).to_string(),
            other => format!("\\x{other:02x}"),
        })
        .collect();
    let set = redis::cmd("DEL").arg(&keys[0]).query_async::<()>(&mut connection).await;
    set.expect("deleted");
    let push = redis::cmd("LPUSH").arg(&keys[0]).arg("x").query_async::<()>(&mut connection).await;
    push.expect("pushed");
    let both = vec![s.charge(2, 5, 1, 10), s.charge(1, 5, 1, 10)];
    let error = s.store.apply(&StoreCommand::new(both)).await.expect_err("wrong type");
    assert!(matches!(&error, StoreError::Record(why) if why.contains("WRONGTYPE")), "{error}");
    assert!(error.nothing_done());
    assert_eq!(s.used(2, 5).await, 0);

    // Of a later version, of none, and of ours with something else in it: as one record's fault, also where
    // the answer would have been another label.
    for foreign in
        [&b"\x02\x05\x01\x00\x00\x00"[..], b"hello", b"", b"\x01\x01", b"\x01\xa1x\x01\x01\x01\x01"]
    {
        let set =
            redis::cmd("SET").arg(&keys[0]).arg(foreign).query_async::<()>(&mut connection).await;
        set.expect("set");
        let late =
            Operation { not_after: s.clock.steady() - Span::secs(60), ..s.charge(1, 5, 1, 10) };
        for wrong in [s.charge(1, 5, 1, 10), s.heal(1, 5, 3), late] {
            let both = vec![s.charge(2, 5, 1, 10), wrong];
            let error = s.store.apply(&StoreCommand::new(both)).await.expect_err("not ours");
            assert!(matches!(&error, StoreError::Record(why) if why.contains(&shown)), "{error}");
        }
    }
    assert_eq!(s.used(2, 5).await, 0);
}

#[tokio::test]
async fn a_redis_that_is_far_away_is_reached() {
    let redis = RedisServer::start().await.expect("redis-server");
    let forwarder = Forwarder::start(redis.port()).await.expect("a port");
    forwarder.delay(Duration::from_millis(200));
    let port = forwarder.port();
    // Connecting takes more round trips than fit into a second.
    let s = Subject::redis_behind(redis, port).await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
}

#[tokio::test]
async fn nodes_agree_on_the_secret_that_the_first_one_left() {
    use tidegate_core::ids::Secret;
    let s = Subject::redis().await;
    let Store::Redis(redis) = &*s.store else { panic!("redis") };
    assert!(redis.agree_on_secret(Secret([1; 16])).await.expect("agreed") == Secret([1; 16]));
    assert!(redis.agree_on_secret(Secret([2; 16])).await.expect("agreed") == Secret([1; 16]));
}

#[tokio::test]
async fn a_full_memory_store_takes_no_new_key() {
    let clock = Clock::start();
    let store = MemoryStore::new(64, clock);
    let mut s = Subject::memory();
    (s.store, s.clock) = (Arc::new(Store::Memory(store)), clock);
    let mut full = 0;
    for caller in 0..1_000 {
        let charge = vec![s.charge(caller, 5, 1, 10)];
        full +=
            usize::from(s.store.apply(&StoreCommand::new(charge)).await == Err(StoreError::Full));
    }
    assert_eq!(full, 1_000 - 64);
    let _: StoreTime = clock.steady();
}
