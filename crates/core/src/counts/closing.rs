//! Labels that have ended: by how much a global limit was exceeded is measured, and cells are collected.
//!
//! A cell outlives its label by one window, so that late counts still find it. While a region is out of
//! touch, cells of global limits are *held* beyond that, within a bound, since their sums are not known yet
//! anywhere: both sides of a cut hold them, and tell each other when it heals.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{
    cells::Cell,
    digest::Tick,
    quantities::Quantities,
    shard::{Entry, Full, Grown, SHAPES_MAX, Shape, Shard},
};
use crate::{
    ids::{LimitId, RegionIndex},
    memory,
    policy::Scope,
    time::{ClusterTime, Span},
};

/// By how much a global limit was exceeded in the labels that have ended, as far as is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OverAdmitted {
    /// What was admitted in all regions above the quantity, summed over callers and labels.
    pub admitted: u64,
    /// Labels of a caller in which anything was.
    pub labels: u64,
    /// Labels of a caller, or late slots of one, that could not be weighed: what was counted there is gone.
    pub unmeasured: u64,
}

impl OverAdmitted {
    pub(crate) fn add(&mut self, other: Self) {
        self.admitted = self.admitted.saturating_add(other.admitted);
        self.labels = self.labels.saturating_add(other.labels);
        self.unmeasured = self.unmeasured.saturating_add(other.unmeasured);
    }
}

/// The largest quantity that this node decided a cell's limit by, as a place in a table of the shard; and
/// whether the cell has been measured, or cannot be.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weighed(u16);

const MEASURED: u16 = 1 << 15;
/// There was no room for its quantity.
const UNKNOWN: u16 = 1 << 14;

impl Weighed {
    /// The place of its quantity, if it has one.
    const fn place(self) -> Option<u16> {
        (self.0 & !(MEASURED | UNKNOWN)).checked_sub(1)
    }

    const fn is_unknown(self) -> bool {
        self.0 & UNKNOWN != 0
    }

    const fn is_measured(self) -> bool {
        self.0 & MEASURED != 0
    }
}

/// Cells of one shape whose label ends at one instant.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) places: Vec<u32>,
    /// How many of them, from the first on, were measured.
    measured: usize,
}

/// Limits whose excess is remembered; at so many, those that no cell is left of are forgotten, which are half
/// of them at least.
const OVER_MAX: usize = 2 * SHAPES_MAX;

/// What a shard knows about labels that have ended.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// Quantities in use; a cell names one by its place plus one.
    quantities: Quantities,
    /// Of limits that this node has decided by.
    over: BTreeMap<LimitId, OverAdmitted>,
    /// Cells that are held, by the end of their label.
    held: BTreeMap<(ClusterTime, u16), Group>,
    held_cells: usize,
}

impl Shard {
    /// By how much each limit was exceeded.
    pub(crate) const fn over_admitted(&self) -> &BTreeMap<LimitId, OverAdmitted> {
        &self.closing.over
    }

    /// Remembers by which quantity this node decides about a cell; the largest one counts. Without room for
    /// it the cell is not measured, and counted as that.
    pub(super) fn weigh_by(&mut self, at: u32, quantity: u64) {
        let Some(cell) = self.cells.get(at) else { return };
        let known = self.quantity_of(cell).is_some_and(|known| known >= quantity);
        if known || cell.weighed.is_unknown() {
            return;
        }
        let (shape, before) = (self.shape_of(cell), self.over_in(at));
        if let Some(shape) = shape {
            self.over_of_limit(shape.limit);
        }
        let place = self.closing.quantities.take(quantity);
        if let Some(cell) = self.cells.get_mut(at) {
            let (earlier, measured) = (cell.weighed, cell.weighed.0 & MEASURED);
            cell.weighed = Weighed(measured | place.map_or(UNKNOWN, |place| place + 1));
            self.weighs_no_more(earlier);
        }
        if let (None, Some(shape)) = (place, shape) {
            self.note_unmeasured(shape);
        }
        self.grew(at, before);
    }

    /// The quantity that a cell is weighed by; `None` if this node never decided about it.
    pub(super) fn quantity_of(&self, cell: &Cell) -> Option<u64> {
        self.closing.quantities.get(cell.weighed.place()?)
    }

    /// A cell is gone, or is weighed by another quantity.
    pub(super) fn weighs_no_more(&mut self, weighed: Weighed) {
        if let Some(place) = weighed.place() {
            self.closing.quantities.give_back(place);
        }
    }

    /// What is known to be admitted above the quantity, in a cell that has been measured.
    pub(super) fn over_in(&self, at: u32) -> u64 {
        let cell = self.cells.get(at).filter(|cell| cell.weighed.is_measured());
        cell.map_or(0, |cell| self.over_of(cell))
    }

