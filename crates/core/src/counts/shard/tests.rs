//! Bounds on the slots of a cell and of a shard.

use super::*;
use crate::time::Span;

fn entry(caller: u64, session: u16) -> Entry {
    let window = Window::new(Span::secs(1)).expect("a second");
    let shape = Shape { limit: LimitId(1), window, scope: Scope::Global };
    let tally = Tally { counts: Counts { used: 1, refunded: 0 }, offered: 1 };
    let session = SessionIndex(session);
    Entry {
        caller: Caller([caller; 2]),
        shape,
        label: Label(5),
        session,
        tally,
        note: Note::default(),
    }
}

fn add_own(shard: &mut Shard, caller: u64) {
    let Entry { caller, shape, label, tally: add, .. } = entry(caller, 0);
    let asked = Asked { caller, shape, label, quantity: 9, add, tell: true };
    shard.add_own(&asked, Tick::default());
}

/// How many of a peer's slots there is room for, of those of so many sessions for each caller.
fn taken(shard: &mut Shard, callers: u64, sessions: u16) -> usize {
    let told = (0..callers).flat_map(|c| (1..=sessions).map(move |s| entry(c, s)));
    let is_taken = |e: &Entry| {
        shard.merge(e, RegionIndex(1), false, Tick::default()).is_ok_and(|grown| grown.at_all)
    };
    told.filter(is_taken).count()
}

#[test]
fn the_slots_of_a_cell_are_bounded_and_one_is_its_own() {
    let mut shard = Shard::new(10_000);
    assert_eq!(taken(&mut shard, 1, 5_000), SLOTS_PER_CELL_MAX - 1);
    add_own(&mut shard, 0);
    assert_eq!(shard.slots, SLOTS_PER_CELL_MAX);
    // Who has a slot grows on; and another caller's cell has room.
    let more = Entry { tally: entry(0, 1).tally.plus(entry(0, 1).tally), ..entry(0, 1) };
    assert!(shard.merge(&more, RegionIndex(1), false, Tick::default()).is_ok_and(|g| g.at_all));
    assert_eq!(taken(&mut shard, 2, 10), 10);
}

#[test]
fn all_slots_are_bounded_and_each_cell_has_room_for_its_own() {
    let mut shard = Shard::new(64);
    assert_eq!(taken(&mut shard, 60, 100), 64 * (SLOTS_PER_CELL - 1));
    assert_eq!(shard.len(), 5, "what has no room for a slot gets no cell");
    (0..64).for_each(|caller| add_own(&mut shard, caller));
    assert_eq!(shard.slots, 64 * SLOTS_PER_CELL);
    // With their label they go.
    while shard.sweep(ClusterTime(9_000_000), Span::ZERO, false, 100) > 0 {}
    assert_eq!(shard.slots, 0);
    assert_eq!(taken(&mut shard, 1, 10), 10);
}
