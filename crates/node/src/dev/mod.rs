//! `tidegate dev`: a whole cluster on this machine, as child processes.
//!
//! [`layout`] decides what there is, [`ports`] that it can be, [`files`] writes what the nodes read,
//! one [`keeper`] lives with each child. Everything runs on the main thread: see [`exec_child`].

use std::{
    env,
    ffi::OsString,
    net::SocketAddrV4,
    path::{Path, PathBuf},
};

use serde::Serialize;
use tempfile::TempDir;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::{
    files::NodeFiles,
    keeper::{Keeper, Readiness},
    layout::{Place, Region, RegionStore},
};
use crate::cli::{
    arguments::Dev,
    exit::{Exit, Failure},
    join, output, policy, runtime,
};

pub(crate) mod exec_child;

mod files;
mod keeper;
mod layout;
mod ports;
mod ready;
mod wan;

const REDIS: &str = "redis-server";

/// Runs the cluster until it is told to stop, or until it breaks.
pub(crate) fn run(asked: &Dev) -> Result<Exit, Failure> {
    let regions = layout::regions(asked)?;
    policy::must_be_sound(&asked.policies)?;
    runtime()?.block_on(async {
        // Before the first file and the first child: from here on no signal ends this process
        // without an end of theirs.
        let signals = Signals::new()?;
        Cluster::prepare(asked, regions)?.run(signals).await
    })
}

/// A cluster of which all files are written and nothing runs yet.
struct Cluster {
    regions: Vec<Region>,
    /// In the order of the nodes.
    files: Vec<NodeFiles>,
    executable: PathBuf,
    restart: bool,
    stop: CancellationToken,
    /// Removed with the cluster. Only a `dev` that is killed leaves it behind.
    root: TempDir,
}

impl Cluster {
    fn prepare(asked: &Dev, regions: Vec<Region>) -> Result<Self, Failure> {
        let own_redis =
            regions.iter().any(|region| matches!(region.store, RegionStore::OwnRedis(_)));
        if own_redis && !is_installed(REDIS) {
            return Err(Failure::usage(
                "redis-server is not installed: `apt-get install redis-server` (Debian, Ubuntu) or \
                 `brew install redis` (macOS) mends that; or name running ones with --redis-url, or \
                 use --store memory",
            ));
        }
        ports::must_be_free(&regions)?;
        let executable = env::current_exe()
            .map_err(|error| Failure::broken(format_args!("cannot find itself: {error}")))?;
        let policies = std::path::absolute(&asked.policies)
            .map_err(|error| Failure::usage(format_args!("--policies: {error}")))?;
        let root = tempfile::Builder::new().prefix("tidegate-dev-").tempdir().map_err(|error| {
            Failure::broken(format_args!("cannot make a temporary directory: {error}"))
        })?;
        let files = files::write(root.path(), &regions, &policies, asked.wan)?;
        for node in &files {
            // A URL of --redis-url may be none; better told before the first child.
            join::must_be_sound(&node.config)?;
        }
        let stop = CancellationToken::new();
        Ok(Self { regions, files, executable, restart: asked.restart, stop, root })
    }

    async fn run(self, mut signals: Signals) -> Result<Exit, Failure> {
        let mut keepers = JoinSet::new();
        let mut files = self.files.iter();
        for region in &self.regions {
            if let RegionStore::OwnRedis(address) = region.store {
                keepers.spawn(self.redis(&region.name, address)?.keep());
            }
            for (node, files) in region.nodes.iter().zip(&mut files) {
                let ready = self.readiness(region, node, files);
                keepers.spawn(self.node(node, files).keep_ready(Some(ready)));
            }
        }
        let mut broken = tokio::select! {
            name = signals.next() => {
                tracing::info!("{name}: stopping");
                None
            }
            Some(ended) = keepers.join_next() => failure_of(ended),
        };
        self.stop.cancel();
        while let Some(ended) = keepers.join_next().await {
            broken = broken.or(failure_of(ended));
        }
        if let Err(error) = self.root.close() {
            tracing::warn!(%error, "the temporary directory is left behind");
        }
        broken.map_or(Ok(Exit::Done), Err)
    }

