//! A whole cluster of `tidegate dev`.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::ChildStdout,
    time,
};

use crate::{
    child::{self, Process},
    ensure, eventually,
    node::{Attributes, Node},
    ports::Ports,
};

/// How long a cluster may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// The policy file in a cluster's home.
const POLICIES: &str = "policies.toml";

/// Which cluster is wanted.
#[derive(Debug, Clone)]
pub struct Dev {
    regions: Vec<String>,
    policies: String,
    arguments: Vec<String>,
    nodes: usize,
}

impl Dev {
    /// Regions with one node each, and the text of their policies.
    pub fn new(regions: &[&str], policies: &str) -> Self {
        let regions = regions.iter().map(ToString::to_string).collect();
        Self { regions, policies: policies.into(), arguments: Vec::new(), nodes: 1 }
    }

    /// Each region with a Redis and so many nodes.
    #[must_use]
    pub fn redis(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        let nodes = nodes.to_string();
        self.with(&["--store", "redis", "--nodes-per-region", &nodes])
    }

    /// With further arguments of `tidegate dev`.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Starts it, and waits until every node is ready and connected with every other region.
    pub async fn start(self) -> Cluster {
        let mut cluster = self.spawn();
        for _ in 0..self.regions.len() * self.nodes {
            cluster.next_ready().await;
        }
        cluster.connected().await;
        cluster
    }

    /// Starts it, and waits for nothing.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn spawn(&self) -> Cluster {
        self.spawn_at(Ports::claim())
    }

    /// Starts it on these ports, and waits for nothing.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn spawn_at(&self, ports: Ports) -> Cluster {
        let home = tempfile::tempdir().expect("a directory can be made");
        let policies = home.path().join(POLICIES);
        fs::write(&policies, &self.policies).expect("a file can be written");
        let scratch = home.path().join("scratch");
        fs::create_dir(&scratch).expect("a directory can be made");
        let mut arguments: Vec<OsString> =
            ["dev", "--regions", &self.regions.join(","), "--base-port", &ports.base().to_string()]
                .map(OsString::from)
                .into();
        arguments.extend(["--policies".into(), policies.into()]);
        arguments.extend(self.arguments.iter().map(OsString::from));
        let log = home.path().join("dev.log");
        let mut process = Process::start("tidegate dev", &arguments, &log, &scratch);
        let lines = BufReader::new(process.stdout()).lines();
        Cluster { process, lines, nodes: BTreeMap::new(), ports, scratch, home }
    }
}

/// What `dev` says of a node that is ready: every field of the contract, and no other.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadyLine {
    /// Its region.
    pub region: String,
    /// Its name.
    pub node: String,
    /// Where checks are asked.
    pub http: String,
    /// Where gRPC is asked, once there is one.
    pub grpc: Option<String>,
    /// Where operators ask.
    pub admin: String,
    /// Where peers reach it.
    pub cluster: String,
    /// Its process.
    pub pid: i32,
    /// `memory`, or a URL.
    pub store: String,
    /// Its configuration.
    pub config: PathBuf,
    /// How often it has been started again.
    pub restarts: u64,
}

/// A cluster of `tidegate dev` that runs.
#[derive(Debug)]
pub struct Cluster {
    process: Process,
    lines: Lines<BufReader<ChildStdout>>,
    nodes: BTreeMap<String, (ReadyLine, Node)>,
    ports: Ports,
    /// Where `dev` puts its files.
    scratch: PathBuf,
    /// Removed at the end.
    home: TempDir,
}

impl Cluster {
    /// Waits for the next line that says that a node is ready.
    ///
    /// # Panics
    ///
    /// If none comes, or it is not what the contract says.
    pub async fn next_ready(&mut self) -> ReadyLine {
        let line = time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("a node becomes ready").expect("it can be read");
        let line = line.unwrap_or_else(|| panic!("`tidegate dev` ended: {}", self.process.log()));
        let said: ReadyLine =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let node = Node::new(&said.region, &said.node, &said.http, &said.admin, &said.cluster);
        self.nodes.insert(said.node.clone(), (said.clone(), node));
        said
    }

    /// The node of this name.
    ///
    /// # Panics
    ///
    /// If it has not become ready.
    pub fn node(&self, name: &str) -> &Node {
        &self.nodes.get(name).unwrap_or_else(|| panic!("{name} has not become ready")).1
    }

    /// What was said of the node of this name when it became ready last.
    ///
    /// # Panics
    ///
    /// If it has not become ready.
    pub fn said_of(&self, name: &str) -> &ReadyLine {
        &self.nodes.get(name).unwrap_or_else(|| panic!("{name} has not become ready")).0
    }

