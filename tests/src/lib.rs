//! What whole-cluster tests share: real processes on ports that the system gives.

pub mod redis_server;
