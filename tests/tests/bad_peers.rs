//! Who may not speak with nodes is refused and counted, and the cluster goes on.

use std::{path::PathBuf, time::Duration};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tidegate_tests::{
    dev, ensure, eventually,
    node::Node,
    site::{Served, Site},
    stranger::{Stranger, closed, hello, introduce},
};
use tokio::net::UdpSocket;

const SOON: Duration = Duration::from_secs(10);
const NEWS: Duration = Duration::from_secs(2);
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

/// Two regions, `eu` and `us`, that are connected.
struct Pair {
    eu: Served,
    us: Served,
    /// The UDP port of `eu`.
    port: u16,
    ca: PathBuf,
    /// Last, so that it is there while the nodes' logs are shown.
    site: Site,
}

impl Pair {
    async fn start() -> Self {
        let site = Site::new(POLICIES);
        let (eu, us) = (site.place("eu", "eu-0"), site.place("us", "us-0"));
        let (port, ca) = (eu.cluster, site.home().join("ca/ca.pem"));
        let us_config = site.config(&us, &[&eu]);
        let (eu, us) = (site.serve(&eu, &site.config(&eu, &[&us])), site.serve(&us, &us_config));
        dev::connected([&eu.node, &us.node], SOON).await;
        Self { site, eu, us, port, ca }
    }

    fn nodes(&self) -> [&Node; 2] {
        [&self.eu.node, &self.us.node]
    }

