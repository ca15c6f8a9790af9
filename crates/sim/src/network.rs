//! Links between nodes: they carry frames as bytes, late, lost or twice, and are made and broken.
//!
//! A link connects two *sessions*. When one end dies or the path is cut for long, everything on the way
//! is gone with the link, and both ends are told when they could know: the survivor of a crash when it
//! has heard nothing for a while, or when the next session calls.

use tidegate_core::time::Span;

use crate::{
    queue::Instant,
    rng::Stream,
    topology::{End, Topology},
};

/// After so long without a word an end gives the link up.
pub const SILENCE_MAX: Span = Span::secs(3);
/// What QUIC adds to the bytes of a frame, as UDP payload: measured between two nodes' transports (quinn
/// 0.11 with a node's settings, 35 to 41 ms one way, frames of 40 to 1,100 bytes both ways every 50 ms),
/// all UDP payload of both ends divided by frames, less the frame: 39 bytes where each acknowledgement
/// rides on a frame of the other direction, 66 where each takes a packet of its own, 53 on average over
/// all phases of the two timers. Of these are 9 the short header with its connection id, 2 the packet
/// number, 16 the AEAD's tag, 5 to 7 the stream frame's header, 1 the kind of the stream, and the rest
/// acknowledgements. (42 with 20 ms between frames, 57 with 100, 68 with 250.) Handshakes are not in it.
const QUIC_BYTES_PER_PACKET: u64 = 53;
/// How much of a frame one packet carries: a longer one takes several.
const PACKET_BYTES: u64 = 1_400;

/// What a frame of so many bytes comes to as UDP payload.
const fn udp_payload(frame: u64) -> u64 {
    let packets = if frame == 0 { 1 } else { frame.div_ceil(PACKET_BYTES) };
    frame + packets * QUIC_BYTES_PER_PACKET
}

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
    /// By sending end: for the weather, and for faults, so that a fault shifts nothing of the weather.
    random: [[Stream; 2]; 2],
}

/// All links, and what passed.
#[derive(Debug)]
pub struct Network {
    topology: Topology,
    region_of: Vec<usize>,
    links: Vec<Link>,
    /// UDP payload that frames sent from one region to another come to, as QUIC would carry them.
    pub bytes_between_regions: u64,
    /// Frames sent.
    pub frames: u64,
}

/// When a sent frame arrives: never, once or twice.
pub type Arrivals = [Option<Instant>; 2];

/// What becomes of a sent frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// When it arrives.
    pub arrivals: Arrivals,
    /// Whether with other bytes than were sent.
    pub corrupt: bool,
}

