//! How a store that has lost memory in the middle of a label may spend in it once more.
//!
//! Only worth it where the label is long. The store's region asks, in the store's new epoch. Every other
//! configured region answers from its own store: what of the asker's grants had come (and no more of them
//! ever will, once the store has taken note of the new epoch), what it has granted to the asker, and the
//! highest ceiling that it holds. A region that cannot tell, because its own store has forgotten the label,
//! does not answer, and the label stays closed.
//!
//! A question and an answer need no messages of their own. Whoever has heard of the new epoch says so with
//! what its store holds of others ([`Statement::heard`](super::Statement)); and that is an answer.
//!
//! The asker's store has spent no more than the highest ceiling that anybody holds and one block: beyond, it
//! had to wait until somebody held a higher one. So it is taken to have spent that much (INV-16).

use alloc::vec::Vec;

use super::{Book, Received, Row};
use crate::{
    ids::{RegionNumber, StoreEpoch},
    store::COUNT_MAX,
    time::{Span, Window},
};

/// A store that forgot a label of no more than this waits for the next one.
const SHORT: Span = Span::secs(60);
/// A block is this part of a region's base …
const BLOCKS: u64 = 10;
/// … and no less than this: who waits for an answer every few units serves nobody.
const BLOCK_MIN: u64 = 20;

/// How many units a store may spend beyond the highest ceiling that another region holds, in labels of this
/// length; `None`: the label is short, and there are no ceilings.
///
/// It is what a region can spend at once without waiting for another, and, with the block that a ceiling is
/// told ahead by, what it can spend while it is cut off, and what is lost of a label when its store is.
pub fn block(base: u64, window: Window) -> Option<u64> {
    (window.usual_length() > SHORT).then(|| (base / BLOCKS).max(BLOCK_MIN))
}

/// What a store's account is reopened with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reopening {
    /// Only a store of this epoch.
    pub epoch: StoreEpoch,
    /// What the region is taken to have spent.
    pub used: u64,
    /// What of its grants has come.
    pub given: Row,
    /// What it was granted.
    pub received: Vec<Received>,
}

impl Reopening {
    /// What the store of region `own` may be reopened with in `epoch`, once all other `regions` have answered
    /// as the `book` tells; `block` is what a store may spend beyond the ceiling that somebody holds. Of what
    /// others say that they granted no more counts than they can have had, with their `base`.
    pub fn of(
        book: &Book,
        (own, epoch): (RegionNumber, StoreEpoch),
        regions: &[RegionNumber],
        base: impl Fn(RegionNumber) -> u64,
        block: u64,
    ) -> Option<Self> {
        let (mut given, mut received, mut ceiling) = (Row::new(), Vec::new(), 0);
        let all_told = book.received(own, base);
        for region in regions.iter().copied().filter(|region| *region != own) {
            let told = book.of(region)?;
            let counts =
                |received: &&Received| received.from == region && received.epoch == told.epoch;
            received.push(*all_told.iter().find(counts)?);
            let came = told.heard.of(own).filter(|came| came.epoch == epoch)?;
            given.lift(region, came.amount);
            ceiling = came.ceiling.max(ceiling);
        }
        let used = ceiling.saturating_add(block).min(COUNT_MAX);
        Some(Self { epoch, used, given, received })
    }
}
