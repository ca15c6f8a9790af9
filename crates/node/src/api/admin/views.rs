//! What a node says about itself, field for field as it is written in JSON.

use std::collections::BTreeMap;

use serde::Serialize;

/// How a connection, or the best connection of a region, stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// Frames go both ways.
    Connected,
    /// A connection stands, but nothing has come back for a while.
    HalfOpen,
    /// There is none.
    Missing,
}

/// `/readyz`: whether checks should be sent here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// The answer; decides between 200 and 503.
    pub ready: bool,
    /// `ok`, or what is wrong with the store.
    pub store: String,
    /// `done`, or how far start sync is.
    pub sync: String,
    /// The other regions.
    pub peers: BTreeMap<String, ConnectionState>,
    /// Why not, for people; empty when ready.
    pub reasons: Vec<String>,
}

/// `/v1/cluster`: what this node knows of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClusterView {
    /// Its own region.
    pub region: String,
    /// Its own name.
    pub node: String,
    /// Which run of the node this is.
    pub boot: u64,
    /// The version of the program.
    pub version: String,
    /// What its policies come to.
    pub policy_hash: String,
    /// Whether all nodes that it knows have the same policies.
    pub agree: bool,
    /// The other regions.
    pub regions: Vec<RegionView>,
}

/// Another region, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegionView {
    /// Its name.
    pub region: String,
    /// The best of its nodes' states.
    pub state: ConnectionState,
    /// How old this node's view of its counts is; `None` if it was never heard.
    pub staleness_ms: Option<u64>,
    /// The last round trip measured.
    pub rtt_ms: Option<u64>,
    /// How much its clock is ahead of ours.
    pub clock_offset_ms: Option<i64>,
    /// Its nodes.
    pub nodes: Vec<NodeView>,
}

/// A node of another region, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeView {
    /// Its name.
    pub node: String,
    /// Where it listens for its peers.
    pub address: String,
    /// How the connection to it stands.
    pub state: ConnectionState,
    /// What its policies come to; `None` until it has said so.
    pub policy_hash: Option<String>,
}
