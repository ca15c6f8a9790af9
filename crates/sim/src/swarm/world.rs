//! A random world: places, policies and traffic.

use std::fmt::Write;

use super::{Mode, Swarm};
use crate::rng::Stream;

/// Places at usual distances, and one that is at the same distance from all.
const REGIONS: [&str; 6] = ["us-east", "eu-west", "ap-south", "us-west", "ap-northeast", "mars"];

/// The windows of limits that a store which forgets them recovers.
const LONG_SECONDS: u64 = 90;

/// What the drawing of faults must know of a world.
pub(super) struct World {
    /// Names of regions.
    pub(super) regions: Vec<&'static str>,
    /// Nodes in each.
    pub(super) nodes: u64,
    /// All but the faults, as a scenario file.
    text: String,
}

/// A limit that is drawn: how long its window is, and in what part of the load's demand it is.
struct Limit {
    name: &'static str,
    scope: &'static str,
    seconds: u64,
}

impl World {
    pub(super) fn draw(swarm: &Swarm, seed: u64, store_full: bool) -> Self {
        let mut random = Stream::new(seed, "swarm-world", 0);
        let mut pick = |n: u64| random.below(n);
        let mut between = |[least, most]: [u64; 2]| least + pick(most - least + 1);
        let count = between(swarm.regions);
        // Large worlds are slow: few regions have many nodes each, and many have few.
        let most = swarm.nodes_per_region[1].min(8 / count).max(swarm.nodes_per_region[0]);
        let nodes = between([swarm.nodes_per_region[0], most]);
        let per_second = between(swarm.per_second);
        let first = pick(REGIONS.len() as u64) as usize;
        let regions: Vec<&str> =
            (0..count as usize).map(|n| REGIONS[(first + n) % REGIONS.len()]).collect();

        let by_caller = pick(2) == 1;
        let callers = if by_caller { [1, 3, 20, 300][pick(4) as usize] } else { 1 };
        let mut limits =
            vec![Limit { name: "all", scope: "global", seconds: [20, 60, 300][pick(3) as usize] }];
        if pick(2) == 1 {
            limits.push(Limit {
                name: "here",
                scope: "region",
                seconds: [20, 60][pick(2) as usize],
            });
        }
        if pick(2) == 1 {
            limits.push(Limit { name: "burst", scope: "global", seconds: 1 + pick(10) });
        }
        if pick(3) == 0 {
            limits.push(Limit { name: "rush", scope: "region", seconds: 1 + pick(4) });
        }
        let failure = ["degrade", "closed", "open"][pick(3) as usize];
        let shadow = pick(8) == 0;

        let mut policies = String::new();
        // From a stream of their own: modes change nothing else of what a seed draws.
        let mut modes = Stream::new(seed, "swarm-modes", 0);
        let mut policy = |name: &str, key: &str, shadow: bool, limits: &[(String, &Limit)]| {
            let mut mode = |limit: &Limit| match limit.scope {
                "global" => Some(swarm.modes[modes.below(swarm.modes.len() as u64) as usize]),
                _ => None,
            };
            let with: Vec<Option<Mode>> = limits.iter().map(|(_, limit)| mode(limit)).collect();
            let rights = with.iter().flatten().any(|mode| mode.has_rights());
            // What is admitted without the store would break their promise.
            let failure = if rights && failure == "open" { "closed" } else { failure };
            write!(policies, "[[policy]]\nname = \"{name}\"\nkey = {key}\non_store_failure = \"{failure}\"\nshadow = {shadow}\n")
                .expect("text takes all");
            for ((quantity, Limit { name, scope, seconds }), mode) in limits.iter().zip(with) {
                // Half of the longer ones so long that a store which forgets them recovers them.
                let long =
                    mode.is_some_and(Mode::has_rights) && (30..LONG_SECONDS).contains(seconds);
                let seconds = if long && modes.below(2) == 0 { LONG_SECONDS } else { *seconds };
                let consistency = match mode {
                    None => String::new(),
                    Some(Mode::Bounded) => {
                        let percent = 1 + modes.below(20);
                        format!("consistency = \"bounded\"\noverdraft = \"{percent}%\"\n")
                    }
                    Some(mode) => format!("consistency = \"{}\"\n", mode.name()),
                };
                write!(policies, "[[policy.limit]]\nname = \"{name}\"\nquantity = {quantity}\nwindow = \"{seconds}s\"\nalgorithm = \"fixed-window\"\nscope = \"{scope}\"\n{consistency}")
                    .expect("text takes all");
            }
        };
        let load = swarm.load().as_millis() / 1_000;
        let cost = [1, 1, 1 + pick(3), 7][pick(4) as usize];
        // From a fifth of what is asked for in a window, or in all of the load, to somewhat more than that.
        let mut quantity = |limit: &Limit, sharers: u64| {
            let wanted = per_second * cost * limit.seconds.min(load) / sharers;
            (wanted * (20 + pick(110)) / 100).max(2 * cost).to_string()
        };
        let with: Vec<_> = limits.iter().map(|l| (quantity(l, callers), l)).collect();
        let total = Limit { name: "total", scope: "global", seconds: 30 };
        let with_total = (quantity(&total, 1), &total);
        policy("api", if by_caller { "[\"user\"]" } else { "[]" }, false, &with);
        if pick(3) == 0 {
            policy("everyone", "[]", shadow, &[with_total]);
        }

        let mut loads = String::new();
        let mut load = |callers: u64, per_second: u64, split: &str| {
            write!(loads, "[[load]]\ncaller = \"user\"\ncallers = {callers}\ncost = {cost}\nper_second = {per_second}.0\n{split}\n")
                .expect("text takes all");
        };
        let split = match pick(4) {
            0 => format!("weights = {{ {} = 1.0 }}", regions[pick(count) as usize]),
            1 if count > 1 => "split = \"80/20\"".to_owned(),
            _ => "split = \"uniform\"".to_owned(),
        };
        if callers > 1 && pick(2) == 1 {
            // A hot key beside the others.
            load(callers, per_second.div_ceil(2), &split);
            load(1, per_second.div_ceil(2), "split = \"uniform\"");
        } else {
            load(callers, per_second, &split);
        }

        let begin = pick(limits[0].seconds * 1_000);
        let gossip = [10, 30, 50, 50, 100, 150][pick(6) as usize];
        let duplication = ["0.0", "0.0", "0.05"][pick(3) as usize];
        let delay = [0, 0, 1, 3, 8][pick(5) as usize];
        let timeout = [20, 30, 50][pick(3) as usize];
        // Longer than clocks may be apart and still agree: else a label may have been used before a store
        // that lost its memory thinks that it begins.
        let fence = [600, 1_000, 3_000][modes.below(3) as usize];
        let records = if store_full { 1 + pick(6) } else { 1_000_000 };
        // In a third of the worlds something is given back.
        let mut refunding = Stream::new(seed, "swarm-refunds", 0);
        let refunds = if refunding.below(3) == 0 {
            let share = 5 + refunding.below(60);
            let after = [20, 200, 2_000][refunding.below(3) as usize];
            format!("refunds = {{ share = 0.{share:02}, after = \"{after}ms\" }}\n")
        } else {
            String::new()
        };
        // Last, so that it changes nothing else of what a seed draws.
        let relays = nodes > 1 && pick(2) == 1;
        let text = format!(
            "begin = \"{begin}ms\"\ngossip = \"{gossip}ms\"\n{refunds}policies = \"\"\"\n{policies}\"\"\"\n\
             [topology]\nregions = {regions:?}\nnodes_per_region = {nodes}\nrelays = {relays}\nduplication = {duplication}\n\
             [store]\ndelay = \"{delay}ms\"\ntimeout = \"{timeout}ms\"\nrecords = {records}\nfence = \"{fence}ms\"\n{loads}"
        );
        Self { regions, nodes, text }
    }

    /// The world as a scenario file, without faults.
    pub(super) fn text(&self, swarm: &Swarm, seed: u64) -> String {
        format!(
            "name = {:?}\nseed = {seed}\nduration = \"{}ms\"\nrecover_within = \"{}ms\"\nconverge_within = \"{}ms\"\n{}",
            format!("{}, world {seed}", swarm.name),
            swarm.load().as_millis(),
            swarm.recover_within.as_millis(),
            swarm.converge_within.as_millis(),
            self.text,
        )
    }
}
