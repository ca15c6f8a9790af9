//! When a store begins a new epoch, and when it does not.

use super::*;

/// How soon a probe must have seen what has changed: they are 250 ms apart.
const SEEN: Duration = Duration::from_secs(10);

async fn run<T: redis::FromRedisValue>(s: &Subject, words: &[&str]) -> T {
    let mut connection = s.connection().await;
    let answer = redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await;
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Kills the server and starts it anew; it has what was last saved.
async fn restart(s: &mut Subject) {
    let mut redis = s.redis.take().expect("a server");
    redis.kill().expect("killed");
    redis.restart().await.expect("restarted");
    s.redis = Some(redis);
    eventually(SEEN, "the store answers", async || {
        let answer = s.store.apply(&StoreCommand::default()).await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_wiped_redis_begins_a_new_epoch_even_for_a_node_that_asks_nothing() {
    let s = Subject::redis().await;
    let before = s.epoch().await;
    run::<()>(&s, &["FLUSHALL"]).await;
    eventually(SEEN, "a probe finds the new epoch", async || {
        ensure(s.seen_epoch() > Some(before), || format!("{:?}", s.seen_epoch()))
    })
    .await;
    let after = s.epoch().await;
    assert_eq!(s.seen_epoch(), Some(after));
    assert_eq!(s.epoch().await, after, "it begins once");
}

#[tokio::test]
async fn a_lost_marker_begins_a_new_epoch_and_lost_records_alone_do_not() {
    let s = Subject::redis().await;
    let before = s.epoch().await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
    run::<()>(&s, &["DEL", "test:{0}epoch"]).await;
    let after = s.epoch().await;
    assert!(after > before, "{after} after {before}");
    assert_eq!(s.used(1, 5).await, 7, "records are kept");
}

#[tokio::test]
async fn a_restarted_redis_is_in_a_new_epoch_also_where_it_kept_its_records() {
    let mut s = Subject::redis().await;
    let before = s.epoch().await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
    run::<()>(&s, &["SAVE"]).await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 2, 10)]).await));
    restart(&mut s).await;
    // The marker was saved too, but the server's history is another one: it lacks what came last.
    assert_eq!(s.used(1, 5).await, 7);
    let after = s.epoch().await;
    assert!(after > before, "{after} after {before}");
    assert_eq!(s.epoch().await, after);
}

#[tokio::test]
async fn a_promoted_replica_is_in_a_new_epoch_under_a_connection_that_stands() {
    let primary = RedisServer::start().await.expect("redis-server");
    let s = Subject::redis().await;
    let port = primary.port().to_string();
    // What the replica has comes from its primary, marker included.
    run::<()>(&s, &["REPLICAOF", "127.0.0.1", &port]).await;
    let theirs = Subject::redis_at(primary).await;
    let before = theirs.epoch().await;
    assert!(admitted(&theirs.outcome(vec![theirs.charge(1, 5, 7, 10)]).await));
    eventually(SEEN, "the replica has it all", async || {
        let mut connection = s.connection().await;
        let keys = redis::cmd("DBSIZE").query_async::<u64>(&mut connection).await;
        let keys = keys.map_err(|error| error.to_string())?;
        // The marker, and two records.
        ensure(keys == 3, || format!("{keys} keys"))?;
        // It takes its primary's history over last.
        let info = run::<String>(&s, &["INFO", "replication"]).await;
        ensure(info.contains("master_link_status:up"), || info)
    })
    .await;
    assert_eq!(s.epoch_of_a_look().await, before, "a replica is of its primary's history");

    run::<()>(&s, &["REPLICAOF", "NO", "ONE"]).await;
    eventually(SEEN, "a probe sees the promotion", async || {
        ensure(s.seen_epoch() > Some(before), || format!("{:?}", s.seen_epoch()))
    })
    .await;
    assert!(s.epoch().await > before);
    assert_eq!(s.used(1, 5).await, 7);
    assert_eq!(theirs.epoch().await, before, "the old primary does not know");
}

