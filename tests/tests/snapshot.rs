//! A single node on the memory store finds its counts again: as of its last snapshot when it was killed,
//! all of them when it was stopped.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use tidegate_tests::{
    ensure, eventually,
    node::Node,
    site::{Place, Served, Site},
};

/// How soon a snapshot must have been written: they are a second apart.
const WRITTEN: Duration = Duration::from_secs(20);
const POLICIES: &str = r#"
[[policy]]
name = "all"
key = ["api_key"]
[[policy.limit]]
name = "quota"
quantity = 60
window = "400d"
"#;
const CALLER: [(&str, &str); 1] = [("api_key", "k")];

struct Alone {
    site: Site,
    place: Place,
}

impl Alone {
    fn new() -> Self {
        let site = Site::new(POLICIES);
        let place = site.place("eu", "eu-0");
        Self { site, place }
    }

    fn file(&self) -> PathBuf {
        self.site.home().join("counts")
    }

    fn config(&self, more: &str) -> String {
        let store = format!("kind = \"memory\"\n{more}");
        self.site.config_alone(&self.place, &store)
    }

    async fn start(&self) -> Served {
        let config = self.config("snapshot = \"counts\"\nsnapshot_every = \"1s\"");
        self.site.serve_ready(&self.place, &config).await
    }
}

async fn snapshots(node: &Node, result: &str) -> Result<f64, String> {
    node.metric(&format!("tidegate_store_snapshots_total{{result=\"{result}\"}}")).await
}

/// Waits for a snapshot that was begun after now.
async fn another(node: &Node) {
    let before = snapshots(node, "written").await.expect("the metric is there");
    eventually(WRITTEN, "two more snapshots", async || {
        let now = snapshots(node, "written").await?;
        // The first of them may have begun before.
        ensure(now >= before + 2.0, || format!("{now} after {before}"))
    })
    .await;
}

#[tokio::test]
async fn a_killed_node_has_the_counts_of_its_last_snapshot() {
    let alone = Alone::new();
    let mut served = alone.start().await;
    assert_eq!(served.node.spend(&CALLER, 12).await, 12);
    another(&served.node).await;
    assert_eq!(served.node.spend(&CALLER, 3).await, 3);
    served.process.kill().await;

    let served = alone.start().await;
    let used = served.node.used(&CALLER).await.expect("answered");
    // The last three may have been in a snapshot, or not.
    assert!((12..=15).contains(&used), "{used}");
    assert_eq!(served.node.spend(&CALLER, 60).await, 60 - used);
    let mode = fs::metadata(alone.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    served.stop().await;
}

#[tokio::test]
async fn a_stopped_node_has_all_its_counts() {
    let alone = Alone::new();
    let mut spent = 0;
    for _ in 0..3 {
        let served = alone.start().await;
        assert_eq!(served.node.used(&CALLER).await, Ok(spent));
        assert_eq!(served.node.spend(&CALLER, 7).await, 7);
        spent += 7;
        // At once, before another snapshot is due.
        served.stop().await;
    }
    let served = alone.start().await;
    assert_eq!(served.node.spend(&CALLER, 60).await, 60 - spent);
    served.stop().await;
}

#[tokio::test]
async fn a_damaged_snapshot_is_told_put_aside_and_nothing_of_it_is_taken() {
    let alone = Alone::new();
    let served = alone.start().await;
    assert_eq!(served.node.spend(&CALLER, 7).await, 7);
    served.stop().await;
    let mut bytes = fs::read(alone.file()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(alone.file(), &bytes).unwrap();

    let served = alone.start().await;
    assert_eq!(served.node.used(&CALLER).await, Ok(0));
    let log = served.process.log();
    assert!(log.contains("the snapshot cannot be used") && log.contains("damaged"), "{log}");
    assert_eq!(fs::read(alone.site.home().join("counts.unusable")).unwrap(), bytes);
    assert_eq!(served.node.spend(&CALLER, 5).await, 5);
    served.stop().await;
    let served = alone.start().await;
    assert_eq!(served.node.used(&CALLER).await, Ok(5));
    served.stop().await;
}

#[tokio::test]
async fn a_place_that_cannot_be_written_to_is_told_and_checks_go_on() {
    let alone = Alone::new();
    let config = alone.config("snapshot = \"nowhere/counts\"");
    let served = alone.site.serve_ready(&alone.place, &config).await;
    eventually(WRITTEN, "the failure is counted", async || {
        let failed = snapshots(&served.node, "failed").await?;
        ensure(failed >= 1.0, || format!("{failed}"))
    })
    .await;
    let log = served.process.log();
    assert!(log.contains("cannot be written (`store.snapshot`)"), "{log}");
    assert_eq!(served.node.spend(&CALLER, 5).await, 5);
    served.stop().await;
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_stops_the_start() {
    let alone = Alone::new();
    fs::create_dir(alone.file()).unwrap();
    let config = alone.config("snapshot = \"counts\"");
    let (code, log) = alone.site.refused(&alone.place, &config).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("store.snapshot"), "{log}");
}

#[tokio::test]
async fn a_node_in_a_cluster_keeps_regional_counts_over_its_own_restart() {
    let site = Site::new(POLICIES);
    let place = site.place("eu", "eu-0");
    let config = site.config_with(&place, &[], "kind = \"memory\"\nsnapshot = \"counts\"");
    let served = site.serve_ready(&place, &config).await;
    assert_eq!(served.node.spend(&CALLER, 9).await, 9);
    served.stop().await;
    let served = site.serve_ready(&place, &config).await;
    assert_eq!(served.node.used(&CALLER).await, Ok(9));
    served.stop().await;
}

#[tokio::test]
async fn a_lowered_bound_on_records_stops_the_start_and_keeps_the_snapshot() {
    let alone = Alone::new();
    let served = alone.start().await;
    for n in 0..300 {
        let key = format!("k{n}");
        assert!(served.node.check(&[("api_key", &key)], 1).await.allowed);
    }
    served.stop().await;
    let before = fs::read(alone.file()).unwrap();
    let config = alone.config("snapshot = \"counts\"\nrecords_max = 64");
    let (code, log) = alone.site.refused(&alone.place, &config).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("300 live records") && log.contains("`store.records_max` = 64"), "{log}");
    assert!(fs::read(alone.file()).unwrap() == before, "it was touched");

    let served = alone.start().await;
    assert_eq!(served.node.used(&[("api_key", "k299")]).await, Ok(1));
    served.stop().await;
}

#[tokio::test]
async fn two_nodes_on_one_snapshot_are_one_too_many() {
    let alone = Alone::new();
    let mut served = alone.start().await;
    let other = alone.site.place("eu", "eu-1");
    let store = "kind = \"memory\"\nsnapshot = \"counts\"";
    let config = alone.site.config_alone(&other, store);
    let (code, log) = alone.site.refused(&other, &config).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("in use by another process"), "{log}");
    assert_eq!(served.node.spend(&CALLER, 5).await, 5);
    // Whoever is killed leaves it to the next.
    served.process.kill().await;
    alone.site.serve_ready(&other, &config).await.stop().await;
}
