//! Regions and weights of a `strict` limit are changed while it is in use, on real processes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate_tests::{
    dev::connected,
    ensure, eventually,
    node::Node,
    site::{Place, Served, Site},
};

const SOON: Duration = Duration::from_secs(20);
const QUANTITY: u64 = 100;
const POLICIES: &str = r#"
[[policy]]
name = "api"
key = ["api_key"]
[[policy.limit]]
name = "quota"
quantity = 100
window = "2s"
scope = "global"
consistency = "strict"
"#;
const KEY: [(&str, &str); 1] = [("api_key", "k")];
const FIRST: &str = "regions = { eu = 1, us = 0 }";
const SECOND: &str =
    "config_epoch = 1\nregions_before = { eu = 1, us = 0 }\nregions = { eu = 0, us = 1 }";

const THIRD: &str =
    "config_epoch = 2\nregions_before = { eu = 0, us = 1 }\nregions = { eu = 1, us = 0 }";

fn serve(site: &Site, places: &[Place; 2], at: usize, regions: &str) -> Served {
    let config = site.config(&places[at], &[&places[1 - at]]);
    let config = config.replace("[cluster]\n", &format!("[cluster]\n{regions}\n"));
    site.serve(&places[at], &config)
}

/// Waits until a node spends all of a window alone.
async fn spends_all(node: &Node) {
    eventually(SOON, &format!("{} has all of it", node.name), async || {
        let mut by_label = std::collections::BTreeMap::<u64, u64>::new();
        for _ in 0..2 * QUANTITY {
            let check = node.check(&KEY, 1).await;
            *by_label.entry(check.limits[0].label).or_default() += u64::from(check.allowed);
        }
        let most = by_label.values().copied().max().unwrap_or_default();
        assert!(most <= QUANTITY, "{by_label:?}");
        ensure(most == QUANTITY, || format!("{by_label:?}"))
    })
    .await;
}

async fn says(node: &Node, metric: &str, value: f64) {
    eventually(SOON, &format!("{} says {metric} {value}", node.name), async || {
        let said = node.metric(metric).await?;
        ensure(said == value, || format!("{said}"))
    })
    .await;
}

#[tokio::test]
async fn all_of_a_limit_goes_to_another_region_and_nothing_is_spent_while_nodes_disagree() {
    let site = Site::new(POLICIES);
    let places = ["eu", "us"].map(|region| site.place(region, &format!("{region}-0")));
    let mut nodes = [0, 1].map(|at| serve(&site, &places, at, FIRST));
    for served in &nodes {
        served.node.ready(SOON).await;
    }
    connected(nodes.iter().map(|served| &served.node), SOON).await;
    spends_all(&nodes[0].node).await;

    // Only one of the two has the new weights: it waits for the other.
    let [eu, us] = nodes;
    eu.stop().await;
    nodes = [serve(&site, &places, 0, SECOND), us];
    nodes[0].node.ready(SOON).await;
    connected(nodes.iter().map(|served| &served.node), SOON).await;
    nodes[0].node.check(&KEY, 1).await;
    says(&nodes[0].node, "tidegate_config_adopted", 1.0).await;
    says(&nodes[0].node, "tidegate_config_agreed", 0.0).await;

    let [eu, us] = nodes;
    us.stop().await;
    nodes = [eu, serve(&site, &places, 1, SECOND)];
    nodes[1].node.ready(SOON).await;
    for served in &nodes {
        says(&served.node, "tidegate_config_adopted", 1.0).await;
        says(&served.node, "tidegate_config_agreed", 1.0).await;
    }
    // It needs nobody for that any more.
    let [eu, us] = nodes;
    eventually(SOON, "the log says so", async || {
        let log = eu.process.log();
        ensure(log.contains("regions and weights are agreed by all"), || log)
    })
    .await;
    eu.stop().await;
    spends_all(&us.node).await;

    // Then back, at a time that is to come; and nobody is left who knows that the first change was agreed: their
    // stores are their own memory.
    us.stop().await;
    #[expect(clippy::disallowed_methods, reason = "the setting is a time of day")]
    let effective = SystemTime::now() + Duration::from_secs(4);
    let effective = effective.duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let third = format!("{THIRD}\nconfig_effective = {effective}");
    nodes = [0, 1].map(|at| serve(&site, &places, at, &third));
    for served in &nodes {
        served.node.ready(SOON).await;
    }
    connected(nodes.iter().map(|served| &served.node), SOON).await;
    for served in &nodes {
        served.node.check(&KEY, 1).await;
        says(&served.node, "tidegate_config_adopted", 2.0).await;
        says(&served.node, "tidegate_config_agreed", 1.0).await;
    }
    spends_all(&nodes[0].node).await;
    let [eu, us] = nodes;
    eu.stop().await;

    // A peer that has other weights under the same number stops both.
    let wrong = third.replace("regions = { eu = 1, us = 0 }", "regions = { eu = 2, us = 0 }");
    let eu = serve(&site, &places, 0, &wrong);
    eu.node.ready(SOON).await;
    for node in [&eu.node, &us.node] {
        says(node, "tidegate_rights_suspended", 1.0).await;
        assert!(!node.check(&KEY, 1).await.allowed);
    }
    eu.stop().await;
    says(&us.node, "tidegate_rights_suspended", 0.0).await;
    us.stop().await;
}
