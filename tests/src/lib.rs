//! What tests with real processes share: a Redis server of their own, on ports that the system gives.

pub mod redis_server;
