//! A Redis Cluster as a store: what is where, what moves, and what is gone.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicU16, Ordering},
};

use tidegate_core::store::{Once, RequestId};
use tidegate_node::store::Door;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// How soon what changed must be known.
const SEEN: Duration = Duration::from_secs(20);

impl Subject {
    fn servers(&self) -> &redis_cluster::RedisCluster {
        self.cluster.as_ref().expect("a cluster")
    }

    async fn try_outcome(&self, operations: Vec<Operation>) -> Result<Outcome, StoreError> {
        self.store.apply(&StoreCommand::new(operations)).await.map(Outcome::of)
    }

    /// Where the bucket is: its slot, and the place of its server.
    async fn place(&self) -> (u16, usize) {
        let slot = self.servers().slot_of_bucket(self.bucket).await;
        (slot, self.servers().owner(slot).await)
    }

    fn marker(&self) -> String {
        format!("test:{{{}}}epoch", self.bucket)
    }

    /// The key of a caller's record, which is there.
    async fn record(&self, caller: u64) -> String {
        let Key { caller, limit } = self.key(caller);
        format!("test:{{{}}}{caller:?}{:08x}", self.bucket, limit.0)
    }

    fn door(&self) -> Result<Door, StoreError> {
        let Store::Cluster(cluster) = &*self.store else { panic!("a cluster") };
        let door = cluster.door(&StoreCommand::new(vec![self.charge(1, 5, 1, 10)]))?;
        Ok(door.expect("one bucket"))
    }
}

fn is_unserved(outcome: &Result<Outcome, StoreError>) -> bool {
    outcome.as_ref().is_err_and(|error| {
        assert!(error.nothing_done());
        matches!(error, StoreError::Unserved(_))
    })
}

/// Callers in three buckets, each on a server of its own.
async fn spread() -> (Subject, impl Fn(&Subject, u64) -> Vec<Operation>) {
    let s = Subject::cluster().await;
    let charges = |s: &Subject, cost: u64| {
        let charge = |bucket: u64| {
            let key = Key { caller: Caller([7 | bucket << 32, 9]), limit: LimitId(1) };
            Operation { key, ..s.charge(1, 5, cost, 40) }
        };
        [0, 1, 3].map(charge).into()
    };
    (s, charges)
}

/// Net use of each.
async fn used_of(s: &Subject, operations: &[Operation]) -> Vec<u64> {
    let peek = |o: &Operation| Operation { action: Action::Peek, ..o.clone() };
    match s.outcome(operations.iter().map(peek).collect()).await {
        Outcome::Done { operations, .. } => {
            operations.iter().map(|(_, counts)| counts.net()).collect()
        }
        Outcome::Relabel(_) => panic!("relabel"),
    }
}

#[tokio::test]
async fn a_command_over_several_servers_is_all_or_nothing() {
    let (s, charges) = spread().await;
    assert!(admitted(&s.outcome(charges(&s, 30)).await));
    assert_eq!(used_of(&s, &charges(&s, 1)).await, [30, 30, 30]);
    // One of them has no room: nothing stays of the others, and nobody is told that it is used.
    let last = charges(&s, 5).remove(2);
    assert!(admitted(&s.outcome(vec![last]).await));
    let Outcome::Done { admitted: false, operations, .. } = s.outcome(charges(&s, 8)).await else {
        panic!("35 and 8 of 40")
    };
    let told: Vec<_> = operations.iter().map(|(passes, counts)| (*passes, counts.used)).collect();
    assert_eq!(told, [(true, 30), (true, 30), (false, 35)]);
    assert_eq!(used_of(&s, &charges(&s, 1)).await, [30, 30, 35]);
    // What is reserved is settled at each.
    let hold = Some(Terms { id: HoldId(7), lasts: Span::secs(60), lapse: Lapse::GivenBack });
    let held = |cost| charges(&s, cost).into_iter().map(move |o| Operation { hold, ..o });
    assert!(admitted(&s.outcome(held(5).collect()).await));
    let once = |says| {
        let (id, kept) = (RequestId([7, 7]), Span::secs(60));
        Some(Once { id, of: 0, says, kept, refusals: false })
    };
    let settle = |keep| StoreCommand {
        once: once(keep),
        ..StoreCommand::new(
            held(1).map(|o| Operation { action: Action::Settle { keep }, ..o }).collect(),
        )
    };
    let settled = s.store.apply(&settle(2)).await.expect("answered");
    assert!(matches!(settled, StoreReply::Done { admitted: true, .. }), "{settled:?}");
    assert_eq!(used_of(&s, &charges(&s, 1)).await, [32, 32, 37]);
    let again = s.store.apply(&settle(0)).await.expect("answered");
    assert!(
        matches!(again, StoreReply::Repeated { ref first, .. } if first.says == 2),
        "{again:?}"
    );
    assert_eq!(used_of(&s, &charges(&s, 1)).await, [32, 32, 37]);
}

