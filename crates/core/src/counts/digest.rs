//! Sums over the settled counts of ranges of callers: what two nodes compare to find where they differ.
//!
//! A sum is over all slots of a range, whoever's they are, so that equal knowledge gives equal sums. What
//! changed a moment ago is still on its way and left out on both sides, as is what was offered and never
//! admitted, which is told only together with an admission. Slots of sessions that are gone do not change any
//! more: they are compared however often others change the cell they are in.

use super::{
    cells::{Cell, Slot},
    shard::{Entry, Shard},
};
use crate::{
    ids::{Caller, SessionIndex},
    policy::Scope,
    time::{ClusterTime, Mono},
};

/// When a cell changed last, in units of 65.536 ms; wraps after nine years, which is forgiven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tick(u32);

impl Tick {
    pub(crate) const fn of(now: Mono) -> Self {
        Self((now.0 >> 16) as u32)
    }

    const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

/// For how long a cell has not changed when it counts as settled: about two seconds.
const SETTLED: u32 = 31;

/// Where a caller stands among all callers: a range is named by the lowest bits of it.
pub(crate) const fn place_of(caller: Caller) -> u32 {
    (caller.0[0] >> 32) as u32
}

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compared<'a> {
    /// Labels before the previous one are not.
    pub(crate) cluster: ClusterTime,
    /// What changed shortly before is not.
    pub(crate) now: Mono,
    /// Whether counts of regional limits are.
    pub(crate) regional: bool,
    /// For each session a number that is the same on every node.
    pub(crate) sessions: &'a [u64],
    /// Sessions that may still change: this node's own and those of connected peers.
    pub(crate) live: &'a [SessionIndex],
}

impl Compared<'_> {
    fn holds(&self, shard: &Shard, cell: &Cell) -> bool {
        let Some(shape) = shard.shape_of(cell) else { return false };
        let current = shape.window.label_at(self.cluster);
        let is_live = cell.label == current || cell.label.next() == current;
        is_live && (self.regional || shape.scope == Scope::Global)
    }

    fn sum_of(&self, shard: &Shard, cell: &Cell, slot: &Slot) -> u64 {
        let session = self.sessions.get(usize::from(slot.session.0)).copied().unwrap_or_default();
        let limit = shard.shape_of(cell).map_or(0, |shape| u64::from(shape.limit.0));
        let counts = slot.tally().counts;
        let words = [
            cell.caller.0[0],
            cell.caller.0[1],
            limit,
            cell.label.0,
            session,
            counts.used,
            counts.refunded,
        ];
        words.into_iter().fold(0x243f_6a88_85a3_08d3, mix)
    }
}

/// One round of a multiply-and-fold hash: callers are keyed fingerprints already.
const fn mix(sum: u64, word: u64) -> u64 {
    let product = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 29)
}

impl Shard {
    /// Adds what is settled in the cells from place `from` on, `budget` of them, to the sums of their
    /// ranges; `range` finds the place of a range among the sums. Returns where to go on.
    pub(crate) fn digest(
        &self,
        compared: &Compared<'_>,
        range: impl Fn(u32) -> Option<usize>,
        from: u32,
        budget: u32,
        sums: &mut [u64],
    ) -> Option<u32> {
        let tick = Tick::of(compared.now);
        self.each_cell(from, budget, |cell| {
            let settled = tick.since(cell.touched) > SETTLED;
            let Some(at) = range(place_of(cell.caller)) else { return true };
            if compared.holds(self, cell) {
                let still = |slot: &&Slot| settled || !compared.live.contains(&slot.session);
                let used = |slot: &&Slot| slot.tally().counts.used > 0;
                for slot in self.cells.slots(cell).filter(used).filter(still) {
                    sums[at] = sums[at].wrapping_add(compared.sum_of(self, cell, slot));
                }
            }
            true
        })
    }

