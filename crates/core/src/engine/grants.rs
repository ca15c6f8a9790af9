//! Grants: regions that need less than they hold of a limit under rights give of it to those that need more.
//!
//! Each gossip period, and whenever a peer has told something of such a limit, one node of each region looks
//! at the keys that it watches, and has the store grant what [`rights::grants`](crate::rights::grants) finds.
//! The store grants only what it holds, so that any mistake here costs accuracy and not the bound; and so
//! two nodes that both take themselves for the one are harmless.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use core::{mem, sync::atomic::Ordering};

use super::{Engine, Outcome, Sighted, config::ConfigSight};
use crate::{
    algorithm::Rule,
    check::{RightsUse, plan::LabelBounds},
    counts::{Asked, Shape, Shard, Tally, Tick},
    forecast::{Forecast, Participant, Sight, Whose},
    guard::{Guard, Guarding},
    ids::{Caller, Key, LimitId, RegionIndex, RegionNumber, StoreEpoch},
    policy::{Limit, PolicySet},
    rights::{self, Demand, Reopening, Share},
    store::{
        Action, Bound, COUNT_MAX, CallerBucket, Claim, Counts, Holding, Operation, StoreCommand,
        StoreReply,
    },
    time::{ClusterTime, Label, Mono, Span, Window},
};

/// Operations in one command.
const OPERATIONS_MAX: usize = 64;
/// Buckets that are opened at a time.
const OPENINGS_MAX: usize = 64;
/// Places of the table of watched keys that one call looks at.
const PLACES_MAX: u32 = 4_096;
/// The least time between two commands.
const EVERY: Span = Span::millis(5);
/// How often the store is told of a configuration that it has not adopted.
const PROPOSE_EVERY: Span = Span::millis(250);

/// What a granting command waits for: give it back to [`Engine::handle_granted`], exactly once.
#[derive(Debug)]
#[must_use = "a granting command's ticket must be given back, or nothing is granted any more"]
pub struct GrantTicket {
    asked_at: Mono,
    asked: Vec<Asking>,
}

/// One key of a granting command.
#[derive(Debug)]
struct Asking {
    key: Key,
    shape: Shape,
    label: Label,
    quantity: u64,
    allowance: u64,
    /// Who waits for what it is granted.
    waiting: Vec<RegionNumber>,
}

/// What is to be granted of a key.
struct Granting<'a> {
    key: Key,
    limit: &'a Limit,
    label: Label,
    claim: Claim,
    waiting: Vec<RegionNumber>,
}

/// A grant of less than this part of the own base waits until it is more, unless somebody waits for it.
const WORTH_TELLING: u64 = 100;

/// What the store has said of the rights to a key.
pub(super) struct Seen<'a> {
    pub(super) key: Key,
    pub(super) label: Label,
    pub(super) window: Window,
    pub(super) holding: &'a Holding,
    /// What the region has used by then.
    pub(super) net: u64,
    /// What the region may spend beyond what it holds.
    pub(super) allowance: u64,
    /// What was asked for beside, and has to wait for others to hold a higher ceiling.
    pub(super) refused: u64,
}

impl Seen<'_> {
    /// The ceiling to tell when `told` is what was told before: a block ahead of what is used, and told anew
    /// when half of that is left, lest anybody waits for the others' word; but no more than can be used.
    fn ceiling(&self, told: u64, block: u64) -> u64 {
        let ahead = block.max(self.refused);
        let is_near = self.net.saturating_add(ahead / 2) >= told;
        let most = self.holding.held().saturating_add(self.allowance).min(COUNT_MAX);
        let next = self.net.saturating_add(ahead).min(most.max(self.net));
        if is_near { next.max(told) } else { told }
    }
}

