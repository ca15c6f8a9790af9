//! One copy of a change per region: it reaches every node there, and nothing is lost with the relay.

use std::time::Duration;

use tidegate_tests::{
    ensure, eventually,
    node::Node,
    redis_server::RedisServer,
    site::{Place, Site},
};

/// How soon everybody must know, a relay's death included.
const CONVERGENCE: Duration = Duration::from_secs(8);

const POLICIES: &str = r#"
[[policy]]
name = "api"
key = ["api_key"]
[[policy.limit]]
name = "quota"
quantity = 1000000
window = "400d"
scope = "global"
consistency = "plain"
"#;
const KEY: [(&str, &str); 1] = [("api_key", "k")];

async fn agrees(node: &Node, used: u64) {
    eventually(CONVERGENCE, "the sum", async || {
        let found = node.used(&KEY).await?;
        ensure(found == used, || format!("{} of {used} at {}", found, node.name))
    })
    .await;
}

/// Changes that a node has told a node of `us`.
async fn told(node: &Node, to: &Place) -> f64 {
    let labels = format!(r#"region="us",node="{}",direction="sent""#, to.node);
    let series = format!("tidegate_peer_changes_total{{{labels}}}");
    node.metric(&series).await.expect("the peer is known")
}

#[tokio::test]
async fn a_relays_death_loses_nothing() {
    let site = Site::new(POLICIES);
    let redis = RedisServer::start().await.expect("redis-server starts");
    let eu = site.place("eu", "eu-0");
    let us = [site.place("us", "us-0"), site.place("us", "us-1")];
    let seeds = [&eu, &us[0], &us[1]];
    let with_relays = |config: String| config + "relays = true\n";
    let store = format!("kind = \"redis\"\nurl = \"{}\"", redis.url());
    let in_eu = site.serve_ready(&eu, &with_relays(site.config(&eu, &seeds))).await;
    let mut in_us = Vec::new();
    for place in &us {
        let config = with_relays(site.config_with(place, &seeds, &store));
        in_us.push(site.serve_ready(place, &config).await);
    }
    // Who has been told all that there was is told by a relay from then on.
    let mut used = 0;
    let relay = eventually(CONVERGENCE, "a relay is chosen", async || {
        let before = [told(&in_eu.node, &us[0]).await, told(&in_eu.node, &us[1]).await];
        used += in_eu.node.spend(&KEY, 1).await;
        for served in &in_us {
            agrees(&served.node, used).await;
        }
        let after = [told(&in_eu.node, &us[0]).await, told(&in_eu.node, &us[1]).await];
        match (after[0] > before[0], after[1] > before[1]) {
            (true, false) => Ok(0),
            (false, true) => Ok(1),
            both => Err(format!("who was told: {both:?}")),
        }
    })
    .await;

    let spending = async {
        let mut used = 0;
        for _ in 0..30 {
            used += in_eu.node.spend(&KEY, 10).await;
        }
        used
    };
    let mut dying = in_us.swap_remove(relay);
    let (more, ()) = tokio::join!(spending, dying.process.kill());
    assert_eq!(more, 300);
    agrees(&in_us[0].node, used + more).await;
    // Also what is spent when it is gone.
    assert_eq!(in_eu.node.spend(&KEY, 7).await, 7);
    agrees(&in_us[0].node, used + more + 7).await;
    assert_eq!(in_us[0].node.spend(&KEY, 5).await, 5);
    agrees(&in_eu.node, used + more + 12).await;
}
