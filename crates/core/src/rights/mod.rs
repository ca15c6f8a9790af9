//! Rights: what a region may spend of a global limit on its own, so that all together never exceed it.
//!
//! A quantity is split among the configured regions ([`Split`]). What a region's store has spent, granted
//! and received is its [`Account`], which only the store's atomic step changes. What it has granted is told
//! to everybody ([`Statement`]), and whom it is for may spend it when it was heard of ([`Book`]). How much
//! is granted to whom is a matter of demand ([`grants`]) and not of safety: any amounts are safe.
//!
//! What must hold, checked by the tests beside the types and by the model checker (and where one node can, for
//! every reply of the store, see [`invariants`](crate::invariants)):
//!
//! - INV-12 *Split*: the bases of all regions add up to the quantity;
//! - INV-13 *Covered*: in a store, spent and given are at most base, received and overdraft;
//! - INV-14 *Given first*: nobody has received more than its giver has counted as given;
//! - INV-15 *Forfeited*: nothing is spent in labels that a store may have forgotten;
//! - INV-16 *Recovered*: a recovered label is taken to hold no less than was spent in it.
//!
//! Everything here is integers, but for the demand: a model checker holds these very types.

pub use account::{Account, Fence};
pub use book::{Book, Statement};
pub(crate) use books::Books;
pub use config::{Adopted, Adoptions, Bases, Fingerprints, Proposed, Regions};
pub use grant::{Demand, Share, grants};
pub use receipts::{Receipts, Received};
pub use recovery::{Reopening, block};
pub use row::Row;
pub use split::{REGIONS_MAX, Split, SplitError, WEIGHT_MAX};

mod account;
mod book;
mod books;
mod config;
#[cfg(test)]
mod config_model;
mod grant;
#[cfg(test)]
mod model;
mod receipts;
mod recovery;
mod row;
mod split;
