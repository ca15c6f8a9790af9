//! A region whose store is a Redis Cluster: exact under load, while slots move, and while servers die.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tidegate_tests::{
    ensure, eventually,
    faulted::{self, Figures},
    named::{Asked, ask_by_names},
    redis_cluster::RedisCluster,
    redis_server::RedisServer,
    site::{Place, Served, Site},
};
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(60);
const QUANTITY: u64 = 60;
const NODES: usize = 4;
const CLIENTS: usize = 64;
const KEYS: usize = 12;
const LOAD: Duration = Duration::from_secs(8);

const POLICIES: &str = r#"
[[policy]]
name = "all"
key = ["api_key"]
on_store_failure = "closed"
[[policy.limit]]
name = "quota"
quantity = 60
window = "400d"
[[policy.limit]]
name = "bucket"
quantity = 60
window = "300d"
algorithm = "token-bucket"
"#;

fn say(figures: &Figures) {
    writeln!(io::stdout(), "{}", figures.line()).expect("standard output takes a line");
}

/// Four nodes of a region whose store is a cluster.
struct Region {
    served: Vec<Served>,
    site: Site,
    /// Where each is, and its configuration.
    places: Vec<(Place, String)>,
}

impl Region {
    async fn start(cluster: &RedisCluster) -> Self {
        Self::start_with(cluster, POLICIES).await
    }

    async fn start_with(cluster: &RedisCluster, policies: &str) -> Self {
        let site = Site::new(policies);
        let places: Vec<_> = (0..NODES).map(|n| site.place("eu", &format!("eu-{n}"))).collect();
        // Nothing is to be answered without the store because this machine is busy.
        let store = format!(
            "kind = \"redis\"\nurl = \"{}\"\ntimeout = \"5s\"\n[store.breaker]\np95 = \"off\"",
            cluster.url()
        );
        let configured = places.iter().map(|place| {
            let seeds: Vec<_> = places.iter().filter(|seed| seed.node != place.node).collect();
            (place.clone(), site.config_with(place, &seeds, &store))
        });
        let places: Vec<_> = configured.collect();
        let served: Vec<_> =
            places.iter().map(|(place, config)| site.serve(place, config)).collect();
        for node in served.iter().map(|served| &served.node) {
            node.ready(SOON).await;
            eventually(SOON, "the store is whole", async || {
                let (_, body) = node.readyz().await?;
                ensure(body["store"] == "ok", || body.to_string())
            })
            .await;
        }
        Self { served, site, places }
    }

    /// Asks for three times as much as there is of several callers, by 64 clients. Returns what was admitted of each,
    /// and how many answers the store did not give.
    async fn ask_for_three_times_as_much(&self) -> ([u64; KEYS], u64) {
        let each = 3 * QUANTITY as usize * KEYS / CLIENTS;
        let clients = (0..CLIENTS).map(|client| {
            let node = self.served[client % NODES].node.clone();
            tokio::spawn(async move {
                let (mut admitted, mut degraded) = ([0; KEYS], 0);
                for turn in 0..each {
                    let at = (client / NODES + turn) % KEYS;
                    let key = format!("key-{at}");
                    let check = node.try_check(&[("api_key", &key)]).await.expect("answered");
                    admitted[at] += u64::from(check.allowed);
                    degraded += u64::from(check.degraded);
                }
                (admitted, degraded)
            })
        });
        let (mut admitted, mut degraded) = ([0; KEYS], 0);
        for client in clients.collect::<Vec<_>>() {
            let (more, without) = client.await.expect("no panic");
            admitted.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            degraded += without;
        }
        (admitted, degraded)
    }

