//! A model checker's look at configurations: every order in which regions' stores can adopt them, agree, be
//! wiped, and open accounts, with the very types that stores and nodes use.
//!
//! One label begins at each instant, and regions open its account then or later. What must never be: bases of
//! a label that add up to more than the quantity.

use alloc::{vec, vec::Vec};
use std::println;

use stateright::{Checker, Model, Property};

use super::{Adopted, Adoptions, Bases, Proposed, Regions, Split};
use crate::{
    ids::{ConfigEpoch, RegionNumber},
    time::ClusterTime,
};

/// Labels begin at 1, 2, … and end with the world.
const LABELS: usize = 3;
/// A label that begins so long after an instant was not begun by then.
const FENCE: u64 = 1;

/// One region: its store, and what its nodes have and know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Region {
    /// What the store remembers; `None`: it was wiped, and nobody has spoken to it.
    adopted: Option<Adopted>,
    /// From which labels on it knows them whole.
    opens: u64,
    /// Bases of accounts that were ever opened, by label: what a wiped store has spent stays spent.
    bases: [u64; LABELS],
    /// Whether the store has the account.
    there: [bool; LABELS],
    /// By which configuration its nodes go.
    configured: u64,
    /// What they have heard of each region.
    heard: Vec<Adopted>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    now: u64,
    wipes: u8,
    regions: Vec<Region>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Event {
    Tick,
    /// Nodes of a region are reconfigured.
    Configure(usize),
    /// A claim in a label: it tells the store what its nodes know, and opens the account. It may be made by
    /// a node that has not been reconfigured yet.
    Claim {
        region: usize,
        label: usize,
        late: bool,
    },
    /// One hears how far another is.
    Hear {
        region: usize,
        of: usize,
    },
    Wipe(usize),
}

struct Configs {
    quantity: u64,
    /// Weights by configuration and region.
    weights: Vec<Vec<u32>>,
    wipes: u8,
    /// What is wrong on purpose, to see that the checker finds it.
    mutation: Mutation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    /// The newest base is used as soon as the own region has adopted it.
    NobodyIsWaitedFor,
    /// Labels that were begun count as new.
    NoFence,
    /// Nodes that are outdated speak to a store that was wiped.
    OutdatedNodesSpeak,
}

fn number(at: usize) -> RegionNumber {
    RegionNumber(at as u32)
}

impl Configs {
    fn newest(&self) -> u64 {
        self.weights.len() as u64 - 1
    }

    fn split(&self, config: u64) -> Split {
        let weights = self.weights[config as usize].iter().enumerate();
        Split::new(&weights.map(|(at, weight)| (number(at), *weight)).collect::<Vec<_>>())
            .expect("weights")
    }

    fn regions(&self, config: u64) -> Regions {
        if config == 0 {
            return Regions::first(self.split(0));
        }
        let (before, now) = (self.split(config - 1), self.split(config));
        Regions::next(ConfigEpoch(config), before, now, &[], ClusterTime(0))
    }

    fn adoptions(region: &Region) -> Adoptions {
        let mut adoptions = Adoptions::default();
        for (at, adopted) in region.heard.iter().enumerate() {
            adoptions.note(number(at), adopted);
        }
        adoptions
    }

    /// What the nodes of a region say to its store, as [`Engine`](crate::engine::Engine) does.
    fn proposed(&self, world: &World, region: &Region, configured: u64) -> Proposed {
        if configured == 0 {
            return Proposed::default();
        }
        let adoptions = Self::adoptions(region);
        let fence = if self.mutation == Mutation::NoFence { 0 } else { FENCE };
        Proposed {
            epoch: ConfigEpoch(configured),
            from: Some(ClusterTime(world.now + fence)),
            agreed: adoptions.agreed(&self.regions(configured)),
            since: adoptions.since(ConfigEpoch(configured)),
        }
    }
}

