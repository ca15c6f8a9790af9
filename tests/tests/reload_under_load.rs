//! Policies are replaced again and again under load: no error, nothing refused that fits, no count reset.
//!
//! A debug build is asked as often as a busy machine with two cores can answer; a release build
//! (`cargo test --release -p tidegate-tests --test reload_under_load`) 10,000 times a second.

use std::{collections::BTreeSet, fs, os::unix::fs::symlink, path::Path, time::Duration};

use serde_json::Value;
use tidegate_tests::{
    binary, child,
    dev::{Cluster, Dev},
    ensure, eventually,
    node::{Attributes, Node},
};
use tokio::{process::Command, task::JoinHandle};

/// Checks per second.
const RATE: u32 = if cfg!(debug_assertions) { 400 } else { 10_000 };
/// How often the policies are replaced.
const REPLACEMENTS: usize = 20;
/// How long a replaced file may take to be noticed.
const NOTICED: Duration = Duration::from_secs(20);
/// The connections that the load uses: a stall of a second must not exhaust them.
const CONNECTIONS: &str = "512";

const LOAD: [(&str, &str); 2] = [("api_key", "load"), ("route", "/load")];
const BLOCKED: [(&str, &str); 2] = [("api_key", "blocked"), ("route", "/blocked")];
/// What whoever is blocked has used in the end, and may use at first.
const FIRST: u64 = 5;

/// Policies in which one limit always has room, and one lets `quantity` pass; with a further limit, or not.
fn policies(quantity: u64, further: bool, window: &str) -> String {
    // The room differs too, so that what is under load is replaced as well.
    let room = 1_000_000_000 + quantity;
    let mut text = format!(
        "[[policy]]\nname = \"load\"\nmatch = {{ route = \"/load\" }}\nkey = [\"api_key\"]\n\
         [[policy.limit]]\nname = \"room\"\nquantity = {room}\nwindow = \"400d\"\n\
         scope = \"global\"\nconsistency = \"plain\"\n\n"
    );
    if further {
        text.push_str(
            "[[policy]]\nname = \"further\"\nmatch = { route = \"/load\" }\nkey = []\n\
             [[policy.limit]]\nname = \"all\"\nquantity = 1_000_000_000\nwindow = \"1h\"\n\n",
        );
    }
    text.push_str(&format!(
        "[[policy]]\nname = \"blocked\"\nmatch = {{ route = \"/blocked\" }}\nkey = [\"api_key\"]\n\
         [[policy.limit]]\nname = \"few\"\nquantity = {quantity}\nwindow = \"{window}\"\n"
    ));
    text
}

/// How a file comes to be another.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Renamed into place, and found by looking.
    Renamed,
    /// Written anew, and asked for by SIGHUP.
    Asked,
    /// As Kubernetes does with a mounted ConfigMap: a link into a directory that is swapped.
    Swapped,
}

/// The policies of a cluster, behind the links of a ConfigMap.
struct File<'a> {
    cluster: &'a Cluster,
    home: &'a Path,
    version: usize,
}

impl File<'_> {
    fn replace(&mut self, text: &str, way: Way) {
        self.version += 1;
        match way {
            Way::Renamed => self.cluster.write_policies(text),
            Way::Asked => {
                fs::write(self.cluster.policies(), text).expect("writes");
                child::hang_up(self.cluster.said_of("eu-0").pid);
            }
            Way::Swapped => {
                let name = format!("v{}", self.version);
                fs::create_dir(self.home.join(&name)).expect("made");
                fs::write(self.home.join(&name).join("policies.toml"), text).expect("writes");
                let (fresh, data) = (self.home.join("..data_tmp"), self.home.join("..data"));
                symlink(name, &fresh).expect("linked");
                fs::rename(&fresh, &data).expect("swapped");
                let link = self.home.join("link");
                symlink(data.join("policies.toml"), &link).expect("linked");
                fs::rename(link, self.cluster.policies()).expect("renamed");
            }
        }
    }
}

