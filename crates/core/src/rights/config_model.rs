//! A model checker's look at configurations: every order in which regions' stores can adopt them, agree, be
//! wiped, and open accounts, with the very types that stores and nodes use.
//!
//! One label begins at each instant, and regions open its account then or later. What must never be: bases of
//! a label that add up to more than the quantity.
//!
//! A region's nodes may be ahead of each other by one configuration, and wait for the time when theirs takes
//! hold; what they say to the store may come late; and a region may forget all that its store and its nodes knew.
//! Not in it are what is granted, regions that come, leave or are gone, and more than two of them.

use alloc::{vec, vec::Vec};
use std::println;

use stateright::{Checker, Model, Property};

use super::{Adopted, Adoptions, Proposed, Regions, Split};
use crate::{
    ids::{ConfigEpoch, RegionNumber},
    time::{ClusterTime, StoreTime},
};

/// Labels begin at 1, 2, … and end with the world.
const LABELS: usize = 3;
/// A label that begins so long after an instant was not begun by then.
const FENCE: u64 = 1;
/// For so long after it was made a word is taken.
const PATIENCE: u64 = 1;

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
    heard: Vec<Option<Adopted>>,
    /// How far others say that it was itself.
    was: ConfigEpoch,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    now: u64,
    wipes: u8,
    regions: Vec<Region>,
    /// What was said to a region's store and has not come yet.
    word: Option<(usize, Proposed)>,
}

/// Which node of a region makes a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    /// One that goes by what it is configured with.
    Acting,
    /// One that waits for the time when that takes hold, and goes by the one before.
    Waiting,
    /// One that has not been reconfigured yet.
    Outdated,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Event {
    Tick,
    /// Nodes of a region are reconfigured.
    Configure(usize),
    /// A claim in a label: it tells the store what its nodes know, and opens the account, or makes it good if
    /// it was forgotten.
    Claim {
        region: usize,
        label: usize,
        who: Who,
    },
    /// The store is told what its nodes know, and that takes its time.
    Say(usize),
    /// It comes.
    Arrive,
    /// One hears how far another is.
    Hear {
        region: usize,
        of: usize,
    },
    /// A store forgets.
    Wipe(usize),
    /// A store and its nodes do.
    Forget(usize),
}

struct Configs {
    quantity: u64,
    /// Weights by configuration and region.
    weights: Vec<Vec<u32>>,
    /// How many times something is forgotten.
    wipes: u8,
    /// Whether nodes forget as well.
    nodes_forget: bool,
    /// Whether nodes may wait for the time when their configuration takes hold.
    nodes_wait: bool,
    /// Whether what is said to stores may come late.
    words_wait: bool,
    /// Whether all begins with the newest, and stores that were never told anything.
    new: bool,
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
    /// What was forgotten is made good by whoever asks.
    OutdatedNodesMakeGood,
    /// A word counts whenever it comes.
    LateWordsCount,
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
        adoptions.note_was(region.was);
        for (at, adopted) in region.heard.iter().enumerate() {
            adopted.iter().for_each(|adopted| {
                adoptions.note(number(at), adopted);
            });
        }
        adoptions
    }

    /// What a node of a region says to its store, as [`Engine`](crate::engine::Engine) does.
    fn proposed(&self, world: &World, region: &Region, who: Who) -> Proposed {
        let configured = region.configured - u64::from(who == Who::Outdated);
        let acting = configured - u64::from(who == Who::Waiting);
        if acting == 0 {
            return Proposed::default();
        }
        let (adoptions, regions) = (Self::adoptions(region), self.regions(configured));
        let fence = if self.mutation == Mutation::NoFence { 0 } else { FENCE };
        let unused = ClusterTime(world.now + fence);
        let late = self.mutation == Mutation::LateWordsCount;
        let lost = adoptions.are_lost(&regions, ConfigEpoch(acting));
        Proposed {
            epoch: ConfigEpoch(acting),
            from: Some(unused),
            agreed: match who {
                Who::Waiting => adoptions.since(ConfigEpoch(configured)),
                Who::Acting | Who::Outdated => adoptions.agreed(&regions),
            },
            since: adoptions.since(ConfigEpoch(acting)).or(lost.then_some(unused)),
            until: StoreTime(if late { u64::MAX } else { world.now + PATIENCE }),
        }
    }

    /// Nodes of a region hear how far another is: they tell what their store said last, also while it is wiped.
    fn hear(next: &mut World, region: usize, of: usize) -> Option<()> {
        let told = next.regions[of].heard[of]?;
        match &mut next.regions[region].heard[of] {
            Some(heard) => {
                heard.merge(&told);
            }
            none => *none = Some(told),
        }
        if let Some(was) = next.regions[of].heard[region] {
            let known = &mut next.regions[region].was;
            *known = was.epoch.max(*known);
        }
        Some(())
    }

    /// Has the store of a region take a word, unless a node that is outdated must not say it.
    fn tell(&self, next: &mut World, at: usize, proposed: &Proposed) {
        let now = next.now;
        let region = &mut next.regions[at];
        match &mut region.adopted {
            Some(adopted) => {
                adopted.take(proposed, StoreTime(now));
            }
            None => {
                let adoptions = Self::adoptions(region);
                let outdated = adoptions.newest() > proposed.epoch;
                // Who is new in its region has to have heard of another to know how far it was.
                let others = region.heard.iter().enumerate().filter(|(of, _)| *of != at);
                let alone = others.map(|(_, heard)| heard).all(Option::is_none);
                let may = !outdated && !alone;
                if (may || self.mutation == Mutation::OutdatedNodesSpeak)
                    && let Some(adopted) = Adopted::anew(proposed, StoreTime(now))
                {
                    region.adopted = Some(adopted);
                    region.opens = now + FENCE;
                }
            }
        }
        let adopted = region.adopted.unwrap_or_default();
        match &mut region.heard[at] {
            Some(heard) => {
                heard.merge(&adopted);
            }
            none => *none = Some(adopted),
        }
    }
}

