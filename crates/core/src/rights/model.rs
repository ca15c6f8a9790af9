//! The rights of two and three regions, explored to the end by a model checker.
//!
//! The model holds the very types that stores and nodes use: accounts, books, statements, reopenings. It
//! adds what the world may do to them: statements are lost, late, repeated and reordered; stores are wiped,
//! or replaced by a replica that lags while the old server goes on until the fence; regions recover a label.
//! One label, one key.
//!
//! Of each store epoch, only the newest statement can be heard, at any time or never. That leaves out
//! nothing: hearing changes the hearer's book alone, so that hearing an older statement late is the same as
//! hearing it before the newer one was made; and the books are merged by maximum, so that hearing it after
//! the newer one changes nothing. A replica that lags has any part of what its primary had: more than what
//! the primary can have had at one time.
//!
//! Of three regions in a long label one alone may have an accident, and for the others' ceilings nobody waits.

use alloc::{collections::BTreeMap, format, vec, vec::Vec};
use std::{hash::Hash, println};

use stateright::{Checker, Model, Property};

use super::*;
use crate::{
    ids::{RegionNumber, StoreEpoch},
    store::Holding,
    time::{ClusterTime, Span},
};

/// The label under test begins at this instant; before it, time is 0: long enough for two epochs.
const START: u64 = 3;
/// What a label must begin behind an epoch at least.
const FENCE: u64 = 1;

/// One server: what a step sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Server {
    epoch: StoreEpoch,
    used: u64,
    account: Account,
}

impl Server {
    fn new(base: u64) -> Self {
        Self { epoch: StoreEpoch(0), used: 0, account: Account::new(base) }
    }
}

/// One region: its servers and what its nodes know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Region {
    server: Server,
    /// A server that has lost its role and does not know it yet.
    old: Option<Server>,
    book: Book,
    /// What clients were admitted in all, less what they gave back.
    admitted: u64,
    /// Whether any were by a store that had forgotten the label and recovered it.
    spends_again: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    now: u64,
    regions: Vec<Region>,
    /// The newest statement of each epoch of each region's store.
    told: BTreeMap<(usize, StoreEpoch), Statement>,
    /// The newest question of each region.
    asked: BTreeMap<usize, StoreEpoch>,
    accidents: u8,
}

