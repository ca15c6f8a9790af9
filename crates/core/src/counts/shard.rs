//! One shard of the counts: a bounded table of cells, its change log, and collection by label.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{
    cells::{Cell, Cells, Slot},
    closing::{Closing, Group},
    degraded::Degraded,
    digest::Tick,
    log::{Item, Log},
    tally::Tally,
};
use crate::{
    forecast::{News, Note, Watched, Whose},
    ids::{Caller, Key, LimitId, RegionIndex, SessionIndex},
    index::Index,
    memory,
    policy::Scope,
    store::{COUNT_MAX, Counts},
    time::{ClusterTime, Label, Mono, Span, Window},
};

pub(crate) use live::Live;

mod live;
#[cfg(test)]
mod tests;

/// Slots of one cell, this node's own included: as many sessions may count one caller in one label.
pub(super) const SLOTS_PER_CELL_MAX: usize = 4_096;
/// Slots of a shard per cell that it may hold, on average; one of them is kept for this node's own.
pub(super) const SLOTS_PER_CELL: usize = 8;
/// Keys that are watched at a time: one in so many cells.
const WATCHED_PART: usize = 16;
/// Distinct limit shapes that one shard can hold at a time.
pub(super) const SHAPES_MAX: usize = 4_096;

/// What a count needs to know of its limit: enough to keep it without the policy file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Which limit.
    pub(crate) limit: LimitId,
    /// What its labels are.
    pub(crate) window: Window,
    /// Who must hear of it.
    pub(crate) scope: Scope,
}

/// No room for another cell, shape or slot; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// What this node knows of a key in one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Known {
    /// This node's own, which it need not be told.
    pub(crate) own_session: u64,
    /// The sum over this region's other sessions, dead ones included, as peers told it.
    pub(crate) siblings: u64,
    /// The sum of all other regions.
    pub(crate) others: u64,
}

impl Known {
    /// Sums of what each session has left, so that nobody's refunds weigh against what another has used.
    fn of<'a>(slots: impl Iterator<Item = &'a Slot>) -> Self {
        slots.fold(Self::default(), |mut known, slot| {
            let sum = if slot.session == SessionIndex::OWN {
                &mut known.own_session
            } else if slot.region == RegionIndex::OWN {
                &mut known.siblings
            } else {
                &mut known.others
            };
            *sum = sum.saturating_add(slot.tally().counts.net()).min(COUNT_MAX);
            known
        })
    }

    /// This region's sum over all its sessions.
    pub(crate) fn own_region(&self) -> u64 {
        self.own_session.saturating_add(self.siblings).min(COUNT_MAX)
    }
}

/// What this node was asked for of one key, and gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) caller: Caller,
    pub(crate) shape: Shape,
    pub(crate) label: Label,
    /// What the limit allows.
    pub(crate) quantity: u64,
    pub(crate) add: Tally,
    /// Whether peers should hear of it now; what grew untold goes with the next change.
    pub(crate) tell: bool,
}

/// One session's tally, on its way to or from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) caller: Caller,
    pub(crate) shape: Shape,
    pub(crate) label: Label,
    pub(crate) session: SessionIndex,
    pub(crate) tally: Tally,
    /// What the session tells of its demand.
    pub(crate) note: Note,
}

/// What became of a peer's tally.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Grown {
    /// Whether anything grew.
    pub(crate) at_all: bool,
    /// By how much more was offered.
    pub(crate) offered: u64,
}

impl Entry {
    pub(crate) const fn key(&self) -> Key {
        Key { caller: self.caller, limit: self.shape.limit }
    }
}

/// How far a peer has been told: first the walk over all cells, then the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Cursor {
    /// The next place of the walk; `None` when it is over.
    pub(crate) walk: Option<u32>,
    /// The last sequence number told.
    pub(crate) log: u64,
}

