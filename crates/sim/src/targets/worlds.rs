//! Random worlds for what must hold everywhere: places, limits, traffic, clocks, loss and partitions.
//!
//! Unlike those of a swarm they keep their stores and nodes, but are harsher on links and clocks all the
//! time: the question is what a limit promises, not what comes back after a fault. A world is settings on
//! top of the target's scenario, drawn from its seed.

use serde::Deserialize;
use tidegate_core::time::Span;
use toml::{Table, Value};

use crate::{rng::Stream, scenario::Length};

/// Places; the first five at their usual distances, the others 100 ms from all.
const REGIONS: [&str; 10] = [
    "us-east",
    "us-west",
    "eu-west",
    "ap-south",
    "ap-northeast",
    "sa-east",
    "af-south",
    "ca-west",
    "eu-north",
    "me-south",
];
/// The longest gossip period and the furthest clock: beyond a minute no window is left.
const LENGTH_MAX: Span = Span::secs(60);
/// The largest quantity and multiple: what a run can carry out in seconds.
const QUANTITY_MAX: u64 = 100_000;
const MULTIPLE_MAX: f64 = 100.0;

/// What worlds are drawn from: least and most.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Worlds {
    /// How many regions.
    regions: [u64; 2],
    /// How many nodes in each.
    nodes_per_region: [u64; 2],
    /// Of the limit.
    quantity: [u64; 2],
    /// How often nodes tell each other what changed.
    gossip: [Length; 2],
    /// Of the limit, by all regions together.
    multiple: [f64; 2],
    /// Share of frames lost, at most.
    loss: f64,
    /// By how much clocks of nodes and of stores are off, at most.
    clocks: Length,
    /// In which cuts begin and end.
    cuts_within: Length,
}

/// Draws one world.
struct Pen {
    random: Stream,
}

