//! Links between nodes: they carry frames as bytes, late, lost or twice, and are made and broken.
//!
//! A link connects two *sessions*. When one end dies or the path is cut for long, everything on the way
//! is gone with the link, and both ends are told when they could know: the survivor of a crash when it
//! has heard nothing for a while, or when the next session calls.

use tidegate_core::time::Span;

use crate::{queue::Instant, rng::Stream, topology::Topology};

/// After so long without a word an end gives the link up.
pub const SILENCE_MAX: Span = Span::secs(3);
/// Between two attempts to connect.
pub const REDIAL: Span = Span::millis(200);

/// One pair of nodes.
#[derive(Debug)]
pub struct Link {
    /// The two nodes, the lower place first.
    pub ends: [usize; 2],
    /// Counts what was made or broken: what was under way under an earlier number is gone.
    pub epoch: u64,
    /// Whether frames pass.
    pub up: bool,
    /// By end: the other end's life to which it believes itself connected.
    pub believes: [Option<usize>; 2],
    /// By sending end.
    random: [Stream; 2],
}

/// All links, and what passed.
#[derive(Debug)]
pub struct Network {
    topology: Topology,
    region_of: Vec<usize>,
    links: Vec<Link>,
    /// Bytes of frames sent from one region to another.
    pub bytes_between_regions: u64,
    /// Frames sent.
    pub frames: u64,
}

/// When a sent frame arrives: never, once or twice.
pub type Arrivals = [Option<Instant>; 2];

impl Network {
    /// No link is up yet.
    pub fn new(topology: Topology, seed: u64) -> Self {
        let region_of: Vec<usize> = topology.nodes().iter().map(|(region, _)| *region).collect();
        let mut links = Vec::new();
        for b in 0..region_of.len() {
            for a in 0..b {
                let random = [(a, b), (b, a)]
                    .map(|(x, y)| Stream::new(seed, "link", (x as u64) << 32 | y as u64));
                let ends = [a, b];
                links.push(Link { ends, epoch: 0, up: false, believes: [None; 2], random });
            }
        }
        Self { topology, region_of, links, bytes_between_regions: 0, frames: 0 }
    }

    /// How many links there are.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether there is one node only.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// The link of this place.
    pub fn link(&mut self, at: usize) -> &mut Link {
        &mut self.links[at]
    }

    /// The place of the link between two nodes.
    pub fn between(&self, x: usize, y: usize) -> usize {
        let (a, b) = (x.min(y), x.max(y));
        b * (b - 1) / 2 + a
    }

    /// The places of a node's links.
    pub fn of_node(&self, node: usize) -> Vec<usize> {
        (0..self.links.len()).filter(|at| self.links[*at].ends.contains(&node)).collect()
    }

    /// The places of the links between two regions.
    pub fn between_regions(&self, a: usize, b: usize) -> Vec<usize> {
        let joins = |link: &Link| {
            let [x, y] = link.ends.map(|end| self.region_of[end]);
            (x, y) == (a, b) || (x, y) == (b, a)
        };
        (0..self.links.len()).filter(|at| joins(&self.links[*at])).collect()
    }

    /// The round trip of a link without jitter.
    pub fn round_trip(&self, at: usize) -> Span {
        let [x, y] = self.links[at].ends.map(|end| self.region_of[end]);
        self.topology.round_trips[x][y]
    }

    /// Whether a link's path is whole in both directions.
    pub fn is_whole(&self, at: usize, now: Instant) -> bool {
        let [x, y] = self.links[at].ends.map(|end| self.region_of[end]);
        !self.topology.is_cut(x, y, now) && !self.topology.is_cut(y, x, now)
    }

    /// Breaks a link: what is under way is gone.
    pub fn break_link(&mut self, at: usize) {
        let link = &mut self.links[at];
        link.up = false;
        link.epoch += 1;
    }

