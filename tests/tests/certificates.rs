//! Certificates are rotated while nodes run: files change, nobody restarts anything.

use std::{fs, path::Path, time::Duration};

use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use tidegate_core::ids::NodeId;
use tidegate_node::certs;
use tidegate_tests::{
    dev, ensure, eventually,
    node::Node,
    site::{Place, Site},
};
use time::OffsetDateTime;

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
const KEY: [(&str, &str); 1] = [("api_key", "k")];

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

/// A certificate in the place of another that is valid for so much longer only; `tidegate certs` makes none
/// like that.
fn make_short(authority: &Path, place: &Place, lifetime: Duration) {
    let read = |name: &str| fs::read_to_string(authority.join(name)).expect("it is there");
    let signer = KeyPair::from_pem(&read(certs::CA_KEY_FILE)).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read(certs::CA_CERT_FILE), signer).expect("a pair");
    let mut params = CertificateParams::new([certs::SERVER_NAME.to_owned()]).expect("a name");
    let id = format!("tidegate://{}/{}", place.region, place.node);
    params.subject_alt_names.push(SanType::URI(id.try_into().expect("ASCII")));
    params.not_before = OffsetDateTime::now_utc() - time::Duration::days(1);
    params.not_after = OffsetDateTime::now_utc() + lifetime;
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let write = |name: &str, text: String| {
        fs::write(place.certificate.join(name), text).expect("a file can be written");
    };
    write(certs::NODE_KEY_FILE, key.serialize_pem());
    write(certs::NODE_CERT_FILE, certificate.pem());
}

/// Waits until a node has refused another for its certificate so many times, and has lost touch with its
/// region.
async fn shut_out(node: &Node, region: &str, times: f64) {
    let what = format!("{} refuses {region} for its certificate", node.name);
    eventually(SOON, &what, async || {
        let series = r#"tidegate_peer_refused_total{reason="foreign_certificate"}"#;
        let (refused, state) = (node.metric(series).await?, node.state_of(region).await?);
        ensure(refused >= times && state != "connected", || format!("{refused} times, {state}"))
    })
    .await;
}

#[tokio::test]
async fn an_expired_certificate_shuts_its_node_out_until_it_has_another() {
    let site = Site::new(POLICIES);
    let (eu_place, us_place) = (site.place("eu", "eu-0"), site.place("us", "us-0"));
    let authority = site.home().join("ca");
    let eu = site.serve_ready(&eu_place, &site.config(&eu_place, &[&us_place])).await;
    make_short(&authority, &us_place, Duration::from_secs(8));
    let us = site.serve(&us_place, &site.config(&us_place, &[&eu_place]));
    let nodes = [&eu.node, &us.node];
    dev::connected(nodes, SOON).await;
    assert_eq!(us.node.spend(&KEY, 2).await, 2);
    dev::agree_on(nodes, &KEY, &[("eu", 0), ("us", 2)], SOON).await;

    // The connection that stood is closed, and attempts to make another one are refused.
    shut_out(&eu.node, "us", 3.0).await;
    // Both go on, each for itself.
    assert_eq!((eu.node.spend(&KEY, 3).await, us.node.spend(&KEY, 4).await), (3, 4));
    assert_eq!(eu.node.usage(&KEY).await.unwrap()["regions"]["us"]["used"], 2);

    renew(&authority, &us_place);
    dev::connected(nodes, SOON).await;
    dev::agree_on(nodes, &KEY, &[("eu", 3), ("us", 6)], SOON).await;
    for served in [eu, us] {
        assert!(!served.process.log().contains("panicked"));
        served.stop().await;
    }
}

#[tokio::test]
async fn a_connected_peer_is_revoked_by_taking_its_authority_out() {
    let site = Site::new(POLICIES);
    site.authority("new");
    let eu_place = site.place_under("new", "eu", "eu-0");
    let us_place = site.place("us", "us-0");
    let pem = |authority: &str| {
        fs::read_to_string(site.home().join(authority).join("ca.pem")).expect("it is there")
    };
    let (old, new) = (pem("ca"), pem("new"));
    site.write("eu.pem", &[&*old, &*new].concat());
    site.write("us.pem", &[&*old, &*new].concat());
    let config = |place: &Place, seed: &Place| {
        let believed = format!("{}.pem", place.region);
        site.config(place, &[seed]).replace("ca/ca.pem", &believed)
    };
    let eu = site.serve(&eu_place, &config(&eu_place, &us_place));
    let us = site.serve(&us_place, &config(&us_place, &eu_place));
    let nodes = [&eu.node, &us.node];
    dev::connected(nodes, SOON).await;
    assert_eq!(us.node.spend(&KEY, 2).await, 2);
    dev::agree_on(nodes, &KEY, &[("eu", 0), ("us", 2)], SOON).await;

    site.write("eu.pem", &new);
    reloads(&eu.node, "loaded", 1.0).await;
    shut_out(&eu.node, "us", 3.0).await;
    assert_eq!((eu.node.spend(&KEY, 3).await, us.node.spend(&KEY, 4).await), (3, 4));
    assert_eq!(eu.node.usage(&KEY).await.unwrap()["regions"]["us"]["used"], 2);
    // It stays out, however often it tries.
    shut_out(&eu.node, "us", 6.0).await;
    assert_eq!(eu.node.usage(&KEY).await.unwrap()["regions"]["us"]["used"], 2);
    for served in [eu, us] {
        assert!(!served.process.log().contains("panicked"));
        served.stop().await;
    }
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
