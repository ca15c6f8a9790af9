//! How old this node's view of each other region is.

use alloc::{collections::BTreeMap, vec::Vec};

use crate::{
    exchange::Freshness,
    ids::{RegionIndex, RegionName},
    time::{Mono, Span},
};

/// What is known of how fresh another region's counts are.
pub(super) struct RegionView {
    pub(super) region: RegionIndex,
    pub(super) name: RegionName,
    /// `None` if it was never heard.
    pub(super) staleness: Option<Span>,
}

/// By other region: the stalest of its connected nodes, else the freshest of those that were connected.
pub(super) fn views(freshness: &[Freshness], now: Mono) -> Vec<RegionView> {
    let mut regions: BTreeMap<RegionIndex, (bool, RegionView)> = BTreeMap::new();
    for peer in freshness.iter().filter(|peer| peer.region != RegionIndex::OWN) {
        let staleness = peer.newest_at.map(|at| now.since(at) + peer.delay);
        let view = RegionView { region: peer.region, name: peer.region_name.clone(), staleness };
        match regions.get_mut(&peer.region) {
            None => {
                regions.insert(peer.region, (peer.connected, view));
            }
            Some((connected, known)) => {
                known.staleness = match (*connected, peer.connected) {
                    (true, true) => known.staleness.max(staleness),
                    (true, false) => known.staleness,
                    (false, true) => staleness,
                    (false, false) => match (known.staleness, staleness) {
                        (Some(a), Some(b)) => Some(a.min(b)),
                        (a, b) => a.or(b),
                    },
                };
                *connected |= peer.connected;
            }
        }
    }
    let mut views: Vec<RegionView> = regions.into_values().map(|(_, view)| view).collect();
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}

/// The age of the oldest view of another region: zero without any, `None` while one is unheard.
pub(super) fn stalest(views: &[RegionView]) -> Option<Span> {
    views.iter().try_fold(Span::ZERO, |oldest, view| Some(oldest.max(view.staleness?)))
}
