//! A cluster of `tidegate dev`: three regions, each with its store, as far apart as continents.

use std::{
    collections::BTreeMap,
    fs,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdout, Command},
    time::{sleep, timeout},
};

use super::{Arguments, Store, http::Http, say};

pub(crate) const REGIONS: [&str; 3] = ["eu", "us", "ap"];
/// Tried one after the other until all ports are free.
const BASE_PORTS: [u16; 5] = [18000, 19000, 20000, 21000, 22000];
const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What `dev` says of a node that is ready.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Node {
    region: String,
    pub(crate) node: String,
    http: String,
    admin: String,
    pid: i32,
    pub(crate) store: String,
    restarts: u64,
}

impl Node {
    /// The base URL for checks.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.http)
    }
}

/// A cluster that runs.
pub(crate) struct Cluster {
    dev: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: NamedTempFile,
    nodes: BTreeMap<String, Node>,
    pub(crate) http: Http,
}

/// What a start can end in, short of a cluster.
enum NoStart {
    PortInUse,
    Failed(String),
}

impl Cluster {
    /// Starts the cluster, and waits until every region knows every other.
    pub(crate) async fn start(arguments: &Arguments) -> Result<Self, String> {
        for base in BASE_PORTS {
            match Self::start_at(arguments, base).await {
                Ok(cluster) => match cluster.connected().await {
                    Ok(()) => return Ok(cluster),
                    Err(error) => {
                        cluster.stop(true).await?;
                        return Err(error);
                    }
                },
                Err(NoStart::PortInUse) => {
                    say::line(&format!("Ports from {base} on are in use; trying others."));
                }
                Err(NoStart::Failed(error)) => return Err(error),
            }
        }
        Err(format!("all port ranges that were tried are in use: {BASE_PORTS:?}"))
    }

