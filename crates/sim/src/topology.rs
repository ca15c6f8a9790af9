//! Where the regions are: names, nodes, and how far apart.

use tidegate_core::{
    ids::{NodeId, RegionName, RegionNumber},
    rights::Split,
    time::Span,
    wan::typical_round_trip,
};

use crate::queue::Instant;

/// The round trip between two nodes of one region.
const ROUND_TRIP_WITHIN: Span = Span::micros(500);

/// The usual round trip between two regions.
pub fn usual_round_trip(a: &str, b: &str) -> Span {
    if a == b {
        return ROUND_TRIP_WITHIN;
    }
    typical_round_trip(a, b)
}

/// One region of a topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: RegionName,
    /// How many nodes share its store, 1 or more.
    pub nodes: usize,
    /// Its part of limits under rights, against those of the others.
    pub weight: u32,
}

/// What a link does to frames, besides its distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// Up to this share of the one-way delay is added, evenly.
    pub jitter: f64,
    /// And an exponential delay of this mean.
    pub jitter_tail: Span,
    /// Share of frames lost.
    pub loss: f64,
    /// Share of frames that arrive twice.
    pub duplication: f64,
}

/// What a fault of links goes from or to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// All nodes of a region.
    Region(usize),
    /// One node, by its place in [`Topology::nodes`].
    Node(usize),
}

/// One end of a link: a node and its region.
pub type End = (usize, usize);

impl Place {
    /// Whether a node belongs to it.
    pub const fn holds(self, (node, region): End) -> bool {
        match self {
            Self::Region(whole) => whole == region,
            Self::Node(one) => one == node,
        }
    }
}

/// Nothing passes from one place to another for a while. One way: cut both for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Who sends.
    pub from: Place,
    /// Who would receive.
    pub to: Place,
    /// From this instant on …
    pub start: Instant,
    /// … until just before this one.
    pub end: Instant,
}

impl Cut {
    /// Whether it is about what one node sends to another.
    pub const fn concerns(&self, from: End, to: End) -> bool {
        self.from.holds(from) && self.to.holds(to)
    }
}

/// For a while, frames from one place to another fare badly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkFault {
    /// Who sends.
    pub from: Place,
    /// Who receives.
    pub to: Place,
    /// From this instant on …
    pub start: Instant,
    /// … until just before this one.
    pub end: Instant,
    /// Share of frames lost.
    pub loss: f64,
    /// Share of frames that arrive twice.
    pub duplication: f64,
    /// Share of frames that others overtake …
    pub reorder: f64,
    /// … for they come up to so much later.
    pub reorder_by: Span,
    /// Share of frames that arrive with other bytes than were sent.
    pub corrupt: f64,
    /// By how much every frame comes later.
    pub delay: Span,
}

impl LinkFault {
    /// Whether what it does can keep a count from arriving in the usual time.
    pub fn delays(&self) -> bool {
        self.loss > 0.0 || self.corrupt > 0.0 || self.reorder > 0.0 || self.delay > Span::ZERO
    }
}

/// Regions, distances and cuts.
#[derive(Debug, Clone)]
pub struct Topology {
    /// In the order of the scenario.
    pub regions: Vec<Region>,
    /// By places of two regions; symmetric, and within a region on the diagonal.
    pub round_trips: Vec<Vec<Span>>,
    /// What every link does.
    pub weather: Weather,
    /// Whether one node of each other region is told what changed, and passes it on there.
    pub relays: bool,
    /// One-way cuts.
    pub cuts: Vec<Cut>,
    /// Links that fare badly.
    pub link_faults: Vec<LinkFault>,
}

impl Topology {
    /// How limits under rights are split among the regions.
    ///
    /// # Panics
    ///
    /// If the weights are not those of a scenario, which was checked.
    pub fn split(&self) -> Split {
        let weights = self.regions.iter().map(|r| (RegionNumber::of(&r.name), r.weight));
        Split::new(&weights.collect::<Vec<_>>()).expect("a scenario's weights were checked")
    }

