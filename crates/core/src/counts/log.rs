//! The change log of one shard: what changed, in order, coalesced.
//!
//! Every slot stands in the log at most once that counts: where its own sequence number says. An older
//! item of the same slot is stale and skipped. Peers are cursors into the log, so a slow peer costs
//! nothing but its place; and the log never holds more than twice the slots that are in it.

use alloc::collections::VecDeque;

use crate::{ids::SessionIndex, memory};

/// Stale items that are tolerated before the log is compacted.
const SLACK: usize = 1_024;

/// One change: this slot, at that sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) sequence: u64,
    pub(super) cell: u32,
    pub(super) session: SessionIndex,
}

impl Item {
    /// The part of a sequence number that a slot remembers; 0 means "not in the log".
    pub(super) const fn mark_of(sequence: u64) -> u32 {
        sequence as u32
    }
}

#[derive(Debug, Default)]
pub(super) struct Log {
    /// Ascending by sequence.
    items: VecDeque<Item>,
    /// The sequence number last given.
    head: u64,
    /// Items known to be stale.
    stale: usize,
}

impl Log {
    /// The number of the newest change; a cursor that stands here has seen everything.
    pub(super) const fn head(&self) -> u64 {
        self.head
    }

    /// Appends a change and returns its mark. `was_in` says that an older item of the slot is now stale.
    pub(super) fn push(&mut self, cell: u32, session: SessionIndex, was_in: bool) -> u32 {
        self.head += 1;
        if Item::mark_of(self.head) == 0 {
            self.head += 1; // 0 marks a slot that is not in the log
        }
        self.stale += usize::from(was_in);
        self.items.push_back(Item { sequence: self.head, cell, session });
        Item::mark_of(self.head)
    }

    /// A slot that was in the log is gone.
    pub(super) fn note_stale(&mut self) {
        self.stale += 1;
    }

    /// The items after `cursor`, stale ones included.
    pub(super) fn after(&self, cursor: u64) -> impl Iterator<Item = &Item> {
        let from = self.items.partition_point(|item| item.sequence <= cursor);
        self.items.range(from..)
    }

    /// Takes out the next item that every cursor has passed.
    pub(super) fn pop_through(&mut self, cursor: u64) -> Option<Item> {
        if self.items.front()?.sequence > cursor {
            return None;
        }
        self.items.pop_front()
    }

    /// One item less that was stale.
    pub(super) fn forget_stale(&mut self) {
        self.stale = self.stale.saturating_sub(1);
    }

    /// Whether more than half of the log is stale, so that one pass over it pays for itself.
    pub(super) fn wants_compaction(&self) -> bool {
        self.stale > SLACK && self.stale * 2 > self.items.len()
    }

    /// Drops what is stale. Cursors are sequence numbers, so they stay right.
    pub(super) fn compact(&mut self, is_live: impl Fn(&Item) -> bool) {
        self.items.retain(is_live);
        self.stale = 0;
    }

    pub(super) fn memory_bytes(&self) -> usize {
        memory::of_queue(&self.items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_hot_slot_does_not_grow_the_log() {
        let mut log = Log::default();
        let mut mark = 0;
        for _ in 0..100_000 {
            mark = log.push(7, SessionIndex::OWN, mark != 0);
            if log.wants_compaction() {
                let live = mark;
                log.compact(|item| Item::mark_of(item.sequence) == live);
            }
        }
        assert!(log.items.len() <= 2 * SLACK + 2, "{}", log.items.len());
        assert_eq!(log.after(log.head() - 1).count(), 1);
    }

    #[test]
    fn a_cursor_sees_what_came_after_it() {
        let mut log = Log::default();
        for cell in 0..5 {
            log.push(cell, SessionIndex::OWN, false);
        }
        let cells: alloc::vec::Vec<u32> = log.after(3).map(|item| item.cell).collect();
        assert_eq!(cells, [3, 4]);
        assert_eq!(log.pop_through(2).map(|item| item.cell), Some(0));
        assert_eq!(log.pop_through(2).map(|item| item.cell), Some(1));
        assert_eq!(log.pop_through(2), None);
    }
}