    async fn start_at(arguments: &Arguments, base: u16) -> Result<Self, NoStart> {
        let failed = |error: &dyn std::fmt::Display| NoStart::Failed(format!("start: {error}"));
        let log = NamedTempFile::with_prefix("tidegate-demo-").map_err(|error| failed(&error))?;
        let stderr = log.reopen().map_err(|error| failed(&error))?;
        let mut command = Command::new(&arguments.tidegate);
        if !arguments.keep {
            // However this process ends, the cluster ends with it.
            command.args(["exec-child", "--parent", &std::process::id().to_string(), "--"]);
            command.arg(&arguments.tidegate);
        }
        let store = match arguments.store {
            Store::Redis => "redis",
            Store::Memory => "memory",
        };
        let mut dev = command
            .args(["dev", "--regions", &REGIONS.join(","), "--wan", "typical", "--restart"])
            .args(["--store", store, "--base-port", &base.to_string(), "--policies"])
            .arg(&arguments.policies)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(&error))?;
        let stdout = dev.stdout.take().expect("it was asked for");
        let lines = BufReader::new(stdout).lines();
        let mut cluster = Self { dev, lines, log, nodes: BTreeMap::new(), http: Http::new() };
        while cluster.nodes.len() < REGIONS.len() {
            match cluster.next_ready().await {
                Ok(_) => {}
                Err(_) if cluster.logged().contains("is in use") => return Err(NoStart::PortInUse),
                Err(error) => {
                    let logged = cluster.logged();
                    return Err(NoStart::Failed(format!("{error}; the cluster says:\n{logged}")));
                }
            }
        }
        Ok(cluster)
    }

    /// The node of a region.
    pub(crate) fn node(&self, region: &str) -> &Node {
        &self.nodes[region]
    }

    /// Waits for the next line that says that a node is ready.
    async fn next_ready(&mut self) -> Result<Node, String> {
        let line = timeout(START_PATIENCE, self.lines.next_line())
            .await
            .map_err(|_| format!("no node became ready within {START_PATIENCE:?}"))?
            .map_err(|error| error.to_string())?
            .ok_or("`tidegate dev` ended")?;
        let node: Node =
            serde_json::from_str(&line).map_err(|error| format!("`{line}`: {error}"))?;
        self.nodes.insert(node.region.clone(), node.clone());
        Ok(node)
    }

    fn logged(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap_or_else(|error| error.to_string())
    }

    async fn connected(&self) -> Result<(), String> {
        let all = async {
            for region in REGIONS {
                while !self.sees_all_others(region).await {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        };
        let patience = START_PATIENCE;
        timeout(patience, all)
            .await
            .map_err(|_| format!("the regions did not find each other within {patience:?}"))
    }

    async fn sees_all_others(&self, region: &str) -> bool {
        let url = format!("http://{}/v1/cluster", self.nodes[region].admin);
        let Ok(view) = self.http.done(Method::GET, &url, None).await else { return false };
        let connected = |other: &&str| {
            view["regions"].as_array().is_some_and(|regions| {
                regions.iter().any(|r| r["region"] == **other && r["state"] == "connected")
            })
        };
        REGIONS.iter().filter(|other| **other != region).all(connected)
    }

    /// Cuts a region off: nothing leaves it, and nothing is sent to it.
    pub(crate) async fn cut_off(&self, region: &str) -> Result<(), String> {
        for node in self.nodes.values() {
            let to = if node.region == region { "*" } else { region };
            let url = format!("http://{}/v1/faults", node.admin);
            let fault = json!({ "to": to, "cut": true });
            self.http.done(Method::PUT, &url, Some(&fault)).await?;
        }
        Ok(())
    }

    /// Takes all cuts back.
    pub(crate) async fn heal(&self) -> Result<(), String> {
        for node in self.nodes.values() {
            let url = format!("http://{}/v1/faults", node.admin);
            let (status, body) = self.http.ask(Method::DELETE, &url, None).await?;
            if !status.is_success() {
                return Err(format!("DELETE {url}: {status} {body}"));
            }
        }
        Ok(())
    }

    /// What a region knows about one limit of one caller: its net use over all regions.
    pub(crate) async fn used(&self, region: &str, route: &str) -> Result<u64, String> {
        let url = format!("{}/v1/usage?api_key=demo&route={route}", self.nodes[region].url());
        let usage = self.http.done(Method::GET, &url, None).await?;
        let used: &Value = &usage["policies"][0]["limits"][0]["used"];
        used.as_u64().ok_or_else(|| format!("GET {url}: no `used` in {usage}"))
    }

    /// Makes a region's store forget everything; the words for what was done.
    pub(crate) async fn wipe_store(&mut self, region: &str) -> Result<String, String> {
        let node = self.nodes[region].clone();
        if let Some(address) = node.store.strip_prefix("redis://") {
            let address = address.trim_end_matches("/0");
            flush_all(address).await.map_err(|error| format!("FLUSHALL at {address}: {error}"))?;
            return Ok(format!("FLUSHALL on the Redis of {region}"));
        }
        let pid = Pid::from_raw(node.pid).ok_or("a ready line without a process id")?;
        kill_process(pid, Signal::KILL).map_err(|error| error.to_string())?;
        let again = self.next_ready().await?;
        if again.node != node.node || again.restarts == 0 {
            return Err(format!("{} was killed, but {again:?} came back", node.node));
        }
        Ok(format!("kill -9 of {}, and with it its memory store; it was started again", node.node))
    }

    /// Stops the cluster. With `tell`, shows what it logged.
    pub(crate) async fn stop(mut self, tell: bool) -> Result<(), String> {
        if let Some(pid) = self.dev.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            kill_process(pid, Signal::TERM).map_err(|error| error.to_string())?;
        }
        let ended: ExitStatus = timeout(STOP_PATIENCE, self.dev.wait())
            .await
            .map_err(|_| format!("the cluster did not stop within {STOP_PATIENCE:?}"))?
            .map_err(|error| error.to_string())?;
        if tell {
            say::line(&format!("\nWhat the cluster logged:\n{}", self.logged()));
        }
        if ended.success() { Ok(()) } else { Err(format!("the cluster ended with {ended}")) }
    }

    /// Leaves the cluster to the user.
    pub(crate) fn leave(self) -> Result<(), String> {
        let pid = self.dev.id().ok_or("the cluster has ended by itself")?;
        say::line("\nThe cluster stays up:");
        for node in self.nodes.values() {
            let (region, url, admin) = (&node.region, node.url(), &node.admin);
            say::line(&format!("  {region}  {url}  (admin http://{admin})"));
        }
        let (_, log) = self.log.keep().map_err(|error| error.to_string())?;
        say::line(&format!("Its log is {}. Stop it with: kill {pid}", log.display()));
        // Dropped, it would be killed.
        std::mem::forget(self.dev);
        Ok(())
    }
}

async fn flush_all(address: &str) -> std::io::Result<()> {
    let mut redis = TcpStream::connect(address).await?;
    redis.write_all(b"*1\r\n$8\r\nFLUSHALL\r\n").await?;
    let mut answer = [0; 5];
    redis.read_exact(&mut answer).await?;
    if &answer == b"+OK\r\n" {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
}
