//! Merge laws, on the slots that were really exchanged: every slot is sound, and grows from frame to frame
//! of one node to another, whoever tells it; merging is commutative, associative, idempotent and never
//! loses; and no node's view ever falls.
//!
//! What a node tells two others is not compared: an answer to a comparison is put together when it is asked
//! for and waits for its listener's turn, while another listener is told newer counts.

use std::collections::BTreeMap;

use tidegate_core::{counts::Tally, store::Counts, time::Label};

use super::{Book, Checker, Seen, SlotSeen, Violations};
use crate::queue::Instant;

/// Windows of a key that are remembered.
const LABELS_KEPT: u64 = 3;

/// What is remembered of one key, by label and something else.
type Remembered<Of, T> = BTreeMap<(Label, Of), T>;

/// See the module. Lists are by key.
#[derive(Debug)]
pub struct MergeLaws {
    /// The merge under test: core's own.
    merge: fn(Tally, Tally) -> Tally,
    /// The last two tallies that were told of a slot, by teller, listener and whose it is.
    told: Vec<Remembered<[usize; 3], [Tally; 2]>>,
    /// What a node knew of a region, by life and region.
    views: Vec<Remembered<[usize; 2], Counts>>,
    violations: Violations,
}

impl MergeLaws {
    /// A checker of this merge.
    pub fn new(merge: fn(Tally, Tally) -> Tally) -> Self {
        let (told, views) = (Vec::new(), Vec::new());
        Self { merge, told, views, violations: Violations::default() }
    }

    fn told(&mut self, book: &Book, at: Instant, way: (usize, usize), slot: &SlotSeen) {
        let of = (slot.label, [way.0, way.1, slot.life]);
        let told = remembered(&mut self.told, slot.key, of);
        let [a, b] = *told;
        let c = slot.tally;
        *told = [b, c];

        let of = || book.keys[slot.key].show(slot.label);
        if !c.is_sound() {
            self.violations.note(at, format_args!("{}: an unsound slot was told: {c:?}", of()));
        }
        if !at_least(c, b) {
            let [teller, listener] = way.into();
            let what = format!(
                "{}: life {teller} told life {listener} of life {}, whose slot fell from {b:?} to {c:?}",
                of(),
                slot.life
            );
            self.violations.note(at, what);
        }
        let m = self.merge;
        let lawful = m(a, c) == m(c, a)
            && m(m(a, b), c) == m(a, m(b, c))
            && m(c, c) == c
            && at_least(m(b, c), b)
            && at_least(m(b, c), c);
        if !lawful {
            self.violations
                .note(at, format_args!("{}: merging {a:?}, {b:?}, {c:?} breaks a law", of()));
        }
    }

    fn viewed(&mut self, book: &Book, at: Instant, place: (usize, Label, [usize; 2]), new: Counts) {
        let old = remembered(&mut self.views, place.0, (place.1, place.2));
        if new.used < old.used || new.refunded < old.refunded {
            let of = book.keys[place.0].show(place.1);
            let what = format!(
                "{of}: life {}'s view of region {} fell from {old:?} to {new:?}",
                place.2[0], place.2[1]
            );
            self.violations.note(at, what);
        }
        *old = new;
    }
}

/// Whether `a` is nowhere below `b`.
const fn at_least(a: Tally, b: Tally) -> bool {
    a.counts.used >= b.counts.used
        && a.counts.refunded >= b.counts.refunded
        && a.offered >= b.offered
}

/// What is remembered of a key in a window, by `of`; for something new, windows of the key that are long
/// over are forgotten.
fn remembered<Of: Copy + Ord + Default, T: Default>(
    keys: &mut Vec<Remembered<Of, T>>,
    key: usize,
    place: (Label, Of),
) -> &mut T {
    if keys.len() <= key {
        keys.resize_with(key + 1, BTreeMap::new);
    }
    let map = &mut keys[key];
    let oldest = Label(place.0.0.saturating_sub(LABELS_KEPT));
    if map.first_key_value().is_some_and(|((label, _), _)| *label < oldest)
        && !map.contains_key(&place)
    {
        *map = map.split_off(&(oldest, Of::default()));
    }
    map.entry(place).or_default()
}

impl Checker for MergeLaws {
    fn name(&self) -> &'static str {
        "merge-laws"
    }

    fn see(&mut self, book: &Book, at: Instant, seen: &Seen<'_>) {
        match *seen {
            Seen::Sent { from, to, slots } => {
                slots.iter().for_each(|slot| self.told(book, at, (from, to), slot));
            }
            Seen::Viewed { life, key, label, regions } => {
                for (region, counts) in regions.iter().enumerate() {
                    self.viewed(book, at, (key, label, [life, region]), *counts);
                }
            }
            _ => {}
        }
    }

    fn violations(&self) -> &Violations {
        &self.violations
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{LifeFacts, testing::*},
        *,
    };

    fn bench(merge: fn(Tally, Tally) -> Tally) -> Bench<MergeLaws> {
        Bench::new(book(), MergeLaws::new(merge))
    }

    #[test]
    fn growing_slots_and_views_are_lawful() {
        let mut bench = bench(Tally::merge);
        for used in [1, 1, 3, 7] {
            bench.tell(0, 1, used);
            bench.view(AT, 1, [used, 0]);
        }
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn a_slot_that_falls_is_found_at_once_but_not_between_two_listeners() {
        let mut bench = bench(Tally::merge);
        bench.see(Seen::Started(LifeFacts { node: 2, region: 1, since: AT }));
        bench.tell(0, 1, 5);
        bench.tell(0, 2, 4);
        bench.tell(0, 2, 6);
        bench.tell(0, 1, 4);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn an_unsound_slot_is_found() {
        let mut bench = bench(Tally::merge);
        let mut bad = slot(0, 5);
        bad.tally.offered = 4;
        bench.see(Seen::Sent { from: 0, to: 1, slots: &[bad] });
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn a_view_that_falls_is_found() {
        let mut bench = bench(Tally::merge);
        bench.view(AT, 1, [5, 0]);
        bench.view(AT, 1, [4, 0]);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn a_merge_that_adds_is_found() {
        let mut bench = bench(Tally::plus);
        bench.tell(0, 1, 5);
        assert_eq!(bench.finish(), 1, "adding is not idempotent");
    }

    #[test]
    fn a_merge_that_takes_the_newest_is_found() {
        let mut bench = bench(|_, newest| newest);
        bench.tell(0, 1, 5);
        bench.tell(0, 1, 6);
        assert!(bench.finish() > 0, "taking the newest is not commutative");
    }
}
