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
    /// The newest that any region has adopted.
    newest: ConfigEpoch,
}

impl ConfigView {
    pub(super) fn of(regions: &Regions, adoptions: &Adoptions, own: RegionNumber) -> Self {
        Self {
            own: adoptions.of(own),
            agreed: adoptions.agreed(regions),
            since: [regions.epoch(), regions.epoch().previous()].map(|at| adoptions.since(at)),
            newest: adoptions.newest(),
        }
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
    /// Regions that have not adopted it, as far as is known, while it is not agreed.
    pub missing: Vec<RegionNumber>,
    /// Connected nodes that are configured otherwise under the same number: as long as there are any, nothing
    /// is spent by rights.
    pub otherwise: Vec<NodeId>,
}

impl<G: Guarding> Engine<G> {
    /// How this node stands with configurations of regions.
    pub fn config_status(&self, now: Mono) -> ConfigStatus {
        let acting = self.acting(now);
        self.exchange.with(|exchange| {
            let adoptions = exchange.adoptions();
            let has = |region: &RegionNumber| {
                adoptions.of(*region).is_some_and(|adopted| adopted.epoch >= self.regions.epoch())
            };
            let first = self.regions.epoch() == ConfigEpoch(0);
            let is_agreed = first || adoptions.agreed(&self.regions).is_some();
            ConfigStatus {
                acting,
                own: adoptions.of(self.own_region),
                missing: self.regions.iter().filter(|r| !is_agreed && !has(r)).collect(),
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
        let is_newest = epoch == self.regions.epoch();
        Proposed {
            epoch,
            from: unused,
            agreed: view.agreed.filter(|_| is_newest),
            since: view.since[usize::from(!is_newest)],
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
        let agrees = own.epoch == self.regions.epoch() && own.agreed.is_none();
        own.epoch < acting || (agrees && view.agreed.is_some())
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
            exchange.handle_adopted(now, adopted);
            self.refresh(now, exchange);
        });
    }
}