/// Which slots a walk tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WalkFilter<'a> {
    /// The region of the peer that is told.
    pub(crate) region: RegionIndex,
    /// The peer's own session, which knows itself best.
    pub(crate) peer: SessionIndex,
    /// Sessions that speak for themselves: connected peers.
    pub(crate) live: &'a [SessionIndex],
    /// Sessions of other regions whose changes this node passes on to its siblings.
    pub(crate) passed_on: &'a [SessionIndex],
}

impl WalkFilter<'_> {
    /// A walk tells the slots of this region's sessions that nobody else tells, and gives the peer
    /// back what is known of earlier sessions of its region. A sibling is also told what others have told
    /// this node for the whole region: nobody tells it again to who was not there.
    fn tells(&self, slot: &Slot) -> bool {
        let ours = slot.region == RegionIndex::OWN
            && (slot.session == SessionIndex::OWN || !self.live.contains(&slot.session));
        let theirs = slot.region == self.region && slot.session != self.peer;
        let of_all = self.region == RegionIndex::OWN && self.passed_on.contains(&slot.session);
        ours || theirs || of_all
    }
}

/// A shape in use.
#[derive(Debug)]
struct ShapeInUse {
    shape: Shape,
    cells: usize,
}

/// One shard of the counts.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(super) cells: Cells,
    index: Index,
    shapes: Vec<Option<ShapeInUse>>,
    pub(super) by_limit: BTreeMap<LimitId, u16>,
    /// Cells by the end of their label: what is collected together.
    pub(super) by_end: BTreeMap<(ClusterTime, u16), Group>,
    pub(super) closing: Closing,
    log: Log,
    pub(super) cells_max: usize,
    slots: usize,
    /// Keys whose demand is watched.
    pub(crate) watched: Watched,
    /// What is admitted while the store cannot be asked.
    pub(crate) degraded: Degraded,
}

/// Labels that follow each other are mostly neighbours: a decision asks for two.
fn hash_of(caller: Caller, shape: u16, label: Label) -> u32 {
    let salt = (u64::from(shape) << 48) ^ (label.0 / Index::NEIGHBOURS);
    let mixed = caller.0[1] ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Index::neighbour(mixed >> 32, label.0)
}

impl Shard {
    /// An empty shard for at most `cells_max` cells.
    pub(crate) fn new(cells_max: usize) -> Self {
        Self {
            cells: Cells::new(),
            index: Index::new(),
            shapes: Vec::new(),
            by_limit: BTreeMap::new(),
            by_end: BTreeMap::new(),
            closing: Closing::default(),
            log: Log::default(),
            cells_max,
            slots: 0,
            watched: Watched::new(cells_max.div_ceil(WATCHED_PART)),
            degraded: Degraded::new(cells_max),
        }
    }

    // -- getters

    pub(crate) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Places that cells have had: those to look at from 0 on.
    pub(crate) fn places(&self) -> u32 {
        self.cells.places()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.cells.memory_bytes()
            + self.index.memory_bytes()
            + memory::of_vec(&self.shapes)
            + memory::of_tree(&self.by_limit)
            + self.log.memory_bytes()
            + self.closing_bytes()
            + self.watched.memory_bytes()
            + self.degraded.memory_bytes()
    }

    pub(crate) const fn log_head(&self) -> u64 {
        self.log.head()
    }

    /// Whether this node's own use of a caller in one label has a cell, or would get one.
    pub(crate) fn has_room(&self, caller: Caller, shape: Shape, label: Label) -> bool {
        let fits = match self.by_limit.get(&shape.limit) {
            Some(index) => self.is_shape(*index, shape),
            None => self.shapes.len() < SHAPES_MAX || self.shapes.iter().any(Option::is_none),
        };
        let key = Key { caller, limit: shape.limit };
        fits && (self.cells.len() < self.cells_max || self.find(key, label).is_some())
    }

    pub(super) fn find(&self, key: Key, label: Label) -> Option<u32> {
        let shape = *self.by_limit.get(&key.limit)?;
        let same = |at: u32| {
            self.cells.get(at).is_some_and(|cell| {
                cell.caller == key.caller && cell.label == label && cell.shape() == shape
            })
        };
        self.index.find(hash_of(key.caller, shape, label), same)
    }