impl Pen {
    fn pick(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    fn between(&mut self, [least, most]: [u64; 2]) -> u64 {
        least + self.pick(most - least + 1)
    }

    /// As many small ones as large ones: even on a logarithmic scale.
    fn spread(&mut self, [least, most]: [f64; 2]) -> f64 {
        least * libm::exp(libm::log(most / least) * self.random.fraction())
    }
}

fn millis(ms: u64) -> Value {
    Value::String(format!("{ms}ms"))
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn whole(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

impl Worlds {
    /// What is wrong with it.
    pub(super) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut check = |name: &str, good: bool, range: &str| {
            if !good {
                mistakes.push(format!("worlds.{name}: must be the least and the most, {range}"));
            }
        };
        let within = |[least, most]: [u64; 2], from: u64, to: u64| {
            from <= least && least <= most && most <= to
        };
        let regions = REGIONS.len() as u64;
        check("regions", within(self.regions, 1, regions), &format!("from 1 to {regions}"));
        check("nodes_per_region", within(self.nodes_per_region, 1, 4), "from 1 to 4");
        let most = format!("from 1 to {QUANTITY_MAX}");
        check("quantity", within(self.quantity, 1, QUANTITY_MAX), &most);
        let gossip = self.gossip.map(|length| length.0.as_millis());
        let longest = LENGTH_MAX.as_millis();
        check("gossip", within(gossip, 1, longest), "from 1ms to 60s");
        let [least, most] = self.multiple;
        let good = 0.0 < least && least <= most && most <= MULTIPLE_MAX;
        check("multiple", good, &format!("above 0 and to {MULTIPLE_MAX}"));
        if !(0.0..=1.0).contains(&self.loss) {
            mistakes.push("worlds.loss: must be a share, 0 to 1".into());
        }
        for (name, length) in [("clocks", self.clocks), ("cuts_within", self.cuts_within)] {
            if length.0 > LENGTH_MAX {
                mistakes.push(format!("worlds.{name}: must be 60s at most"));
            }
        }
        if self.cuts_within.0 < Span::millis(10) {
            mistakes.push("worlds.cuts_within: must be 10ms or longer".into());
        }
        mistakes
    }

    /// The settings of a seed's world.
    pub(super) fn draw(&self, seed: u64) -> Table {
        let mut pen = Pen { random: Stream::new(seed, "target-world", 0) };
        let count = pen.between(self.regions);
        let first = pen.pick(REGIONS.len() as u64) as usize;
        let regions: Vec<&str> =
            (0..count as usize).map(|n| REGIONS[(first + n) % REGIONS.len()]).collect();
        // Many regions have few nodes each: the links grow with the square.
        let [least, most] = self.nodes_per_region;
        let nodes = pen.between([least, most.min((8 / count).max(least))]);
        let quantity = pen.spread(self.quantity.map(|n| n as f64));
        let gossip = pen.spread(self.gossip.map(|length| length.0.as_millis() as f64));
        let loss = [0.0, self.loss, self.loss * pen.random.fraction()][pen.pick(3) as usize];
        let topology = table([
            ("regions", Value::Array(regions.iter().map(|name| text(name)).collect())),
            ("nodes_per_region", whole(nodes)),
            ("relays", Value::Boolean(nodes > 1 && pen.pick(2) == 1)),
            ("loss", Value::Float(loss)),
            ("duplication", Value::Float([0.0, 0.0, 0.1][pen.pick(3) as usize])),
        ]);
        let mut world = table([
            ("topology", Value::Table(topology)),
            ("limit", Value::Table(table([("quantity", whole(quantity as u64))]))),
            ("gossip", millis(gossip as u64)),
            ("load", Value::Table(self.load(&mut pen, &regions))),
            ("store", Value::Table(table([("delay", millis([0, 0, 2, 8][pen.pick(4) as usize]))]))),
        ]);
        world.insert("cut".into(), Value::Array(self.cuts(&mut pen, &regions)));
        world.insert("clock".into(), Value::Array(self.clocks(&mut pen, &regions, nodes)));
        world
    }

    fn load(&self, pen: &mut Pen, regions: &[&str]) -> Table {
        let region = text(regions[pen.pick(regions.len() as u64) as usize]);
        let multiple = Value::Float(pen.spread(self.multiple));
        let shape = ["uniform", "80/20", "one", "moving", "sine", "flash"][pen.pick(6) as usize];
        let mut split = table([("shape", text(shape))]);
        let mut load = table([]);
        match shape {
            "one" => {
                split.insert("region".into(), region);
            }
            "moving" | "sine" => {
                split.insert("period".into(), millis(200 + pen.pick(5_000)));
            }
            "flash" => {
                split.insert("region".into(), region);
                split.insert("add".into(), multiple.clone());
            }
            _ => {}
        }
        if shape != "flash" {
            load.insert("multiple".into(), multiple);
        }
        load.insert("split".into(), Value::Table(split));
        let cost = pen.pick(4);
        if cost == 0 {
            let most = Value::Array(vec![whole(1), whole(2 + pen.pick(6))]);
            load.insert("cost".into(), Value::Table(table([("uniform", most)])));
        }
        if pen.pick(4) == 0 {
            load.insert("bursty".into(), Value::Table(Table::new()));
        }
        load
    }

    /// None, or up to three times in which regions are cut off: one, one of them in one direction only, or
    /// each of them from all others.
    fn cuts(&self, pen: &mut Pen, regions: &[&str]) -> Vec<Value> {
        let all = self.cuts_within.0.as_millis();
        let mut cuts = Vec::new();
        for _ in 0..pen.pick(4) {
            let start = pen.pick(all - 1);
            let end = start + 1 + pen.pick(all - start);
            let mut cut = |from: &str, to: &str, both_ways: bool| {
                cuts.push(Value::Table(table([
                    ("from", text(from)),
                    ("to", text(to)),
                    ("both_ways", Value::Boolean(both_ways)),
                    ("start", millis(start)),
                    ("end", millis(end)),
                ])));
            };
            let region = regions[pen.pick(regions.len() as u64) as usize];
            match pen.pick(4) {
                0 => cut(region, "*", true),
                1 => cut(region, "*", false),
                // It hears nobody, and everybody hears it.
                2 => {
                    regions.iter().filter(|other| **other != region).for_each(|other| {
                        cut(other, region, false);
                    });
                }
                _ => regions.iter().for_each(|other| cut(other, "*", false)),
            }
        }
        cuts
    }

    /// Half of the clocks of nodes and stores are off.
    fn clocks(&self, pen: &mut Pen, regions: &[&str], nodes: u64) -> Vec<Value> {
        let most = self.clocks.0.as_millis();
        let mut clocks = Vec::new();
        let whose = regions.iter().flat_map(|region| {
            let nodes = (0..nodes).map(move |k| ("node", format!("{region}-{k}")));
            [("store", (*region).to_owned())].into_iter().chain(nodes)
        });
        for (kind, name) in whose {
            let off = pen.pick(2) == 1;
            let side = ["ahead", "behind"][pen.pick(2) as usize];
            let by = 1 + pen.pick(most.max(1));
            if off && most > 0 {
                clocks
                    .push(Value::Table(table([(kind, text(&name)), (side, millis(by.min(most)))])));
            }
        }
        clocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worlds(settings: &str) -> Worlds {
        let usual = "regions = [2, 10]\nnodes_per_region = [1, 2]\nquantity = [7, 1000]\n\
            gossip = [\"10ms\", \"1s\"]\nmultiple = [0.5, 10.0]\nloss = 0.3\nclocks = \"400ms\"\n\
            cuts_within = \"6s\"\n";
        let mut table: Table = usual.parse().expect("a table");
        table.extend(settings.parse::<Table>().expect("a table"));
        table.try_into().expect("the right keys")
    }

    #[test]
    fn one_seed_is_one_world_within_what_was_asked() {
        let worlds = worlds("");
        assert_eq!(worlds.mistakes(), [""; 0]);
        assert_eq!(worlds.draw(3), worlds.draw(3));
        let mut counts = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let world = worlds.draw(seed);
            let regions = world["topology"]["regions"].as_array().expect("a list").len();
            let quantity = world["limit"]["quantity"].as_integer().expect("a number");
            let loss = world["topology"]["loss"].as_float().expect("a number");
            assert!((7..=1_000).contains(&quantity) && (0.0..=0.3).contains(&loss), "{world}");
            counts.insert(regions);
        }
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), (2..=10).collect::<Vec<_>>());
    }

    #[test]
    fn what_cannot_be_drawn_from_is_told() {
        let told = |settings: &str| worlds(settings).mistakes().join("\n");
        for (settings, part) in [
            ("regions = [3, 2]", "worlds.regions"),
            ("nodes_per_region = [0, 1]", "worlds.nodes_per_region"),
            ("quantity = [0, 1]", "worlds.quantity"),
            ("multiple = [0.0, 1.0]", "worlds.multiple"),
            ("loss = 1.5", "worlds.loss"),
            ("clocks = \"2m\"", "worlds.clocks"),
            ("cuts_within = \"1ms\"", "worlds.cuts_within"),
            ("gossip = [\"2s\", \"1s\"]", "worlds.gossip"),
        ] {
            assert!(told(settings).contains(part), "{settings}: {}", told(settings));
        }
    }
}
