//! Random faults, each kind from a stream of its own.

use std::fmt::Write;

use super::{FAULT_MIN, Kind, Swarm, world::World};
use crate::rng::Stream;

/// How far a node's wall clock is off, in milliseconds. A node that never asks its store keeps to it, and
/// takes no counts of windows that begin later than its next one.
const NODE_CLOCK_MAX: u64 = 400;

/// A server that was replaced goes on for less than this, in milliseconds: less than the shortest fence.
const LINGERS_MAX: u64 = 550;

/// All faults of these kinds, as tables of a scenario file.
pub(super) fn draw(swarm: &Swarm, seed: u64, world: &World, kinds: &[Kind]) -> String {
    let mut text = String::new();
    // Nodes that are down already, with the time between.
    let mut down = Vec::new();
    for kind in kinds {
        let random = Stream::new(seed, kind.name(), 0);
        Pen { safety: swarm.safety.as_millis(), world, random, text: &mut text, down: &mut down }
            .write(*kind);
    }
    text
}

/// A time in which a node is down, in milliseconds.
struct Down {
    node: String,
    from: u64,
    to: u64,
}

/// Writes the faults of one kind.
struct Pen<'a> {
    /// How long things go wrong, in milliseconds.
    safety: u64,
    world: &'a World,
    random: Stream,
    text: &'a mut String,
    down: &'a mut Vec<Down>,
}