    /// The slots of a key in one label, as far as there are any.
    pub(super) fn slots_of(&self, key: Key, label: Label) -> impl Iterator<Item = &Slot> + Clone {
        let cell = self.find(key, label).and_then(|at| self.cells.get(at));
        cell.into_iter().flat_map(|cell| self.cells.slots(cell))
    }

    /// What is known of a key in one label.
    pub(crate) fn known(&self, key: Key, label: Label) -> Known {
        let cell = self.find(key, label).and_then(|at| self.cells.get(at));
        cell.map_or_else(Known::default, |cell| Known::of(self.cells.slots(cell)))
    }

    /// What is known of a key in one label, region by region, in no order.
    pub(crate) fn by_region(&self, key: Key, label: Label) -> Vec<(RegionIndex, Tally)> {
        let mut regions: Vec<(RegionIndex, Tally)> = Vec::new();
        for slot in self.slots_of(key, label) {
            match regions.iter_mut().find(|(region, _)| *region == slot.region) {
                Some((_, tally)) => *tally = tally.plus(slot.tally()),
                None => regions.push((slot.region, slot.tally())),
            }
        }
        regions
    }

    // -- inputs

    /// Adds to this session's own slot. Takes a cell even beyond the bound: the caller has asked
    /// [`has_room`](Self::has_room) before, and what the store has charged must be counted (INV-1).
    pub(crate) fn add_own(&mut self, asked: &Asked, tick: Tick) {
        let Asked { caller, shape, label, quantity, add, tell } = *asked;
        let found = self.find(Key { caller, limit: shape.limit }, label);
        let own = Slot::new(SessionIndex::OWN, RegionIndex::OWN);
        let at = found.map_or_else(|| self.new_cell(caller, shape, label, own, usize::MAX), Ok);
        let Ok(at) = at else { return };
        self.weigh_by(at, quantity);
        let over = self.over_in(at);
        let slot = self.slot_mut(at, own);
        slot.set(slot.tally().plus(add));
        self.grew(at, over);
        if add.counts != Counts::default() {
            self.changed(at, tick);
        }
        if tell {
            self.touch(at, SessionIndex::OWN);
        }
    }

    /// Gives back up to `cost` of what this session has admitted in a label, and returns how much.
    pub(crate) fn refund_own(&mut self, key: Key, label: Label, cost: u64, tick: Tick) -> u64 {
        let Some(at) = self.find(key, label) else { return 0 };
        let over = self.over_in(at);
        let Some(slot) = self.cells.slot_mut(at, SessionIndex::OWN) else { return 0 };
        let mut tally = slot.tally();
        let amount = cost.min(tally.counts.net());
        tally.counts.refunded += amount;
        slot.set(tally);
        if amount > 0 {
            self.grew(at, over);
            self.changed(at, tick);
            self.touch(at, SessionIndex::OWN);
        }
        amount
    }

    /// Merges a peer's tally (INV-2); `tell` says whether it is for this node to pass on.
    /// Returns what grew.
    pub(crate) fn merge(
        &mut self,
        entry: &Entry,
        region: RegionIndex,
        tell: bool,
        tick: Tick,
    ) -> Result<Grown, Full> {
        let found = self.find(entry.key(), entry.label);
        if !self.has_room_for_slot(found, entry.session) {
            return Err(Full);
        }
        // The last sixteenth is kept for this node's own admissions.
        let bound = self.cells_max - self.cells_max / 16;
        let empty = Slot::new(entry.session, region);
        let new = || self.new_cell(entry.caller, entry.shape, entry.label, empty, bound);
        let at = found.map_or_else(new, Ok)?;
        let over = self.over_in(at);
        let slot = self.slot_mut(at, empty);
        let before = slot.tally();
        let tally = before.merge(entry.tally);
        slot.set(tally);
        let grew = tally != before;
        let offered = tally.offered - before.offered;
        if tally.counts != before.counts {
            self.changed(at, tick);
            self.grew(at, over);
        }
        if grew && tell {
            self.touch(at, entry.session);
        }
        Ok(Grown { at_all: grew, offered })
    }