impl World {
    /// Returns whether it is news.
    fn tell(&mut self, region: usize, statement: &Statement) -> bool {
        let nothing = Statement {
            given: Row::new(),
            ceiling: 0,
            heard: Receipts::new(),
            ..statement.clone()
        };
        let told = self.told.entry((region, statement.epoch)).or_insert(nothing);
        let grew = told.ceiling < statement.ceiling;
        told.ceiling = told.ceiling.max(statement.ceiling);
        told.given.merge(&statement.given) | told.heard.merge(&statement.heard) | grew
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Event {
    /// The label begins.
    Begin,
    /// A server knows that it has lost its role.
    OldEnds(usize),
    Charge {
        region: usize,
        old: bool,
    },
    Grant {
        region: usize,
        to: usize,
        old: bool,
    },
    /// A unit that was admitted is given back, by whichever server is there.
    Refund {
        region: usize,
        old: bool,
    },
    /// A node tells a higher ceiling of its store.
    Raise {
        region: usize,
        old: bool,
    },
    Hear {
        region: usize,
        from: usize,
        epoch: StoreEpoch,
    },
    /// A store takes what its node has heard of, ceilings and questions, and says what it holds.
    Hold(usize),
    Wipe(usize),
    /// The replica has that much.
    FailOver {
        region: usize,
        used: u64,
        given: Row,
        received: Vec<Received>,
    },
    /// A node of a region whose store has forgotten the label asks for it.
    Ask(usize),
    HearQuestion {
        region: usize,
        asker: usize,
    },
    Reopen(usize),
}

struct Rights {
    regions: usize,
    quantity: u64,
    /// Of the overdraft of each region.
    allowance: u64,
    /// Wipes and failovers in all.
    accidents: u8,
    /// Whether there are replicas that may take over; else all accidents are wipes.
    replicas: bool,
    /// Units beyond an acknowledged ceiling that a store may spend; without, the label is short.
    block: Option<u64>,
    /// How many units a region may grant in all: as many as there are shall do.
    grants: u64,
    /// Whether what was admitted may be given back.
    refunds: bool,
    /// The only region that may have an accident; `None`: each may.
    victim: Option<usize>,
}

impl Rights {
    /// Whether a region may have an accident: of others nobody has to know what they have spent, and what they
    /// hold of each other is of no use. So they spend without ceilings, which is more than they may.
    fn may_forget(&self, region: usize) -> bool {
        self.victim.is_none_or(|victim| victim == region)
    }

    fn number(at: usize) -> RegionNumber {
        RegionNumber(at as u32)
    }

    fn split(&self) -> Split {
        let regions: Vec<_> = (0..self.regions).map(Self::number).collect();
        Split::even(&regions).expect("a few regions")
    }

    fn base(&self, at: usize) -> u64 {
        self.split().base(self.quantity, Self::number(at))
    }

    fn fence(epoch: StoreEpoch) -> Fence {
        // An epoch is numbered by the time at which it began.
        let opens = Some(ClusterTime(epoch.0) + Span(FENCE));
        Fence { label_start: ClusterTime(START), opens }
    }

    /// Carries out one operation of a server, as the store's step does, and tells what came of it.
    fn step(
        &self,
        world: &World,
        region: usize,
        old: bool,
        operation: impl FnOnce(&mut Server) -> bool,
    ) -> Option<World> {
        let mut next = world.clone();
        let it = &mut next.regions[region];
        let received =
            it.book.received(Self::number(region), |of| self.split().base(self.quantity, of));
        let server = if old { it.old.as_mut()? } else { &mut it.server };
        if !server.account.is_open(server.epoch, Self::fence(server.epoch)) {
            return None;
        }
        for told in &received {
            server.account.receive(*told);
        }
        let before = server.used;
        if !operation(server) {
            return None;
        }
        let own = (Self::number(region), server.epoch);
        if let Some(block) = self.block
            && self.may_forget(region)
            && server.used > before
            && server.used > it.book.acknowledged(own.0, own.1) + block
        {
            return None;
        }
        let statement = self.statement(server, region, 0)?;
        it.admitted += server.used - before;
        let forgot = !Self::fence(server.epoch).is_behind();
        it.spends_again |= forgot && server.used > before;
        it.book.merge(&statement);
        if !statement.given.is_empty() || !statement.heard.is_empty() {
            next.tell(region, &statement);
        }
        Some(next)
    }

    /// What a region tells of its store; of others only where the label is long.
    fn statement(&self, server: &Server, region: usize, ceiling: u64) -> Option<Statement> {
        let open = server.account.is_open(server.epoch, Self::fence(server.epoch));
        let holding = Holding::of(&server.account, server.epoch, open);
        let long = self.block.is_some();
        let mut statement = holding.statement(Self::number(region), ceiling, long)?;
        if let Some(victim) = self.victim {
            let of_victim = statement.heard.of(Self::number(victim));
            statement.heard = Receipts::new();
            of_victim.into_iter().for_each(|of| {
                statement.heard.receive(of);
            });
        }
        Some(statement)
    }

    /// Another server takes the place of a region's; returns the one before.
    fn replace(&self, world: &mut World, region: usize, used: u64, account: Account) -> Server {
        world.accidents += 1;
        let it = &mut world.regions[region];
        let epoch = StoreEpoch(world.now.max(it.server.epoch.0 + 1));
        core::mem::replace(&mut it.server, Server { epoch, used, account })
    }

    /// All that a replica of a server may have.
    fn replicas(server: &Server) -> Vec<(u64, Row, Vec<Received>)> {
        let mut replicas: Vec<_> =
            (0..=server.used).map(|used| (used, Row::new(), vec![])).collect();
        for (to, most) in server.account.given().iter() {
            let with = |(used, given, received): &(u64, Row, Vec<Received>), amount| {
                let mut given = given.clone();
                given.add(to, amount);
                (*used, given, received.clone())
            };
            let all = replicas.iter().flat_map(|r| (0..=most).map(move |amount| with(r, amount)));
            replicas = all.collect();
        }
        for told in server.account.received().iter() {
            let with = |(used, given, received): &(u64, Row, Vec<Received>), amount| {
                let mut received = received.clone();
                received.push(Received { amount, ..told });
                (*used, given.clone(), received)
            };
            let all = replicas.iter().flat_map(|r| (0..=told.amount).map(move |n| with(r, n)));
            replicas = all.collect();
        }
        replicas
    }
}

impl Model for Rights {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        let region = |at| Region {
            server: Server::new(self.base(at)),
            old: None,
            book: Book::default(),
            admitted: 0,
            spends_again: false,
        };
        let regions = (0..self.regions).map(region).collect();
        vec![World { now: 0, regions, told: BTreeMap::new(), asked: BTreeMap::new(), accidents: 0 }]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        if world.now < START {
            events.push(Event::Begin);
        }
        for (region, it) in world.regions.iter().enumerate() {
            if world.accidents < self.accidents && self.may_forget(region) {
                events.push(Event::Wipe(region));
                let replicas = if self.replicas { Self::replicas(&it.server) } else { vec![] };
                let replicas = replicas.into_iter();
                events.extend(replicas.map(|(used, given, received)| Event::FailOver {
                    region,
                    used,
                    given,
                    received,
                }));
            }
            if it.old.is_some() {
                events.push(Event::OldEnds(region));
            }
            if world.now < START {
                continue;
            }
            for old in [false, true] {
                events.push(Event::Charge { region, old });
                let others = (0..self.regions).filter(|to| *to != region);
                events.extend(others.map(|to| Event::Grant { region, to, old }));
                if self.refunds {
                    events.push(Event::Refund { region, old });
                }
                if self.block.is_some() && self.may_forget(region) {
                    events.push(Event::Raise { region, old });
                }
            }
            let others = world.told.keys().filter(|(from, _)| *from != region);
            events.extend(others.map(|(from, epoch)| Event::Hear {
                region,
                from: *from,
                epoch: *epoch,
            }));
            if self.block.is_none() {
                continue;
            }
            if self.may_forget(region) {
                events.extend([Event::Ask(region), Event::Reopen(region)]);
            }
            if self.victim != Some(region) {
                events.push(Event::Hold(region));
            }
            let others = world.asked.keys().filter(|asker| **asker != region);
            events.extend(others.map(|asker| Event::HearQuestion { region, asker: *asker }));
        }
    }

    fn next_state(&self, world: &World, event: Event) -> Option<World> {
        let mut next = world.clone();
        match event {
            Event::Begin => {
                next.now = START;
                // Whoever lost its role so long ago knows it.
                next.regions.iter_mut().for_each(|it| it.old = None);
            }
            Event::OldEnds(region) => next.regions[region].old = None,
            Event::Charge { region, old } => {
                return self.step(world, region, old, |server| {
                    let passes = server.account.allows(server.used, 1, self.allowance);
                    server.used += u64::from(passes);
                    passes
                });
            }
            Event::Grant { region, to, old } => {
                return self.step(world, region, old, |server| {
                    server.account.grant(server.used, Self::number(to), 1) > 0
                });
            }
            Event::Refund { region, old } => {
                let it = &mut next.regions[region];
                it.admitted = it.admitted.checked_sub(1)?;
                let server = if old { it.old.as_mut()? } else { &mut it.server };
                server.used = server.used.saturating_sub(1);
            }
            Event::Raise { region, old } => {
                let it = &mut next.regions[region];
                let server = if old { it.old.as_ref()? } else { &it.server };
                let ceiling = server.used.next_multiple_of(self.block?);
                let statement = self.statement(server, region, ceiling)?;
                it.book.merge(&statement);
                if !next.tell(region, &statement) {
                    return None;
                }
            }
            Event::Hear { region, from, epoch } => {
                if !next.regions[region].book.merge(&world.told[&(from, epoch)]) {
                    return None;
                }
            }
            Event::Hold(region) => {
                // Nothing but to hear: what the step takes note of before any operation.
                next = self.step(world, region, false, |_| true)?;
            }
            Event::Wipe(region) => {
                let account = Account::new(self.base(region));
                self.replace(&mut next, region, 0, account);
            }
            Event::FailOver { region, used, given, received } => {
                let mut account = Account::new(self.base(region));
                for told in received {
                    account.receive(told);
                }
                for (to, amount) in given.iter() {
                    account.grant(0, to, amount);
                }
                let before = self.replace(&mut next, region, used, account);
                next.regions[region].old = Some(before);
            }
            Event::Ask(region) => {
                let it = &mut next.regions[region];
                let epoch = it.server.epoch;
                let open = it.server.account.is_open(epoch, Self::fence(epoch));
                // While a server goes on that has lost its role, it might answer others in the place of this.
                if it.old.is_some() || open || !it.book.ask(Self::number(region), epoch) {
                    return None;
                }
                next.asked.insert(region, epoch);
            }
            Event::HearQuestion { region, asker } => {
                let epoch = world.asked[&asker];
                if !next.regions[region].book.ask(Self::number(asker), epoch) {
                    return None;
                }
            }
            Event::Reopen(region) => {
                let it = &mut next.regions[region];
                let own = (Self::number(region), it.server.epoch);
                it.book.question(own.0).filter(|asked| *asked == own.1)?;
                let reopening = {
                    let split = self.split();
                    let regions: Vec<_> = split.regions().collect();
                    let base = |of| split.base(self.quantity, of);
                    Reopening::of(&it.book, own, &regions, base, self.block?)?
                };
                let fence = Self::fence(own.1);
                if !it.server.account.reopen(own.1, fence, &reopening) {
                    return None;
                }
                it.server.used = it.server.used.max(reopening.used);
                let statement = self.statement(&next.regions[region].server, region, 0)?;
                next.regions[region].book.merge(&statement);
                next.tell(region, &statement);
            }
        }
        (next != *world).then_some(next)
    }

    /// Units may go to and fro for ever.
    fn within_boundary(&self, world: &World) -> bool {
        world.told.values().all(|told| told.given.sum() <= self.grants)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn spent(world: &World) -> u64 {
            world.regions.iter().map(|region| region.admitted).sum()
        }
        let mut properties = vec![
            // What INV-13 to INV-16 are for, seen from outside: a store that spends what it has given away, a
            // grant that counts where it is told before it counts where it is given, a label that is spent in
            // two epochs, or one that is recovered as less than was spent in it breaks this.
            Property::always(
                "all regions together stay within the quantity",
                |model: &Self, w: &World| {
                    spent(w) <= model.quantity + model.allowance * model.regions as u64
                },
            ),
            Property::sometimes("all of it can be spent", |model: &Self, w: &World| {
                spent(w) == model.quantity + model.allowance * model.regions as u64
            }),
            Property::sometimes(
                "a region can spend what was granted to it",
                |model: &Self, w: &World| {
                    let mut regions = w.regions.iter().enumerate();
                    regions.any(|(at, it)| it.admitted > model.base(at) + model.allowance)
                },
            ),
        ];
        // With one unit it is taken to have spent that.
        if self.accidents > 0 && self.block.is_some() && self.quantity > 1 {
            properties.push(Property::sometimes(
                "a region that forgot spends again",
                |_: &Self, w: &World| w.regions.iter().any(|it| it.spends_again),
            ));
        }
        properties
    }
}

fn explore(name: &str, model: Rights) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!(
        "{name}: {} states, {} of them unique",
        checker.state_count(),
        checker.unique_state_count()
    );
    checker.assert_properties();
}

