//! Tidegate's core: policies, decisions, counts and replication, as a state machine without IO.
//!
//! `no_std` on purpose: what cannot reach a clock, a socket or an ambient random number cannot depend on
//! one by accident. The server and the simulator drive the same [`engine::Engine`].
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod check;
pub mod counts;
pub mod engine;
pub mod guard;
pub mod ids;
pub mod invariants;
pub mod policy;
pub mod store;
pub mod time;
pub mod wan;

mod exchange;
mod slab;
mod wire;

pub use exchange::{ExchangeStats, PeerStatus, Traffic};
pub use wire::{FRAME_BYTES_MAX, FrameError};