/// Where the granting stands.
#[derive(Debug, Default)]
pub(super) struct Grants {
    /// When the next round begins.
    next: Mono,
    /// Where the round under way goes on: shard and place.
    at: Option<(usize, u32)>,
    /// Commands that are under way.
    under_way: usize,
    /// Those that are to go next, each of callers of one bucket: one whose server is gone holds up no other.
    ready: VecDeque<(Vec<Operation>, Vec<Asking>)>,
    /// How the region stands with each limit, over all keys that are watched: as far as this round has come, and
    /// as the last whole one found.
    so_far: BTreeMap<LimitId, RightsUse>,
    uses: BTreeMap<LimitId, RightsUse>,
    /// When the store is told next by which configuration claims are made, if it does not know.
    propose: Mono,
}

impl Grants {
    /// Takes the command that is to go next.
    fn take_ready(&mut self) -> Option<(Vec<Operation>, Vec<Asking>)> {
        let next = self.ready.pop_front()?;
        self.under_way += 1;
        Some(next)
    }
}

/// Has the own slot of a key told, with what goes beside it, although it may be as it was; there may be none
/// yet. Of a label that is over for this node its slot may be forgotten: to begin one anew would tell others
/// that it fell (INV-2).
pub(super) fn tell_beside(
    shard: &mut Shard,
    now: Mono,
    cluster: ClusterTime,
    (caller, shape, label, quantity): (Caller, Shape, Label, u64),
) {
    if label >= shape.window.label_at(cluster).previous() {
        let asked = Asked { caller, shape, label, quantity, add: Tally::default(), tell: true };
        shard.add_own(&asked, Tick::of(now));
    }
}

impl<G: Guarding> Engine<G> {
    /// The next granting command, if one is due: have the store carry it out, then call
    /// [`handle_granted`](Self::handle_granted). Call until `None`; bounded, and harmless when early.
    pub fn poll_grants(
        &self,
        policies: &PolicySet,
        now: Mono,
    ) -> Option<(StoreCommand, GrantTicket)> {
        if let Some(command) = self.poll_proposal(now) {
            return Some((command, GrantTicket { asked_at: now, asked: Vec::new() }));
        }
        if let Some((operations, asked)) = self.grants.with(Grants::take_ready) {
            let ticket = GrantTicket { asked_at: now, asked };
            return Some((self.command_with_claims(now, operations), ticket));
        }
        let from = self.grants.with(|grants| {
            let wanted = self.pace.take_grants_wanted();
            if grants.under_way > 0 {
                grants.next = if wanted { now } else { grants.next };
                return None;
            }
            let begins = grants.at.is_none() && (now >= grants.next || wanted);
            if begins {
                grants.next = now + self.settings.gossip;
                grants.at = Some((0, 0));
            }
            grants.at
        })?;
        let sighted = self.sighted(now);
        // A region that nobody asks has a clock that is right as soon as its store's was read.
        let (clock, right) = self.clock.with(|c| {
            let reading = c.reading(now);
            (c.relation(now), reading.settled || reading.store.is_some())
        });
        let suspended = self.rights_are_suspended(now);
        let right = right && !suspended;
        let mut found: BTreeMap<CallerBucket, (Vec<Operation>, Vec<Asking>)> = BTreeMap::new();
        let mut count = 0;
        let mut uses = BTreeMap::new();
        let (mut at, mut places) = (from, PLACES_MAX);
        while at.0 < self.shards.len() && places > 0 && count < OPERATIONS_MAX {
            let end = self.shards[at.0].with(|shard| {
                let end = shard.watched.places();
                while at.1 < end && places > 0 && count < OPERATIONS_MAX {
                    self.add_use((shard, at.1), policies, &sighted, suspended, &mut uses);
                    let granting = right.then(|| self.grants_at(shard, at.1, policies, &sighted));
                    if let Some(granting) = granting.flatten() {
                        let Granting { key, limit, label, claim, waiting } = granting;
                        let shape =
                            Shape { limit: limit.id, window: limit.window, scope: limit.scope };
                        let bounds = LabelBounds::of(limit.window, label, clock).of_limit(limit);
                        let quantity = limit.quantity;
                        let allowance = claim.allowance;
                        let bucket = self.bucket_of(key.caller);
                        let (operations, asked) = found.entry(bucket).or_default();
                        count += 1;
                        asked.push(Asking { key, shape, label, quantity, allowance, waiting });
                        operations.push(Operation {
                            key,
                            action: Action::Grant,
                            label,
                            not_before: bounds.not_before,
                            not_after: bounds.not_after,
                            ceiling: 0,
                            floor: Counts::default(),
                            enforce: false,
                            expires: bounds.expires,
                            claim: Some(Box::new(claim)),
                            rule: Rule::FixedWindow,
                            hold: None,
                        });
                    }
                    at.1 += 1;
                    places -= 1;
                }
                end
            });
            if at.1 >= end {
                at = (at.0 + 1, 0);
            }
        }
        self.grants.with(|grants| {
            grants.at = (at.0 < self.shards.len()).then_some(at);
            for (limit, more) in uses {
                grants.so_far.entry(limit).or_default().add(more);
            }
            if grants.at.is_none() {
                grants.uses = mem::take(&mut grants.so_far);
            }
            grants.ready.extend(found.into_values());
        });
        let (operations, asked) = self.grants.with(Grants::take_ready)?;
        let ticket = GrantTicket { asked_at: now, asked };
        Some((self.command_with_claims(now, operations), ticket))
    }