#[tokio::test]
async fn a_name_over_several_servers_is_answered_as_it_was_first() {
    let (s, charges) = spread().await;
    let named = |name, of, says, operations| {
        let (id, kept) = (RequestId([8, name]), Span::secs(60));
        let once = Some(Once { id, of, says, kept, refusals: true });
        StoreCommand { once, ..StoreCommand::new(operations) }
    };
    let apply = async |command| s.store.apply(&command).await.expect("answered");
    let repeats = |reply: StoreReply| match reply {
        StoreReply::Repeated { first, .. } => (first.answer.admitted, first.says),
        other => panic!("{other:?}"),
    };
    let first = apply(named(1, 0, 11, charges(&s, 30))).await;
    assert!(matches!(first, StoreReply::Done { admitted: true, .. }), "{first:?}");
    for says in [12, 13] {
        assert_eq!(repeats(apply(named(1, 0, says, charges(&s, 30))).await), (true, 11));
    }
    assert_eq!(used_of(&s, &charges(&s, 1)).await, [30, 30, 30]);
    let other = apply(named(1, 1, 14, charges(&s, 30))).await;
    assert!(matches!(other, StoreReply::OtherRequest { .. }), "{other:?}");
    // A refusal as well, and what stands in it: what was not charged is not in it.
    let last = charges(&s, 5).remove(2);
    assert!(admitted(&s.outcome(vec![last]).await));
    let refused = apply(named(2, 0, 21, charges(&s, 8))).await;
    assert!(matches!(refused, StoreReply::Done { admitted: false, .. }), "{refused:?}");
    let back = |o| Operation { action: Action::Refund { amount: 5 }, ..o };
    s.outcome(vec![back(charges(&s, 5).remove(2))]).await;
    let again = apply(named(2, 0, 22, charges(&s, 8))).await;
    let StoreReply::Repeated { first, .. } = &again else { panic!("{again:?}") };
    let told = first.answer.operations.iter().map(|(_, o)| (o.passes, o.counts.used));
    assert_eq!(told.collect::<Vec<_>>(), [(true, 30), (true, 30), (false, 35)]);
    assert_eq!(repeats(again), (false, 21));
    assert_eq!(used_of(&s, &charges(&s, 1)).await, [30, 30, 30]);
}

#[tokio::test]
async fn commands_over_several_servers_meet_and_none_is_over() {
    let (s, charges) = spread().await;
    let calls = (0..64).map(|_| {
        let (store, command) = (Arc::clone(&s.store), StoreCommand::new(charges(&s, 1)));
        tokio::spawn(async move { store.apply(&command).await })
    });
    let mut passed = 0;
    for call in calls.collect::<Vec<_>>() {
        let reply = call.await.expect("no panic").expect("answered");
        passed += u64::from(matches!(reply, StoreReply::Done { admitted: true, .. }));
    }
    assert!((1..=40).contains(&passed), "{passed}");
    assert_eq!(used_of(&s, &charges(&s, 1)).await, [passed; 3]);
    // Who has been refused for what was undone since, has room.
    for _ in passed..40 {
        assert!(admitted(&s.outcome(charges(&s, 1)).await));
    }
    assert!(!admitted(&s.outcome(charges(&s, 1)).await));
}

#[tokio::test]
async fn what_a_dead_server_leaves_behind_is_undone_in_time() {
    let (mut s, charges) = spread().await;
    assert!(admitted(&s.outcome(charges(&s, 1)).await));
    // The last one asked.
    let owner = s.servers().owner(s.servers().slot_of_bucket(3).await).await;
    let servers = s.cluster.as_mut().expect("a cluster");
    servers.server_mut(owner).kill().expect("killed");
    let failed = s.store.apply(&StoreCommand::new(charges(&s, 20))).await;
    assert!(failed.is_err(), "{failed:?}");
    let rest = &charges(&s, 1)[..2];
    eventually(Duration::from_secs(20), "what was held is undone", async || {
        let used = used_of(&s, &rest[..1]).await;
        ensure(used == [1], || format!("{used:?}"))
    })
    .await;
}

