//! Rights: what a region may spend of a global limit on its own, so that all together never exceed it.
//!
//! A quantity is split among the configured regions ([`Split`]). What a region's store has spent, granted
//! and received is its [`Account`], which only the store's atomic step changes. What it has granted is told
//! to everybody ([`Statement`]), and whom it is for may spend it when it was heard of ([`Book`]). How much
//! is granted to whom is a matter of demand ([`grants`]) and not of safety: any amounts are safe.
//!
//! Everything here is integers, but for the demand: a model checker holds these very types.

pub use account::{Account, Fence, Received};
pub use book::{Book, Statement};
pub use grant::{Demand, Share, grants};
pub use recovery::{Answer, Recovery, Reopening, answer};
pub use row::Row;
pub use split::{REGIONS_MAX, Split, SplitError, WEIGHT_MAX};

mod account;
mod book;
mod grant;
#[cfg(test)]
mod model;
mod recovery;
mod row;
mod split;
