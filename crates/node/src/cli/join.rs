//! Where the command line meets the parts of the node. Nothing else in `cli`, `dev` or `bench` names
//! the server, the certificates or the client.

use std::path::{Path, PathBuf};

use tidegate_client::{Client, Error};
use tidegate_core::ids::NodeId;
use tidegate_node::{
    certs,
    config::Config,
    telemetry::{self, LogFormat},
};

use super::exit::Failure;

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
pub(crate) fn start_logs() -> Result<(), Failure> {
    telemetry::init_logs(LogFormat::Text).map_err(Failure::usage)
}

/// Runs a node until it has drained.
pub(crate) fn serve(asked: &Serve) -> Result<(), Failure> {
    start_logs()?;
    let config = Config::load(asked.config.as_deref()).map_err(Failure::usage)?;
    let Serve { enable_faults, wan, .. } = asked;
    tracing::debug!(?config, enable_faults, ?wan, "configured");
    Err(Failure::broken("this build has no server"))
}

/// Asks the node at `url` for one check.
pub(crate) async fn check(
    url: &str,
    attributes: &[(String, String)],
    cost: u64,
) -> Result<Answer, Failure> {
    let client = Client::new(url).map_err(Failure::usage)?;
    let attributes: Vec<_> =
        attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let answer = client.check(&attributes, cost).await.map_err(|error| match error {
        Error::Refused(_) => Failure::usage(error),
        _ => Failure::unreachable(error),
    })?;
    let body = String::from_utf8_lossy(&answer.raw).trim_end().to_owned();
    Ok(Answer { allowed: answer.allowed, body })
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