#[tokio::test]
async fn records_are_on_all_servers_and_each_bucket_has_a_marker_of_its_own() {
    let mut s = Subject::cluster().await;
    for bucket in 0..60 {
        s = s.in_bucket(bucket);
        assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
    }
    let mut records = 0;
    for at in 0..3 {
        let here: i64 = s.servers().ask(at, &["DBSIZE"]).await;
        let markers: Vec<String> = s.servers().ask(at, &["KEYS", "test:*epoch"]).await;
        assert!((300..380).contains(&markers.len()), "{} markers on {at}", markers.len());
        let here = here - markers.len() as i64;
        assert!(here > 10, "{here} records on {at}");
        records += here;
    }
    assert_eq!(records, 60);
}

#[tokio::test]
async fn a_server_that_is_wiped_begins_new_epochs_of_its_buckets_only_even_if_nobody_asks() {
    let s = Subject::cluster().await;
    let (_, at) = s.place().await;
    let before = s.store.epochs();
    s.servers().ask::<()>(at, &["FLUSHALL"]).await;
    let mut lost = 0;
    for bucket in 0..1_024 {
        let owner = s.servers().slot_of_bucket(bucket).await / 5_462;
        lost += usize::from(usize::from(owner) == at);
    }
    let newer = || {
        let both = before.iter().zip(s.store.epochs());
        both.filter(|((bucket, old), (same, new))| {
            assert_eq!(bucket, same);
            new > old
        })
        .count()
    };
    eventually(SEEN, "all its buckets are in a new epoch", async || {
        let newer = newer();
        ensure(newer == lost, || format!("{newer} of {lost}"))
    })
    .await;
    // Others are looked at too, and have not begun one.
    let looks = || s.servers().ask::<String>((at + 1) % 3, &["INFO", "commandstats"]);
    let evals = |info: String| {
        let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        let calls = line.and_then(|line| line.split(',').next()?.parse::<u64>().ok());
        calls.expect("a number")
    };
    let first = evals(looks().await);
    eventually(SEEN, "further looks at another server", async || {
        let now = evals(looks().await);
        ensure(now >= first + 4, || format!("{now} after {first}"))
    })
    .await;
    assert_eq!(newer(), lost);
}

#[tokio::test]
async fn a_server_that_has_forgotten_the_script_is_told_it_again() {
    let s = Subject::cluster().await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
    for at in 0..3 {
        s.servers().ask::<()>(at, &["SCRIPT", "FLUSH"]).await;
    }
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 3, 10)]).await));
    assert!(!admitted(&s.outcome(vec![s.charge(1, 5, 1, 10)]).await));
}