    /// Asks by 64 clients until the store has refused each caller; `admitted` counts all that were admitted. Returns
    /// what was admitted of each.
    async fn ask_until_all_is_spent(&self, all: &Arc<AtomicU64>) -> [u64; KEYS] {
        let clients = (0..CLIENTS).map(|client| {
            let (node, all) = (self.served[client % NODES].node.clone(), Arc::clone(all));
            tokio::spawn(async move {
                let (mut admitted, mut left) = ([0; KEYS], (0..KEYS).collect::<Vec<_>>());
                let mut turn = client / NODES;
                while !left.is_empty() {
                    turn = (turn + 1) % left.len();
                    let at = left[turn];
                    let key = format!("key-{at}");
                    let check = node.try_check(&[("api_key", &key)]).await.expect("answered");
                    admitted[at] += u64::from(check.allowed);
                    all.fetch_add(u64::from(check.allowed), Ordering::Relaxed);
                    if !check.allowed && !check.degraded {
                        left.swap_remove(turn);
                    }
                }
                admitted
            })
        });
        let mut admitted = [0; KEYS];
        for client in clients.collect::<Vec<_>>() {
            let more = client.await.expect("no panic");
            admitted.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        admitted
    }

    /// Kills a node, and starts it anew.
    async fn kill_and_restart(&mut self, at: usize) {
        self.served[at].process.kill().await;
        let (place, config) = &self.places[at];
        self.served[at] = self.site.serve_ready(place, config).await;
    }

    async fn stop(self) {
        for served in self.served {
            served.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_admit_exactly_the_limit() {
    let cluster = RedisCluster::start(3, 0).await;
    let region = Region::start(&cluster).await;
    assert_eq!(region.ask_for_three_times_as_much().await, ([QUANTITY; KEYS], 0));
    // They are on all servers.
    for at in 0..3 {
        assert!(!cluster.slots_of("tidegate", at).await.is_empty(), "server {at}");
    }
    region.stop().await;
}

/// All slots with records in them move round and round while their limits are spent: nothing is over, nothing is left,
/// and nobody is answered without the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_admit_exactly_the_limit_while_slots_move() {
    let cluster = RedisCluster::start(3, 0).await;
    let region = Region::start(&cluster).await;
    let mut moves = 0;
    let mut asked = Box::pin(region.ask_for_three_times_as_much());
    let (admitted, degraded) = loop {
        let round = async {
            for from in 0..3 {
                for slot in cluster.slots_of("tidegate", from).await {
                    cluster.move_slot(slot, from, (from + 1) % 3).await;
                    moves += 1;
                }
            }
        };
        tokio::pin!(round);
        // A move that was begun is ended, whoever is done first.
        let done = tokio::select! {
            done = &mut asked => Some(done),
            () = &mut round => None,
        };
        if let Some(done) = done {
            round.await;
            break done;
        }
    };
    assert!(moves >= KEYS, "{moves} moves");
    drop(asked);
    assert_eq!((admitted, degraded), ([QUANTITY; KEYS], 0), "{moves} moves");
    // Every move was a new epoch, in which the nodes wrote what they knew: that changed nothing.
    cluster.agree().await;
    for at in 0..KEYS {
        let key = format!("key-{at}");
        for served in &region.served {
            let used = served.node.usages(&[("api_key", &key)]).await.expect("answered");
            assert_eq!(used[0]["used"].as_u64(), Some(QUANTITY), "{key}: {used:?}");
        }
    }
    region.stop().await;
}

/// A primary is killed while limits are spent, and its replica lacks what came last: nothing is over. What was on its
/// way to the one that died may have been charged there, and is answered by `on_store_failure`; nothing else is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_admit_no_more_than_the_limit_while_a_primary_is_replaced() {
    let mut cluster = RedisCluster::start(3, 1).await;
    let region = Region::start(&cluster).await;
    let all = Arc::<AtomicU64>::default();
    let asked = region.ask_until_all_is_spent(&all);
    let killed = async {
        eventually(SOON, "a third is spent", async || {
            let spent = all.load(Ordering::Relaxed);
            ensure(spent >= QUANTITY * KEYS as u64 / 3, || format!("{spent}"))
        })
        .await;
        cluster.server_mut(0).kill().expect("killed");
        all.load(Ordering::Relaxed)
    };
    let (admitted, by_then) = tokio::join!(asked, killed);
    let sum: u64 = admitted.iter().sum();
    assert!(by_then < sum, "{by_then} of {sum} were admitted before the kill");
    assert!(admitted.iter().all(|admitted| *admitted <= QUANTITY), "{admitted:?}");
    let all = QUANTITY * KEYS as u64;
    assert!(sum + CLIENTS as u64 >= all, "{sum} of {all}: {admitted:?}");
    region.stop().await;
}

/// While keys are on their way, commands wait for them a moment. Of what a few slots' moving holds up longer than a
/// deadline, no more than one in a hundred checks is answered without the store.
#[tokio::test]
async fn slots_that_move_under_load_admit_nothing_wrong() {
    let figures = faulted::slots_move().await;
    say(&figures);
    figures.assert_exact();
    assert!(100 * figures.degraded <= figures.answers, "{figures:?}");
}

#[tokio::test]
async fn a_primary_that_is_lost_is_replaced_by_its_replica() {
    let figures = faulted::primary_with_replica_lost().await;
    say(&figures);
    figures.assert_exact();
    assert!(figures.degraded > 0);
}

#[tokio::test]
async fn a_primary_that_goes_on_after_it_was_replaced_admits_nothing_twice() {
    let figures = faulted::primary_stands_still_until_it_is_replaced().await;
    say(&figures);
    figures.assert_exact();
    assert!(figures.degraded > 0);
}

#[tokio::test]
async fn a_primary_that_comes_back_empty_is_healed() {
    let figures = faulted::primary_without_replica_restarted().await;
    say(&figures);
    figures.assert_exact();
    assert!(figures.degraded > 0);
}

#[tokio::test]
async fn slots_of_a_lost_primary_are_served_by_who_is_given_them() {
    let figures = faulted::slots_of_a_lost_primary_given_away().await;
    say(&figures);
    figures.assert_exact();
    assert!(figures.degraded > 0);
}

#[tokio::test]
async fn sentinels_replace_a_primary_that_is_lost() {
    let figures = faulted::sentinels_primary_lost().await;
    say(&figures);
    figures.assert_exact();
    assert!(figures.degraded > 0);
}

/// What a cluster cannot serve is refused at the start and on reload, by its name.
#[tokio::test]
async fn limits_under_rights_are_refused_where_regions_have_changed() {
    let cluster = RedisCluster::start(1, 0).await;
    let strict = POLICIES.replace(
        "window = \"400d\"",
        "window = \"400d\"\nscope = \"global\"\nconsistency = \"strict\"",
    );
    let site = Site::new(&strict);
    let place = site.place("eu", "eu-0");
    let store = format!("kind = \"redis\"\nurl = \"{}\"", cluster.url());
    let regions = "regions = { eu = 1 }\nregions_before = { eu = 1, us = 1 }\nconfig_epoch = 1\n";
    let config = site.config_with(&place, &[], &store) + regions;
    let (code, log) = site.refused(&place, &config).await;
    let said = "policy \"all\", limit \"quota\", field \"consistency\": strict on a Redis Cluster";
    assert!(code == Some(2) && log.contains(said), "{code:?} {log}");

    site.write("policies.toml", POLICIES);
    let served = site.serve_ready(&place, &config).await;
    assert_eq!(served.node.spend(&[("api_key", "k")], 7).await, 7);
    site.write("policies.toml", &strict);
    eventually(SOON, "the reload is refused", async || {
        ensure(served.process.log().contains(said), || served.process.log())
    })
    .await;
    assert_eq!(served.node.spend(&[("api_key", "k")], QUANTITY).await, QUANTITY - 7);
    served.stop().await;
}

/// One dead server of three: the node stays ready, says which it is, and serves the callers of the others.
#[tokio::test]
async fn a_dead_server_is_named_and_the_callers_of_others_are_served() {
    let mut cluster = RedisCluster::start(3, 0).await;
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let store = format!("kind = \"redis\"\nurl = \"{}\"\ntimeout = \"1s\"", cluster.url());
    let served = site.serve_ready(&place, &site.config_alone(&place, &store)).await;
    eventually(SOON, "the store is whole", async || {
        let (_, body) = served.node.readyz().await?;
        ensure(body["store"] == "ok", || body.to_string())
    })
    .await;
    cluster.server_mut(1).kill().expect("killed");
    let port = cluster.server(1).port().to_string();
    eventually(SOON, "the node names the dead server", async || {
        let (status, body) = served.node.readyz().await?;
        let named = body["reasons"].to_string().contains(&port);
        ensure(status == 200 && body["store"] == "partial" && named, || format!("{status} {body}"))
    })
    .await;
    let (mut by_store, mut without) = (0, 0);
    for number in 0..40 {
        let key = format!("key-{number}");
        let check = served.node.check(&[("api_key", &key)], 1).await;
        by_store += u64::from(check.allowed && !check.degraded);
        without += u64::from(check.degraded);
    }
    assert!(by_store > 10 && without > 3 && by_store + without == 40, "{by_store}, {without}");
    let series = "tidegate_store_errors_total{kind=\"unreachable\"}";
    assert!(served.node.metric(series).await.expect("counted") >= without as f64);
    served.stop().await;
}

/// A server that hangs is found out by its own calls alone: they wait for a deadline until its breaker opens, and those
/// of other servers never do.
#[tokio::test]
async fn a_server_that_hangs_holds_up_no_other() {
    const DEADLINE: Duration = Duration::from_millis(500);
    let cluster = RedisCluster::start(3, 0).await;
    let site = Site::new(&POLICIES.replace("quantity = 60", "quantity = 100000"));
    let place = site.place("eu", "eu-0");
    let store = format!(
        "kind = \"redis\"\nurl = \"{}\"\ntimeout = \"{}ms\"\n[store.breaker]\np95 = \"off\"",
        cluster.url(),
        DEADLINE.as_millis()
    );
    let served = site.serve_ready(&place, &site.config_alone(&place, &store)).await;
    eventually(SOON, "the store is whole", async || {
        let (_, body) = served.node.readyz().await?;
        ensure(body["store"] == "ok", || body.to_string())
    })
    .await;
    let keys: Vec<_> = (0..30).map(|number| format!("key-{number}")).collect();
    cluster.server(1).pause().expect("paused");
    let mut of_it = Vec::new();
    for key in &keys {
        of_it.push(served.node.check(&[("api_key", key)], 1).await.degraded);
    }
    let hung = of_it.iter().filter(|degraded| **degraded).count();
    assert!((2..28).contains(&hung), "{of_it:?}");
    // The callers of the others are decided by the store, all at once and however many of its own wait.
    for _ in 0..5 {
        let checks = keys.iter().zip(&of_it).map(|(key, degraded)| {
            let (node, key, degraded) = (served.node.clone(), key.clone(), *degraded);
            tokio::spawn(async move {
                let asked = Instant::now();
                let check = node.check(&[("api_key", &key)], 1).await;
                assert_eq!(check.degraded, degraded, "{key}: {check:?}");
                (degraded, asked.elapsed())
            })
        });
        for check in checks.collect::<Vec<_>>() {
            let (degraded, took) = check.await.expect("no panic");
            assert!(degraded || took < DEADLINE, "{took:?}");
        }
    }
    // Now nobody waits for it any more.
    eventually(SOON, "its callers are answered at once", async || {
        let (_, body) = served.node.readyz().await?;
        let asked = Instant::now();
        for (key, _) in keys.iter().zip(&of_it).filter(|(_, degraded)| **degraded) {
            served.node.check(&[("api_key", key)], 1).await;
        }
        let each = asked.elapsed() / u32::try_from(hung).expect("a few");
        ensure(each < DEADLINE / 4, || format!("{each:?} {body}"))
    })
    .await;
    cluster.server(1).resume().expect("resumed");
    for key in &keys {
        eventually(SOON, "the store decides again", async || {
            let check = served.node.try_check(&[("api_key", key)]).await?;
            ensure(check.allowed && !check.degraded, || format!("{check:?}"))
        })
        .await;
    }
    served.stop().await;
}

/// Several policies that match one check count several callers, who may be on several servers.
#[tokio::test]
async fn checks_of_several_callers_are_decided_at_all_their_servers() {
    let cluster = RedisCluster::start(3, 0).await;
    let second = "\n[[policy]]\nname = \"users\"\nmatch = { route = \"/both\" }\nkey = [\"user\"]\non_store_failure = \"open\"\n[[policy.limit]]\nname = \"quota\"\nquantity = 3\nwindow = \"400d\"\n";
    let site = Site::new(&format!("{POLICIES}{second}"));
    let place = site.place("eu", "eu-0");
    let store = format!("kind = \"redis\"\nurl = \"{}\"", cluster.url());
    let served = site.serve_ready(&place, &site.config_alone(&place, &store)).await;
    let node = &served.node;
    for number in 0..20 {
        let (key, user) = (format!("key-{number}"), format!("user-{number}"));
        let both = [("api_key", &*key), ("user", &*user), ("route", "/both")];
        for n in 0..5 {
            let check = node.check(&both, 1).await;
            assert!(!check.degraded && check.allowed == (n < 3), "{n}: {check:?}");
        }
        // The one with room was not charged for what the other refused.
        let used = node.check(&[("api_key", &*key)], 1).await.limits[0].used;
        assert_eq!(used, 4, "three and this one");
    }
    assert_eq!(node.metric("tidegate_breaker_state").await, Ok(0.0));
    served.stop().await;
}

/// A check of two callers who are on several servers, under names, while two of four nodes are killed: at each caller
/// every name is charged once. What a node that died held and nobody has confirmed ends by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_of_several_callers_is_charged_once_at_each_while_nodes_are_killed() {
    let cluster = RedisCluster::start(3, 0).await;
    let policies = ["api_key", "user", "tenant"].map(|key| {
        format!(
            "[[policy]]\nname = \"{key}\"\nkey = [\"{key}\"]\non_store_failure = \"closed\"\n\
             [[policy.limit]]\nname = \"quota\"\nquantity = 1000000\nwindow = \"400d\"\n"
        )
    });
    let mut region = Region::start_with(&cluster, &policies.concat()).await;
    let who = [("api_key", "a"), ("user", "b"), ("tenant", "c")];
    let body = serde_json::json!({ "attributes": std::collections::BTreeMap::from(who) });
    let nodes: Vec<_> = region.served.iter().map(|served| served.node.clone()).collect();
    let killing = async {
        for victim in [1, 3] {
            tokio::time::sleep(LOAD / 4).await;
            region.kill_and_restart(victim).await;
        }
    };
    let asking = ask_by_names(&nodes, &body, Instant::now() + LOAD);
    let (Asked { names, sent }, ()) = tokio::join!(asking, killing);
    assert!(names > 300 && sent > names + names / 3, "{sent} requests, {names} names");
    eventually(SOON, "what nobody has confirmed is over", async || {
        let usages = nodes[0].usages_by_policy(&who).await?.concat();
        let used: Vec<_> = usages.iter().map(|usage| usage["used"].as_u64()).collect();
        ensure(used == [Some(names); 3], || format!("{used:?} of {names} names, {sent} requests"))
    })
    .await;
    region.stop().await;
}

#[tokio::test]
async fn a_server_that_is_no_cluster_keeps_the_node_unready_and_says_why() {
    let redis = RedisServer::start().await.expect("redis-server");
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let store = format!("kind = \"redis\"\nurl = \"redis-cluster://127.0.0.1:{}\"", redis.port());
    let served = site.serve(&place, &site.config_alone(&place, &store));
    eventually(SOON, "the node says why", async || {
        let (status, body) = served.node.readyz().await?;
        let said = body["reasons"].to_string();
        ensure(status == 503 && said.contains("cluster support disabled"), || {
            format!("{status} {body}")
        })
    })
    .await;
    served.stop().await;
}
