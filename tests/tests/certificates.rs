//! Certificates are rotated while nodes run: files change, nobody restarts anything.

use std::{fs, path::Path, time::Duration};

use tidegate_core::ids::NodeId;
use tidegate_node::certs;
use tidegate_tests::{
    dev, ensure, eventually,
    node::Node,
    site::{Place, Site},
};

const SOON: Duration = Duration::from_secs(15);
const POLICIES: &str = r#"
[[policy]]
name = "all"
key = ["api_key"]
[[policy.limit]]
name = "quota"
quantity = 1000
window = "400d"
scope = "global"
consistency = "plain"
"#;

/// Waits until a node has counted so many reloads with this result.
async fn reloads(node: &Node, result: &str, at_least: f64) {
    let series = format!(r#"tidegate_certificate_reload_total{{result="{result}"}}"#);
    eventually(SOON, &format!("{} counts {series} {at_least}", node.name), async || {
        let count = node.metric(&series).await?;
        ensure(count >= at_least, || format!("{count}"))
    })
    .await;
}

/// A new certificate in the place of the old one, as `tidegate certs node` makes it.
fn renew(authority: &Path, place: &Place) {
    let id = NodeId::new(&place.region, &place.node).expect("names");
    certs::make_node(authority, &id, &place.certificate).expect("made");
}

#[tokio::test]
async fn an_authority_is_replaced_step_by_step_while_nodes_run() {
    let site = Site::new(POLICIES);
    let (eu_place, us_place) = (site.place("eu", "eu-0"), site.place("us", "us-0"));
    let new = site.authority("new");
    let pem = |authority: &str| {
        fs::read_to_string(site.home().join(authority).join("ca.pem")).expect("it is there")
    };
    let (old_pem, new_pem) = (pem("ca"), pem("new"));
    let believe = |pems: &[&str]| {
        site.write("believed.pem", &pems.concat());
    };
    believe(&[&old_pem]);
    let config = |place: &Place, seed: &Place| {
        site.config(place, &[seed]).replace("ca/ca.pem", "believed.pem")
    };
    let eu = site.serve(&eu_place, &config(&eu_place, &us_place));
    let us = site.serve(&us_place, &config(&us_place, &eu_place));
    let nodes = [&eu.node, &us.node];
    dev::connected(nodes, SOON).await;
    let boots = [eu.node.cluster().await.unwrap(), us.node.cluster().await.unwrap()];
    let expiry = "tidegate_certificate_expiry_timestamp_seconds";
    assert!(eu.node.metric(expiry).await.unwrap() > 1.7e9);

    // What is wrong changes nothing.
    believe(&["nonsense"]);
    for node in nodes {
        reloads(node, "rejected", 1.0).await;
    }
    dev::connected(nodes, SOON).await;

    believe(&[&old_pem, &new_pem]);
    for node in nodes {
        reloads(node, "loaded", 1.0).await;
    }
    renew(&new, &eu_place);
    renew(&new, &us_place);
    for node in nodes {
        reloads(node, "loaded", 2.0).await;
    }
    assert_eq!(eu.node.spend(&[("api_key", "k")], 3).await, 3);
    believe(&[&new_pem]);
    for node in nodes {
        reloads(node, "loaded", 3.0).await;
    }
    dev::connected(nodes, SOON).await;
    assert_eq!(us.node.spend(&[("api_key", "k")], 4).await, 4);
    dev::agree_on(nodes, &[("api_key", "k")], &[("eu", 3), ("us", 4)], SOON).await;

    for (node, before) in nodes.into_iter().zip(boots) {
        let now = node.cluster().await.unwrap();
        assert_eq!(now["boot"], before["boot"], "nobody was restarted");
    }

    // Who has only the old one's word stays outside.
    let ap_place = site.place("ap", "ap-0");
    let ap = site.serve_ready(&ap_place, &site.config(&ap_place, &[&eu_place])).await;
    eventually(SOON, "ap and eu have refused each other", async || {
        let series = r#"tidegate_peer_refused_total{reason="foreign_certificate"}"#;
        let refused = ap.node.metric(series).await? + eu.node.metric(series).await?;
        ensure(refused >= 2.0, || format!("{refused}"))
    })
    .await;
    assert_eq!(eu.node.state_of("ap").await.unwrap(), serde_json::Value::Null);
    for served in [eu, us, ap] {
        served.stop().await;
    }
}
