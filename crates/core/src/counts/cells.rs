//! The cells of a shard, and the slots of each, in few bytes and few lines of the processor's cache.
//!
//! A cell takes one line, its first slot included. Where more than one session counts, the others' slots are in a
//! second line as long as they are two at most, which three regions of a node each do not exceed; beyond that they have an
//! allocation of their own.

use alloc::boxed::Box;
use core::{
    iter, mem,
    num::{NonZeroU16, NonZeroU32},
};

use super::{
    closing::Weighed,
    digest::Tick,
    tally::{Packed, Tally},
};
use crate::{
    ids::{Caller, RegionIndex, SessionIndex},
    slab::Slab,
    time::Label,
};

/// What one session has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    packed: Packed,
    /// Low half of the sequence number of its item in the log; 0 if it has none.
    pub(super) mark: u32,
    pub(super) session: SessionIndex,
    pub(super) region: RegionIndex,
}

impl Slot {
    /// A slot of a session that has nothing yet.
    pub(super) fn new(session: SessionIndex, region: RegionIndex) -> Self {
        Self { packed: Packed::default(), mark: 0, session, region }
    }

    pub(super) fn tally(&self) -> Tally {
        self.packed.tally()
    }

    /// Takes a tally, which is sound.
    pub(super) fn set(&mut self, tally: Tally) {
        self.packed = Packed::new(tally);
    }
}

/// A key in one label.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) caller: Caller,
    pub(super) label: Label,
    first: Slot,
    /// The place of the others plus one.
    others: Option<NonZeroU32>,
    /// When anything in it was admitted or given back last.
    pub(super) touched: Tick,
    pub(super) weighed: Weighed,
    /// Its shape's index plus one: so a place of the slab that is free takes no more than a cell.
    shape: NonZeroU16,
}

impl Cell {
    /// A cell with one slot. `shape` is an index below 65,535.
    pub(super) fn new(caller: Caller, shape: u16, label: Label, first: Slot) -> Self {
        let shape = NonZeroU16::MIN.saturating_add(shape);
        let (touched, weighed) = (Tick::default(), Weighed::default());
        Self { caller, label, first, others: None, touched, weighed, shape }
    }

    /// The index of its shape.
    pub(super) const fn shape(&self) -> u16 {
        self.shape.get() - 1
    }
}

/// The slots of a cell but its first.
#[derive(Debug)]
enum Others {
    One([Slot; 1]),
    Two([Slot; 2]),
    /// Exact size: a cell gains a slot once per session, and there are few.
    Many(Box<[Slot]>),
}

impl Others {
    fn slots(&self) -> &[Slot] {
        match self {
            Self::One(slots) => slots,
            Self::Two(slots) => slots,
            Self::Many(slots) => slots,
        }
    }

    fn slots_mut(&mut self) -> &mut [Slot] {
        match self {
            Self::One(slots) => slots,
            Self::Two(slots) => slots,
            Self::Many(slots) => slots,
        }
    }

    fn push(&mut self, slot: Slot) {
        *self = match self {
            Self::One([first]) => Self::Two([*first, slot]),
            _ => Self::Many(self.slots().iter().copied().chain([slot]).collect()),
        };
    }

    /// Slots in an allocation of their own.
    fn apart(&self) -> usize {
        if let Self::Many(slots) = self { slots.len() } else { 0 }
    }
}

/// Cells at stable places.
#[derive(Debug)]
pub(super) struct Cells {
    cells: Slab<Cell>,
    others: Slab<Others>,
    /// Slots in allocations of their own.
    apart: usize,
}