impl Model for Configs {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        let count = self.weights[0].len();
        let adopted = (!self.new).then(Adopted::first);
        let region = Region {
            adopted,
            opens: 0,
            bases: [0; LABELS],
            there: [false; LABELS],
            configured: if self.new { self.newest() } else { 0 },
            heard: vec![adopted; count],
            was: ConfigEpoch(0),
        };
        vec![World { now: 0, wipes: 0, regions: vec![region; count], word: None }]
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
            let is_first = region.configured == 0;
            let may = |who: &Who| match who {
                Who::Acting => true,
                Who::Waiting => self.nodes_wait && !is_first,
                Who::Outdated => !is_first,
            };
            let all = [Who::Acting, Who::Waiting, Who::Outdated];
            for label in begun {
                let who = all.into_iter().filter(may);
                events.extend(who.map(|who| Event::Claim { region: at, label, who }));
            }
            if self.words_wait && world.word.is_none() && !is_first {
                events.push(Event::Say(at));
            }
            let others = (0..world.regions.len()).filter(|of| *of != at);
            events.extend(others.map(|of| Event::Hear { region: at, of }));
            if world.wipes < self.wipes {
                let forget = if self.nodes_forget { Event::Forget } else { Event::Wipe };
                events.push(forget(at));
            }
        }
        events.extend(world.word.map(|_| Event::Arrive));
    }

    fn next_state(&self, world: &World, event: Event) -> Option<World> {
        let mut next = world.clone();
        match event {
            Event::Tick => next.now += 1,
            Event::Configure(at) => next.regions[at].configured += 1,
            Event::Hear { region, of } => Self::hear(&mut next, region, of)?,
            Event::Wipe(at) | Event::Forget(at) => {
                next.wipes += 1;
                next.regions[at].adopted = None;
                next.regions[at].there = [false; LABELS];
                if matches!(event, Event::Forget(_)) {
                    next.regions[at].heard.fill(None);
                    next.regions[at].was = ConfigEpoch(0);
                }
            }
            Event::Say(at) => {
                next.word = Some((at, self.proposed(world, &world.regions[at], Who::Acting)));
            }
            Event::Arrive => {
                let (at, proposed) = next.word.take()?;
                self.tell(&mut next, at, &proposed);
            }
            Event::Claim { region: at, label, who } => {
                // What was forgotten all others are asked about, once the label has begun.
                let known = &world.regions[at];
                let mut answered = false;
                if known.adopted.is_none() || (label as u64 + 1) < known.opens {
                    let mut others = (0..next.regions.len()).filter(|of| *of != at);
                    answered = others.all(|of| Self::hear(&mut next, at, of).is_some());
                }
                let proposed = self.proposed(&next, &next.regions[at], who);
                self.tell(&mut next, at, &proposed);
                let configured = world.regions[at].configured - u64::from(who == Who::Outdated);
                let regions = self.regions(configured);
                let region = &mut next.regions[at];
                let newest = Self::adoptions(region).newest();
                if let Some(adopted) = region.adopted
                    && !region.there[label]
                {
                    let start = ClusterTime(label as u64 + 1);
                    let mut bases = regions.bases(self.quantity, number(at), proposed.epoch);
                    if self.mutation == Mutation::NobodyIsWaitedFor {
                        bases.before = Some(bases.now);
                    }
                    let opened = adopted.base(proposed.epoch, bases, start);
                    let base = if start.0 >= region.opens {
                        opened
                    } else {
                        let newest = newest.max(adopted.epoch);
                        let knows = answered && proposed.epoch == newest;
                        let least = adopted.least_base(bases, start).filter(|_| knows);
                        let least = opened.zip(least).map(|(opened, least)| opened.min(least));
                        let anybody = self.mutation == Mutation::OutdatedNodesMakeGood;
                        if anybody && answered { Some(bases.now) } else { least }
                    };
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
    let [nodes_forget, nodes_wait, words_wait, new] = [false; 4];
    Configs { quantity: 4, weights, wipes, nodes_forget, nodes_wait, words_wait, new, mutation }
}

#[test]
fn two_regions_are_reconfigured_and_a_store_is_wiped() {
    let model = two(1, 1, Mutation::None);
    assert!(explore(model, "two regions, one reconfiguration, one wipe") > 1_000);
}

#[test]
fn two_regions_are_reconfigured_and_a_word_is_late() {
    let model = Configs { words_wait: true, ..two(1, 0, Mutation::None) };
    assert!(explore(model, "two regions, one reconfiguration, late words") > 1_000);
}

#[test]
fn two_regions_are_reconfigured_twice() {
    let model = two(2, 0, Mutation::None);
    assert!(explore(model, "two regions, two reconfigurations") > 1_000);
}

#[test]
fn a_new_cluster_begins_with_any_configuration() {
    let model = Configs { new: true, ..two(2, 0, Mutation::None) };
    assert!(explore(model, "two regions that begin with the third") > 1_000);
}

/// Takes minutes, in a release build, so it is looked at if `MODEL_CHECK` is `all`; else one reconfiguration less.
#[test]
fn nodes_wait_and_are_outdated_and_a_region_forgets_all() {
    let all = std::env::var("MODEL_CHECK").is_ok_and(|asked| asked == "all");
    let with = |configs, wipes| Configs { nodes_wait: true, ..two(configs, wipes, Mutation::None) };
    let configs = if all { 2 } else { 1 };
    let forgets = Configs { nodes_forget: true, ..with(configs, 1) };
    assert!(explore(forgets, "nodes wait, a region forgets all") > 1_000);
    if all {
        explore(with(2, 1), "nodes wait, two reconfigurations, one wipe");
        explore(Configs { words_wait: true, ..with(1, 1) }, "nodes and words wait, one wipe");
    }
}

#[test]
fn the_checker_finds_what_is_wrong_on_purpose() {
    use Mutation::{
        LateWordsCount, NoFence, NobodyIsWaitedFor, OutdatedNodesMakeGood, OutdatedNodesSpeak,
    };
    let all =
        [NobodyIsWaitedFor, NoFence, OutdatedNodesSpeak, OutdatedNodesMakeGood, LateWordsCount];
    for mutation in all {
        let words_wait = mutation == LateWordsCount;
        let model = Configs { words_wait, ..two(1, 1, mutation) };
        let checker = model.checker().threads(2).spawn_bfs().join();
        let found = checker.discovery("bases of a label are no more than the quantity");
        assert!(found.is_some(), "{mutation:?}");
    }
}