/// Puts the load on for some seconds; the report of `tidegate bench`.
fn load(node: &Node) -> JoinHandle<Value> {
    let mut bench = Command::new(binary::tidegate());
    bench.args(["bench", "--json", "--duration", "4s", "--connections", CONNECTIONS]);
    bench.args(["--url", &format!("http://{}", node.http), "--rate", &RATE.to_string()]);
    bench.args(LOAD.map(|(name, value)| format!("--attribute={name}={value}")));
    tokio::spawn(async move {
        let ended = bench.output().await.expect("it starts");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        serde_json::from_slice(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
    })
}

/// Counts what the load was answered; `errors` and refusals there must not be.
#[derive(Debug, Default)]
struct Answered {
    offered: u64,
    allowed: u64,
    p99_us: Vec<u64>,
}

impl Answered {
    fn add(&mut self, report: &Value) {
        assert_eq!((&report["errors"], &report["refused"]), (&0.into(), &0.into()), "{report}");
        // On a machine that cannot hold the rate, less is sent than is due; what is sent is answered.
        assert_eq!(report["sent"], report["allowed"], "{report}");
        self.offered += report["offered"].as_u64().expect("a number");
        self.allowed += report["allowed"].as_u64().expect("a number");
        self.p99_us.push(report["latency_us"]["p99"].as_u64().expect("a number"));
    }
}

async fn used(node: &Node, attributes: &Attributes<'_>) -> u64 {
    node.used(attributes).await.expect("the memory store answers")
}

async fn hash(node: &Node) -> Result<String, String> {
    Ok(node.cluster().await?["policy_hash"].to_string())
}

/// How often policies were loaded, or rejected.
async fn reloads(node: &Node, result: &str) -> u64 {
    let metrics = node.metrics().await.expect("there are metrics");
    let series = format!("tidegate_policy_reload_total{{result=\"{result}\"}} ");
    // A series is there from its first time on.
    metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_replaced_under_load_without_an_error_or_a_reset() {
    let cluster = Dev::new(&["eu"], &policies(FIRST, false, "400d")).start().await;
    let node = cluster.node("eu-0");
    let home = tempfile::tempdir().expect("a directory");
    let mut file = File { cluster: &cluster, home: home.path(), version: 0 };
    assert_eq!(node.spend(&BLOCKED, FIRST + 1).await, FIRST);

    let (mut answered, mut running) = (Answered::default(), load(node));
    let (mut seen, mut admitted, mut hashes) = (0, FIRST, BTreeSet::new());
    let (mut loaded, mut rejected) = (0, 0);
    for replacement in 1..=REPLACEMENTS {
        let way = [Way::Renamed, Way::Asked, Way::Swapped][replacement % 3];
        if replacement % 4 == 0 {
            let before = (reloads(node, "rejected").await, hash(node).await.expect("answered"));
            // The first policy is right, the second is not: none of both is taken.
            file.replace(&policies(1_000, true, "a while"), way);
            eventually(NOTICED, &format!("{way:?}: rejected"), async || {
                let now = reloads(node, "rejected").await;
                ensure(now > before.0, || format!("{now}"))
            })
            .await;
            assert_eq!(hash(node).await, Ok(before.1), "nothing of it holds");
            assert_eq!(node.spend(&BLOCKED, 1).await, 0, "nothing of it holds");
            rejected += 1;
        } else {
            // Sometimes more than before, sometimes less, and never the same twice in a row.
            let less = 1 + replacement as u64 % 3;
            let quantity = if replacement % 2 == 0 { admitted + 2 } else { admitted - less };
            let text = policies(quantity, replacement % 3 == 0, "400d");
            let before = hash(node).await;
            file.replace(&text, way);
            eventually(NOTICED, &format!("{way:?}: loaded"), async || {
                let now = hash(node).await;
                ensure(now != before, || format!("{now:?}"))
            })
            .await;
            hashes.insert(hash(node).await.expect("answered"));
            // Whoever is blocked may at once use what came on top, and nothing where there is less.
            let more = quantity.saturating_sub(admitted);
            assert_eq!(node.spend(&BLOCKED, 3).await, more, "{quantity} after {admitted}");
            admitted += more;
            loaded += 1;
        }
        assert_eq!(used(node, &BLOCKED).await, admitted);
        let now = used(node, &LOAD).await;
        assert!(now >= seen, "{now} after {seen}");
        seen = now;
        if running.is_finished() {
            answered.add(&running.await.expect("it ends"));
            running = load(node);
        }
    }
    answered.add(&running.await.expect("it ends"));

    // Each admission of all this time is counted.
    assert_eq!(used(node, &LOAD).await, answered.allowed, "{answered:?}");
    assert!(answered.allowed >= u64::from(RATE), "{answered:?}");
    assert!(reloads(node, "loaded").await >= loaded && reloads(node, "rejected").await >= rejected);
    assert!(hashes.len() >= 5, "policies of different kinds: {hashes:?}");

    // Another shape is another key: it begins anew. The old one is what it was.
    for (window, used_before) in [("399d", 0), ("400d", admitted)] {
        let before = hash(node).await;
        file.replace(&policies(admitted, false, window), Way::Asked);
        eventually(NOTICED, "another window holds", async || {
            ensure(hash(node).await != before, || "still the old one".into())
        })
        .await;
        assert_eq!(used(node, &BLOCKED).await, used_before, "{window}");
    }
    println!("{RATE} checks/s, {loaded} loaded, {rejected} rejected: {answered:?}");
    cluster.stop().await;
}
