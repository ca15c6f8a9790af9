//! What a node tells about its work: logs on stderr, metrics for Prometheus.

pub use logs::{BadLogFilter, LogFormat, init_logs};
pub use metrics::{Metrics, ReloadResult};
pub use sample::{ClockSample, GuardSample, NodeSample, OverSample, PeerSample, Traffic};

mod logs;
mod metrics;
mod sample;