    /// What buckets of the store are told of when their labels are whole, lest the first who asks there for what is
    /// spent by rights has to wait for the next label: have them carry these commands out, then call
    /// [`handle_opened`](Self::handle_opened) for each that was. Bounded, and harmless when early. A store of one bucket
    /// is opened by whoever asks first.
    pub fn poll_openings(
        &self,
        policies: &PolicySet,
        now: Mono,
    ) -> Vec<(CallerBucket, StoreCommand)> {
        let mut limits = policies.policies.iter().flat_map(|policy| &policy.limits);
        if self.epochs.len() == 1
            || !limits.any(Limit::has_rights)
            || self.rights_are_suspended(now)
        {
            return Vec::new();
        }
        let buckets = (0..self.epochs.len()).map(|bucket| CallerBucket(bucket as u16));
        let closed = buckets.filter(|bucket| {
            let opened = self.epochs[bucket.index()].opened.load(Ordering::Relaxed);
            self.epoch_of(*bucket).is_some_and(|epoch| epoch.0 != opened)
        });
        let command = |bucket| {
            let openings = Vec::from([(bucket, self.opening(now, bucket)?)]);
            Some((bucket, StoreCommand { openings, ..StoreCommand::default() }))
        };
        closed.filter_map(command).take(OPENINGS_MAX).collect()
    }

    /// A bucket has been told so.
    pub fn handle_opened(&self, now: Mono, bucket: CallerBucket, reply: &StoreReply) {
        self.handle_epoch(now, bucket, reply.epoch());
        if let Some(seen) = self.epochs.get(bucket.index()) {
            seen.opened.store(reply.epoch().0, Ordering::Relaxed);
        }
    }

    /// How this region stands with the limits that are spent by rights, over all callers in demand, as the last
    /// round over them found.
    pub fn rights_in_use(&self) -> BTreeMap<LimitId, RightsUse> {
        self.grants.with(|grants| grants.uses.clone())
    }

