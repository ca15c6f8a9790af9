//! Where the command line meets the parts of the node. Nothing else in `cli`, `dev` or `bench` names
//! the server, the certificates or the client.

use std::path::{Path, PathBuf};

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

/// Runs a node until it has drained.
pub(crate) fn serve(asked: &Serve) -> Result<(), Failure> {
    let Serve { config, enable_faults, wan } = asked;
    Err(not_joined(&format!("serve {config:?} {enable_faults} {wan:?}")))
}

/// Asks the node at `url` for one check.
pub(crate) async fn check(
    url: &str,
    attributes: &[(String, String)],
    cost: u64,
) -> Result<Answer, Failure> {
    Err(not_joined(&format!("check {url} {attributes:?} {cost}")))
}

/// Writes a fresh certificate authority, `ca.pem` and `ca.key`, to `out`.
pub(crate) fn certs_ca(out: &Path) -> Result<(), Failure> {
    Err(not_joined(&format!("certs ca {}", out.display())))
}

/// Writes `node.pem` and `node.key` for one node, signed by the authority in `ca`, to `out`.
pub(crate) fn certs_node(ca: &Path, region: &str, node: &str, out: &Path) -> Result<(), Failure> {
    let (ca, out) = (ca.display(), out.display());
    Err(not_joined(&format!("certs node {ca} {region} {node} {out}")))
}

fn not_joined(what: &str) -> Failure {
    Failure::broken(format_args!("this build lacks the part for `{what}`"))
}
