//! Swarms: random worlds, each with another random subset of all kinds of faults.
//!
//! A world that has every fault at once hides what each does, and one that has a single fault never meets
//! two at a time; so every seed draws which kinds there are at all: none, one, some or most. Then it draws
//! the world (places, policies, traffic) and the faults of each kind, each from a stream of its own, so
//! that a kind can be left out without changing the others.
//!
//! All faults fall into the *safety phase*, under load. When the last has ended the *liveness phase*
//! begins, under load too, in which everything must become normal within the stated time; then the load
//! ends, and all nodes must come to know the same exact sums.
//!
//! What is drawn is a scenario file like any other: it can be printed, kept, changed and run by itself.

use serde::Deserialize;
use tidegate_core::time::Span;

use crate::{rng::Stream, scenario::Length};

pub use kind::Kind;

mod faults;
mod kind;
mod world;

/// How long the load goes on after all must be normal again, so that it can be seen to be.
const AFTERWARDS: Span = Span::secs(1);
/// Every fault that lasts does so for at least this long.
const FAULT_MIN: Span = Span::millis(300);
/// Regions, nodes and rates beyond these are no use: a swarm needs many worlds, not large ones.
const REGIONS_MAX: u64 = 5;
const NODES_MAX: u64 = 4;
const PER_SECOND_MAX: u64 = 5_000;
/// The longest phase.
const PHASE_MAX: Span = Span::secs(600);

/// A swarm file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default = "one")]
    seed: u64,
    swarm: Settings,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    regions: [u64; 2],
    nodes_per_region: [u64; 2],
    per_second: [u64; 2],
    safety: Length,
    recover_within: Length,
    converge_within: Length,
    modes: Vec<Mode>,
    faults: Option<Vec<Kind>>,
}

/// A mode of global limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Without forecast.
    Plain,
    /// With one.
    Eventual,
    /// Rights and an overdraft, which is drawn: 1 to 20 %.
    Bounded,
    /// Rights alone.
    Strict,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Eventual, Self::Bounded, Self::Strict];

    /// What it is called in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Eventual => "eventual",
            Self::Bounded => "bounded",
            Self::Strict => "strict",
        }
    }

    const fn has_rights(self) -> bool {
        matches!(self, Self::Bounded | Self::Strict)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            regions: [2, 4],
            nodes_per_region: [1, 3],
            per_second: [20, 120],
            safety: Length(Span::secs(8)),
            recover_within: Length(Span::secs(8)),
            converge_within: Length(Span::millis(2_500)),
            modes: Mode::ALL.to_vec(),
            faults: None,
        }
    }
}

const fn one() -> u64 {
    1
}

/// What random worlds are drawn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swarm {
    /// For people.
    pub name: String,
    /// The seed, unless another is asked for.
    pub seed: u64,
    /// Least and most regions.
    pub regions: [u64; 2],
    /// Least and most nodes in each region.
    pub nodes_per_region: [u64; 2],
    /// Least and most requests per second, of all regions together.
    pub per_second: [u64; 2],
    /// How long things go wrong.
    pub safety: Span,
    /// How soon after the last fault all must be normal.
    pub recover_within: Span,
    /// How soon after the load all nodes must know the same exact sums.
    pub converge_within: Span,
    /// The modes that global limits may have.
    pub modes: Vec<Mode>,
    /// The kinds of faults that may be drawn.
    pub kinds: Vec<Kind>,
}

/// One world that was drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// The kinds of faults that it has.
    pub kinds: Vec<Kind>,
    /// As a scenario file.
    pub text: String,
}

