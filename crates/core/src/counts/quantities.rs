//! The quantities that a shard's cells are weighed by: few, and named by a small number in each cell.

use alloc::{collections::BTreeMap, vec::Vec};

use crate::memory;

/// Distinct quantities that are remembered at a time; cells under further ones are not weighed.
const QUANTITIES_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy)]
struct InUse {
    quantity: u64,
    /// Cells that name it; with none left its place is free.
    cells: u32,
}

/// Distinct quantities, each for as long as a cell names it.
#[derive(Debug, Default)]
pub(super) struct Quantities {
    places: Vec<InUse>,
    free: Vec<u16>,
    by_quantity: BTreeMap<u64, u16>,
}

impl Quantities {
    /// The quantity at a place that a cell names.
    pub(super) fn get(&self, place: u16) -> Option<u64> {
        self.places.get(usize::from(place)).map(|place| place.quantity)
    }

    /// The place of a quantity, which one more cell names; `None` if there is none left.
    pub(super) fn take(&mut self, quantity: u64) -> Option<u16> {
        let place = match self.by_quantity.get(&quantity) {
            Some(place) => *place,
            None => self.place_for(quantity)?,
        };
        self.places[usize::from(place)].cells += 1;
        Some(place)
    }

    fn place_for(&mut self, quantity: u64) -> Option<u16> {
        let new = InUse { quantity, cells: 0 };
        let place = if let Some(place) = self.free.pop() {
            self.places[usize::from(place)] = new;
            place
        } else if self.places.len() < QUANTITIES_MAX {
            self.places.push(new);
            (self.places.len() - 1) as u16
        } else {
            return None;
        };
        self.by_quantity.insert(quantity, place);
        Some(place)
    }

    /// A cell names a place no more.
    pub(super) fn give_back(&mut self, place: u16) {
        let Some(in_use) = self.places.get_mut(usize::from(place)) else { return };
        in_use.cells = in_use.cells.saturating_sub(1);
        if in_use.cells == 0 && self.by_quantity.remove(&in_use.quantity).is_some() {
            self.free.push(place);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        memory::of_vec(&self.places)
            + memory::of_vec(&self.free)
            + memory::of_tree(&self.by_quantity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_remembered_once_and_for_as_long_as_it_is_named() {
        let mut quantities = Quantities::default();
        let places: Vec<_> = [10, 20, 10].map(|quantity| quantities.take(quantity)).into();
        assert_eq!(places, [Some(0), Some(1), Some(0)]);
        quantities.give_back(0);
        assert_eq!(quantities.get(0), Some(10), "one cell still names it");
        quantities.give_back(0);
        assert_eq!(quantities.take(30), Some(0));
        assert_eq!([0, 1].map(|place| quantities.get(place)), [Some(30), Some(20)]);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_freed() {
        let mut quantities = Quantities::default();
        for round in 0..3 {
            let of = |n: usize| (round * QUANTITIES_MAX + n) as u64;
            let taken = (0..2 * QUANTITIES_MAX).filter_map(|n| quantities.take(of(n)));
            let taken: Vec<_> = taken.collect();
            assert_eq!(taken.len(), QUANTITIES_MAX, "in round {round}");
            assert_eq!(quantities.take(of(0)), Some(taken[0]), "what is known has its place");
            quantities.give_back(taken[0]);
            taken.into_iter().for_each(|place| quantities.give_back(place));
            assert!(quantities.by_quantity.is_empty());
        }
    }
}
