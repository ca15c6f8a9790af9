//! Tidegate's server: HTTP, Redis and QUIC around the core.
//!
//! The parts do not know each other: [`api`], [`store`], [`transport`] and the rest meet in [`server`],
//! the composition root.

pub mod api;
pub mod certs;
pub mod clock;
pub mod config;
pub mod faults;
pub mod guard;
pub mod limiter;
pub mod membership;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod transport;
