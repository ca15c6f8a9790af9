//! Tidegate's server: HTTP, Redis and QUIC around the core.
//!
//! The parts do not know each other: [`api`], [`store`], [`transport`] and the rest meet in [`server`],
//! the composition root. [`limiter`] is the way of a check through them.
//!
//! To run a node in a process of your own, read a [`config::Config`], [`server::Server::bind`] it, and
//! [`run`](server::Server::run) it with a future that says when to stop.
//!
//! Every setting, endpoint and metric is described in `docs/configuration.md`, what goes between nodes
//! in `docs/wire.md`.

pub mod api;
pub mod certs;
pub mod clock;
pub mod config;
pub mod faults;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod guard;
pub mod limiter;
pub mod membership;
pub mod memory;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod transport;
