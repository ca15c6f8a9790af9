//! An index: the places of a slab's values, by their hashes.
//!
//! Place and hash stand beside each other, so that a look-up waits for memory once, and looks at no value but the one
//! that it is for; and so the index grows without a look at any. Hashes that differ in their three lowest bits only
//! are neighbours: what is looked up by them is mostly found in one line of the processor's cache.

use alloc::{vec, vec::Vec};
use core::mem;

use crate::memory;

/// Entries of a line.
const LINE: usize = 8;
/// The place of an entry that is free. No slab has so many.
const NONE: u32 = u32::MAX;
const FREE: Entry = Entry { hash: 0, place: NONE };

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u32,
    place: u32,
}

/// Places by hash; several may have the same. An entry stands in the line that its hash says, or behind it, and none
/// that is free is between.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    entries: Vec<Entry>,
    len: usize,
}

impl Index {
    /// So many hashes are neighbours.
    pub(crate) const NEIGHBOURS: u64 = LINE as u64;

    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new(), len: 0 }
    }

    /// The hash of one of some neighbours: `of` is spread over all bits already and common to them, `which` tells
    /// them apart as far as its lowest bits do.
    pub(crate) const fn neighbour(of: u64, which: u64) -> u32 {
        ((of & !(Self::NEIGHBOURS - 1)) | (which & (Self::NEIGHBOURS - 1))) as u32
    }

    /// Bytes held.
    pub(crate) fn memory_bytes(&self) -> usize {
        memory::of_vec(&self.entries)
    }

    /// The place of this hash that `is_it` knows, if there is one.
    pub(crate) fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let at = self.position(hash, is_it)?;
        Some(self.entries[at].place)
    }

    /// Adds a place that is not there yet.
    pub(crate) fn insert(&mut self, hash: u32, place: u32) {
        // Three quarters full at most: searches are short, and there is a free entry to end each.
        if (self.len + 1) * 4 > self.entries.len() * 3 {
            self.grow();
        }
        self.put(Entry { hash, place });
        self.len += 1;
    }

    /// Takes a place out, if it is there.
    pub(crate) fn remove(&mut self, hash: u32, place: u32) {
        let Some(mut hole) = self.position(hash, |found| found == place) else { return };
        self.len -= 1;
        // What would not be found any more behind the hole moves into it, and leaves the next one.
        let mut at = self.after(hole);
        while self.entries[at].place != NONE {
            let strayed = self.distance(self.home(self.entries[at].hash), at);
            if strayed >= self.distance(hole, at) {
                self.entries[hole] = self.entries[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.entries[hole] = FREE;
    }

    fn position(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let mut at = self.home(hash);
        loop {
            let entry = self.entries[at];
            if entry.place == NONE {
                return None;
            }
            if entry.hash == hash && is_it(entry.place) {
                return Some(at);
            }
            at = self.after(at);
        }
    }

    fn put(&mut self, entry: Entry) {
        let mut at = self.home(entry.hash);
        while self.entries[at].place != NONE {
            at = self.after(at);
        }
        self.entries[at] = entry;
    }

    /// By a quarter, since what is spare is held for ever.
    fn grow(&mut self) {
        let lines = self.entries.len() / LINE;
        let more = vec![FREE; (lines + lines / 4 + 1) * LINE];
        let before = mem::replace(&mut self.entries, more);
        before.into_iter().filter(|entry| entry.place != NONE).for_each(|entry| self.put(entry));
    }

    /// From where on an entry of this hash stands: the first of a line, which all but the lowest bits choose, in
    /// their order, so that growing keeps it.
    fn home(&self, hash: u32) -> usize {
        let lines = (self.entries.len() / LINE) as u64;
        let line = (u64::from(hash & !(Self::NEIGHBOURS as u32 - 1)) * lines) >> 32;
        line as usize * LINE
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 < self.entries.len() { at + 1 } else { 0 }
    }

    /// How many steps it is from one entry on to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.entries.len() - from }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few hashes, so that many are the same, are neighbours, or stray around the end.
        #[test]
        fn behaves_like_a_set(
            spread in prop::sample::select(vec![1_u32, 8, 1 << 20, 1 << 27]),
            steps in prop::collection::vec((any::<bool>(), 0_u32..32, 0_u32..64), 1..400),
        ) {
            let (mut index, mut set) = (Index::new(), BTreeSet::new());
            for (insert, hash, place) in steps {
                let hash = u32::MAX - hash.wrapping_mul(spread);
                if !insert {
                    index.remove(hash, place);
                    set.remove(&(hash, place));
                } else if set.insert((hash, place)) {
                    index.insert(hash, place);
                }
                prop_assert_eq!(index.len, set.len());
                for (hash, place) in &set {
                    prop_assert_eq!(index.find(*hash, |found| found == *place), Some(*place));
                }
                prop_assert_eq!(index.find(hash, |found| found == 64), None);
            }
        }
    }

    #[test]
    fn it_is_full_to_three_fifths_at_least_and_three_quarters_at_most() {
        let mut index = Index::new();
        for place in 0..50_000_u32 {
            index.insert(place.wrapping_mul(0x9e37_79b9), place);
            let (full, all) = (index.len, index.entries.len());
            assert!(
                full * 4 <= all * 3 && (full < 1_000 || full * 100 >= all * 59),
                "{full} of {all}"
            );
        }
    }
}