#[tokio::test]
async fn two_stores_that_see_a_promotion_one_after_the_other_agree_on_one_epoch() {
    let s = Subject::redis().await;
    let before = s.epoch().await;
    // Another node, whose connection was made under the history before.
    run::<()>(&s, &["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(s.epoch().await, before, "a primary that is told to be one goes on");
    let port = s.redis.as_ref().expect("a server").port().to_string();
    let other = Subject::redis().await;
    run::<()>(&other, &["REPLICAOF", "127.0.0.1", &port]).await;
    eventually(SEEN, "the replica is in step", async || {
        let info = run::<String>(&other, &["INFO", "replication"]).await;
        ensure(info.contains("master_link_status:up"), || info)
    })
    .await;
    run::<()>(&other, &["REPLICAOF", "NO", "ONE"]).await;
    // At once, most likely before a probe: a caller that is stale does not make an epoch of its own.
    let (port, mut epochs) = (other.redis.as_ref().expect("a server").port(), Vec::new());
    for _ in 0..3 {
        let settings = RedisSettings {
            url: format!("redis://127.0.0.1:{port}/0"),
            tls: None,
            timeout: Duration::from_secs(2),
            namespace: "test".into(),
        };
        let node = Arc::new(RedisStore::new(settings).expect("a URL"));
        let keeper = tokio::spawn({
            let node = Arc::clone(&node);
            async move { node.keep_connected().await }
        });
        let epoch = eventually(SEEN, "a node is connected", async || {
            let answer = node.apply(&StoreCommand::default()).await;
            answer.map(|reply| reply.epoch()).map_err(|error| error.to_string())
        })
        .await;
        keeper.abort();
        epochs.push(epoch);
    }
    eventually(SEEN, "all agree", async || {
        let epoch = other.epoch().await;
        ensure(epochs.iter().all(|one| *one == epoch), || format!("{epoch}, {epochs:?}"))
    })
    .await;
    assert!(epochs[0] > before);
}

#[tokio::test]
async fn a_marker_that_is_not_one_is_refused_by_its_name_and_nothing_is_done() {
    for foreign in [&["LPUSH", MARKER, "x"][..], &["SET", MARKER, "2 abc 5"], &["SET", MARKER, ""]]
    {
        let s = Subject::redis().await;
        assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
        run::<()>(&s, &["DEL", MARKER]).await;
        run::<()>(&s, foreign).await;
        // Before a probe has seen it and after.
        eventually(SEEN, "it is found by a probe", async || {
            let charge = StoreCommand::new(vec![s.charge(1, 5, 1, 10)]);
            let error = s.store.apply(&charge).await.expect_err("the marker is not one");
            assert_eq!(error.kind(), "refused", "{error}");
            assert!(
                error.to_string().contains("marker test:{0}epoch is not one of ours"),
                "{error}"
            );
            assert!(error.nothing_done());
            ensure(!s.store.is_reachable(), || "not yet".into())
        })
        .await;
        run::<()>(&s, &["DEL", MARKER]).await;
        s.until_reachable().await;
        assert_eq!(s.used(1, 5).await, 7);
    }
}

const MARKER: &str = "test:{0}epoch";

#[tokio::test]
async fn a_memory_store_is_of_one_epoch_and_a_later_one_of_a_later() {
    let one = Subject::memory();
    let epoch = one.epoch().await;
    eventually(SEEN, "the clock moves on", async || {
        ensure(one.clock.steady().0 > epoch.0, || "not yet".into())
    })
    .await;
    assert_eq!(one.epoch().await, epoch);
    assert!(Subject::memory().epoch().await > epoch);
}

impl Subject {
    /// The epoch of an answer to a look, which a replica gives too.
    async fn epoch_of_a_look(&self) -> StoreEpoch {
        let peek = Operation { action: Action::Peek, ..self.charge(1, 5, 1, 0) };
        eventually(SEEN, "the store answers a look", async || {
            let answer = self.store.apply(&StoreCommand::new(vec![peek.clone()])).await;
            answer.map(|reply| reply.epoch()).map_err(|error| error.to_string())
        })
        .await
    }
}