/// Without anything that goes wrong or is given back.
fn calm(regions: usize, quantity: u64) -> Rights {
    Rights {
        regions,
        quantity,
        allowance: 0,
        accidents: 0,
        replicas: true,
        block: None,
        grants: quantity,
        refunds: false,
        victim: None,
    }
}

/// INV-13 and INV-14: grants alone.
#[test]
fn two_regions() {
    explore("two regions", calm(2, 4));
}

/// INV-15: wiped or failed over, before the label or in it.
#[test]
fn two_regions_with_an_accident() {
    explore("two regions, one accident", Rights { accidents: 1, ..calm(2, 3) });
}

/// INV-15, with a second accident in the same region or the other.
#[test]
fn two_regions_with_two_accidents() {
    explore("two regions, two accidents", Rights { accidents: 2, ..calm(2, 2) });
}

/// INV-13 and INV-15 under `bounded`.
#[test]
fn two_regions_with_an_overdraft() {
    let rights = Rights { allowance: 1, accidents: 1, ..calm(2, 2) };
    explore("two regions, overdraft, one accident", rights);
}

#[test]
fn two_regions_that_give_back() {
    let rights = Rights { accidents: 1, refunds: true, ..calm(2, 2) };
    explore("two regions, refunds, one accident", rights);
}