/// Step by step: whatever of a slot's keys has moved, a command is carried out on all of its keys or not at all.
#[tokio::test]
async fn while_a_slot_moves_a_command_sees_all_its_keys_or_is_not_carried_out() {
    let s = Subject::cluster().await;
    let (slot, from) = s.place().await;
    let to = (from + 1) % 3;
    for caller in [1, 2] {
        assert!(admitted(&s.outcome(vec![s.charge(caller, 5, 7, 10)]).await));
    }
    let before = s.epoch().await;
    let (one, marker) = (s.record(1).await, s.marker());
    let servers = s.servers();

    servers.begin_to_move(slot, from, to).await;
    assert_eq!(s.used(1, 5).await, 7, "nothing has moved");
    // Its record is nowhere: it might have moved.
    assert!(is_unserved(&s.try_outcome(vec![s.charge(3, 5, 1, 10)]).await));

    servers.move_keys(std::slice::from_ref(&one), from, to).await;
    assert!(
        is_unserved(&s.try_outcome(vec![s.charge(1, 5, 1, 10)]).await),
        "its marker has not moved"
    );
    assert!(admitted(&s.outcome(vec![s.charge(2, 5, 1, 10)]).await));

    servers.move_keys(&[marker], from, to).await;
    assert!(
        is_unserved(&s.try_outcome(vec![s.charge(2, 5, 1, 10)]).await),
        "its record has not moved"
    );
    let there = s.ask(vec![s.charge(1, 5, 1, 10)]).await;
    assert!(there.epoch() > before, "the other server's history is another one");
    let after = there.epoch();
    assert!(admitted(&Outcome::of(there)));

    while servers.move_some(slot, from, to).await {}
    assert!(admitted(&s.outcome(vec![s.charge(2, 5, 1, 10)]).await));
    servers.end_move(slot, from, to).await;
    eventually(SEEN, "the slot has moved", async || {
        let moved = s.try_outcome(vec![s.charge(3, 5, 1, 10)]).await;
        moved.map(|moved| assert!(admitted(&moved))).map_err(|error| error.to_string())
    })
    .await;
    assert_eq!((s.used(1, 5).await, s.used(2, 5).await), (8, 9), "nothing is lost");
    assert!(!admitted(&s.outcome(vec![s.charge(1, 5, 3, 10)]).await));
    assert_eq!(s.ask(vec![]).await.epoch(), after, "it begins once");
    // What is known of where slots are follows: nobody is redirected for ever.
    eventually(SEEN, "no more redirections", async || {
        let redirected = async || {
            let info: String = servers.try_ask(from, &["INFO", "errorstats"]).await?;
            Ok::<_, String>(info.lines().find(|l| l.contains("MOVED")).unwrap_or("none").to_owned())
        };
        let before = redirected().await?;
        assert_eq!(s.used(1, 5).await, 8);
        let after = redirected().await?;
        ensure(before == after, || format!("{before}, {after}"))
    })
    .await;
}

#[tokio::test]
async fn a_dead_server_holds_up_no_other_and_is_named() {
    let mut s = Subject::cluster().await;
    let (_, at) = s.place().await;
    assert!(s.door().is_ok_and(|door| door.reachable));
    let mut cluster = s.cluster.take().expect("a cluster");
    cluster.server_mut(at).kill().expect("killed");
    s.cluster = Some(cluster);
    eventually(SEEN, "its calls fail", async || {
        let answer = s.try_outcome(vec![s.charge(1, 5, 1, 10)]).await;
        ensure(answer == Err(StoreError::Unreachable), || format!("{answer:?}"))
    })
    .await;
    assert!(s.door().is_ok_and(|door| !door.reachable));
    assert!(s.store.is_reachable());
    let port = s.servers().server(at).port().to_string();
    let ailing = s.store.ailing();
    assert!(ailing.len() == 1 && ailing[0].contains(&port), "{ailing:?}");
    for bucket in [0, 1, 3] {
        s = s.in_bucket(bucket);
        let answer = s.try_outcome(vec![s.charge(1, 5, 1, 10)]).await;
        let is_there = s.servers().slot_of_bucket(bucket).await / 5_462 != at as u16;
        assert_eq!(answer.is_ok(), is_there, "{bucket}: {answer:?}");
    }
    // It comes back empty, in other epochs.
    let before = s.store.epochs();
    let mut cluster = s.cluster.take().expect("a cluster");
    cluster.server_mut(at).restart().await.expect("restarted");
    s.cluster = Some(cluster);
    eventually(SEEN, "it is found again, in other epochs", async || {
        let (ailing, epochs) = (s.store.ailing(), s.store.epochs());
        let newer = before.iter().zip(epochs).filter(|((_, old), (_, new))| new > old).count();
        ensure(ailing.is_empty() && newer > 300, || format!("{ailing:?}, {newer} newer"))
    })
    .await;
}

#[tokio::test]
async fn who_is_no_cluster_and_who_is_one_are_told_apart() {
    let redis = RedisServer::start().await.expect("redis-server");
    let cluster = redis_cluster::RedisCluster::start(1, 0).await;
    let no_cluster = format!("redis-cluster://127.0.0.1:{}", redis.port());
    let one_of_many = format!("redis://127.0.0.1:{}/0", cluster.server(0).port());
    for (url, said) in [(no_cluster, "cluster support disabled"), (one_of_many, "redis-cluster://")]
    {
        let s = Subject::at(&url);
        eventually(SEEN, said, async || {
            let answer = s.try_outcome(vec![s.charge(1, 5, 1, 10)]).await;
            let error = answer.map(|_| String::new()).unwrap_or_else(|error| error.to_string());
            ensure(error.contains(said) && !s.store.is_reachable(), || error.clone())
        })
        .await;
    }
}