    /// Hears what a session tells of its demand, if the key is watched: `units` more were offered to it
    /// between `since` and `told`. A limit that is spent by rights is watched from then on, also where nobody
    /// asks for it; its label began `elapsed` ago.
    pub(crate) fn hear(
        &mut self,
        entry: &Entry,
        units: u64,
        (since, told): (Mono, Mono),
        elapsed: Span,
    ) {
        if entry.note.rights && self.watched.get(&entry.key()).is_none() {
            let (window, label) = (entry.shape.window, entry.label);
            self.watch(&entry.key(), window, label, told, elapsed, Whose::Told);
            if let Some(forecast) = self.watched.touch(&entry.key(), told) {
                forecast.note_rights();
            }
            return;
        }
        if let Some(forecast) = self.watched.touch(&entry.key(), told) {
            let Entry { session, label, note, .. } = *entry;
            forecast.handle_news(&News { session, label, units, note, since, told });
        }
    }

    /// Begins to watch a key, with what its cells know of other sessions' demand. `now` is `elapsed` after
    /// `label` began.
    pub(crate) fn watch(
        &mut self,
        key: &Key,
        window: Window,
        label: Label,
        now: Mono,
        elapsed: Span,
        whose: Whose,
    ) {
        let of = |label: Label| {
            let slots = self.slots_of(*key, label);
            slots.filter(|slot| slot.session != SessionIndex::OWN).copied().collect::<Vec<_>>()
        };
        let (before, current) = (of(label.previous()), of(label));
        let Some(forecast) = self.watched.watch(key, window, label, now, whose) else { return };
        let (began, took) = (now - elapsed, window.length_of(label.previous()));
        let told = [(label.previous(), before, began - took, began)]
            .into_iter()
            .chain([(label, current, began, now)]);
        for (label, slots, since, told) in told {
            for slot in slots {
                let (session, units) = (slot.session, slot.tally().offered);
                let note = Note { weight: 1, rights: false, stopped: false };
                forecast.handle_news(&News { session, label, units, note, since, told });
            }
        }
    }

    /// Whether a slot of another session is in a cell already, or may be added: a peer may invent sessions.
    fn has_room_for_slot(&self, at: Option<u32>, session: SessionIndex) -> bool {
        let cell = at.and_then(|at| self.cells.get(at));
        let has = cell.map_or(0, |cell| self.cells.slots_len(cell));
        let fits =
            has < SLOTS_PER_CELL_MAX - 1 && self.slots < self.cells_max * (SLOTS_PER_CELL - 1);
        let is_its = |slot: &Slot| slot.session == session;
        fits || cell.is_some_and(|cell| self.cells.slots(cell).any(is_its))
    }

    fn changed(&mut self, at: u32, tick: Tick) {
        if let Some(cell) = self.cells.get_mut(at) {
            cell.touched = tick;
        }
    }

    /// A cell with its first slot for what has none, if there are less than `cells_max`.
    fn new_cell(
        &mut self,
        caller: Caller,
        shape: Shape,
        label: Label,
        first: Slot,
        cells_max: usize,
    ) -> Result<u32, Full> {
        if self.cells.len() >= cells_max {
            return Err(Full);
        }
        let shape_index = self.shape_index(shape)?;
        if let Some(in_use) = &mut self.shapes[usize::from(shape_index)] {
            in_use.cells += 1;
        }
        let at = self.cells.insert(Cell::new(caller, shape_index, label, first));
        self.slots += 1;
        self.index.insert(hash_of(caller, shape_index, label), at);
        self.by_end.entry((shape.window.end(label), shape_index)).or_default().places.push(at);
        Ok(at)
    }

