//! What a Redis user must be allowed, what is said when it is not, and servers that may forget.

use super::*;

const SEEN: Duration = Duration::from_secs(10);
/// As in docs/configuration.md.
const ENOUGH: &str = "~test:* +evalsha +script|load +info +time +get +set +pttl";

/// A server whose user `gate` has these rights, and a store that uses it.
async fn as_user(rights: &str) -> Subject {
    as_user_of(0, rights).await
}

/// The same, with a database.
async fn as_user_of(database: u32, rights: &str) -> Subject {
    let redis = RedisServer::start().await.expect("redis-server");
    let mut connection = redis.connection().await.expect("connected");
    set_user(&mut connection, &format!("reset on >word {rights}")).await;
    let port = redis.port();
    Subject::redis_in(database, "gate:word@", redis, port)
}

async fn set_user(connection: &mut redis::aio::MultiplexedConnection, rules: &str) {
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("gate").arg(rules.split(' ').collect::<Vec<_>>());
    command.query_async::<()>(connection).await.expect("the rules are right");
}

/// What the store is refused with.
async fn refusal(s: &Subject) -> String {
    eventually(SEEN, "the store refuses", async || {
        let charge = s.charge(1, 5, 1, 10);
        match s.store.apply(&StoreCommand::new(vec![charge])).await {
            Err(error @ StoreError::Refused(_)) => Ok(error.to_string()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

#[tokio::test]
async fn the_rights_of_the_documents_are_enough() {
    let s = as_user(ENOUGH).await;
    s.until_reachable().await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10), s.heal(2, 5, 3)]).await));
    assert_eq!((s.used(1, 5).await, s.used(2, 5).await), (7, 3));
    let Store::Redis(redis) = &*s.store else { panic!("redis") };
    let secret = tidegate_core::ids::Secret([1; 16]);
    assert!(redis.agree_on_secret(secret).await.expect("agreed") == secret);
}

#[tokio::test]
async fn another_database_needs_the_right_to_select_it_and_has_to_be_there() {
    let s = as_user_of(3, &format!("{ENOUGH} +select")).await;
    s.until_reachable().await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
    assert_eq!(s.used(1, 5).await, 7);
    let redis = s.redis.as_ref().expect("a server");
    let here: i64 = redis.ask(&["DBSIZE"]).await.expect("answered");
    assert_eq!(here, 0, "nothing of it is in database 0");
    let s = as_user_of(4_711, &format!("{ENOUGH} +select")).await;
    let said = refusal(&s).await;
    assert!(said.contains("database 4711 of `store.url` cannot be selected"), "{said}");
}

#[tokio::test]
async fn every_right_that_is_missing_is_named_at_the_connection() {
    for right in ["+evalsha", "+script|load", "+info", "+time", "+get", "+set", "+pttl"] {
        let s = as_user(ENOUGH.replace(right, "").replace("  ", " ").trim()).await;
        let said = refusal(&s).await;
        assert!(said.contains(right) && said.contains("ACL SETUSER"), "{right}: {said}");
        for other in ["+evalsha", "+script|load", "+info", "+time", "+get", "+set", "+pttl"] {
            assert_eq!(said.contains(other), other == right, "{right}: {said}");
        }
        assert!(!s.store.is_reachable());
    }
    let s = as_user_of(1, ENOUGH).await;
    let said = refusal(&s).await;
    assert!(said.contains("lacks the rights +select: give it"), "{said}");
    let s = as_user_of(1, &ENOUGH.replace(" +set", "")).await;
    let said = refusal(&s).await;
    assert!(said.contains("+select, +set on keys ~test:*"), "{said}");
    let s = as_user(&ENOUGH.replace("~test:*", "~other:*")).await;
    let said = refusal(&s).await;
    assert!(
        said.contains("+get on keys ~test:*, +pttl on keys ~test:*, +set on keys ~test:*"),
        "{said}"
    );
}