    /// Appends all slots, settled or not, of callers in the ranges that `wanted` knows, but not of session
    /// `except`, until `entries_max` are there.
    pub(crate) fn entries_in(
        &self,
        compared: &Compared<'_>,
        wanted: impl Fn(u32) -> bool,
        except: SessionIndex,
        (from, budget): (u32, u32),
        entries_max: usize,
        entries: &mut alloc::vec::Vec<Entry>,
    ) -> Option<u32> {
        self.each_cell(from, budget, |cell| {
            if wanted(place_of(cell.caller)) && compared.holds(self, cell) {
                let told = |slot: &&Slot| slot.session != except && slot.tally().counts.used > 0;
                let told = self.cells.slots(cell).filter(told);
                entries.extend(told.filter_map(|slot| self.entry(cell, slot)));
            }
            entries.len() < entries_max
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::{
        counts::{Shape, Tally},
        forecast::Note,
        ids::{LimitId, RegionIndex},
        store::Counts,
        time::{Label, Span, Window},
    };

    const HOUR: u64 = 3_600_000_000;
    /// Within label 3.
    const CLUSTER: ClusterTime = ClusterTime(3 * HOUR + 5);
    const LATER: Mono = Mono(60_000_000);

    fn shape(limit: u32, scope: Scope) -> Shape {
        let window = Window::new(Span::micros(HOUR)).expect("an hour");
        Shape { limit: LimitId(limit), window, scope }
    }

    fn entry(caller: u64, limit: u32, label: u64, used: u64, session: u16) -> Entry {
        let counts = Counts { used, refunded: 0 };
        Entry {
            caller: Caller([caller << 32, 7]),
            shape: shape(limit, if limit == 1 { Scope::Global } else { Scope::Region }),
            label: Label(label),
            session: SessionIndex(session),
            tally: Tally { counts, offered: used },
            note: Note::default(),
        }
    }

    /// A shard that was told these, each at its instant.
    fn shard(entries: &[(Entry, Mono)]) -> Shard {
        let mut shard = Shard::new(100);
        for (entry, at) in entries {
            shard.merge(entry, RegionIndex(1), false, Tick::of(*at)).expect("room");
        }
        shard
    }

    fn sum(shard: &Shard, sessions: &[u64], regional: bool) -> u64 {
        let live = [SessionIndex(0), SessionIndex(1)];
        let compared = Compared { cluster: CLUSTER, now: LATER, regional, sessions, live: &live };
        let mut sums = [0];
        assert_eq!(shard.digest(&compared, |_| Some(0), 0, 100, &mut sums), None);
        sums[0]
    }

    #[test]
    fn equal_counts_have_equal_sums_in_whatever_order_they_came() {
        let (a, b) = (entry(1, 1, 3, 5, 1), entry(2, 1, 2, 6, 2));
        let one = shard(&[(a, Mono(0)), (b, Mono(9))]);
        // Another node numbers the sessions the other way round.
        let (a, b) =
            (Entry { session: SessionIndex(2), ..a }, Entry { session: SessionIndex(1), ..b });
        let two = shard(&[(b, Mono(1)), (a, Mono(2))]);
        assert_eq!(sum(&one, &[0, 11, 22], false), sum(&two, &[0, 22, 11], false));
        assert_ne!(sum(&one, &[0, 11, 22], false), 0);
    }

    #[test]
    fn whatever_differs_shows() {
        let base = entry(1, 1, 3, 5, 1);
        let of = |entry: Entry| sum(&shard(&[(entry, Mono(0))]), &[0, 11, 22], true);
        for other in [
            entry(2, 1, 3, 5, 1),
            entry(1, 2, 3, 5, 1),
            entry(1, 1, 2, 5, 1),
            entry(1, 1, 3, 6, 1),
            entry(1, 1, 3, 5, 2),
        ] {
            assert_ne!(of(base), of(other), "{other:?}");
        }
    }

    #[test]
    fn what_is_fresh_over_or_regional_is_left_out() {
        let sums = |entry: Entry, at: Mono| sum(&shard(&[(entry, at)]), &[0, 11], false);
        assert_eq!(sums(entry(1, 1, 3, 5, 1), LATER - Span::secs(1)), 0, "fresh");
        assert_ne!(sums(entry(1, 1, 3, 5, 1), LATER - Span::secs(3)), 0);
        let gone = sum(&shard(&[(entry(1, 1, 3, 5, 2), LATER)]), &[0, 11, 22], false);
        assert_ne!(gone, 0, "of a session that is gone nothing is fresh");
        assert_eq!(sums(entry(1, 1, 1, 5, 1), Mono(0)), 0, "over");
        assert_eq!(sums(entry(1, 1, 4, 5, 1), Mono(0)), 0, "not begun");
        assert_eq!(sums(entry(1, 2, 3, 5, 1), Mono(0)), 0, "regional");
    }

    #[test]
    fn entries_are_told_a_bounded_part_at_a_time() {
        let shard = shard(&[
            (entry(1, 1, 3, 5, 1), LATER),
            (entry(2, 1, 3, 5, 1), Mono(0)),
            (entry(3, 1, 3, 5, 2), Mono(0)),
            (entry(4, 1, 3, 5, 1), Mono(0)),
        ]);
        let compared = Compared {
            cluster: CLUSTER,
            now: LATER,
            regional: true,
            sessions: &[0, 11, 22],
            live: &[],
        };
        let told = |from, entries_max| {
            let mut entries = Vec::new();
            let on = shard.entries_in(
                &compared,
                |place| place != 2,
                SessionIndex(2),
                (from, 100),
                entries_max,
                &mut entries,
            );
            (on, entries.iter().map(|entry| place_of(entry.caller)).collect::<Vec<_>>())
        };
        assert_eq!(told(0, 100), (None, Vec::from([1, 4])), "fresh ones too, but not of session 2");
        assert_eq!(told(0, 1), (Some(1), Vec::from([1])));
        assert_eq!(told(1, 1), (Some(4), Vec::from([4])));
        assert_eq!(told(4, 1), (None, Vec::new()));
    }
}
