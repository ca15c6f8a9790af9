//! What whole-cluster tests share: real processes, real Redis, real QUIC, on ports that nobody else uses.
//!
//! A test starts a cluster by [`dev`] or single nodes by [`site`], asks them as [`node::Node`], awaits
//! what must come about with [`eventually`], and stops them. What it started ends with it, however it
//! ends; when it fails, the logs of all its processes are shown.

pub mod binary;
pub mod child;
pub mod dev;
pub mod faulted;
pub mod forwarder;
pub mod http;
pub mod labels;
pub mod load;
pub mod named;
pub mod node;
pub mod ports;
pub mod redis_cluster;
pub mod redis_server;
pub mod region;
pub mod sentinel;
pub mod site;
pub mod skewed_redis;
pub mod soak;
pub mod stranger;

mod patience;

pub use patience::{ensure, eventually};
