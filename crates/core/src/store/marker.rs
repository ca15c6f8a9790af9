//! What a store remembers besides its records, for as long as its epoch lasts: what nodes have said to it.

use super::{Opening, StoreCommand};
use crate::{
    ids::StoreEpoch,
    rights::Adopted,
    time::{ClusterTime, StoreTime},
};

/// A store's own state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marker {
    /// From which cluster time on labels are known whole, once somebody has said so.
    pub opens: Option<ClusterTime>,
    /// How far the region has come with configurations.
    pub adopted: Adopted,
}

impl Marker {
    /// Takes a node's word that comes at `now`. Of when labels are whole the first one of the epoch counts, and with it what it
    /// says of configurations, since the store has forgotten that too. Returns whether anything changed.
    pub fn take(&mut self, epoch: StoreEpoch, command: &StoreCommand, now: StoreTime) -> bool {
        let before = *self;
        let mut openings = command.openings.iter().map(|(_, opening)| *opening);
        match (self.opens, openings.find(|opening| opening.epoch == epoch)) {
            (None, Some(Opening { opens, .. })) => {
                if let Some(adopted) = Adopted::anew(&command.proposed, now) {
                    *self = Self { opens: Some(opens), adopted };
                }
            }
            (None, None) => {}
            (Some(_), _) => {
                self.adopted.take(&command.proposed, now);
            }
        }
        *self != before
    }
}
