//! What a node tells about its work: logs on stderr, metrics for Prometheus.

pub use logs::{BadLogFilter, LogFormat, init_logs};
pub use metrics::{Metrics, ReloadResult};
pub use sample::{
    ClockSample, ConfigSample, GuardSample, ListenerSample, NodeSample, OverSample, PeerSample,
    StoreSample, Traffic,
};

mod logs;
mod metrics;
mod sample;
