//! Configurations of regions: by which one claims are made, and what the store is told of it.

use alloc::vec::Vec;

use super::Engine;
use crate::{
    guard::{Guard, Guarding},
    ids::{ConfigEpoch, NodeId, RegionNumber},
    rights::{Adopted, Adoptions, Proposed, Regions},
    time::{ClusterTime, Mono},
};

/// What decisions need to know of how far regions have come with configurations.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ConfigView {
    /// The own region; `None` as long as the store was not asked.
    own: Option<Adopted>,
    /// From which labels on the node's configuration is in force everywhere.
    agreed: Option<ClusterTime>,
    /// Which labels are too old to be opened by the node's configuration, and by the one before.
    since: [Option<ClusterTime>; 2],
    /// Whether nobody is left who could say that, for the node's configuration and for the one before.
    lost: [bool; 2],
    /// The newest that any region has adopted.
    newest: ConfigEpoch,
}

impl ConfigView {
    pub(super) fn of(regions: &Regions, adoptions: &Adoptions, own: RegionNumber) -> Self {
        let both = [regions.epoch(), regions.epoch().previous()];
        Self {
            own: adoptions.of(own),
            agreed: adoptions.agreed(regions),
            since: both.map(|at| adoptions.since(at)),
            lost: both.map(|at| adoptions.are_lost(regions, at)),
            newest: adoptions.newest(),
        }
    }

    /// From which labels on the configuration that is `acting` is in force everywhere.
    fn agreed(&self, regions: &Regions, acting: ConfigEpoch) -> Option<ClusterTime> {
        if acting == regions.epoch() { self.agreed } else { self.since[0] }
    }

    /// Which labels are too old to be opened by the configuration that is `acting`, if nobody has used yet what
    /// begins at `unused`.
    fn since(
        &self,
        regions: &Regions,
        acting: ConfigEpoch,
        unused: Option<ClusterTime>,
    ) -> Option<ClusterTime> {
        let at = usize::from(acting != regions.epoch());
        self.since[at].or(unused.filter(|_| self.lost[at]))
    }
}

/// Configurations as they stand at an instant.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConfigSight {
    /// By which one claims are made.
    pub(super) acting: ConfigEpoch,
    own: Adopted,
}

impl ConfigSight {
    /// Whether labels that begin then are split by the newest configuration everywhere.
    pub(super) fn is_agreed(&self, label_start: ClusterTime) -> bool {
        self.acting == self.own.epoch && self.own.is_agreed(label_start)
    }

    /// What a region probably has of a quantity by itself.
    pub(super) fn base(
        &self,
        regions: &Regions,
        quantity: u64,
        region: RegionNumber,
        label_start: ClusterTime,
    ) -> u64 {
        let bases = regions.bases(quantity, region, self.acting);
        let known = self.own.base(self.acting, bases, label_start);
        known.or_else(|| bases.least()).unwrap_or(bases.now)
    }
}

/// How a node stands with configurations of regions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigStatus {
    /// By which one it makes claims.
    pub acting: ConfigEpoch,
    /// What the own region has adopted; `None` as long as the store was not asked.
    pub own: Option<Adopted>,
    /// Whether labels are split by it everywhere, or will be soon.
    pub agreed: bool,
    /// Regions that have not adopted it, as far as is known, while it is not agreed.
    pub missing: Vec<RegionNumber>,
    /// Whether the own store cannot adopt it, since nobody has said that the one before was agreed.
    pub stuck: bool,
    /// Connected nodes that are configured otherwise under the same number: as long as there are any, nothing
    /// is spent by rights.
    pub otherwise: Vec<NodeId>,
}

impl<G: Guarding> Engine<G> {
    /// How this node stands with configurations of regions.
    pub fn config_status(&self, now: Mono) -> ConfigStatus {
        let (acting, regions) = (self.acting(now), &self.regions);
        self.exchange.with(|exchange| {
            let adoptions = exchange.adoptions();
            let has = |region: &RegionNumber| {
                adoptions.of(*region).is_some_and(|adopted| adopted.epoch >= acting)
            };
            let view = ConfigView::of(regions, adoptions, self.own_region);
            let agreed = acting == ConfigEpoch(0) || view.agreed(regions, acting).is_some();
            let knows = |own: Adopted| {
                own.epoch >= acting || view.since(regions, acting, Some(ClusterTime(0))).is_some()
            };
            ConfigStatus {
                acting,
                own: view.own,
                agreed,
                missing: regions.iter().filter(|region| !agreed && !has(region)).collect(),
                stuck: !view.own.is_none_or(knows),
                otherwise: exchange.configured_otherwise().map(|s| s.id.clone()).collect(),
            }
        })
    }