    /// Waits until `eu` has counted a refusal for this reason.
    async fn refused(&self, reason: &str) {
        let series = format!(r#"tidegate_peer_refused_total{{reason="{reason}"}}"#);
        eventually(SOON, &format!("eu counts {series}"), async || {
            let count = self.eu.node.metric(&series).await?;
            ensure(count >= 1.0, || format!("{count}"))
        })
        .await;
    }

    /// Sees that the two go on, and that nothing broke.
    async fn goes_on(self) {
        for (i, node) in self.nodes().into_iter().enumerate() {
            assert_eq!(node.spend(&[("api_key", "k")], 2 + i as u64).await, 2 + i as u64);
        }
        dev::agree_on(self.nodes(), &[("api_key", "k")], &[("eu", 2), ("us", 3)], NEWS).await;
        for node in self.nodes() {
            assert_eq!(node.state_of("ap").await, Ok(Value::Null), "{}", node.name);
        }
        let logs = [&self.eu, &self.us].map(|served| served.process.log());
        assert!(logs.iter().all(|log| !log.contains("panicked")), "{logs:?}");
        self.eu.stop().await;
        self.us.stop().await;
    }
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_refused() {
    let pair = Pair::start().await;
    let stranger = Stranger::without_certificate(&pair.ca);
    stranger.turned_away(pair.port, &hello("ap", "ap-0")).await;
    pair.refused("no_certificate").await;
    pair.goes_on().await;
}

#[tokio::test]
async fn a_node_of_another_authority_is_refused() {
    let pair = Pair::start().await;
    pair.site.authority("foreign");
    let place = pair.site.place_under("foreign", "ap", "ap-0");
    let config = pair.site.config(&place, &[]).replace("ca/ca.pem", "foreign/ca.pem");
    let seed = format!(r#"seeds = ["127.0.0.1:{}"]"#, pair.port);
    let ap = pair.site.serve_ready(&place, &config.replace("seeds = []", &seed)).await;
    // It refuses `eu` for its certificate and says so; `eu` counts what it sees of that, or refuses
    // by itself whom it does not believe.
    eventually(SOON, "ap has refused eu's certificate", async || {
        let series = r#"tidegate_peer_refused_total{reason="foreign_certificate"}"#;
        let count = ap.node.metric(series).await?;
        ensure(count >= 1.0, || format!("{count}"))
    })
    .await;
    // One that believes our authority, but is not from it.
    let stranger = Stranger::with_certificate(&pair.ca, &place.certificate);
    stranger.turned_away(pair.port, &hello("ap", "ap-0")).await;
    pair.refused("foreign_certificate").await;
    assert_eq!(ap.node.state_of("eu").await.unwrap(), Value::Null);
    ap.stop().await;
    pair.goes_on().await;
}

#[tokio::test]
async fn a_peer_with_another_regions_name_is_refused() {
    let pair = Pair::start().await;
    // It is `us` by its certificate, and says that it is `ap`.
    let place = pair.site.place("us", "us-1");
    let stranger = Stranger::with_certificate(&pair.ca, &place.certificate);
    let why = stranger.turned_away(pair.port, &hello("ap", "ap-0")).await;
    assert!(why.contains("ap/ap-0") && why.contains("us/us-1"), "{why}");
    pair.refused("identity_mismatch").await;

    // A node that is configured so does not even start.
    let config = pair.site.config(&place, &[]).replace(r#"region = "us""#, r#"region = "ap""#);
    let (code, log) = pair.site.refused(&place, &config).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("cluster.cert") && log.contains("us/us-1"), "{log}");
    pair.goes_on().await;
}

#[tokio::test]
async fn a_peer_that_claims_the_impossible_is_quarantined_and_shown() {
    let pair = Pair::start().await;
    let place = pair.site.place("us", "us-1");
    let stranger = Stranger::with_certificate(&pair.ca, &place.certificate);
    let connection = stranger.connect(pair.port).await.unwrap();
    let _hello = introduce(&connection, "us", "us-1").await;
    // It is of `us`, and speaks for `ap`.
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/frame/another-region");
    let frame = [&[1], &*std::fs::read(corpus).unwrap()].concat();
    for _ in 0..5 {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&frame).await.unwrap();
        stream.finish().unwrap();
    }
    let why = closed(&connection).await;
    assert!(why.contains("claimed what cannot be"), "{why}");
    pair.refused("quarantined").await;
    let series = r#"tidegate_peer_quarantined{region="us",node="us-1"}"#;
    assert_eq!(pair.eu.node.metric(series).await, Ok(1.0));
    let series = r#"tidegate_frames_dropped_total{reason="speaks_for_another"}"#;
    assert_eq!(pair.eu.node.metric(series).await, Ok(5.0));
    // It may still be waiting for what its seeds know.
    eventually(SOON, "the node itself is well, and says who is quarantined", async || {
        let (status, ready) = pair.eu.node.readyz().await?;
        let reasons = ready["reasons"].to_string();
        ensure(status == 200 && reasons.contains("us/us-1 is quarantined"), || ready.to_string())
    })
    .await;
    let log = pair.eu.process.log();
    assert_eq!(log.matches("quarantined a peer").count(), 1, "{log}");

    // It is turned away until its time is over; its region is heard as before.
    let why = stranger.turned_away(pair.port, &hello("us", "us-1")).await;
    assert!(why.contains("it is let in in"), "{why}");
    pair.goes_on().await;
}

#[tokio::test]
async fn random_and_truncated_datagrams_break_nothing() {
    let pair = Pair::start().await;
    let mut random = StdRng::seed_from_u64(7);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(("127.0.0.1", pair.port)).await.unwrap();
    for _ in 0..2_000 {
        let mut bytes = vec![0; random.random_range(0..1_500)];
        random.fill_bytes(&mut bytes);
        socket.send(&bytes).await.unwrap();
    }
    let first = Stranger::without_certificate(&pair.ca).first_datagram().await;
    assert!(first.len() >= 1_200, "QUIC's first datagram is padded");
    for length in 0..first.len() {
        socket.send(&first[..length]).await.unwrap();
    }
    for _ in 0..1_000 {
        let mut bytes = first.clone();
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        socket.send(&bytes).await.unwrap();
    }
    pair.goes_on().await;
}

#[tokio::test]
async fn random_bytes_of_a_peer_break_nothing() {
    let pair = Pair::start().await;
    let mut random = StdRng::seed_from_u64(8);
    let mut bytes = |length: usize| {
        let mut bytes = vec![0; length];
        random.fill_bytes(&mut bytes);
        bytes
    };
    let place = pair.site.place("us", "us-1");
    let stranger = Stranger::with_certificate(&pair.ca, &place.certificate);
    // In place of an introduction, whole or cut short.
    for length in [0, 1, 2, 30, 600] {
        stranger.turned_away(pair.port, &bytes(length)).await;
    }
    let whole = hello("us", "us-1");
    for length in 0..whole.len() {
        stranger.turned_away(pair.port, &whole[..length]).await;
    }
    pair.refused("version").await;

    // As messages, after a good introduction: dropped and counted one by one, or the peer is closed.
    let connection = stranger.connect(pair.port).await.unwrap();
    let _hello = introduce(&connection, "us", "us-1").await;
    for length in 0..200 {
        let Ok(mut stream) = connection.open_uni().await else { break };
        // Half of them look like a frame at first.
        let first = if length % 2 == 0 { &[0][..] } else { &[] };
        let _sent = stream.write_all(&[first, &bytes(length)].concat()).await;
        let _finished = stream.finish();
    }
    eventually(SOON, "eu counts what it cannot read", async || {
        let metrics = pair.eu.node.metrics().await?;
        let dropped = metrics.lines().filter(|line| line.starts_with("tidegate_frames_dropped"));
        let dropped: Vec<_> = dropped.filter(|line| !line.ends_with(" 0")).collect();
        ensure(!dropped.is_empty(), || metrics.clone())
    })
    .await;
    connection.close(0_u8.into(), b"");
    closed(&connection).await;
    pair.goes_on().await;
}