    fn redis(&self, region: &str, address: SocketAddrV4) -> Result<Keeper, Failure> {
        let home = files::redis_home(self.root.path(), region)?;
        let port = address.port().to_string();
        let mut command: Vec<OsString> =
            [REDIS, "--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
                .map(OsString::from)
                .into();
        command.extend(["--daemonize", "no", "--dir"].map(OsString::from));
        command.push(home.clone().into());
        Ok(self.keeper(format!("Redis of {region}"), command, home.join("log")))
    }

    fn node(&self, node: &Place, files: &NodeFiles) -> Keeper {
        let command = vec![
            self.executable.clone().into(),
            "serve".into(),
            "--config".into(),
            files.config.clone().into(),
            "--enable-faults".into(),
            "--wan".into(),
            files.wan.clone().into(),
        ];
        self.keeper(node.id.node.to_string(), command, files.log.clone())
    }

    fn keeper(&self, name: String, command: Vec<OsString>, log: PathBuf) -> Keeper {
        let (executable, stop) = (self.executable.clone(), self.stop.clone());
        Keeper { name, executable, command, log, restart: self.restart, stop }
    }

    /// Prints the ready line whenever the node has become ready.
    fn readiness(
        &self,
        region: &Region,
        node: &Place,
        files: &NodeFiles,
    ) -> Readiness<impl Fn(u32, u64) + use<>> {
        let (id, http, admin, cluster) =
            (node.id.clone(), node.http.to_string(), node.admin.to_string(), node.cluster);
        let (store, config) = (region.store.name(), files.config.clone());
        let announce = move |pid, restarts| {
            output::json(&ReadyLine {
                region: id.region.as_str(),
                node: id.node.as_str(),
                http: &http,
                grpc: None,
                admin: &admin,
                cluster: &cluster.to_string(),
                pid,
                store: &store,
                config: &config,
                restarts,
            });
        };
        Readiness { admin: node.admin, announce }
    }
}

/// What standard output says of a node that has become ready.
#[derive(Debug, Serialize)]
struct ReadyLine<'a> {
    region: &'a str,
    node: &'a str,
    http: &'a str,
    /// `None` until nodes serve gRPC.
    grpc: Option<&'a str>,
    admin: &'a str,
    cluster: &'a str,
    pid: u32,
    store: &'a str,
    config: &'a Path,
    restarts: u64,
}

/// The signals that ask the cluster to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::broken(format_args!("cannot hear signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}

fn failure_of(ended: Result<Result<(), Failure>, tokio::task::JoinError>) -> Option<Failure> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(error) => Some(Failure::broken(format_args!("a keeper of a child failed: {error}"))),
    }
}

/// Whether a program of this name can be found.
fn is_installed(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|place| place.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_line_is_what_outsiders_parse() {
        let line = ReadyLine {
            region: "eu",
            node: "eu-0",
            http: "127.0.0.1:18000",
            grpc: None,
            admin: "127.0.0.1:18002",
            cluster: "127.0.0.1:18003",
            pid: 4711,
            store: "memory",
            config: Path::new("/tmp/eu-0/node.toml"),
            restarts: 0,
        };
        let text = serde_json::to_string(&line).expect("is JSON");
        assert_eq!(
            text,
            r#"{"region":"eu","node":"eu-0","http":"127.0.0.1:18000","grpc":null,"admin":"127.0.0.1:18002","cluster":"127.0.0.1:18003","pid":4711,"store":"memory","config":"/tmp/eu-0/node.toml","restarts":0}"#
        );
    }

    #[test]
    fn a_program_is_looked_for_in_the_path() {
        assert!(is_installed("sh"));
        assert!(!is_installed("tidegate-no-such-program"));
    }
}