    fn acting(&self, now: Mono) -> ConfigEpoch {
        if self.regions.epoch() == ConfigEpoch(0) {
            return ConfigEpoch(0);
        }
        self.regions.acting(self.cluster_time(now))
    }

    pub(super) fn config_sight(&self, now: Mono) -> ConfigSight {
        let own = self.views.with(|views| views.config.own);
        ConfigSight { acting: self.acting(now), own: own.unwrap_or_default() }
    }

    /// What the store is told of configurations, beside claims; labels that nobody has used begin at `unused`.
    pub(super) fn proposed(&self, now: Mono, unused: Option<ClusterTime>) -> Proposed {
        let epoch = self.acting(now);
        if epoch == ConfigEpoch(0) {
            return Proposed::default();
        }
        let view = self.views.with(|views| views.config);
        let shows = self.clock.with(|clock| clock.store_time(now));
        // A word that could be carried out at any time would not say from when on labels are unused.
        let in_time = shows.is_some() || self.settings.call_max.is_none();
        let unused = unused.filter(|_| in_time);
        Proposed {
            epoch,
            from: unused,
            agreed: view.agreed(&self.regions, epoch),
            since: view.since(&self.regions, epoch, unused),
            until: self.call_ends(shows),
        }
    }

    /// Whether the store does not know yet what this node would tell it of configurations, which it is told even
    /// if nobody asks for anything.
    pub(super) fn has_to_propose(&self, now: Mono) -> bool {
        let acting = self.acting(now);
        if acting == ConfigEpoch(0) {
            return false;
        }
        let view = self.views.with(|views| views.config);
        let Some(own) = view.own else { return true };
        let agrees = own.epoch == acting && own.agreed.is_none();
        own.epoch < acting || (agrees && view.agreed(&self.regions, acting).is_some())
    }

    /// Whether some region is further than this node's configuration: then it must not say anything for a
    /// store that has forgotten how far its own region was.
    pub(super) fn is_outdated(&self, now: Mono) -> bool {
        self.views.with(|views| views.config.newest) > self.acting(now)
    }

    /// Takes the store's word of how far it has come.
    pub(super) fn handle_adopted(&self, now: Mono, adopted: Option<&Adopted>) {
        let Some(adopted) = adopted else { return };
        if self.views.with(|views| views.config.own == Some(*adopted)) {
            return;
        }
        self.exchange.with(|exchange| {
            if exchange.handle_adopted(now, adopted) {
                self.refresh(now, exchange);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rights::Split;

    #[test]
    fn who_waits_for_its_configuration_says_of_the_one_before_what_is_known_of_it() {
        let [a, b] = [1, 2].map(RegionNumber);
        let split = |parts: [u32; 2]| Split::new(&[(a, parts[0]), (b, parts[1])]).expect("a split");
        let (number, effective) = (ConfigEpoch(2), ClusterTime(900));
        let regions = Regions::next(number, split([1, 1]), split([9, 1]), &[], effective);
        let mut adoptions = Adoptions::default();
        let view = |adoptions: &Adoptions| ConfigView::of(&regions, adoptions, a);
        let acting = regions.acting(ClusterTime(0));
        assert_eq!(acting, ConfigEpoch(1));

        // B has adopted the first change and heard that it was agreed; A's store is new.
        adoptions.note(a, &Adopted::default());
        let first = Adopted { epoch: acting, from: ClusterTime(10), ..Adopted::default() };
        adoptions.note(b, &Adopted { agreed: Some(ClusterTime(20)), ..first });
        assert_eq!(view(&adoptions).agreed(&regions, acting), Some(ClusterTime(20)));
        assert_eq!(view(&adoptions).since(&regions, acting, None), Some(ClusterTime(0)));
        assert_eq!(view(&adoptions).agreed(&regions, number), None);
        assert_eq!(view(&adoptions).since(&regions, number, None), Some(ClusterTime(20)));

        // Nobody is left who has heard of it: labels that nobody has used begin at 50.
        let unused = Some(ClusterTime(50));
        let mut adoptions = Adoptions::default();
        adoptions.note(a, &Adopted::default());
        assert_eq!(view(&adoptions).since(&regions, number, unused), None, "B may know");
        adoptions.note(b, &Adopted::default());
        assert_eq!(view(&adoptions).since(&regions, number, unused), unused);
    }
}