    /// Sends a frame of `bytes` bytes over a link that is up.
    pub fn send(&mut self, from: usize, to: usize, bytes: usize, now: Instant) -> Arrivals {
        let (x, y) = (self.region_of[from], self.region_of[to]);
        self.frames += 1;
        if x != y {
            self.bytes_between_regions += bytes as u64;
        }
        let weather = self.topology.weather;
        let half = self.topology.round_trips[x][y].0 as f64 / 2.0;
        let at = self.between(from, to);
        let random = &mut self.links[at].random[usize::from(from > to)];
        // Every frame draws as many numbers, so that one more loss shifts nothing behind it.
        let lost = random.fraction() < weather.loss;
        let twice = random.fraction() < weather.duplication;
        let mut delay = || {
            let jitter = half * weather.jitter * random.fraction();
            Span((half + jitter + random.exponential(weather.jitter_tail.0 as f64)) as u64)
        };
        let (first, second) = (now + delay(), now + delay());
        if lost || self.topology.is_cut(x, y, now) {
            return [None, None];
        }
        [Some(first), twice.then_some(second)]
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::ids::RegionName;

    use super::*;
    use crate::topology::{Cut, Region, Weather};

    fn network(loss: f64, duplication: f64) -> Network {
        let region = |name: &str| Region { name: RegionName::new(name).expect("a name"), nodes: 2 };
        let weather = Weather { jitter: 0.2, jitter_tail: Span::millis(3), loss, duplication };
        let mut topology =
            Topology::usual(vec![region("us-east"), region("us-west"), region("eu-west")], weather);
        topology.cuts.push(Cut { from: 0, to: 1, start: Instant(1_000), end: Instant(2_000) });
        Network::new(topology, 7)
    }

    #[test]
    fn every_pair_has_its_link() {
        let mut network = network(0.0, 0.0);
        assert_eq!(network.len(), 15);
        for b in 0..6 {
            for a in 0..b {
                let at = network.between(b, a);
                assert_eq!(network.link(at).ends, [a, b]);
            }
        }
        assert_eq!(network.of_node(3).len(), 5);
        assert_eq!(network.between_regions(2, 0).len(), 4);
        assert_eq!(network.between_regions(1, 1).len(), 1);
    }

    #[test]
    fn frames_take_half_a_round_trip_and_some_jitter() {
        let mut network = network(0.0, 0.0);
        let mut sum = 0;
        for _ in 0..10_000 {
            let [Some(at), None] = network.send(0, 2, 10, Instant(0)) else { panic!("once") };
            assert!(at.0 >= 32_500, "{at:?}");
            sum += at.0;
        }
        let mean = sum as f64 / 10_000.0;
        assert!((mean - (32_500.0 * 1.1 + 3_000.0)).abs() < 200.0, "{mean}");
        assert_eq!((network.bytes_between_regions, network.frames), (100_000, 10_000));
    }

    #[test]
    fn a_cut_takes_all_of_one_direction() {
        let mut network = network(0.0, 0.0);
        assert_eq!(network.send(0, 2, 1, Instant(1_500)), [None, None]);
        assert!(network.send(2, 0, 1, Instant(1_500))[0].is_some());
        assert!(!network.is_whole(network.between(0, 2), Instant(1_500)));
        assert!(network.is_whole(network.between(0, 4), Instant(1_500)));
        assert!(network.send(0, 2, 1, Instant(2_000))[0].is_some());
    }

    #[test]
    fn shares_are_lost_and_doubled() {
        let mut network = network(0.25, 0.1);
        let sent: Vec<_> = (0..10_000).map(|_| network.send(0, 2, 1, Instant(0))).collect();
        let lost = sent.iter().filter(|a| a[0].is_none()).count();
        let doubled = sent.iter().filter(|a| a[1].is_some()).count();
        assert!((2_300..2_700).contains(&lost), "{lost}");
        assert!((650..850).contains(&doubled), "{doubled}");
    }

    #[test]
    fn loss_does_not_shift_the_delays_of_what_arrives() {
        let (mut calm, mut stormy) = (network(0.0, 0.0), network(0.5, 0.0));
        for _ in 0..100 {
            let (sure, perhaps) =
                (calm.send(0, 2, 1, Instant(0)), stormy.send(0, 2, 1, Instant(0)));
            assert!(perhaps[0].is_none() || perhaps == sure);
        }
    }
}
