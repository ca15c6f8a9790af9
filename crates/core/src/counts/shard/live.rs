//! A walk over what is known of this region in windows that can still be asked for: what heals a store.

use alloc::vec::Vec;

use super::{Known, Shape, Shard};
use crate::{
    ids::{Caller, Key},
    time::{ClusterTime, Label},
};

/// What this node knows its region to have used of a key in one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) key: Key,
    pub(crate) shape: Shape,
    pub(crate) label: Label,
    pub(crate) known: Known,
}

impl Shard {
    /// Appends what is known of this region in the current and the previous labels of `now` to `out`, for
    /// the cells of wanted callers in the places from `from` on: at most `places` of them, which is lowered by as
    /// many, and until `out` has `full` entries. Returns where to go on, or `None` when all places were looked at.
    pub(crate) fn collect_live(
        &self,
        (from, places): (u32, &mut u32),
        now: ClusterTime,
        wanted: impl Fn(Caller) -> bool,
        full: usize,
        out: &mut Vec<Live>,
    ) -> Option<u32> {
        let end = self.cells.places();
        let mut at = from;
        while at < end && *places > 0 && out.len() < full {
            *places -= 1;
            out.extend(self.live(at, now, &wanted));
            at += 1;
        }
        (at < end).then_some(at)
    }

    fn live(&self, at: u32, now: ClusterTime, wanted: impl Fn(Caller) -> bool) -> Option<Live> {
        let cell = self.cells.get(at).filter(|cell| wanted(cell.caller))?;
        let shape = self.shape_of(cell)?;
        let current = shape.window.label_at(now);
        if cell.label != current && cell.label.next() != current {
            return None;
        }
        let known = Known::of(self.cells.slots(cell));
        let key = Key { caller: cell.caller, limit: shape.limit };
        let live = Live { key, shape, label: cell.label, known };
        (known.own_region() > 0).then_some(live)
    }
}