impl Swarm {
    /// Reads a swarm file. Mistakes are all told at once.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let file: File =
            toml::from_str(text).map_err(|error| vec![error.to_string().trim().to_owned()])?;
        let mut mistakes = Vec::new();
        let settings = file.swarm;
        let mut range = |name: &str, [least, most]: [u64; 2], from: u64, to: u64| {
            if least < from || most > to || least > most {
                mistakes.push(format!(
                    "swarm.{name}: [{least}, {most}]; must be least and most, from {from} to {to}"
                ));
            }
        };
        range("regions", settings.regions, 1, REGIONS_MAX);
        range("nodes_per_region", settings.nodes_per_region, 1, NODES_MAX);
        range("per_second", settings.per_second, 1, PER_SECOND_MAX);
        let lengths = [
            ("safety", settings.safety, Span::secs(2)),
            ("recover_within", settings.recover_within, Span::millis(1)),
            ("converge_within", settings.converge_within, Span::millis(1)),
        ];
        for (name, Length(length), least) in lengths {
            if length < least || length > PHASE_MAX {
                let (least, most) = (least.as_millis(), PHASE_MAX.as_millis());
                mistakes.push(format!(
                    "swarm.{name}: {} ms; must be {least} to {most} ms",
                    length.as_millis()
                ));
            }
        }
        if settings.modes.is_empty() {
            mistakes.push("swarm.modes: there must be one".into());
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Self {
            name: file.name,
            seed: file.seed,
            regions: settings.regions,
            nodes_per_region: settings.nodes_per_region,
            per_second: settings.per_second,
            safety: settings.safety.0,
            recover_within: settings.recover_within.0,
            converge_within: settings.converge_within.0,
            modes: settings.modes,
            kinds: settings.faults.unwrap_or_else(|| Kind::ALL.to_vec()),
        })
    }

    /// How long the load lasts.
    fn load(&self) -> Span {
        self.safety + self.recover_within + AFTERWARDS
    }

    /// Draws which kinds of faults a world has: none, one, a few, or each with some chance.
    fn draw_kinds(&self, seed: u64) -> Vec<Kind> {
        let mut random = Stream::new(seed, "swarm-kinds", 0);
        let count = self.kinds.len() as u64;
        let few = match random.below(10) {
            0 => 0,
            1 | 2 => 1,
            3..=5 => 2 + random.below(3),
            6..=8 => 4 + random.below(8),
            _ => count,
        };
        let mut left = self.kinds.clone();
        let mut drawn = Vec::new();
        while (drawn.len() as u64) < few.min(count) {
            drawn.push(left.remove(random.below(left.len() as u64) as usize));
        }
        drawn.sort_unstable();
        drawn
    }

    /// Draws a world.
    pub fn draw(&self, seed: u64) -> Drawn {
        self.draw_with(seed, &self.draw_kinds(seed))
    }

    /// Draws a seed's world with these kinds of faults, whichever it would have had.
    pub fn draw_with(&self, seed: u64, kinds: &[Kind]) -> Drawn {
        let world = world::World::draw(self, seed, kinds.contains(&Kind::StoreFull));
        let mut text = world.text(self, seed);
        text.push_str(&faults::draw(self, seed, &world, kinds));
        Drawn { kinds: kinds.to_vec(), text }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;
    use crate::scenario::Scenario;

    fn swarm(settings: &str) -> Swarm {
        Swarm::parse(&format!("name = \"s\"\n[swarm]\n{settings}")).expect("a good swarm")
    }

    #[test]
    fn one_seed_is_one_world() {
        let swarm = swarm("");
        assert_eq!(swarm.draw(7), swarm.draw(7));
        assert_ne!(swarm.draw(7).text, swarm.draw(8).text);
    }

    #[test]
    fn whatever_is_drawn_is_a_good_scenario_that_heals_in_time() {
        let swarm = swarm("");
        for seed in 0..300 {
            let drawn = swarm.draw(seed);
            let scenario = Scenario::parse(&drawn.text, "drawn", Path::new("."))
                .unwrap_or_else(|error| panic!("{error}\n{}", drawn.text));
            let healed = scenario.faults.healed(&scenario.topology);
            let safe = scenario.schedule.load_start + swarm.safety;
            assert!(healed.is_none_or(|at| at <= safe), "{}", drawn.text);
        }
    }

    #[test]
    fn seeds_differ_in_their_kinds_and_every_kind_comes() {
        let swarm = swarm("");
        let drawn: Vec<_> = (0..300).map(|seed| swarm.draw(seed).kinds).collect();
        let with = |n: usize| drawn.iter().filter(|kinds| kinds.len() == n).count();
        assert!(with(0) > 15 && with(1) > 35 && with(swarm.kinds.len()) > 15);
        let all: BTreeSet<Kind> = drawn.into_iter().flatten().collect();
        assert_eq!(all.into_iter().collect::<Vec<_>>(), swarm.kinds);
        assert_eq!(swarm.kinds, Kind::ALL);
    }

    #[test]
    fn leaving_a_kind_out_leaves_the_others_as_they_were() {
        let swarm = swarm("");
        let both = swarm.draw_with(3, &[Kind::Cut, Kind::StoreSlow]).text;
        let one = swarm.draw_with(3, &[Kind::StoreSlow]).text;
        assert!(both.contains("[[cut]]") && !one.contains("[[cut]]"));
        let part = |text: &str| text.split("[[store_fault]]").nth(1).expect("a fault").to_owned();
        assert_eq!(part(&both), part(&one));
    }

    #[test]
    fn modes_are_drawn_and_change_nothing_else() {
        let text = |settings: &str, seed| swarm(settings).draw(seed).text;
        let without = |text: &str| {
            let kept = |line: &&str| {
                let of_mode = ["consistency", "overdraft", "on_store_failure", "fence", "window"];
                !of_mode.iter().any(|key| line.starts_with(key))
            };
            text.lines().filter(kept).map(str::to_owned).collect::<Vec<_>>()
        };
        let mut all = String::new();
        for seed in 0..50 {
            let plain = text("modes = [\"plain\"]", seed);
            assert!(!plain.contains("strict") && plain.contains("consistency = \"plain\""));
            assert_eq!(without(&plain), without(&text("", seed)));
            all.push_str(&text("", seed));
        }
        for mode in Mode::ALL {
            assert!(all.contains(&format!("consistency = \"{}\"", mode.name())), "{mode:?}");
        }
    }

    #[test]
    fn kinds_may_be_named() {
        let swarm = swarm("faults = [\"clock-step\"]");
        assert_eq!(swarm.kinds, [Kind::ClockStep]);
        assert!((0..50).any(|seed| swarm.draw(seed).text.contains("[[clock]]")));
    }

    #[test]
    fn relays_are_drawn_where_a_region_has_several_nodes() {
        let with = |nodes: u64| {
            let swarm = swarm(&format!("nodes_per_region = [{nodes}, {nodes}]"));
            (0..100).filter(|seed| swarm.draw(*seed).text.contains("relays = true")).count()
        };
        assert_eq!(with(1), 0);
        assert!((30..70).contains(&with(2)), "{}", with(2));
    }

    #[test]
    fn mistakes_are_told_at_once() {
        let parse = |text: &str| Swarm::parse(text).expect_err("bad").join("\n");
        let said = parse(
            "name = \"s\"\n[swarm]\nregions = [3, 2]\nnodes_per_region = [0, 1]\nsafety = \"1s\"",
        );
        for part in ["swarm.regions", "swarm.nodes_per_region", "swarm.safety"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        assert!(parse("name = \"s\"\n[swarm]\nfaults = [\"flood\"]").contains("flood"));
        assert!(parse("name = \"s\"\n[swarm]\nregionen = 3").contains("regionen"));
        assert!(parse("name = \"s\"\n[swarm]\nmodes = []").contains("swarm.modes"));
    }
}