impl Pen<'_> {
    fn pick(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    fn region(&mut self) -> &'static str {
        let at = self.pick(self.world.regions.len() as u64);
        self.world.regions[at as usize]
    }

    fn node(&mut self) -> String {
        let region = self.region();
        format!("{region}-{}", self.pick(self.world.nodes))
    }

    /// From when to when, in milliseconds: for at least the shortest time, and `most` at most.
    fn time(&mut self, most: u64) -> (u64, u64) {
        let least = FAULT_MIN.as_millis();
        let length = least + self.pick(most.min(self.safety - 1) - least);
        let start = self.pick(self.safety - length);
        (start, start + length)
    }

    /// A share: from two per cent to all, small ones more often.
    fn share(&mut self) -> f64 {
        [0.02, 0.1, 0.3, 0.6, 1.0][self.pick(5) as usize]
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("text takes all");
        self.text.push('\n');
    }

    /// Two places with a link between them: both regions, or both nodes.
    fn ends(&mut self) -> (String, String) {
        if self.pick(2) == 0 {
            return (self.region().to_owned(), "*".to_owned());
        }
        loop {
            let (from, to) = (self.node(), self.node());
            if from != to {
                return (from, to);
            }
            if self.world.nodes == 1 && self.world.regions.len() == 1 {
                return (from, "*".to_owned());
            }
        }
    }

    fn write(&mut self, kind: Kind) {
        for round in 0..=self.pick(2) {
            match kind {
                Kind::Reconfigure => self.reconfigure(round),
                Kind::Cut => {
                    let (from, (start, end)) = (self.region(), self.time(6_000));
                    self.line(format_args!("[[cut]]\nfrom = {from:?}\nto = \"*\"\nboth_ways = true\nstart = \"{start}ms\"\nend = \"{end}ms\""));
                }
                Kind::OneWayCut => {
                    let ((from, to), (start, end)) = (self.ends(), self.time(6_000));
                    self.line(format_args!("[[cut]]\nfrom = {from:?}\nto = {to:?}\nstart = \"{start}ms\"\nend = \"{end}ms\""));
                }
                Kind::Flap => {
                    let ((from, to), (start, end)) = (self.ends(), self.time(6_000));
                    let (on, off) = (20 + self.pick(800), 20 + self.pick(800));
                    let both = self.pick(2) == 1;
                    self.line(format_args!("[[cut]]\nfrom = {from:?}\nto = {to:?}\nboth_ways = {both}\nstart = \"{start}ms\"\nend = \"{end}ms\"\non = \"{on}ms\"\noff = \"{off}ms\""));
                }
                Kind::Loss => {
                    let share = [0.02, 0.1, 0.3, 0.6][self.pick(4) as usize];
                    self.link_fault(format_args!("loss = {share}"));
                }
                Kind::Duplicate => {
                    let share = self.share();
                    self.link_fault(format_args!("duplication = {share}"));
                }
                Kind::Reorder => {
                    let (share, by) = (self.share(), 50 + self.pick(2_000));
                    self.link_fault(format_args!("reorder = {share}\nreorder_by = \"{by}ms\""));
                }
                Kind::Corrupt => {
                    let share = [0.02, 0.1, 0.3, 0.6][self.pick(4) as usize];
                    self.link_fault(format_args!("corrupt = {share}"));
                }
                Kind::SlowLink => {
                    let by = 50 + self.pick(1_500);
                    self.link_fault(format_args!("delay = \"{by}ms\""));
                }
                Kind::Pause => {
                    let (node, (at, end)) = (self.node(), self.time(5_000));
                    // One pause of a node at a time.
                    let name = format!("pause of {node}");
                    if self.is_free(&name, at, end) {
                        let lasts = end - at;
                        self.line(format_args!(
                            "[[pause]]\nnode = {node:?}\nat = \"{at}ms\"\nlasts = \"{lasts}ms\""
                        ));
                    }
                }
                Kind::Crash => self.crash("kept", ""),
                Kind::CrashWithStore => self.crash("lost", ""),
                Kind::OlderClock => {
                    let back = 1 + self.pick(600);
                    self.crash("kept", &format!("clock_back = \"{back}s\""));
                }
                Kind::RegionCrash => {
                    let (region, (at, end)) = (self.region(), self.time(3_000));
                    let store = ["kept", "lost"][self.pick(2) as usize];
                    for k in 0..self.world.nodes {
                        self.restart(&format!("{region}-{k}"), at, end, store, "");
                    }
                }
                Kind::NodeGone => {
                    // The first node of a region stays, so that somebody answers there.
                    let (region, at) = (self.region(), self.pick(self.safety));
                    let k = self.pick(self.world.nodes);
                    let node = format!("{region}-{k}");
                    if k > 0 && self.is_free(&node, at, u64::MAX) {
                        self.line(format_args!(
                            "[[restart]]\nnode = {node:?}\nat = \"{at}ms\"\nstore = \"kept\""
                        ));
                    }
                }
                Kind::StoreLate => {
                    let (share, by) = (self.share(), 10 + self.pick(300));
                    self.store_fault(format_args!("late = {share}\nlate_by = \"{by}ms\""));
                }
                Kind::StoreTwice => {
                    let share = self.share();
                    self.store_fault(format_args!("twice = {share}"));
                }
                Kind::StoreNever => {
                    let share = self.share();
                    self.store_fault(format_args!("never = {share}"));
                }
                Kind::StoreSlow => {
                    let (share, by) = (self.share(), 5 + self.pick(100));
                    self.store_fault(format_args!("slow = {share}\nslow_by = \"{by}ms\""));
                }
                Kind::StoreGone => {
                    let share = self.share();
                    self.store_fault(format_args!("gone = {share}"));
                }
                Kind::StoreRefuse => {
                    let share = self.share();
                    self.store_fault(format_args!("refuse = {share}"));
                }
                Kind::StoreWipe => {
                    let (region, at) = (self.region(), self.pick(self.safety));
                    self.line(format_args!("[[store_loss]]\nregion = {region:?}\nat = \"{at}ms\""));
                }
                Kind::StoreRollback => {
                    let (region, at) = (self.region(), self.pick(self.safety));
                    let back = 1 + self.pick(2_000);
                    self.line(format_args!(
                        "[[store_loss]]\nregion = {region:?}\nat = \"{at}ms\"\nback = \"{back}ms\""
                    ));
                }
                Kind::StoreSplit => {
                    let (region, (at, end)) = (self.region(), self.time(LINGERS_MAX));
                    let (lingers, back) = (end - at, self.pick(2_000).min(at));
                    self.line(format_args!("[[store_loss]]\nregion = {region:?}\nat = \"{at}ms\"\nlingers = \"{lingers}ms\""));
                    if self.pick(2) == 1 && back > 0 {
                        self.line(format_args!("back = \"{back}ms\""));
                    }
                }
                // Part of the world.
                Kind::StoreFull => {}
                Kind::ClockSkew => {
                    let region = self.region();
                    let by = 1 + self.pick(150);
                    let side = ["ahead", "behind"][self.pick(2) as usize];
                    let drift = self.pick(400) as i64 - 200;
                    self.line(format_args!(
                        "[[clock]]\nstore = {region:?}\n{side} = \"{by}ms\"\ndrift_ppm = {drift}"
                    ));
                }
                Kind::NodeClock => {
                    let node = self.node();
                    let by = 1 + self.pick(NODE_CLOCK_MAX);
                    let side = ["ahead", "behind"][self.pick(2) as usize];
                    let drift = self.pick(1_000) as i64 - 500;
                    self.line(format_args!(
                        "[[clock]]\nnode = {node:?}\n{side} = \"{by}ms\"\ndrift_ppm = {drift}"
                    ));
                }
                Kind::ClockStep => {
                    // There and, mostly, back again.
                    let (region, (at, end)) = (self.region(), self.time(6_000));
                    let by = 1 + self.pick(300);
                    let sides = [["ahead", "behind"], ["behind", "ahead"]][self.pick(2) as usize];
                    let steps = if self.pick(4) == 0 { 1 } else { 2 };
                    for (side, at) in sides.into_iter().zip([at, end]).take(steps) {
                        self.line(format_args!(
                            "[[clock]]\nstore = {region:?}\nat = \"{at}ms\"\n{side} = \"{by}s\""
                        ));
                    }
                }
            }
        }
    }

    fn link_fault(&mut self, what: std::fmt::Arguments<'_>) {
        let ((from, to), (start, end)) = (self.ends(), self.time(6_000));
        let both = self.pick(2) == 1;
        self.line(format_args!("[[link_fault]]\nfrom = {from:?}\nto = {to:?}\nboth_ways = {both}\nstart = \"{start}ms\"\nend = \"{end}ms\"\n{what}"));
    }

    fn store_fault(&mut self, what: std::fmt::Arguments<'_>) {
        let (region, (start, end)) = (self.region(), self.time(5_000));
        self.line(format_args!(
            "[[store_fault]]\nregion = {region:?}\nstart = \"{start}ms\"\nend = \"{end}ms\"\n{what}"
        ));
    }

    fn crash(&mut self, store: &str, more: &str) {
        let (node, (at, end)) = (self.node(), self.time(3_000));
        self.restart(&node, at, end, store, more);
    }

    /// Other weights, which most nodes come to have one after the other; the second time later than the first.
    fn reconfigure(&mut self, round: u64) {
        let half = self.safety / 2;
        let at = 1 + round * half + self.pick(half / 2);
        let regions = self.world.regions.clone();
        let mut weights: Vec<_> = regions.iter().map(|region| (*region, self.pick(10))).collect();
        if weights.iter().all(|(_, weight)| *weight == 0) {
            weights[0].1 = 1;
        }
        let weights: Vec<_> = weights.iter().map(|(r, weight)| format!("{r} = {weight}")).collect();
        let weights = weights.join(", ");
        self.line(format_args!("[[config]]\nat = \"{at}ms\"\nweights = {{ {weights} }}"));
        if self.pick(2) == 0 {
            let effective = at + self.pick(self.safety - at);
            self.line(format_args!("effective = \"{effective}ms\""));
        }
        for region in regions {
            for k in 0..self.world.nodes {
                let start = at + self.pick((self.safety - at).min(3_000));
                let end = start + 50 + self.pick(500);
                // Some keep what they have, and a region may never hear of it.
                if self.pick(10) > 0 && end < self.safety {
                    self.restart(&format!("{region}-{k}"), start, end, "kept", "");
                }
            }
        }
    }

    /// A restart, unless the node is down already.
    fn restart(&mut self, node: &str, at: u64, end: u64, store: &str, more: &str) {
        if self.is_free(node, at, end) {
            let down = end - at;
            self.line(format_args!("[[restart]]\nnode = {node:?}\nat = \"{at}ms\"\ndown = \"{down}ms\"\nstore = \"{store}\"\n{more}"));
        }
    }

    /// Whether nothing of this name is in this time yet; then it is taken.
    fn is_free(&mut self, name: &str, from: u64, to: u64) -> bool {
        let free = !self.down.iter().any(|d| d.node == name && from <= d.to && d.from <= to);
        if free {
            self.down.push(Down { node: name.to_owned(), from, to });
        }
        free
    }
}