/// INV-13 and INV-14, where what was received is passed on.
#[test]
fn three_regions() {
    explore("three regions", calm(3, 2));
}

/// INV-16.
#[test]
fn three_regions_with_an_accident() {
    let rights = Rights { accidents: 1, replicas: false, ..calm(3, 2) };
    explore("three regions, one accident", rights);
}

#[test]
fn two_regions_recover_a_long_label() {
    let rights = Rights { accidents: 1, block: Some(1), ..calm(2, 2) };
    explore("two regions, one accident, recovery", rights);
}

/// INV-16, where what was spent and given back may be spent again.
#[test]
fn two_regions_that_give_back_recover_a_long_label() {
    let rights =
        Rights { accidents: 1, replicas: false, block: Some(1), refunds: true, ..calm(2, 2) };
    explore("two regions, refunds, one accident, recovery", rights);
}

/// INV-16, with a second wipe in the same region or the other.
#[test]
fn two_regions_recover_one_after_the_other() {
    let rights = Rights { accidents: 2, replicas: false, block: Some(1), ..calm(2, 2) };
    explore("two regions, two accidents, recovery", rights);
}

/// INV-16, where one of three regions is wiped in a long label, and two must answer. Two units take minutes, so
/// they are looked at if `MODEL_CHECK` is `all`.
#[test]
fn three_regions_recover_a_long_label() {
    let all = std::env::var("MODEL_CHECK").is_ok_and(|asked| asked == "all");
    for (quantity, victim) in [(1, 0), (1, 2), (2, 0), (2, 2)] {
        if quantity == 1 || all {
            let rights = Rights {
                accidents: 1,
                replicas: false,
                block: Some(1),
                victim: Some(victim),
                grants: 1,
                ..calm(3, quantity)
            };
            let of = format!("three regions, {quantity} to spend, one is wiped, recovery");
            explore(&of, rights);
        }
    }
}