    /// Adds how the region stands with the key that is watched at a place, as far as this node has heard.
    fn add_use(
        &self,
        (shard, place): (&Shard, u32),
        policies: &PolicySet,
        sighted: &Sighted,
        suspended: bool,
        uses: &mut BTreeMap<LimitId, RightsUse>,
    ) {
        let known = shard.watched.at(place).filter(|(_, forecast)| forecast.has_rights());
        let Some((key, forecast)) = known else { return };
        let limit = policies.limit(key.limit).map(|(_, limit)| limit);
        let Some(limit) = limit.filter(|limit| limit.has_rights()) else { return };
        let label = limit.window.label_at(sighted.cluster);
        let book = shard.watched.books(key).and_then(|books| books.of(label));
        let asks = book.is_some_and(|book| book.question(self.own_region).is_some());
        let is_closed = asks || forecast.is_closed(label) || suspended;
        let held = self.held(shard, key, limit, label, &sighted.config);
        let given = book.and_then(|book| book.of(self.own_region)).map(|told| told.given.sum());
        uses.entry(key.limit).or_default().add(RightsUse {
            held: if is_closed { 0 } else { held },
            granted: given.unwrap_or_default(),
            stranded: self.stranded(shard, key, limit, label, sighted),
        });
    }

    /// A command of no operations, where the store is to be told of a configuration.
    fn poll_proposal(&self, now: Mono) -> Option<StoreCommand> {
        if !self.has_to_propose(now) {
            return None;
        }
        let suspended = self.rights_are_suspended(now);
        self.grants.with(|grants| {
            let due = grants.under_way == 0 && now >= grants.propose;
            due.then(|| {
                grants.propose = now + PROPOSE_EVERY;
                grants.under_way += usize::from(!suspended);
            })
            .filter(|()| !suspended)
        })?;
        Some(self.command_with_claims(now, Vec::new()))
    }

    /// Takes what became of a granting command. What was granted is told at once; a command that failed is
    /// made anew by the next round.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is given back once")]
    pub fn handle_granted(&self, now: Mono, ticket: GrantTicket, outcome: &Outcome) {
        self.grants.with(|grants| grants.under_way = grants.under_way.saturating_sub(1));
        let Outcome::Reply(reply) = outcome else { return };
        let first = ticket.asked.first();
        let bucket = first.map_or(CallerBucket::ALL, |asking| self.bucket_of(asking.key.caller));
        self.handle_epoch(now, bucket, reply.epoch());
        let StoreReply::Done { operations, adopted, now: reading, .. } = reply else {
            return;
        };
        self.handle_adopted(now, adopted.as_ref());
        // Its labels fitted the store's clock: they are in use.
        self.clock.with(|clock| {
            clock.handle_store(ticket.asked_at, now, *reading);
            clock.settle();
        });
        let (mut waiting, cluster) = (Vec::new(), self.cluster_time(now));
        for (asking, reply) in ticket.asked.iter().zip(operations) {
            let Asking { key, shape, label, quantity, allowance, .. } = asking;
            let Some(holding) = &reply.holding else { continue };
            self.handle_epoch(now, self.bucket_of(key.caller), holding.epoch);
            let news = self.with_shard(*key, |shard| {
                let seen = Seen {
                    key: *key,
                    label: *label,
                    window: shape.window,
                    holding,
                    net: reply.counts.net(),
                    allowance: *allowance,
                    refused: 0,
                };
                let news = self.note_holding(shard, now, &seen);
                if news {
                    let (caller, quantity) = (key.caller, *quantity);
                    tell_beside(shard, now, cluster, (caller, *shape, *label, quantity));
                }
                news
            });
            if news {
                waiting.extend_from_slice(&asking.waiting);
            }
        }
        if !waiting.is_empty() {
            self.exchange.with(|exchange| exchange.hurry_to(now, &waiting));
        }
    }

    /// Whether peers have told something of limits under rights that [`poll_grants`](Self::poll_grants) has
    /// not looked at: whoever drives it is to be woken.
    pub fn wants_grants(&self) -> bool {
        self.pace.are_grants_wanted()
    }

    /// When to call [`poll_grants`](Self::poll_grants) again; `None` while no limit is spent by rights.
    pub fn next_grants(&self, now: Mono) -> Option<Mono> {
        let proposes = self.has_to_propose(now);
        let has_rights = self.has_rights.load(Ordering::Relaxed);
        if !has_rights && !proposes {
            return None;
        }
        self.grants.with(|grants| {
            let wanted = self.pace.are_grants_wanted() || grants.at.is_some();
            let next = if wanted && grants.under_way == 0 { now } else { grants.next };
            let next = match (has_rights, proposes) {
                (true, true) => next.min(grants.propose),
                (true, false) => next,
                (false, _) => grants.propose,
            };
            Some(next.max(if grants.under_way > 0 { now + EVERY } else { now }))
        })
    }