#[tokio::test]
async fn a_right_that_is_taken_while_connected_is_refused_named_and_found_again() {
    let s = as_user(ENOUGH).await;
    s.until_reachable().await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
    let mut connection = s.connection().await;
    set_user(&mut connection, "-set").await;
    let said = refusal(&s).await;
    assert!(said.contains("lacks a right") || said.contains("+set"), "{said}");
    set_user(&mut connection, "-get").await;
    eventually(SEEN, "the missing rights are named", async || {
        let said = refusal(&s).await;
        ensure(said.contains("+get on keys ~test:*"), || said)
    })
    .await;
    set_user(&mut connection, "+get +set").await;
    s.until_reachable().await;
    assert_eq!(s.used(1, 5).await, 7);
}

#[tokio::test]
async fn a_wrong_password_is_said() {
    let redis = RedisServer::start().await.expect("redis-server");
    let mut connection = redis.connection().await.expect("connected");
    set_user(&mut connection, "reset on >other").await;
    let port = redis.port();
    let s = Subject::redis_as("gate:word@", redis, port);
    let said = refusal(&s).await;
    assert!(said.to_lowercase().contains("password"), "{said}");
    assert!(!said.contains("word@"), "{said}");
}

#[tokio::test]
async fn a_server_that_may_evict_is_noticed_and_one_that_may_not_is_not() {
    let redis = RedisServer::start().await.expect("redis-server");
    let mut connection = redis.connection().await.expect("connected");
    let set = ["SET", "maxmemory-policy", "allkeys-lru"];
    redis::cmd("CONFIG").arg(&set).query_async::<()>(&mut connection).await.expect("set");
    assert!(Subject::redis_at(redis).await.store.may_evict());
    assert!(!Subject::redis().await.store.may_evict());
}

/// What of strict and bounded limits cannot be left to a server that hands over to a replica while it goes on.
#[tokio::test]
async fn a_server_that_goes_on_without_its_replicas_is_in_doubt() {
    let s = Subject::redis().await;
    assert_eq!(s.store.doubt(), None);
    let port = s.redis.as_ref().expect("a server").port().to_string();
    let replica = RedisServer::start().await.expect("redis-server");
    replica.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]).await.expect("told");
    let seen = async |doubt: Option<Doubt>| {
        eventually(SEEN, "a probe sees it", async || {
            ensure(s.store.doubt() == doubt, || format!("{:?}", s.store.doubt()))
        })
        .await;
    };
    seen(Some(Doubt::GoesOnAlone)).await;
    // One that is gone may have been promoted behind a cut: it stays so.
    replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await.expect("told");
    let server = s.redis.as_ref().expect("a server");
    let says = async |section: &str, what: &str| {
        eventually(SEEN, what, async || {
            let said = server.ask::<String>(&["INFO", section]).await.map_err(|e| e.to_string())?;
            ensure(said.contains(what), || said)
        })
        .await;
    };
    says("replication", "connected_slaves:0").await;
    server.ask::<()>(&["CONFIG", "RESETSTAT"]).await.expect("reset");
    // Each probe is a step, after a look at the replicas.
    says("commandstats", "cmdstat_evalsha:calls=2").await;
    assert_eq!(s.store.doubt(), Some(Doubt::GoesOnAlone));
    let mut connection = s.connection().await;
    let set = ["SET", "min-replicas-to-write", "1"];
    redis::cmd("CONFIG").arg(&set).query_async::<()>(&mut connection).await.expect("set");
    seen(None).await;
}

#[tokio::test]
async fn a_full_server_refuses_what_writes_and_keeps_what_it_has() {
    let s = Subject::redis().await;
    assert!(admitted(&s.outcome(vec![s.charge(1, 5, 7, 10)]).await));
    let mut connection = s.connection().await;
    let set = |value: &'static str| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("maxmemory").arg(value);
        command
    };
    set("1").query_async::<()>(&mut connection).await.expect("set");
    let said = refusal(&s).await;
    assert!(said.contains("OOM"), "{said}");
    set("0").query_async::<()>(&mut connection).await.expect("set");
    s.until_reachable().await;
    assert_eq!(s.used(1, 5).await, 7);
}
