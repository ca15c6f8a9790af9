//! Where the command line meets the parts of the node. Nothing else in `cli`, `dev` or `bench` names
//! the server, the certificates or the client, but for `open_files`, which reads bounds.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tidegate_client::Client;
use tidegate_core::ids::NodeId;
use tidegate_node::{
    certs,
    config::Config,
    server::{Options, Server, ServerError, Wan},
    telemetry,
};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

use super::{exit::Failure, open_files};

/// How long threads that read files may take to end, once all else has ended.
const LAST_READS_MAX: Duration = Duration::from_secs(1);

pub(crate) use tidegate_node::{config::without_credentials, telemetry::LogFormat};

/// What `serve` was asked.
#[derive(Debug)]
pub(crate) struct Serve {
    /// The configuration file; `None` means the defaults: one region, memory store.
    pub(crate) config: Option<PathBuf>,
    /// Whether `PUT /v1/faults` is there.
    pub(crate) enable_faults: bool,
    /// The file that says how far other regions are; see `dev::wan`.
    pub(crate) wan: Option<PathBuf>,
}

/// What a node answered to a check.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Whether the request may pass.
    pub(crate) allowed: bool,
    /// The answer's body, JSON on one line.
    pub(crate) body: String,
}

/// Begins to log, on standard error.
pub(crate) fn start_logs(format: LogFormat) -> Result<(), Failure> {
    telemetry::init_logs(format).map_err(Failure::usage)
}

/// Refuses a node's file with mistakes, all of them in the message.
pub(crate) fn must_be_sound(file: &Path) -> Result<(), Failure> {
    Config::load(Some(file)).map(drop).map_err(Failure::usage)
}

/// Runs a node until it has drained.
pub(crate) fn serve(asked: &Serve) -> Result<(), Failure> {
    let mut config = Config::load(asked.config.as_deref()).map_err(Failure::usage)?;
    let wan = asked.wan.as_deref().map(Wan::load).transpose().map_err(Failure::usage)?;
    let options = Options { enable_faults: asked.enable_faults, wan };
    open_files::make_room(&mut config.listen)?;
    let runtime = Runtime::new().map_err(Failure::broken)?;
    let served = runtime.block_on(async {
        let mut hangup = signal(SignalKind::hangup()).map_err(Failure::broken)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::broken)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::broken)?;
        let server = Server::bind(config, options).await.map_err(|error| match error {
            ServerError::Broken(_) => Failure::broken(error),
            // Everything else is for a person to mend in a file.
            _ => Failure::usage(error),
        })?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let reload = async || hangup.recv().await.is_some();
        server.run(stop, reload).await.map_err(Failure::broken)
    });
    // A file that is still being read, from a disk that does not answer, must not hold the process up.
    runtime.shutdown_timeout(LAST_READS_MAX);
    served
}

/// Asks the node at `url` for one check.
pub(crate) async fn check(
    url: &str,
    attributes: &[(String, String)],
    cost: u64,
) -> Result<Answer, Failure> {
    let client = Client::new(url).map_err(Failure::usage)?;
    let attributes: Vec<(&str, &str)> =
        attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    match client.check(&attributes, cost).await {
        Ok(answer) => {
            let body = String::from_utf8_lossy(&answer.raw).trim_end().to_owned();
            Ok(Answer { allowed: answer.allowed, body })
        }
        Err(error @ tidegate_client::Error::Refused(_)) => Err(Failure::usage(error)),
        Err(error) => Err(Failure::unreachable(error)),
    }
}

/// Writes a fresh certificate authority, `ca.pem` and `ca.key`, to `out`.
pub(crate) fn certs_ca(out: &Path) -> Result<(), Failure> {
    certs::make_ca(out).map_err(Failure::usage)
}

/// Writes `node.pem` and `node.key` for one node, signed by the authority in `ca`, to `out`.
pub(crate) fn certs_node(ca: &Path, region: &str, node: &str, out: &Path) -> Result<(), Failure> {
    let id = NodeId::new(region, node).map_err(Failure::usage)?;
    certs::make_node(ca, &id, out).map_err(Failure::usage)
}