    fn is_shape(&self, index: u16, shape: Shape) -> bool {
        matches!(&self.shapes[usize::from(index)], Some(in_use) if in_use.shape == shape)
    }

    /// The index of a shape; a second window or scope under one limit's number is refused.
    fn shape_index(&mut self, shape: Shape) -> Result<u16, Full> {
        if let Some(index) = self.by_limit.get(&shape.limit) {
            return if self.is_shape(*index, shape) { Ok(*index) } else { Err(Full) };
        }
        let free = self.shapes.iter().position(Option::is_none);
        if free.is_none() && self.shapes.len() == SHAPES_MAX {
            return Err(Full);
        }
        let index = free.unwrap_or_else(|| {
            self.shapes.push(None);
            self.shapes.len() - 1
        });
        self.shapes[index] = Some(ShapeInUse { shape, cells: 0 });
        self.by_limit.insert(shape.limit, index as u16);
        Ok(index as u16)
    }

    /// The slot of a session in the cell at a place: `empty`, if it had none.
    fn slot_mut(&mut self, at: u32, empty: Slot) -> &mut Slot {
        if self.cells.slot_mut(at, empty.session).is_none() {
            self.cells.add_slot(at, empty);
            self.slots += 1;
        }
        self.cells.slot_mut(at, empty.session).expect("the index names cells that exist")
    }

    /// Moves every slot of `session` to the log's end, in the places from `from` on, at most `budget` of
    /// them. Returns where to go on, or `None` when all places were looked at.
    pub(crate) fn touch_all(
        &mut self,
        session: SessionIndex,
        from: u32,
        budget: usize,
    ) -> Option<u32> {
        let end = self.cells.places().min(from.saturating_add(budget as u32));
        for at in from..end {
            self.touch(at, session);
        }
        (end < self.cells.places()).then_some(end)
    }

    /// Moves a session's slot of a key to the log's end, if there is one: what goes beside it has changed.
    pub(crate) fn tell_again(&mut self, key: Key, label: Label, session: SessionIndex) {
        if let Some(at) = self.find(key, label) {
            self.touch(at, session);
        }
    }

    /// Moves a slot to the log's end.
    fn touch(&mut self, at: u32, session: SessionIndex) {
        let Some(slot) = self.cells.slot_mut(at, session) else { return };
        slot.mark = self.log.push(at, session, slot.mark != 0);
        if self.log.wants_compaction() {
            let cells = &self.cells;
            self.log.compact(|item| live_slot(cells, item).is_some());
        }
    }

    // -- outputs

    /// Appends what a peer has not been told yet to `out`, at most `budget` entries, and returns the
    /// cursor behind them. `wanted` decides by shape whether the peer must hear of it at all.
    pub(crate) fn collect(
        &self,
        mut cursor: Cursor,
        filter: WalkFilter<'_>,
        wanted: impl Fn(&Shape) -> bool,
        budget: usize,
        out: &mut Vec<Entry>,
    ) -> Cursor {
        let full = out.len() + budget;
        // Looking at a cell or an item costs less than sending it, but not nothing.
        let looks_max = budget.saturating_mul(8);
        if let Some(from) = cursor.walk {
            let mut place = from;
            let end = self.cells.places().min(from.saturating_add(looks_max as u32));
            while place < end && out.len() < full {
                if let Some(cell) = self.cells.get(place) {
                    let told = self.cells.slots(cell).filter(|slot| filter.tells(slot));
                    out.extend(
                        told.filter_map(|slot| self.entry(cell, slot)).filter(|e| wanted(&e.shape)),
                    );
                }
                place += 1;
            }
            let done = place >= self.cells.places();
            cursor.walk = (!done).then_some(place);
            if !done {
                return cursor;
            }
        }
        for item in self.log.after(cursor.log).take(looks_max) {
            if out.len() >= full {
                return cursor;
            }
            // What another region told is passed on inside this one.
            if let Some((cell, slot)) = live_slot(&self.cells, item)
                && (slot.region == RegionIndex::OWN || filter.region == RegionIndex::OWN)
            {
                out.extend(self.entry(cell, slot).filter(|e| wanted(&e.shape)));
            }
            cursor.log = item.sequence;
        }
        cursor
    }