    /// Regions at their usual distances.
    pub fn usual(regions: Vec<Region>, weather: Weather) -> Self {
        let row = |a: &Region| {
            regions.iter().map(|b| usual_round_trip(a.name.as_str(), b.name.as_str())).collect()
        };
        let round_trips = regions.iter().map(row).collect();
        let (cuts, link_faults) = (Vec::new(), Vec::new());
        Self { regions, round_trips, weather, relays: false, cuts, link_faults }
    }

    /// The place of the region of this name.
    pub fn region(&self, name: &str) -> Option<usize> {
        self.regions.iter().position(|region| region.name.as_str() == name)
    }

    /// Every node: its region's place and its name, `<region>-<k>`; regions in order, nodes from 0.
    pub fn nodes(&self) -> Vec<(usize, NodeId)> {
        let mut nodes = Vec::new();
        for (at, region) in self.regions.iter().enumerate() {
            for k in 0..region.nodes {
                let name = format!("{}-{k}", region.name);
                let id = NodeId::new(region.name.as_str(), &name)
                    .expect("the scenario checked that region names leave room for a number");
                nodes.push((at, id));
            }
        }
        nodes
    }

    /// Whether anything sent now from one node to another is dropped.
    pub fn is_cut(&self, from: End, to: End, now: Instant) -> bool {
        self.cuts.iter().any(|cut| cut.start <= now && now < cut.end && cut.concerns(from, to))
    }

    /// What befalls a frame sent now from one node to another: of several faults the first.
    pub fn fault(&self, from: End, to: End, now: Instant) -> Option<&LinkFault> {
        self.link_faults.iter().find(|fault| {
            let hit = fault.from.holds(from) && fault.to.holds(to);
            hit && fault.start <= now && now < fault.end
        })
    }

    /// The longest round trip between two regions.
    pub fn longest_round_trip(&self) -> Span {
        self.round_trips.iter().flatten().copied().max().unwrap_or(Span::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Topology {
        let region = |name: &str| Region {
            name: RegionName::new(name).expect("a name"),
            nodes: 2,
            weight: 1,
        };
        let weather =
            Weather { jitter: 0.2, jitter_tail: Span::millis(3), loss: 0.0, duplication: 0.0 };
        Topology::usual(vec![region("us-east"), region("us-west"), region("eu-west")], weather)
    }

    #[test]
    fn distances_are_symmetric_and_known_for_known_places() {
        let topology = three();
        assert_eq!(topology.round_trips[0][1], Span::millis(65));
        assert_eq!(topology.round_trips[1][0], Span::millis(65));
        assert_eq!(topology.round_trips[2][1], Span::millis(130));
        assert_eq!(topology.longest_round_trip(), Span::millis(130));
        assert_eq!(usual_round_trip("ap", "eu"), Span::millis(180));
        assert_eq!(usual_round_trip("mars", "eu"), Span::millis(100));
    }

    #[test]
    fn nodes_are_named_after_their_region() {
        let names: Vec<_> = three().nodes().iter().map(|(_, id)| id.to_string()).collect();
        assert_eq!(names[0], "us-east/us-east-0");
        assert_eq!(names[5], "eu-west/eu-west-1");
    }

    #[test]
    fn a_cut_has_a_direction_a_start_and_an_end() {
        let mut topology = three();
        let (from, to) = (Place::Region(0), Place::Node(3));
        topology.cuts.push(Cut { from, to, start: Instant(10), end: Instant(20) });
        let (east, west, sibling) = ((1, 0), (3, 1), (2, 1));
        assert!(!topology.is_cut(east, west, Instant(9)));
        assert!(topology.is_cut(east, west, Instant(10)));
        assert!(!topology.is_cut(east, west, Instant(20)));
        assert!(!topology.is_cut(west, east, Instant(15)));
        assert!(!topology.is_cut(east, sibling, Instant(15)));
    }
}
