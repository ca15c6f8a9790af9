//! The server.

pub mod certs;
pub mod faults;
pub mod membership;
pub mod transport;
