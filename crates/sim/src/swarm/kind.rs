//! The kinds of faults that a swarm draws from.

use serde::Deserialize;

/// One kind of fault. Its name in files is in kebab case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Nothing passes between a region and the others, both ways.
    Cut,
    /// Nothing passes in one direction, between regions or single nodes.
    OneWayCut,
    /// A link is cut and whole in turn.
    Flap,
    /// Frames are lost.
    Loss,
    /// Frames arrive twice.
    Duplicate,
    /// Frames overtake each other.
    Reorder,
    /// Frames arrive with other bytes.
    Corrupt,
    /// Frames come late, all of them.
    SlowLink,
    /// A process stands still.
    Pause,
    /// A node dies and comes back; its store lives on.
    Crash,
    /// A node dies with its region's store.
    CrashWithStore,
    /// All nodes of a region die at once.
    RegionCrash,
    /// A node dies and never comes back; its siblings and its store live on.
    NodeGone,
    /// Answers of a store come after the deadline.
    StoreLate,
    /// Answers come twice.
    StoreTwice,
    /// Questions are never answered.
    StoreNever,
    /// Steps and answers take longer, some beyond the deadline.
    StoreSlow,
    /// A store cannot be reached.
    StoreGone,
    /// A store refuses to carry out anything.
    StoreRefuse,
    /// A store is empty from one moment to the next.
    StoreWipe,
    /// A store is again what it was a while ago.
    StoreRollback,
    /// A store loses its memory, while a node goes on asking the server that was replaced.
    StoreSplit,
    /// A store has no room for all keys, from beginning to end.
    StoreFull,
    /// A store's clock is a little off, and drifts.
    ClockSkew,
    /// A node's clocks are off, and drift.
    NodeClock,
    /// A store's clock steps by minutes.
    ClockStep,
    /// A node comes back with an older wall clock.
    OlderClock,
    /// Most nodes are restarted, with other weights of regions.
    Reconfigure,
}

impl Kind {
    /// All of them, in the order in which they are drawn.
    pub const ALL: [Self; 28] = [
        Self::Cut,
        Self::OneWayCut,
        Self::Flap,
        Self::Loss,
        Self::Duplicate,
        Self::Reorder,
        Self::Corrupt,
        Self::SlowLink,
        Self::Pause,
        Self::Crash,
        Self::CrashWithStore,
        Self::RegionCrash,
        Self::NodeGone,
        Self::StoreLate,
        Self::StoreTwice,
        Self::StoreNever,
        Self::StoreSlow,
        Self::StoreGone,
        Self::StoreRefuse,
        Self::StoreWipe,
        Self::StoreRollback,
        Self::StoreSplit,
        Self::StoreFull,
        Self::ClockSkew,
        Self::NodeClock,
        Self::ClockStep,
        Self::OlderClock,
        Self::Reconfigure,
    ];

    /// What it is called in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::OneWayCut => "one-way-cut",
            Self::Flap => "flap",
            Self::Loss => "loss",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::Corrupt => "corrupt",
            Self::SlowLink => "slow-link",
            Self::Pause => "pause",
            Self::Crash => "crash",
            Self::CrashWithStore => "crash-with-store",
            Self::RegionCrash => "region-crash",
            Self::NodeGone => "node-gone",
            Self::StoreLate => "store-late",
            Self::StoreTwice => "store-twice",
            Self::StoreNever => "store-never",
            Self::StoreSlow => "store-slow",
            Self::StoreGone => "store-gone",
            Self::StoreRefuse => "store-refuse",
            Self::StoreWipe => "store-wipe",
            Self::StoreRollback => "store-rollback",
            Self::StoreSplit => "store-split",
            Self::StoreFull => "store-full",
            Self::ClockSkew => "clock-skew",
            Self::NodeClock => "node-clock",
            Self::ClockStep => "clock-step",
            Self::OlderClock => "older-clock",
            Self::Reconfigure => "reconfigure",
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name_and_read_from_files() {
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(kind));
            let table: toml::Table =
                toml::from_str(&format!("k = {:?}", kind.name())).expect("text");
            assert_eq!(table["k"].clone().try_into::<Kind>().expect("a kind"), kind);
        }
        assert_eq!(Kind::named("flood"), None);
    }
}