#[tokio::test]
async fn a_cluster_names_the_rights_that_a_user_lacks() {
    let cluster = redis_cluster::RedisCluster::start(1, 0).await;
    let enough =
        "+evalsha +script|load +info +time +get +set +pttl +cluster|nodes +cluster|info +asking";
    let set = async |rights: &str| {
        let mut words = vec!["ACL", "SETUSER", "gate", "reset", "on", ">word", "~test:*"];
        words.extend(rights.split(' '));
        cluster.ask::<()>(0, &words).await;
    };
    set(&enough.replace(" +cluster|info", "").replace(" +get", "")).await;
    let s = Subject::at(&cluster.url().replace("://", "://gate:word@"));
    eventually(SEEN, "the rights are named", async || {
        let answer = s.try_outcome(vec![s.charge(1, 5, 1, 10)]).await;
        let error = answer.map(|_| String::new()).unwrap_or_else(|error| error.to_string());
        ensure(error.contains("+get on keys ~test:*, +cluster|info"), || error.clone())
    })
    .await;
    set(enough).await;
    s.until_whole().await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
    let secret = tidegate_core::ids::Secret([1; 16]);
    assert!(s.store.agree_on_secret(secret).await.expect("agreed") == secret);
    let other = tidegate_core::ids::Secret([2; 16]);
    assert!(s.store.agree_on_secret(other).await.expect("agreed") == secret);
}

/// Passes bytes on between nodes and a server, and breaks a connection between a command and its answer.
#[derive(Default)]
struct Breaker {
    /// Where the server listens.
    server: AtomicU16,
    /// Whether the next command that has these bytes in it is the last that its connection carries.
    armed: AtomicBool,
    word: parking_lot::Mutex<Vec<u8>>,
}

impl Breaker {
    async fn pass_on(self: Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        let server = (Ipv4Addr::LOCALHOST, self.server.load(Ordering::SeqCst));
        let server = TcpStream::connect(server).await?;
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let (mut commands, mut answers) = ([0; 65_536], [0; 65_536]);
        let mut last = false;
        loop {
            tokio::select! {
                read = from_client.read(&mut commands) => {
                    let said = &commands[..read?];
                    let word = self.word.lock().clone();
                    let is_it = !word.is_empty() && said.windows(word.len()).any(|bytes| bytes == word);
                    last |= is_it && self.armed.swap(false, Ordering::SeqCst);
                    to_server.write_all(said).await?;
                    if said.is_empty() {
                        return Ok(());
                    }
                }
                read = from_server.read(&mut answers) => {
                    let said = &answers[..read?];
                    // It was carried out, and nobody hears of it.
                    if last || said.is_empty() {
                        return Ok(());
                    }
                    to_client.write_all(said).await?;
                }
            }
        }
    }
}

#[tokio::test]
async fn what_may_have_been_carried_out_is_not_sent_again() {
    let free = || async { TcpListener::bind("127.0.0.1:0").await.expect("a port") };
    let listener = free().await;
    let port = listener.local_addr().expect("one").port();
    let announced = port.to_string();
    let announces = ["--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", &announced];
    let redis = RedisServer::start_in_cluster(&announces).await;
    let redis = redis.expect("redis-server");
    let slots: Vec<_> = (0..16_384).map(|slot| slot.to_string()).collect();
    let words = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str));
    redis.ask::<()>(&words.collect::<Vec<_>>()).await.expect("it takes slots");
    let breaker = Arc::new(Breaker::default());
    breaker.server.store(redis.port(), Ordering::SeqCst);
    let passing = tokio::spawn({
        let breaker = Arc::clone(&breaker);
        async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&breaker).pass_on(client));
            }
        }
    });
    let s = Subject::at(&format!("redis-cluster://127.0.0.1:{port}"));
    s.until_whole().await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 1, 100)]).await));
    *breaker.word.lock() = s.record(1).await.into_bytes();
    for broken in 1..=5 {
        breaker.armed.store(true, Ordering::SeqCst);
        let answer = s.try_outcome(vec![s.charge(1, 5, 1, 100)]).await;
        let error = answer.expect_err("nobody heard of it");
        assert!(matches!(error, StoreError::Broken(_)) && !error.nothing_done(), "{error:?}");
        s.until_whole().await;
        assert_eq!(s.used(1, 5).await, 1 + broken, "it was carried out once");
    }
    passing.abort();
}