    fn over_of(&self, cell: &Cell) -> u64 {
        let Some(quantity) = self.quantity_of(cell) else { return 0 };
        let admitted = self.cells.slots(cell).map(|slot| slot.tally().counts.net());
        admitted.fold(0, u64::saturating_add).saturating_sub(quantity)
    }

    /// Takes note of what a cell that has been measured was found to be over beyond `before`.
    pub(super) fn grew(&mut self, at: u32, before: u64) {
        let now = self.over_in(at);
        if now == before {
            return;
        }
        let Some(limit) = self.cells.get(at).and_then(|cell| self.shape_of(cell)).map(|s| s.limit)
        else {
            return;
        };
        let over = self.over_of_limit(limit);
        // A larger quantity may come to be known of too late: then too much was counted before.
        over.admitted = over.admitted.saturating_add(now).saturating_sub(before);
        if before == 0 {
            over.labels += 1;
        } else if now == 0 {
            // All of it was given back, or by a larger quantity it was none.
            over.labels = over.labels.saturating_sub(1);
        }
    }

    /// By how much a limit was exceeded. Policies may come and go for ever, so the table of limits is kept within
    /// its bound.
    fn over_of_limit(&mut self, limit: LimitId) -> &mut OverAdmitted {
        let Self { closing, by_limit, .. } = self;
        if closing.over.len() >= OVER_MAX {
            closing.over.retain(|limit, _| by_limit.contains_key(limit));
        }
        closing.over.entry(limit).or_default()
    }

    /// Merges a slot of a label before the previous one, if its cell is still there. Returns what grew;
    /// `None` if there is no such cell. Then, and without room, what it would have shown is not measured here.
    pub(crate) fn merge_closed(
        &mut self,
        entry: &Entry,
        region: RegionIndex,
        tell: bool,
        tick: Tick,
    ) -> Result<Option<Grown>, Full> {
        if self.find(entry.key(), entry.label).is_none() {
            self.note_unmeasured(entry.shape);
            return Ok(None);
        }
        let merged = self.merge(entry, region, tell, tick);
        if merged.is_err() {
            self.note_unmeasured(entry.shape);
        }
        merged.map(Some)
    }

    fn note_unmeasured(&mut self, shape: Shape) {
        // Of limits that nobody asks for here, peers may tell as many as they like.
        if shape.scope == Scope::Global
            && let Some(over) = self.closing.over.get_mut(&shape.limit)
        {
            over.unmeasured += 1;
        }
    }

    /// Looks after cells whose label has ended, `budget` of them: measures those that ended `grace` before
    /// `now`, and collects those whose next label ended so long ago too (INV-5), unless they are to be held.
    /// Returns how many were collected.
    pub(crate) fn sweep(
        &mut self,
        now: ClusterTime,
        grace: Span,
        hold: bool,
        budget: usize,
    ) -> usize {
        self.measure(now, grace, budget);
        let mut collected = 0;
        while collected < budget {
            let mut ended = self.by_end.keys().copied().take_while(|(end, _)| *end + grace <= now);
            let due = ended.find(|(end, shape)| {
                let window = self.in_use(*shape).map(|shape| shape.window);
                window.map_or(*end, |window| window.kept_until(*end)) + grace <= now
            });
            let Some(due) = due else { break };
            let global = self.in_use(due.1).is_some_and(|shape| shape.scope == Scope::Global);
            if hold && global {
                self.hold(due);
                continue;
            }
            let Some(group) = self.by_end.get_mut(&due) else { break };
            let gone = take(&mut group.places, budget - collected);
            if group.places.is_empty() {
                self.by_end.remove(&due);
            }
            collected += gone.len();
            gone.into_iter().for_each(|at| self.measure_and_remove(at));
        }
        let held_max = self.cells_max / 8;
        while collected < budget && (!hold || self.closing.held_cells > held_max) {
            let Some(mut oldest) = self.closing.held.first_entry() else { break };
            let limit = oldest.key().1;
            let gone = take(&mut oldest.get_mut().places, budget - collected);
            if oldest.get().places.is_empty() {
                oldest.remove();
            }
            if hold
                && let Some(shape) = self.in_use(limit)
                && let Some(over) = self.closing.over.get_mut(&shape.limit)
            {
                over.unmeasured += gone.len() as u64;
            }
            self.closing.held_cells -= gone.len();
            collected += gone.len();
            gone.into_iter().for_each(|at| self.measure_and_remove(at));
        }
        collected
    }