    /// Takes the store's word of the own region's rights. Returns whether others do not know of it.
    pub(super) fn note_holding(&self, shard: &mut Shard, now: Mono, seen: &Seen<'_>) -> bool {
        let Seen { key, label, window, holding, .. } = *seen;
        let epoch = holding.epoch;
        let block = self.block(holding.base, window);
        if let Some(forecast) = shard.watched.touch(&key, now) {
            forecast.note_open(label, holding.open);
        }
        if !holding.open {
            // A replica that lags has granted what its epoch may not have granted when it is open. Of a long
            // label the others are asked for what they know; not while a server may go on that was replaced,
            // since it might answer what others ask in the place of this one.
            if block.is_none() || !self.is_past_the_fence(key.caller, epoch, now) {
                return false;
            }
            if shard.watched.get(&key).is_none() {
                let elapsed = self.cluster_time(now).since(window.start(label));
                shard.watch(&key, window, label, now, elapsed, Whose::Own);
            }
            return shard.watched.touch(&key, now).is_some_and(|forecast| {
                forecast.note_rights();
                true
            }) && shard.watched.ask(&key, label, self.own_region, epoch);
        }
        let known = shard.watched.books(&key).and_then(|books| books.of(label));
        let told = known.and_then(|book| book.of(self.own_region));
        let told = told.filter(|told| told.epoch == epoch).map_or(0, |told| told.ceiling);
        let ceiling = block.map_or(0, |block| seen.ceiling(told, block));
        let statement = holding.statement(self.own_region, ceiling, block.is_some());
        let statement = statement.filter(|told| !told.says_nothing());
        statement.is_some_and(|told| shard.watched.merge(&key, label, &told))
    }

