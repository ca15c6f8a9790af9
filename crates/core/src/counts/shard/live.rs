//! A walk over what is known of this region in windows that can still be asked for: what heals a store.

use alloc::vec::Vec;

use super::Shard;
use crate::{
    ids::{Key, RegionIndex},
    store::Counts,
    time::{ClusterTime, Label, Window},
};

/// What this node knows its region to have used of a key in one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) key: Key,
    pub(crate) window: Window,
    pub(crate) label: Label,
    pub(crate) counts: Counts,
}

impl Shard {
    /// Appends what is known of this region in the current and the previous labels of `now` to `out`, for
    /// the cells in the places from `from` on: at most `places` of them, which is lowered by as many, and
    /// until `out` has `full` entries. Returns where to go on, or `None` when all places were looked at.
    pub(crate) fn collect_live(
        &self,
        from: u32,
        now: ClusterTime,
        places: &mut u32,
        full: usize,
        out: &mut Vec<Live>,
    ) -> Option<u32> {
        let end = self.cells.places();
        let mut at = from;
        while at < end && *places > 0 && out.len() < full {
            *places -= 1;
            out.extend(self.live(at, now));
            at += 1;
        }
        (at < end).then_some(at)
    }

    fn live(&self, at: u32, now: ClusterTime) -> Option<Live> {
        let cell = self.cells.get(at)?;
        let shape = self.shapes[usize::from(cell.shape)].as_ref()?.shape;
        let current = shape.window.label_at(now);
        if cell.label != current && cell.label.next() != current {
            return None;
        }
        let ours = cell.slots.iter().filter(|slot| slot.region == RegionIndex::OWN);
        let counts = ours.fold(Counts::default(), |sum, slot| sum.plus(slot.tally.counts));
        let key = Key { caller: cell.caller, limit: shape.limit };
        (counts != Counts::default()).then_some(Live {
            key,
            window: shape.window,
            label: cell.label,
            counts,
        })
    }
}