impl Model for Configs {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        let count = self.weights[0].len();
        let region = Region {
            adopted: Some(Adopted::default()),
            opens: 0,
            bases: [0; LABELS],
            there: [false; LABELS],
            configured: 0,
            heard: vec![Adopted::default(); count],
        };
        vec![World { now: 0, wipes: 0, regions: vec![region; count] }]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        if world.now < LABELS as u64 {
            events.push(Event::Tick);
        }
        for (at, region) in world.regions.iter().enumerate() {
            if region.configured < self.newest() {
                events.push(Event::Configure(at));
            }
            let begun = (0..LABELS).filter(|label| (*label as u64) < world.now);
            for (label, late) in begun.flat_map(|label| [(label, false), (label, true)]) {
                if !late || region.configured > 0 {
                    events.push(Event::Claim { region: at, label, late });
                }
            }
            let others = (0..world.regions.len()).filter(|of| *of != at);
            events.extend(others.map(|of| Event::Hear { region: at, of }));
            if world.wipes < self.wipes {
                events.push(Event::Wipe(at));
            }
        }
    }

    fn next_state(&self, world: &World, event: Event) -> Option<World> {
        let mut next = world.clone();
        match event {
            Event::Tick => next.now += 1,
            Event::Configure(at) => next.regions[at].configured += 1,
            Event::Hear { region, of } => {
                // Nodes tell what their store said last, also while it is wiped.
                let told = world.regions[of].heard[of];
                next.regions[region].heard[of].merge(&told);
            }
            Event::Wipe(at) => {
                next.wipes += 1;
                next.regions[at].adopted = None;
                next.regions[at].there = [false; LABELS];
            }
            Event::Claim { region: at, label, late } => {
                let configured = world.regions[at].configured - u64::from(late);
                let proposed = self.proposed(world, &world.regions[at], configured);
                let regions = self.regions(configured);
                let newest = Self::adoptions(&world.regions[at]).newest();
                let region = &mut next.regions[at];
                match &mut region.adopted {
                    Some(adopted) => {
                        adopted.take(&proposed);
                    }
                    None => {
                        let outdated = newest > ConfigEpoch(configured);
                        if outdated && self.mutation != Mutation::OutdatedNodesSpeak {
                            return None;
                        }
                        region.adopted = Some(Adopted::anew(&proposed)?);
                        region.opens = world.now + FENCE;
                    }
                }
                let adopted = region.adopted?;
                region.heard[at].merge(&adopted);
                let start = label as u64 + 1;
                let bases = regions.bases(self.quantity, number(at), proposed.epoch);
                let bases = if self.mutation == Mutation::NobodyIsWaitedFor {
                    Bases { before: Some(bases.now), ..bases }
                } else {
                    bases
                };
                if start >= region.opens && !region.there[label] {
                    let base = adopted.base(proposed.epoch, bases, ClusterTime(start));
                    region.there[label] = base.is_some();
                    region.bases[label] = region.bases[label].max(base.unwrap_or(0));
                }
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn sums(world: &World) -> impl Iterator<Item = u64> {
            (0..LABELS).map(|label| world.regions.iter().map(|region| region.bases[label]).sum())
        }
        vec![
            Property::always(
                "bases of a label are no more than the quantity",
                |model: &Self, w| sums(w).all(|sum| sum <= model.quantity),
            ),
            Property::sometimes(
                "all of a label is split by the newest",
                |model: &Self, w: &World| {
                    let bases =
                        |at: usize| model.split(model.newest()).base(model.quantity, number(at));
                    let last = LABELS - 1;
                    w.regions.iter().enumerate().all(|(at, region)| {
                        region.there[last]
                            && region
                                .adopted
                                .is_some_and(|a| a.epoch == ConfigEpoch(model.newest()))
                            && region.bases[last] == bases(at)
                    })
                },
            ),
        ]
    }
}

/// Explores all, and returns how many states there were.
fn explore(model: Configs, what: &str) -> usize {
    let checker = model.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    println!("{what}: {} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
    checker.unique_state_count()
}

/// Two regions whose weights turn around, and back in part.
fn two(configs: usize, wipes: u8, mutation: Mutation) -> Configs {
    let weights = [[1, 3], [3, 1], [1, 1]].map(Vec::from)[..=configs].to_vec();
    Configs { quantity: 4, weights, wipes, mutation }
}

#[test]
fn two_regions_are_reconfigured_and_a_store_is_wiped() {
    let model = two(1, 1, Mutation::None);
    assert!(explore(model, "two regions, one reconfiguration, one wipe") > 1_000);
}

#[test]
fn two_regions_are_reconfigured_twice() {
    let model = two(2, 0, Mutation::None);
    assert!(explore(model, "two regions, two reconfigurations") > 1_000);
}

#[test]
fn the_checker_finds_what_is_wrong_on_purpose() {
    use Mutation::{NoFence, NobodyIsWaitedFor, OutdatedNodesSpeak};
    for mutation in [NobodyIsWaitedFor, NoFence, OutdatedNodesSpeak] {
        let checker = two(1, 1, mutation).checker().threads(2).spawn_bfs().join();
        let found = checker.discovery("bases of a label are no more than the quantity");
        assert!(found.is_some(), "{mutation:?}");
    }
}