    /// All nodes that have become ready, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().map(|(_, node)| node)
    }

    /// Its ports.
    pub const fn ports(&self) -> &Ports {
        &self.ports
    }

    /// What `dev` has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Replaces the policy file of all nodes, as a whole.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn write_policies(&self, text: &str) {
        let fresh = self.home.path().join("policies.next");
        fs::write(&fresh, text).expect("a file can be written");
        fs::rename(fresh, self.policies()).expect("a file can be renamed");
    }

    /// The policy file of all nodes.
    pub fn policies(&self) -> PathBuf {
        self.home.path().join(POLICIES)
    }

    /// The logs of all its processes: where they are, and what is in them.
    pub fn logs(&self) -> Vec<(PathBuf, String)> {
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| error.to_string());
            (path, text)
        };
        logs(&self.scratch).into_iter().map(read).collect()
    }

    /// Waits until every node is connected with every other region.
    pub async fn connected(&self) {
        connected(self.nodes(), PATIENCE).await;
    }

    /// Cuts a region off: nothing leaves it, and nothing is sent to it.
    pub async fn cut_off(&self, region: &str) {
        for node in self.nodes() {
            let to = if node.region == region { "*" } else { region };
            node.put_fault(&json!({ "to": to, "cut": true })).await;
        }
    }

    /// Takes all faults back.
    pub async fn heal(&self) {
        for node in self.nodes() {
            node.clear_faults().await;
        }
    }

    /// Waits until every node says that so much is used, and by which region.
    pub async fn agree_on(
        &self,
        attributes: &Attributes<'_>,
        by_region: &[(&str, u64)],
        within: Duration,
    ) {
        agree_on(self.nodes(), attributes, by_region, within).await;
    }

    /// Stops it by SIGTERM, and sees that nothing is left: no process, no port, no file.
    ///
    /// # Panics
    ///
    /// If something is left, or it does not end well.
    pub async fn stop(mut self) {
        self.process.terminate();
        let status = self.process.ended(PATIENCE).await;
        assert_eq!(status.code(), Some(0), "{status}");
        self.nothing_runs().await;
        let left = self.left_behind();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// The files that it has left behind.
    ///
    /// # Panics
    ///
    /// If they cannot be listed.
    pub fn left_behind(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.scratch).expect("it is a directory");
        entries.map(|entry| entry.expect("it can be read").path()).collect()
    }

    /// Kills `dev` by SIGKILL.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Waits until it ends by itself, with this exit code.
    ///
    /// # Panics
    ///
    /// If it does not, or says on standard output that a node was ready.
    pub async fn ends_with(&mut self, code: i32) {
        let line = time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("it ends").expect("it can be read");
        assert_eq!(line, None);
        let status = self.process.ended(PATIENCE).await;
        assert_eq!(status.code(), Some(code), "{status}");
    }

    /// Sees that no process of it runs and none of its ports is in use.
    pub async fn nothing_runs(&self) {
        eventually(PATIENCE, "no child is left running", async || {
            let pids: Vec<_> = self.nodes.values().map(|(said, _)| said.pid).collect();
            let alive: Vec<_> = pids.into_iter().filter(|pid| child::runs(*pid)).collect();
            let ports = self.ports.in_use();
            let left = || format!("processes {alive:?}, ports {ports:?}");
            ensure(alive.is_empty() && ports.is_empty(), left)
        })
        .await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            for (log, text) in self.logs() {
                let log = log.strip_prefix(self.home.path()).unwrap_or(&log).display();
                eprintln!("--- {log}:\n{text}");
            }
        }
    }
}

/// The logs below a directory.
fn logs(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .flat_map(|path| match path.is_dir() {
            true => logs(&path),
            false if path.ends_with("log") => vec![path],
            false => Vec::new(),
        })
        .collect()
}

/// Waits until every one of these nodes is connected with the region of every other.
pub async fn connected<'a>(nodes: impl IntoIterator<Item = &'a Node>, within: Duration) {
    let nodes: Vec<_> = nodes.into_iter().collect();
    eventually(within, "all regions are connected", async || {
        for node in &nodes {
            for other in nodes.iter().filter(|other| other.region != node.region) {
                let state = node.state_of(&other.region).await?;
                let said = || format!("{} has {} {state}", node.name, other.region);
                ensure(state == "connected", said)?;
            }
        }
        Ok(())
    })
    .await;
}

/// Waits until every one of these nodes says that so much is used, and by which region.
pub async fn agree_on<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    attributes: &Attributes<'_>,
    by_region: &[(&str, u64)],
    within: Duration,
) {
    let nodes: Vec<_> = nodes.into_iter().collect();
    let sum: u64 = by_region.iter().map(|(_, used)| used).sum();
    eventually(within, &format!("every node knows of {sum}: {by_region:?}"), async || {
        for node in &nodes {
            let usage = node.usage(attributes).await?;
            let parts =
                by_region.iter().all(|(region, used)| usage["regions"][region]["used"] == *used);
            ensure(usage["used"] == sum && parts, || format!("{} says {usage}", node.name))?;
        }
        Ok(())
    })
    .await;
}
