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
/// The first byte of a message, which says whose it is.
const FRAME: u8 = 1;
const MEMBERSHIP: u8 = 2;
const NEITHER: u8 = 0;
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

    /// How many messages of others `eu` has dropped for these reasons.
    async fn unread(&self, counts: impl Fn(&str) -> bool) -> Result<f64, String> {
        let metrics = self.eu.node.metrics().await?;
        let dropped = metrics.lines().filter_map(|line| {
            let line = line.strip_prefix(r#"tidegate_frames_dropped_total{reason=""#)?;
            let (reason, value) = line.split_once(r#""} "#)?;
            // These are its own.
            let sent = ["queue_full", "disconnected"].contains(&reason);
            if !sent && counts(reason) { value.parse::<f64>().ok() } else { None }
        });
        Ok(dropped.sum())
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
    let frame = [&[FRAME], &*std::fs::read(corpus).unwrap()].concat();
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

    // As messages, after a good introduction: in place of frames, of membership, and of neither. Each name
    // claims less than would have it quarantined, so that all is read.
    const NAMES: usize = 10;
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/frame/hearsay");
    let frame = std::fs::read(corpus).unwrap();
    for name in 0..NAMES {
        let node = format!("us-{}", 10 + name);
        let place = pair.site.place("us", &node);
        let stranger = Stranger::with_certificate(&pair.ca, &place.certificate);
        let connection = stranger.connect(pair.port).await.unwrap();
        let _hello = introduce(&connection, "us", &node).await;
        let cut_short = &frame[..frame.len() * name / NAMES];
        let messages = [
            [&[FRAME], cut_short].concat(),
            [&[FRAME], &bytes(20 * name)[..]].concat(),
            // chitchat's own messages begin with a byte up to 3.
            [&[MEMBERSHIP, 1 + name as u8 % 2], &bytes(20 * name)[..]].concat(),
            [&[NEITHER], &bytes(20 * name)[..]].concat(),
        ];
        for message in messages {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&message).await.unwrap();
            stream.finish().unwrap();
        }
        // Whoever is closed too soon is not heard to the end.
        let dropped = 4.0 * (1 + name) as f64;
        eventually(SOON, "eu counts what it cannot read", async || {
            let now = pair.unread(|_| true).await?;
            ensure(now >= dropped, || format!("{now} of {dropped}"))
        })
        .await;
        eventually(SOON, "eu says that it does not read a gossip message", async || {
            let log = pair.eu.process.log();
            let said = log.matches("a gossip message is not read").count();
            ensure(said > name, || format!("{said} of {}", 1 + name))
        })
        .await;
        connection.close(0_u8.into(), b"");
    }
    // What is neither, and what is no gossip. The first frames of each kind are malformed at least, the others may be of another version.
    let names = NAMES as f64;
    assert_eq!(pair.unread(|reason| reason == "unreadable").await, Ok(2.0 * names));
    let frames = pair.unread(|reason| reason != "unreadable").await.unwrap();
    assert_eq!(frames, 2.0 * names);
    assert!(pair.unread(|reason| reason == "malformed").await.unwrap() >= names);
    let metrics = pair.eu.node.metrics().await.unwrap();
    assert!(!metrics.contains("tidegate_peer_quarantined{"), "{metrics}");
    pair.goes_on().await;
}