    /// What is to be granted of the key that is watched at a place.
    fn grants_at<'a>(
        &self,
        shard: &Shard,
        place: u32,
        policies: &'a PolicySet,
        sighted: &Sighted,
    ) -> Option<Granting<'a>> {
        let (key, forecast) = shard.watched.at(place).filter(|(_, f)| f.has_rights())?;
        let (_, limit) = policies.limit(key.limit)?;
        if !limit.has_rights() {
            return None;
        }
        let label = limit.window.label_at(sighted.cluster);
        let book = shard.watched.books(key).and_then(|books| books.of(label));
        let mut claim = self.claim(shard, *key, limit, label, &sighted.config);
        if let Some(epoch) = book.and_then(|book| book.question(self.own_region)) {
            // The own store has forgotten the label: it has nothing to grant or to tell before it knows more.
            let own = (self.own_region, epoch);
            let block = claim.bound.map_or(0, |bound| bound.block);
            // Who goes by an older configuration does not know whom to wait for.
            if self.is_outdated(sighted.now) {
                return None;
            }
            let agreed = sighted.config.is_agreed(claim.label_start);
            let answering = self.regions.answering(agreed);
            let most = |region| self.regions.most(limit.quantity, region);
            claim.reopening = Some(Reopening::of(book?, own, &answering, most, block)?);
            return Some(Granting { key: *key, limit, label, claim, waiting: Vec::new() });
        }
        // What others wait for this region to hold, every node that has heard of it tells the store.
        let is_behind = claim.bound.is_some() && book.is_some_and(|b| b.is_behind(self.own_region));
        if !self.leads(key, label, forecast, sighted) {
            let granting = Granting { key: *key, limit, label, claim, waiting: Vec::new() };
            return is_behind.then_some(granting);
        }
        let time_left = limit.window.end(label).since(sighted.cluster);
        let shares = self.shares(shard, key, limit, label, forecast, sighted);
        let length = limit.window.length_of(label);
        let mut grants = rights::grants(self.own_region, &shares, time_left, length);
        let waits = |to: RegionNumber| {
            let share = shares.iter().find(|share| share.region == to);
            share.is_some_and(|share| share.is_hungry(self.settings.gossip))
        };
        grants.retain(|(to, amount)| amount * WORTH_TELLING >= claim.bases.now || waits(*to));
        let waiting = grants.iter().map(|(to, _)| *to).filter(|to| waits(*to)).collect();
        claim.grants = grants;
        let granting = Granting { key: *key, limit, label, claim, waiting };
        (is_behind || !granting.claim.grants.is_empty()).then_some(granting)
    }

    /// Whether this node is the one of its region that grants of a key: of those that know of it, the first
    /// by a number that node and key have.
    fn leads(&self, key: &Key, label: Label, forecast: &Forecast, sighted: &Sighted) -> bool {
        let rank =
            |fingerprint: u64| (fingerprint ^ key.caller.0[0]).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let own = rank(sighted.fingerprint);
        let sight = sighted.sight(self);
        let siblings = sighted.participants.iter().filter(|p| p.region == RegionIndex::OWN);
        let mut others =
            siblings.filter(|p| sight.is_heard(p) && forecast.note(p.session, label).weight > 0);
        others.all(|sibling| rank(sibling.fingerprint) < own)
    }

    /// The regions that a grant reaches, with what each holds, has used and is asked for.
    fn shares(
        &self,
        shard: &Shard,
        key: &Key,
        limit: &Limit,
        label: Label,
        forecast: &Forecast,
        sighted: &Sighted,
    ) -> Vec<Share> {
        let sight = sighted.sight(self);
        let by_region = shard.by_region(*key, label);
        let used_in = |region: RegionIndex| {
            let found = by_region.iter().find(|(r, _)| *r == region);
            found.map_or(0, |(_, tally)| tally.counts.net())
        };
        let book = shard.watched.books(key).and_then(|books| books.of(label));
        let start = limit.window.start(label);
        let base = |region| sighted.config.base(&self.regions, limit.quantity, region, start);
        let held = |region| book.map_or_else(|| base(region), |book| book.held(region, base));
        let elapsed = sighted.cluster.since(start);
        let mut shares = Vec::new();
        let nodes_of = |region: RegionIndex| {
            sighted.participants.iter().filter(move |p: &&Participant| p.region == region)
        };
        let own = nodes_of(RegionIndex::OWN).filter(|p| sight.is_heard(p));
        let (rate, stopped) = forecast.demand_in(sighted.now, label, true, own);
        shares.push(Share {
            region: self.own_region,
            held: held(self.own_region),
            used: used_in(RegionIndex::OWN).max(forecast.region_net(label)),
            demand: Demand { rate, stopped },
            age: Span::ZERO,
            delay: Span::ZERO,
        });
        let acting = sighted.config.acting;
        let can_have = |number: RegionNumber| self.regions.grants_to(number, acting);
        for (number, index) in sighted.regions.iter().filter(|(number, _)| can_have(*number)) {
            // What reaches one of its nodes reaches its store; it is asked for by all of them.
            let heard = || nodes_of(*index).filter(|p| sight.is_heard(p));
            if !nodes_of(*index).any(|p| sight.is_in_touch(p)) {
                continue;
            }
            let Some(as_of) = heard().map(|p| p.as_of).min() else { continue };
            let delay = heard().map(|p| p.delay).max().unwrap_or_default();
            let (rate, stopped) = forecast.demand_in(sighted.now, label, false, heard());
            shares.push(Share {
                region: *number,
                held: held(*number),
                used: used_in(*index),
                demand: Demand { rate, stopped },
                age: sighted.now.since(as_of).min(elapsed),
                delay,
            });
        }
        shares
    }

    /// What the own region holds of a key, as far as this node has heard.
    pub(super) fn held(
        &self,
        shard: &Shard,
        key: &Key,
        limit: &Limit,
        label: Label,
        config: &ConfigSight,
    ) -> u64 {
        let book = shard.watched.books(key).and_then(|books| books.of(label));
        let (own, start) = (self.own_region, limit.window.start(label));
        let base = |region| config.base(&self.regions, limit.quantity, region, start);
        book.map_or_else(|| base(own), |book| book.held(own, base))
    }

    /// What regions hold of a key and have not spent that this node is out of touch with.
    pub(super) fn stranded(
        &self,
        shard: &Shard,
        key: &Key,
        limit: &Limit,
        label: Label,
        sighted: &Sighted,
    ) -> u64 {
        let sight = sighted.sight(self);
        let is_reached = |index: RegionIndex| {
            sighted.participants.iter().any(|p| p.region == index && sight.is_in_touch(p))
        };
        let index_of = |region: RegionNumber| {
            let index = sighted.regions.iter().find(|(number, _)| *number == region);
            index.map(|(_, index)| *index)
        };
        let others = self.regions.iter().filter(|region| *region != self.own_region);
        let unreached: Vec<_> =
            others.filter(|region| !index_of(*region).is_some_and(is_reached)).collect();
        if unreached.is_empty() {
            return 0;
        }
        let by_region = shard.by_region(*key, label);
        let book = shard.watched.books(key).and_then(|books| books.of(label));
        let left = |region: RegionNumber| {
            let index = index_of(region);
            let used = by_region.iter().find(|(r, _)| Some(*r) == index);
            let used = used.map_or(0, |(_, tally)| tally.counts.net());
            let start = limit.window.start(label);
            let base = |region| sighted.config.base(&self.regions, limit.quantity, region, start);
            let held = book.map_or_else(|| base(region), |book| book.held(region, base));
            held.saturating_sub(used)
        };
        unreached.into_iter().map(left).sum()
    }

    /// How far the store may spend beyond a ceiling that another region holds. Where there is no other, nothing
    /// can be recovered, and nobody is waited for.
    pub(super) fn block(&self, base: u64, window: Window) -> Option<u64> {
        rights::block(base, window).filter(|_| !self.regions.is_one())
    }

    /// What the store is told of a key's rights.
    pub(super) fn claim(
        &self,
        shard: &Shard,
        key: Key,
        limit: &Limit,
        label: Label,
        config: &ConfigSight,
    ) -> Claim {
        let book = shard.watched.books(&key).and_then(|books| books.of(label));
        let most = |region| self.regions.most(limit.quantity, region);
        let received = book.map(|book| book.received(self.own_region, most));
        let label_start = limit.window.start(label);
        let bases = self.regions.bases(limit.quantity, self.own_region, config.acting);
        let base = config.base(&self.regions, limit.quantity, self.own_region, label_start);
        let epoch = self.epoch_of(self.bucket_of(key.caller)).unwrap_or(StoreEpoch(0));
        let bound = self.block(base, limit.window).map(|block| Bound {
            block,
            ceiling: book.map_or(0, |book| book.acknowledged(self.own_region, epoch)),
            epoch,
        });
        Claim {
            bases,
            allowance: self.regions.overdraft(
                limit.quantity,
                limit.consistency.overdraft(),
                self.own_region,
                (config.acting, config.is_agreed(label_start)),
            ),
            label_start,
            bound,
            reopening: None,
            granted: book
                .and_then(|book| book.of(self.own_region))
                .map(|told| (told.epoch, told.given.clone())),
            received: received.unwrap_or_default(),
            grants: Vec::new(),
        }
    }
}

impl Sighted {
    /// As forecasts see it.
    pub(super) fn sight<G: Guarding>(&self, engine: &Engine<G>) -> Sight<'_> {
        Sight {
            now: self.now,
            gossip: engine.settings.gossip,
            reclaim_after: engine.settings.reclaim_after,
            participants: &self.participants,
        }
    }
}