    fn hold(&mut self, due: (ClusterTime, u16)) {
        if let Some(mut group) = self.by_end.remove(&due) {
            self.closing.held_cells += group.places.len();
            self.closing.held.entry(due).or_default().places.append(&mut group.places);
        }
    }

    fn measure(&mut self, now: ClusterTime, grace: Span, budget: usize) {
        let mut left = budget;
        let ended = |key: &(ClusterTime, u16)| key.0 + grace <= now;
        let keys: Vec<_> = self
            .by_end
            .iter()
            .take_while(|(key, _)| ended(key))
            .filter(|(_, group)| group.measured < group.places.len())
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            let Some(group) = self.by_end.get_mut(&key) else { continue };
            let until = group.places.len().min(group.measured + left);
            let places = group.places[group.measured..until].to_vec();
            left -= places.len();
            group.measured = until;
            places.into_iter().for_each(|at| self.measure_cell(at));
        }
    }

    fn measure_cell(&mut self, at: u32) {
        if let Some(cell) = self.cells.get_mut(at).filter(|cell| !cell.weighed.is_measured()) {
            cell.weighed.0 |= MEASURED;
            self.grew(at, 0);
        }
    }

    /// Forgets a cell that is over; what no round has measured in time is measured now.
    fn measure_and_remove(&mut self, at: u32) {
        self.measure_cell(at);
        self.remove(at);
    }

    pub(super) fn closing_bytes(&self) -> usize {
        let groups = |groups: &BTreeMap<_, Group>| {
            let places = groups.values().map(|group| memory::of_vec(&group.places));
            memory::of_tree(groups) + places.sum::<usize>()
        };
        groups(&self.by_end)
            + groups(&self.closing.held)
            + memory::of_tree(&self.closing.over)
            + self.closing.quantities.memory_bytes()
    }
}

