//! Merge laws, on the slots that were really exchanged: every slot is sound and grows, whoever tells
//! it; merging is commutative, associative, idempotent and never loses; and no node's view ever falls.

use std::collections::BTreeMap;

use tidegate_core::{
    counts::Tally,
    store::Counts,
    time::{Label, Span},
};

use super::{Book, Checker, Seen, SlotSeen, Violations};
use crate::queue::Instant;

/// An answer to a comparison waits for its turn so long at most, while newer counts are told already.
const WAITED_MAX: Span = Span::secs(1);
/// Windows of a key that are remembered.
const LABELS_KEPT: u64 = 3;

/// What was told of a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// The last two tallies that were not behind what had been told before.
    last: [Tally; 2],
    /// When the newest of them was told first.
    since: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct MergeLaws {
    /// The merge under test: core's own.
    merge: fn(Tally, Tally) -> Tally,
    /// By key, label, teller and life.
    told: BTreeMap<(usize, Label, usize, usize), Told>,
    /// What a node knew of a region, by key, label, life and region.
    views: BTreeMap<(usize, Label, usize, usize), Counts>,
    violations: Violations,
}

impl MergeLaws {
    /// A checker of this merge.
    pub fn new(merge: fn(Tally, Tally) -> Tally) -> Self {
        let (told, views) = (BTreeMap::new(), BTreeMap::new());
        Self { merge, told, views, violations: Violations::default() }
    }

    fn told(&mut self, book: &Book, at: Instant, teller: usize, slot: &SlotSeen) {
        let place = (slot.key, slot.label, teller, slot.life);
        if !self.told.contains_key(&place) {
            forget(&mut self.told, slot.key, slot.label);
        }
        let told = self.told.entry(place).or_default();
        let [a, b] = told.last;
        let c = slot.tally;
        let falls = !at_least(c, b);
        let waited = falls && at.since(told.since) <= WAITED_MAX;
        if !falls {
            let since = if c == b { told.since } else { at };
            *told = Told { last: [b, c], since };
        }

        let of = || book.keys[slot.key].show(slot.label);
        if !c.is_sound() {
            self.violations.note(at, format_args!("{}: an unsound slot was told: {c:?}", of()));
        }
        if falls && !waited {
            self.violations.note(at, format_args!("{}: a slot fell from {b:?} to {c:?}", of()));
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

    fn viewed(
        &mut self,
        book: &Book,
        at: Instant,
        place: (usize, Label, usize, usize),
        new: Counts,
    ) {
        if !self.views.contains_key(&place) {
            forget(&mut self.views, place.0, place.1);
        }
        let old = self.views.entry(place).or_default();
        if new.used < old.used || new.refunded < old.refunded {
            let of = book.keys[place.0].show(place.1);
            let what = format!(
                "{of}: life {}'s view of region {} fell from {old:?} to {new:?}",
                place.2, place.3
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

/// Forgets windows of a key that are long over.
fn forget<T>(map: &mut BTreeMap<(usize, Label, usize, usize), T>, key: usize, newest: Label) {
    let from = (key, Label(0), 0, 0);
    let to = (key, Label(newest.0.saturating_sub(LABELS_KEPT)), 0, 0);
    while let Some((old, _)) = map.range(from..to).next() {
        let old = *old;
        map.remove(&old);
    }
}

impl Checker for MergeLaws {
    fn name(&self) -> &'static str {
        "merge-laws"
    }

    fn see(&mut self, book: &Book, at: Instant, seen: &Seen<'_>) {
        match *seen {
            Seen::Sent { from, slots } => {
                slots.iter().for_each(|slot| self.told(book, at, from, slot));
            }
            Seen::Viewed { life, key, label, regions } => {
                for (region, counts) in regions.iter().enumerate() {
                    self.viewed(book, at, (key, label, life, region), *counts);
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
    use super::{super::testing::*, *};

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
    fn a_slot_that_falls_is_found_unless_it_waited_for_its_turn() {
        let falls_after = |ms: u64| {
            let mut bench = bench(Tally::merge);
            bench.tell(0, 1, 5);
            bench.see_at(AT + Span::millis(ms), Seen::Sent { from: 0, slots: &[slot(0, 4)] });
            bench.finish()
        };
        assert_eq!((falls_after(900), falls_after(1_100)), (0, 1));
    }

    #[test]
    fn an_unsound_slot_is_found() {
        let mut bench = bench(Tally::merge);
        let mut bad = slot(0, 5);
        bad.tally.offered = 4;
        bench.see(Seen::Sent { from: 0, slots: &[bad] });
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