impl Cells {
    pub(super) const fn new() -> Self {
        Self { cells: Slab::new(), others: Slab::new(), apart: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.cells.len()
    }

    /// One past the last place ever used: walks go from 0 to here.
    pub(super) fn places(&self) -> u32 {
        self.cells.places()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.cells.memory_bytes() + self.others.memory_bytes() + self.apart * size_of::<Slot>()
    }

    pub(super) fn get(&self, at: u32) -> Option<&Cell> {
        self.cells.get(at)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Cell> {
        self.cells.get_mut(at)
    }

    /// All slots of a cell: one at least.
    pub(super) fn slots<'a>(&'a self, cell: &'a Cell) -> impl Iterator<Item = &'a Slot> + Clone {
        iter::once(&cell.first).chain(self.others(cell))
    }

    /// How many there are.
    pub(super) fn slots_len(&self, cell: &Cell) -> usize {
        1 + self.others(cell).len()
    }

    fn others(&self, cell: &Cell) -> &[Slot] {
        let others = cell.others.and_then(|place| self.others.get(place.get() - 1));
        others.map_or(&[], Others::slots)
    }

    /// A session's slot of the cell at a place.
    pub(super) fn slot_mut(&mut self, at: u32, session: SessionIndex) -> Option<&mut Slot> {
        let cell = self.cells.get_mut(at)?;
        if cell.first.session == session {
            return Some(&mut cell.first);
        }
        let others = self.others.get_mut(cell.others?.get() - 1)?;
        others.slots_mut().iter_mut().find(|slot| slot.session == session)
    }

    pub(super) fn insert(&mut self, cell: Cell) -> u32 {
        self.cells.insert(cell)
    }

    /// Adds the slot of a session that the cell at a place has none of.
    pub(super) fn add_slot(&mut self, at: u32, slot: Slot) {
        let Some(cell) = self.cells.get_mut(at) else { return };
        let place = cell.others.map(|place| place.get() - 1);
        if let Some(others) = place.and_then(|place| self.others.get_mut(place)) {
            self.apart -= others.apart();
            others.push(slot);
            self.apart += others.apart();
        } else {
            let place = self.others.insert(Others::One([slot]));
            cell.others = NonZeroU32::MIN.checked_add(place);
        }
    }

    /// Takes a cell out, with all its slots.
    pub(super) fn remove(&mut self, at: u32) -> Option<Cell> {
        let mut cell = self.cells.remove(at)?;
        let others =
            mem::take(&mut cell.others).and_then(|place| self.others.remove(place.get() - 1));
        self.apart -= others.map_or(0, |others| others.apart());
        Some(cell)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn slot(session: u16) -> Slot {
        Slot::new(SessionIndex(session), RegionIndex(session))
    }

    fn cell() -> Cell {
        Cell::new(Caller([1, 2]), 3, Label(4), slot(0))
    }

    #[test]
    fn a_cell_takes_a_line_and_two_more_slots_another() {
        let mut cells = Cells::new();
        let at = cells.insert(cell());
        cells.add_slot(at, slot(1));
        // Slabs grow by 64 places at a time, and need little more than these.
        for bytes in [cells.cells.memory_bytes(), cells.others.memory_bytes()] {
            assert!((64 * 64..=64 * 65).contains(&bytes), "{bytes}");
        }
    }

    #[test]
    fn slots_stay_with_their_cell_and_go_with_it() {
        let mut cells = Cells::new();
        let [a, b] = [cell(), cell()].map(|cell| cells.insert(cell));
        for session in 1..9 {
            cells.add_slot(a, slot(session));
            cells.slot_mut(a, SessionIndex(session)).expect("it was added").mark = session.into();
            if session < 3 {
                cells.add_slot(b, slot(session + 20));
            }
        }
        let told = |cells: &Cells, at: u32| {
            let cell = cells.get(at).expect("it is there");
            let slots: Vec<_> = cells.slots(cell).map(|slot| (slot.session.0, slot.mark)).collect();
            assert_eq!(slots.len(), cells.slots_len(cell));
            slots
        };
        assert_eq!(told(&cells, a), (0..9).map(|n| (n, n.into())).collect::<Vec<_>>());
        assert_eq!(told(&cells, b), [(0, 0), (21, 0), (22, 0)]);
        assert!(cells.slot_mut(b, SessionIndex(1)).is_none());
        assert_eq!(cells.apart, 8);
        assert_eq!(cells.remove(a).map(|cell| cell.shape()), Some(3));
        assert_eq!((cells.len(), cells.others.len(), cells.apart), (1, 1, 0));
    }
}
