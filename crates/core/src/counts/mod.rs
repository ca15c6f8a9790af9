//! What every session has used of every key in every label: the replicated counts.
//!
//! The state is a set of cells, one per key *and label*; a cell holds one tally per session. Each tally
//! is written by its session alone and only grows, so that merging is a maximum (INV-2) and a cell of one
//! window can never leak into another.

pub use closing::OverAdmitted;
pub(crate) use degraded::Wanted;
pub(crate) use digest::{Compared, Tick, place_of};
pub(crate) use exposure::Ages;
pub(crate) use shard::{Asked, Cursor, Entry, Known, Live, Shape, Shard, WalkFilter};
pub use tally::Tally;

mod cells;
mod closing;
mod degraded;
mod digest;
mod exposure;
mod log;
mod quantities;
mod shard;
mod tally;