    /// Marks the sessions that have slots in the cells from place `from` on, at `budget` places. Returns
    /// where to go on.
    pub(crate) fn mark_sessions(&self, from: u32, budget: u32, seen: &mut [bool]) -> Option<u32> {
        self.each_cell(from, budget, |cell| {
            for slot in self.cells.slots(cell) {
                if let Some(seen) = seen.get_mut(usize::from(slot.session.0)) {
                    *seen = true;
                }
            }
            true
        })
    }

    /// The shape that a cell is of.
    pub(super) fn shape_of(&self, cell: &Cell) -> Option<Shape> {
        self.in_use(cell.shape())
    }

    /// The shape with this index.
    pub(super) fn in_use(&self, index: u16) -> Option<Shape> {
        self.shapes.get(usize::from(index))?.as_ref().map(|in_use| in_use.shape)
    }

    /// Looks at the cells from place `from` on, at `budget` places, until `look` returns false. Returns
    /// where to go on, `None` when all places were looked at.
    pub(super) fn each_cell(
        &self,
        from: u32,
        budget: u32,
        mut look: impl FnMut(&Cell) -> bool,
    ) -> Option<u32> {
        let end = self.cells.places().min(from.saturating_add(budget));
        for at in from..end {
            if let Some(cell) = self.cells.get(at)
                && !look(cell)
            {
                return Some(at + 1);
            }
        }
        (end < self.cells.places()).then_some(end)
    }

    pub(super) fn entry(&self, cell: &Cell, slot: &Slot) -> Option<Entry> {
        let shape = self.shape_of(cell)?;
        let watched = self.watched.get(&Key { caller: cell.caller, limit: shape.limit });
        let note = watched.map_or(Note::default(), |f| f.note(slot.session, cell.label));
        let Cell { caller, label, .. } = *cell;
        let (session, tally) = (slot.session, slot.tally());
        Some(Entry { caller, shape, label, session, tally, note })
    }

    // -- upkeep

    /// Forgets log items that every cursor has passed, at most `budget`.
    pub(crate) fn trim(&mut self, through: u64, budget: usize) {
        for _ in 0..budget {
            let Some(item) = self.log.pop_through(through) else { return };
            match live_slot_mut(&mut self.cells, &item) {
                Some(slot) => slot.mark = 0,
                None => self.log.forget_stale(),
            }
        }
    }

    /// Forgets a cell.
    pub(super) fn remove(&mut self, at: u32) {
        let Some(cell) = self.cells.get(at) else { return };
        self.slots -= self.cells.slots_len(cell);
        for _ in self.cells.slots(cell).filter(|slot| slot.mark != 0) {
            self.log.note_stale();
        }
        let Some(cell) = self.cells.remove(at) else { return };
        self.index.remove(hash_of(cell.caller, cell.shape(), cell.label), at);
        self.weighs_no_more(cell.weighed);
        let place = &mut self.shapes[usize::from(cell.shape())];
        if let Some(in_use) = place {
            in_use.cells -= 1;
            if in_use.cells == 0 {
                self.by_limit.remove(&in_use.shape.limit);
                *place = None;
            }
        }
    }
}

/// The slot of a log item, unless the item is stale.
fn live_slot<'a>(cells: &'a Cells, item: &Item) -> Option<(&'a Cell, &'a Slot)> {
    let cell = cells.get(item.cell)?;
    let mark = Item::mark_of(item.sequence);
    let slot = cells.slots(cell).find(|s| s.session == item.session && s.mark == mark)?;
    Some((cell, slot))
}

fn live_slot_mut<'a>(cells: &'a mut Cells, item: &Item) -> Option<&'a mut Slot> {
    let mark = Item::mark_of(item.sequence);
    cells.slot_mut(item.cell, item.session).filter(|slot| slot.mark == mark)
}
