//! Tidegate's core: policies, decisions, counts and replication, as a state machine without IO.
//!
//! `no_std` on purpose: what cannot reach a clock, a socket or an ambient random number cannot depend on
//! one by accident. The server and the simulator drive the same [`engine::Engine`].
//!
//! # The way of a check
//!
//! 1. [`engine::Engine::plan`] takes the policies that apply to a request and what is known of other
//!    regions, and makes a [`store::StoreCommand`] of it.
//! 2. The regional store carries the command out as one atomic step: [`store::step`], or its translation.
//! 3. [`engine::Engine::complete`] makes a [`check::Decision`] of the reply, and counts what was admitted
//!    in this session's own slots.
//!
//! # The way of a count
//!
//! [`engine::Engine::poll_frame`] cuts frames for peers from what changed; [`engine::Engine::handle_frame`]
//! merges what peers send. Merging is a maximum, field by field ([`counts::Tally::merge`]).
//!
//! # Who calls what
//!
//! Every method takes `now`, and none waits. A driver hands inputs in (`handle_*`), takes frames out until
//! there are none, and sleeps until [`engine::Engine::next_deadline`]. How the parts of an engine are
//! guarded is a type parameter: see [`guard`].
//!
//! What must always hold is listed in [`invariants`]; reasons and proofs are in `docs/algorithm.md`.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod algorithm;
pub mod breaker;
pub mod calls;
pub mod check;
pub mod counts;
pub mod engine;
pub mod guard;
pub mod ids;
pub mod invariants;
pub mod policy;
pub mod rights;
pub mod store;
pub mod time;
pub mod wan;

mod clock;
mod exchange;
mod forecast;
mod index;
mod memory;
mod slab;
mod wire;

pub use clock::ClockStatus;
pub use exchange::{ExchangeStats, PeerStatus, RepairStats, Sentence, Traffic};
pub use memory::Memory;
pub use wire::{FRAME_BYTES_MAX, FrameError, Hello, HelloError};
