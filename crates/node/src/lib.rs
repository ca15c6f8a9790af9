//! The server.

pub mod certs;