fn take(places: &mut Vec<u32>, at_most: usize) -> Vec<u32> {
    places.split_off(places.len() - places.len().min(at_most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::Note;
    use crate::{
        counts::{Asked, Tally},
        ids::{Caller, SessionIndex},
        store::Counts,
        time::Label,
    };

    const SECOND: Span = Span::secs(1);
    const GRACE: Span = Span::secs(2);
    const BUDGET: usize = 100;

    fn at(seconds: u64) -> ClusterTime {
        ClusterTime(seconds * 1_000_000)
    }

    fn shape() -> Shape {
        let window = crate::time::Window::new(SECOND).expect("a second");
        Shape { limit: LimitId(1), window, scope: Scope::Global }
    }

    fn tally(used: u64) -> Tally {
        Tally { counts: Counts { used, refunded: 0 }, offered: used }
    }

    fn ask(shard: &mut Shard, caller: u64, used: u64, quantity: u64) {
        let asked = Asked {
            caller: Caller([caller; 2]),
            shape: shape(),
            label: Label(5),
            quantity,
            add: tally(used),
            tell: true,
        };
        shard.add_own(&asked, Tick::default());
    }

    /// This node decides by a quantity of 10 and has admitted so much of a caller in label 5.
    fn shard(cells_max: usize, callers: &[(u64, u64)]) -> Shard {
        let mut shard = Shard::new(cells_max);
        for (caller, used) in callers {
            ask(&mut shard, *caller, *used, 10);
        }
        shard
    }

    /// Another region's use of a caller in label 5.
    fn entry(caller: u64, used: u64) -> Entry {
        Entry {
            caller: Caller([caller; 2]),
            shape: shape(),
            label: Label(5),
            session: SessionIndex(1),
            tally: tally(used),
            note: Note::default(),
        }
    }

    fn merge(shard: &mut Shard, caller: u64, used: u64) -> Option<bool> {
        let entry = entry(caller, used);
        shard
            .merge_closed(&entry, RegionIndex(1), false, Tick::default())
            .expect("room")
            .map(|grown| grown.at_all)
    }

    fn over(shard: &Shard) -> (u64, u64, u64) {
        let over = shard.over_admitted().get(&LimitId(1)).copied().unwrap_or_default();
        (over.admitted, over.labels, over.unmeasured)
    }

    #[test]
    fn what_was_admitted_above_the_quantity_is_measured_once_the_label_is_over() {
        let mut shard = shard(100, &[(1, 8), (2, 9), (3, 10)]);
        merge(&mut shard, 1, 5);
        shard.sweep(at(6), GRACE, false, BUDGET);
        assert_eq!(over(&shard), (0, 0, 0), "late counts may be on their way");
        shard.sweep(at(8), GRACE, false, BUDGET);
        assert_eq!(over(&shard), (3, 1, 0));
        // What comes later still counts, and once.
        assert_eq!(merge(&mut shard, 1, 7), Some(true));
        assert_eq!(merge(&mut shard, 2, 2), Some(true));
        assert_eq!(merge(&mut shard, 2, 2), Some(false));
        assert_eq!(over(&shard), (3 + 2 + 1, 2, 0));
        shard.sweep(at(9), GRACE, false, BUDGET);
        assert_eq!((shard.len(), over(&shard)), (0, (6, 2, 0)));
        assert_eq!(merge(&mut shard, 1, 9), None);
        assert_eq!(over(&shard), (6, 2, 1), "too late to be weighed, but not unnoticed");
    }

    #[test]
    fn a_raised_quantity_counts_for_the_whole_label() {
        let mut shard = shard(100, &[(1, 10)]);
        ask(&mut shard, 1, 5, 15);
        ask(&mut shard, 1, 0, 5);
        shard.sweep(at(8), GRACE, false, BUDGET);
        assert_eq!(over(&shard), (0, 0, 0));
    }

    #[test]
    fn while_a_region_is_out_of_touch_cells_are_held_within_a_bound() {
        let callers: Vec<_> = (0..20).map(|caller| (caller, 8)).collect();
        let mut held = shard(160, &callers);
        held.sweep(at(60), GRACE, true, BUDGET);
        assert_eq!(held.len(), 20);
        assert_eq!(merge(&mut held, 3, 4), Some(true));
        assert_eq!(over(&held), (2, 1, 0), "found after the cut");
        held.sweep(at(61), GRACE, false, BUDGET);
        assert_eq!((held.len(), over(&held)), (0, (2, 1, 0)));

        let mut full = shard(80, &callers);
        full.sweep(at(60), GRACE, true, BUDGET);
        full.sweep(at(60), GRACE, true, BUDGET);
        assert!(full.len() <= 10, "an eighth of 80");
        assert_eq!(over(&full), (0, 0, 20 - full.len() as u64));
    }

    #[test]
    fn who_never_decided_about_a_caller_does_not_measure_it() {
        let mut shard = Shard::new(100);
        shard.merge(&entry(1, 50), RegionIndex(1), false, Tick::default()).expect("room");
        shard.sweep(at(8), GRACE, false, BUDGET);
        assert_eq!(over(&shard), (0, 0, 0));
    }

    #[test]
    fn quantities_are_forgotten_with_their_labels() {
        let mut shard = Shard::new(100_000);
        for round in 1..=3 {
            // Another quantity for each caller, nearly as many as can be told apart; all are over by one.
            for caller in 0..4_000 {
                let quantity = round * 10_000 + 2 * caller;
                ask(&mut shard, caller, quantity + 1, quantity);
            }
            // Raised a thousand times within the label: those before are named no more.
            for more in 0..1_000 {
                ask(&mut shard, 0, 0, round * 10_000 + 2 * more + 1);
            }
            shard.sweep(at(9), GRACE, false, 10_000);
            assert_eq!((shard.len(), over(&shard).1), (0, round * 3_999), "in round {round}");
        }
    }

    #[test]
    fn what_there_is_no_room_to_weigh_is_counted_as_unmeasured() {
        let mut shard = Shard::new(100_000);
        for caller in 0..5_000 {
            ask(&mut shard, caller, 2 * caller + 2, 2 * caller + 1);
            ask(&mut shard, caller, 0, 2 * caller + 1);
        }
        shard.sweep(at(8), GRACE, false, 10_000);
        assert_eq!(over(&shard), (4_096, 4_096, 904));
        // Raised where there is no room: it is not measured by what it was before either.
        ask(&mut shard, 0, 0, 100_000);
        assert_eq!(over(&shard), (4_095, 4_095, 905));
    }

    #[test]
    fn what_is_collected_before_a_round_came_to_measure_it_is_measured_then() {
        for hold in [false, true] {
            let mut shard = shard(1_000, &[(1, 11), (2, 11), (3, 11)]);
            shard.sweep(at(60), GRACE, hold, 1);
            shard.sweep(at(60), GRACE, hold, 1);
            shard.sweep(at(60), GRACE, false, BUDGET);
            assert_eq!((shard.len(), over(&shard)), (0, (3, 3, 0)), "held: {hold}");
        }
    }

    #[test]
    fn measuring_goes_on_where_the_budget_ended() {
        let mut shard = shard(100, &[(1, 11), (2, 11), (3, 11)]);
        for round in 1..=3 {
            shard.sweep(at(8), GRACE, false, 1);
            assert_eq!(over(&shard), (round, round, 0));
        }
        shard.sweep(at(8), GRACE, false, 1);
        assert_eq!(over(&shard), (3, 3, 0));
    }
}