impl Network {
    /// No link is up yet.
    pub fn new(topology: Topology, seed: u64) -> Self {
        let region_of: Vec<usize> = topology.nodes().iter().map(|(region, _)| *region).collect();
        let mut links = Vec::new();
        for b in 0..region_of.len() {
            for a in 0..b {
                let random = ["link", "link-fault"].map(|purpose| {
                    [(a, b), (b, a)]
                        .map(|(x, y)| Stream::new(seed, purpose, (x as u64) << 32 | y as u64))
                });
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

    /// The round trip of a link without jitter.
    pub fn round_trip(&self, at: usize) -> Span {
        let [x, y] = self.links[at].ends.map(|end| self.region_of[end]);
        self.topology.round_trips[x][y]
    }

    /// Whether a link's path is whole in both directions.
    pub fn is_whole(&self, at: usize, now: Instant) -> bool {
        let [x, y] = self.ends(at);
        !self.topology.is_cut(x, y, now) && !self.topology.is_cut(y, x, now)
    }

    /// Both ends of a link, with their regions.
    pub fn ends(&self, at: usize) -> [End; 2] {
        self.links[at].ends.map(|node| (node, self.region_of[node]))
    }

    /// Breaks a link: what is under way is gone.
    pub fn break_link(&mut self, at: usize) {
        let link = &mut self.links[at];
        link.up = false;
        link.epoch += 1;
    }

    /// Sends a frame of `bytes` bytes over a link that is up.
    pub fn send(&mut self, from: usize, to: usize, bytes: usize, now: Instant) -> Fate {
        let (x, y) = (self.region_of[from], self.region_of[to]);
        self.frames += 1;
        if x != y {
            self.bytes_between_regions += udp_payload(bytes as u64);
        }
        let weather = self.topology.weather;
        let half = self.topology.round_trips[x][y].0 as f64 / 2.0;
        let at = self.between(from, to);
        let side = usize::from(from > to);
        let [random, faulty] = &mut self.links[at].random;
        let (random, faulty) = (&mut random[side], &mut faulty[side]);
        // Every frame draws as many numbers, so that one more loss shifts nothing behind it.
        let mut lost = random.fraction() < weather.loss;
        let mut twice = random.fraction() < weather.duplication;
        let mut delay = || {
            let jitter = half * weather.jitter * random.fraction();
            Span((half + jitter + random.exponential(weather.jitter_tail.0 as f64)) as u64)
        };
        let (mut first, mut second) = (now + delay(), now + delay());
        let mut corrupt = false;
        if let Some(fault) = self.topology.fault((from, x), (to, y), now) {
            lost |= faulty.fraction() < fault.loss;
            twice |= faulty.fraction() < fault.duplication;
            corrupt = faulty.fraction() < fault.corrupt;
            let overtaken = faulty.fraction() < fault.reorder;
            let by = Span((faulty.fraction() * fault.reorder_by.0 as f64) as u64);
            first = first + fault.delay + if overtaken { by } else { Span::ZERO };
            second = second + fault.delay;
        }
        if lost || self.topology.is_cut((from, x), (to, y), now) {
            return Fate { arrivals: [None, None], corrupt };
        }
        Fate { arrivals: [Some(first), twice.then_some(second)], corrupt }
    }

    /// What the bytes of a corrupt frame have become.
    pub fn mangle(&mut self, from: usize, to: usize, bytes: &[u8]) -> Vec<u8> {
        let at = self.between(from, to);
        let random = &mut self.links[at].random[1][usize::from(from > to)];
        let mut mangled = bytes.to_vec();
        match random.below(4) {
            0 => mangled.truncate(random.below(bytes.len() as u64) as usize),
            1 => mangled = (0..random.below(200)).map(|_| random.below(256) as u8).collect(),
            2 => mangled.extend((0..1 + random.below(20)).map(|_| random.below(256) as u8)),
            _ => {
                for _ in 0..1 + random.below(8) {
                    let place = random.below(mangled.len() as u64) as usize;
                    if let Some(byte) = mangled.get_mut(place) {
                        *byte ^= 1 << random.below(8);
                    }
                }
            }
        }
        mangled
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::ids::RegionName;

    use super::*;
    use crate::topology::{Cut, LinkFault, Place, Region, Weather};

    fn network(loss: f64, duplication: f64) -> Network {
        let region = |name: &str| Region {
            name: RegionName::new(name).expect("a name"),
            nodes: 2,
            weight: 1,
        };
        let weather = Weather { jitter: 0.2, jitter_tail: Span::millis(3), loss, duplication };
        let mut topology =
            Topology::usual(vec![region("us-east"), region("us-west"), region("eu-west")], weather);
        let (from, to) = (Place::Region(0), Place::Region(1));
        topology.cuts.push(Cut { from, to, start: Instant(1_000), end: Instant(2_000) });
        topology.link_faults.push(LinkFault {
            from: Place::Node(0),
            to: Place::Region(2),
            start: Instant(5_000),
            end: Instant(6_000),
            loss: 0.2,
            duplication: 0.3,
            reorder: 0.5,
            reorder_by: Span::secs(2),
            corrupt: 0.1,
            delay: Span::secs(1),
        });
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
        assert_eq!(network.ends(network.between(0, 4)), [(0, 0), (4, 2)]);
    }

    #[test]
    fn frames_take_half_a_round_trip_and_some_jitter() {
        let mut network = network(0.0, 0.0);
        let mut sum = 0;
        for _ in 0..10_000 {
            let [Some(at), None] = network.send(0, 2, 10, Instant(0)).arrivals else {
                panic!("once")
            };
            assert!(at.0 >= 32_500, "{at:?}");
            sum += at.0;
        }
        let mean = sum as f64 / 10_000.0;
        assert!((mean - (32_500.0 * 1.1 + 3_000.0)).abs() < 200.0, "{mean}");
        assert_eq!((network.bytes_between_regions, network.frames), (630_000, 10_000));
    }

    #[test]
    fn only_what_leaves_a_region_is_counted_and_a_long_frame_takes_several_packets() {
        let mut network = network(0.0, 0.0);
        network.send(0, 1, 500, Instant(0));
        assert_eq!((network.bytes_between_regions, network.frames), (0, 1));
        network.send(0, 2, 2_900, Instant(0));
        assert_eq!(network.bytes_between_regions, 2_900 + 3 * QUIC_BYTES_PER_PACKET);
    }

    #[test]
    fn a_cut_takes_all_of_one_direction() {
        let mut network = network(0.0, 0.0);
        assert_eq!(network.send(0, 2, 1, Instant(1_500)).arrivals, [None, None]);
        assert!(network.send(2, 0, 1, Instant(1_500)).arrivals[0].is_some());
        assert!(!network.is_whole(network.between(0, 2), Instant(1_500)));
        assert!(network.is_whole(network.between(0, 4), Instant(1_500)));
        assert!(network.send(0, 2, 1, Instant(2_000)).arrivals[0].is_some());
    }

    #[test]
    fn shares_are_lost_and_doubled() {
        let mut network = network(0.25, 0.1);
        let sent: Vec<_> =
            (0..10_000).map(|_| network.send(0, 2, 1, Instant(0)).arrivals).collect();
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
            assert!(perhaps.arrivals[0].is_none() || perhaps == sure);
        }
    }

    #[test]
    fn a_fault_of_links_hits_its_shares_its_direction_and_its_time() {
        let mut network = network(0.0, 0.0);
        let during = Instant(5_500);
        let fates: Vec<_> = (0..10_000).map(|_| network.send(0, 4, 1, during)).collect();
        let share = |test: &dyn Fn(&Fate) -> bool| fates.iter().filter(|f| test(f)).count();
        assert!((1_850..2_150).contains(&share(&|f| f.arrivals[0].is_none())));
        assert!((900..1_100).contains(&share(&|f| f.corrupt)));
        // Of the four fifths that arrive, three tenths arrive twice, and half come later than the rest.
        assert!((2_250..2_550).contains(&share(&|f| f.arrivals[1].is_some())));
        let late = during + Span::millis(1_100);
        assert!((3_500..4_100).contains(&share(&|f| f.arrivals[0].is_some_and(|at| at > late))));
        assert!(share(&|f| f.arrivals[0].is_some_and(|at| at < during + Span::secs(1))) == 0);
        for (from, to, at) in [(4, 0, 5_500), (1, 4, 5_500), (0, 4, 6_000)] {
            let fate = network.send(from, to, 1, Instant(at));
            assert!(!fate.corrupt && fate.arrivals[1].is_none(), "{from} to {to}");
            assert!(fate.arrivals[0].is_some_and(|a| a < Instant(at) + Span::millis(400)));
        }
    }

    #[test]
    fn mangled_bytes_are_other_bytes() {
        let mut network = network(0.0, 0.0);
        let bytes: Vec<u8> = (0..100).collect();
        let same = (0..1_000).filter(|_| network.mangle(0, 2, &bytes) == bytes).count();
        assert!(same < 50, "{same}: bits may flip back, but seldom");
    }
}
