//! The invariants that Tidegate keeps, by name. Documents, code and tests cite them.
//!
//! Where one is cheap to check it is checked in production: a broken one is counted and answered like a
//! failed store. Debug builds and the simulator panic instead.

use core::fmt;

/// An invariant; see `docs/algorithm.md` for the reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// INV-1: what a check was admitted for enters exactly one slot, exactly once.
    Counted,
    /// INV-2: a slot never falls; merging is a maximum.
    Monotone,
    /// INV-3: refunded ≤ used ≤ offered, in every slot and record.
    Sound,
    /// INV-4: a command is admitted whole, or charges nothing.
    AllOrNothing,
    /// INV-5: nothing outlives its label by more than one window and the grace.
    Forgotten,
    /// INV-6: a frame speaks for its sender's region only, or for earlier sessions of ours at the start.
    SpeaksForItself,
    /// INV-7: after a step, a record is at least its floor.
    Floored,
    /// INV-8: only what is merged is acknowledged.
    Acknowledged,
    /// INV-9: once a label is in use, cluster time never runs backwards on a node.
    Forward,
    /// INV-10: a node's cluster time is not behind what it has heard of its region.
    Together,
    /// INV-11: what a heal has written, the record of the new epoch holds.
    Healed,
    /// INV-13: what is spent and given of an account is at most its base, what was received, and the overdraft.
    Covered,
    /// INV-15: nothing is spent in labels that a store may have forgotten.
    Forfeited,
    /// INV-16: a long label is spent no further than a block beyond what others hold, so that it can be recovered.
    Recovered,
}

impl Invariant {
    /// Its name in documents: `INV-1`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counted => "INV-1",
            Self::Monotone => "INV-2",
            Self::Sound => "INV-3",
            Self::AllOrNothing => "INV-4",
            Self::Forgotten => "INV-5",
            Self::SpeaksForItself => "INV-6",
            Self::Floored => "INV-7",
            Self::Acknowledged => "INV-8",
            Self::Forward => "INV-9",
            Self::Together => "INV-10",
            Self::Healed => "INV-11",
            Self::Covered => "INV-13",
            Self::Forfeited => "INV-15",
            Self::Recovered => "INV-16",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
