//! The server.

pub mod certs;
pub mod faults;
pub mod transport;
