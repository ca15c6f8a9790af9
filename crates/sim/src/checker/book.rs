//! The book that all checkers share: who admitted what, and who was told of it.
//!
//! It is filled from what drivers answered and from the frames on the wire, never from an engine. A key's
//! newest few windows are open; an older one is closed and judged.

use std::collections::VecDeque;

use tidegate_core::{
    policy::Consistency,
    store::Counts,
    time::{Label, Span},
};

use super::{Charge, Seen, Step, clocks::Clocks};
use crate::{
    queue::Instant,
    scenario::{Schedule, StoreSettings},
    store::Server,
    subjects::KeyFacts,
};

/// A window is open until every node's clock is so many further: all that could be told was told by then.
const OPEN_MAX: u64 = 3;
/// How long a record outlives its last step at least, besides a window: a step is carried out half a second
/// after its label's end at the latest, and a record is kept for a window and a second after that end.
const RECORD_AFTER: Span = Span::millis(500);
/// Open windows per key, whatever the clocks show.
const WINDOWS_MAX: usize = 256;
/// Remembered news per window and receiver. A store call lasts some hundred milliseconds, in which no
/// node learns so much.
const NEWS_MAX: usize = 4_096;

/// One run of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifeFacts {
    /// Which node.
    pub node: usize,
    /// Its region.
    pub region: usize,
    /// When it began.
    pub since: Instant,
}

/// What is known beforehand of a run.
#[derive(Debug, Clone)]
pub struct Facts {
    /// When what happens.
    pub schedule: Schedule,
    /// Times in which counts may not travel as they should, with the time to recover from it.
    pub disturbed: Vec<(Instant, Instant)>,
    /// Whether anything goes wrong that heals again.
    pub faulty: bool,
    /// From when on nothing is wrong any more; not before the load begins.
    pub healed: Instant,
    /// How soon after that all must be as if nothing had been.
    pub recover_within: Span,
    /// Whether stores have room for every key.
    pub roomy: bool,
    /// What stores are like, and what stands before them.
    pub store: StoreSettings,
    /// Each region's part of limits under rights, against those of the others, by configuration.
    pub weights: Vec<Vec<u32>>,
    /// For so long after its start a node waits for regions of which it knows nothing.
    pub reclaim_after: Span,
}

impl Facts {
    /// By when all must be as if nothing had been.
    pub fn recovered(&self) -> Instant {
        self.healed + self.recover_within
    }

    /// What a life must leave of an `eventual` limit to regions that it has not `met`: they have not told it
    /// anything themselves; but it has been `told` of them.
    fn kept(&self, (key, label): (&KeyFacts, Label), age: Span, met: &[bool], told: &[u64]) -> u64 {
        // Its own clock may run fast.
        let waits = age + age.divided_by(100) < self.reclaim_after;
        if key.consistency != Consistency::Eventual || key.region.is_some() || !waits {
            return 0;
        }
        self.left_to(key.least(label), told, |region| !met[region])
    }

    /// The least that is to be left to some regions of a quantity, whatever configuration is in force: their
    /// parts by weight, less what is `known` to be used there.
    fn left_to(&self, quantity: u64, known: &[u64], is_one: impl Fn(usize) -> bool) -> u64 {
        let of = |weights: &Vec<u32>| -> u64 {
            let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
            let part =
                |weight: u32| (u128::from(quantity) * u128::from(weight) / total.max(1)) as u64;
            let theirs = weights.iter().zip(known).enumerate().filter(|(at, _)| is_one(*at));
            theirs.map(|(_, (weight, known))| part(*weight).saturating_sub(*known)).sum()
        };
        self.weights.iter().map(of).min().unwrap_or_default()
    }
}

/// A life learnt something.
#[derive(Debug, Clone, Copy)]
struct News {
    mark: u64,
    /// About whom.
    life: usize,
    /// By how much its known net use grew.
    grew: i64,
}

/// What one life knows of a window: what it was told, and what it admitted itself.
#[derive(Debug, Clone, Default)]
struct Heard {
    /// By life.
    counts: Vec<Counts>,
    recent: VecDeque<News>,
}

/// One operation of a step that a store carried out, and what the book makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weighed {
    /// What was seen.
    pub step: Step,
    /// What the asking node had been told of all other regions that count.
    pub others: u64,
    /// The least that the record must have held before the charge: all charges since the store was last
    /// empty, and all that any asking node had known of its region.
    pub record: u64,
    /// Whether something was given back in the window.
    pub refunds: bool,
    /// What the asking node must leave to regions that have not told it anything since it began.
    pub kept: u64,
}

/// The last step in a window that admitted something in a region.
#[derive(Debug, Clone, Default)]
pub struct LastStep {
    /// What the asking node had been told, by region.
    pub told: Vec<u64>,
    /// What the region's stores had agreed to, and its record did not know of any more.
    pub forgotten: u64,
}

/// One window of one key.
#[derive(Debug, Clone)]
pub struct WindowBook {
    /// Which key.
    pub key: usize,
    /// Which window.
    pub label: Label,
    /// What drivers were told they may admit, and gave back, by life.
    pub counts: Vec<Counts>,
    /// The part of it that no store had agreed to.
    pub without_store: u64,
    /// When something was first and last charged or admitted in it.
    pub used: Option<(Instant, Instant)>,
    /// By region.
    pub last_step: Vec<Option<LastStep>>,
    /// What stores agreed to and was not given back, by region.
    agreed: Vec<u64>,
    /// The most that it ever was, over all regions.
    peak: u64,
    /// What was given back, by region.
    given_back: Vec<u64>,
    /// The least that the stores' records hold, by region.
    record: Vec<u64>,
    /// The same of servers that were replaced and go on.
    replaced: Vec<u64>,
    /// When a store last carried out a step in it, by region.
    touched: Vec<Instant>,
    /// Copies of it, by coming loss: what that store will hold again; and what its region had given back by then.
    saved: Vec<(usize, u64, u64)>,
    heard: Vec<Heard>,
}

fn at_least<T: Default + Clone>(list: &mut Vec<T>, place: usize) -> &mut T {
    if list.len() <= place {
        list.resize(place + 1, T::default());
    }
    &mut list[place]
}

impl WindowBook {
    fn new(key: usize, label: Label, regions: usize) -> Self {
        Self {
            key,
            label,
            counts: Vec::new(),
            without_store: 0,
            used: None,
            last_step: vec![None; regions],
            agreed: vec![0; regions],
            peak: 0,
            given_back: vec![0; regions],
            record: vec![0; regions],
            replaced: vec![0; regions],
            touched: vec![Instant(0); regions],
            saved: Vec::new(),
            heard: Vec::new(),
        }
    }

    /// What a life admitted and gave back.
    pub fn counts_of(&self, life: usize) -> Counts {
        self.counts.get(life).copied().unwrap_or_default()
    }

    /// What all lives admitted, less what they gave back.
    pub fn net(&self) -> u64 {
        self.counts.iter().map(|counts| counts.net()).sum()
    }

    /// The most that stores had ever agreed to charge, less what had been given back until then, whether or
    /// not who asked has heard of it.
    pub const fn charged(&self) -> u64 {
        self.peak
    }

    fn has_refunds(&self) -> bool {
        self.given_back.iter().any(|given_back| *given_back > 0)
    }

    fn use_at(&mut self, at: Instant) {
        let first = self.used.map_or(at, |(first, _)| first);
        self.used = Some((first, at));
    }

    /// What frames told one life of another.
    pub fn heard_by(&self, listener: usize, of: usize) -> Counts {
        let heard = self.heard.get(listener).and_then(|heard| heard.counts.get(of));
        heard.copied().unwrap_or_default()
    }

    /// `listener` learns what life `of` has used and given back.
    fn learn(&mut self, mark: u64, listener: usize, of: usize, counts: Counts) {
        let heard = at_least(&mut self.heard, listener);
        let known = at_least(&mut heard.counts, of);
        let before = std::mem::replace(known, known.max(counts));
        if *known != before {
            let grew = known.net().cast_signed() - before.net().cast_signed();
            heard.recent.push_back(News { mark, life: of, grew });
            if heard.recent.len() > NEWS_MAX {
                heard.recent.pop_front();
            }
        }
    }

    /// Writes to `told` what `knower` knew of each of so many regions when the book stood at `mark`.
    fn known_at(
        &self,
        lives: &[LifeFacts],
        regions: usize,
        knower: usize,
        mark: u64,
        told: &mut Vec<u64>,
    ) {
        told.clear();
        told.resize(regions, 0);
        let Some(heard) = self.heard.get(knower) else { return };
        for (life, counts) in heard.counts.iter().enumerate() {
            told[lives[life].region] += counts.net();
        }
        // Takes back what was learnt since, the newest first.
        for news in heard.recent.iter().rev().take_while(|news| news.mark > mark) {
            let told = &mut told[lives[news.life].region];
            *told = told.saturating_add_signed(-news.grew);
        }
    }
}

/// The shared book.
#[derive(Debug)]
pub struct Book {
    /// What is counted.
    pub keys: Vec<KeyFacts>,
    /// How many regions there are.
    pub regions: usize,
    /// What is known beforehand.
    pub facts: Facts,
    /// Every life so far.
    pub lives: Vec<LifeFacts>,
    /// Whether it lasts, by life.
    pub alive: Vec<bool>,
    /// The operations of the step that was seen last, or what was answered last without the store.
    pub weighed: Vec<Weighed>,
    /// What nodes' clocks show.
    pub clocks: Clocks,
    /// Which regions have told a life anything, by life.
    met: Vec<Vec<bool>>,
    /// Open windows by key, oldest first.
    open: Vec<Vec<WindowBook>>,
    /// The label below which a key's windows are closed for good: what a node whose clock is further behind
    /// counts under them is nobody's to judge.
    closed_below: Vec<Label>,
    mark: u64,
    /// What the node that asked last had been told, by region: a list that is used again.
    told: Vec<u64>,
}

impl Book {
    /// An empty book.
    pub fn new(keys: Vec<KeyFacts>, regions: usize, facts: Facts) -> Self {
        let open = vec![Vec::new(); keys.len()];
        let closed_below = vec![Label(0); keys.len()];
        let (lives, alive, weighed, told) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let clocks = Clocks::default();
        Self {
            keys,
            regions,
            facts,
            lives,
            alive,
            weighed,
            clocks,
            met: Vec::new(),
            open,
            closed_below,
            mark: 0,
            told,
        }
    }

    /// Counts what lives learn: says who knew what when.
    pub const fn mark(&self) -> u64 {
        self.mark
    }

    /// An open window.
    pub fn window(&self, key: usize, label: Label) -> Option<&WindowBook> {
        self.open[key].iter().rev().find(|window| window.label == label)
    }

    /// All open windows.
    pub fn windows(&self) -> impl Iterator<Item = &WindowBook> {
        self.open.iter().flatten()
    }

    /// The lives of a region.
    pub fn lives_of(&self, region: usize) -> impl Iterator<Item = usize> {
        self.lives.iter().enumerate().filter(move |(_, l)| l.region == region).map(|(n, _)| n)
    }

    /// What a region admitted and gave back in a window.
    pub fn counts_in(&self, window: &WindowBook, region: usize) -> Counts {
        let lives = self.lives_of(region).map(|life| window.counts_of(life));
        lives.fold(Counts::default(), Counts::plus)
    }

    /// What any living node knows of a life's use in a window: what nobody does is lost.
    pub fn known_of(&self, window: &WindowBook, life: usize) -> Counts {
        if self.alive[life] {
            return window.counts_of(life);
        }
        let living = (0..self.lives.len()).filter(|n| self.alive[*n]);
        living.map(|n| window.heard_by(n, life)).fold(Counts::default(), Counts::max)
    }

    /// Whether a life hears of another's counts of a key at all.
    pub fn concerned(&self, key: usize, listener: usize, of: usize) -> bool {
        let same_region = self.lives[listener].region == self.lives[of].region;
        listener != of && self.alive[listener] && (same_region || self.keys[key].region.is_none())
    }

    /// Whether a life must hear of a window's counts of another life: one that was there for all of it.
    pub fn must_hear(&self, window: &WindowBook, listener: usize, of: usize) -> bool {
        let first = window.used.map_or(Instant(0), |(first, _)| first);
        self.concerned(window.key, listener, of) && self.lives[listener].since <= first
    }

    /// Whether nothing was broken from the first to the last use of a window and until its counts had to be
    /// known, and nodes' clocks agreed on labels.
    pub fn undisturbed(&self, window: &WindowBook) -> bool {
        let Some((start, last)) = window.used else { return true };
        let end = last + self.facts.schedule.converge_within();
        self.facts.disturbed.iter().all(|(from, to)| *to <= start || end <= *from)
            && self.clocks.agree(self.keys[window.key].window, start, end)
    }

    /// Whether a window is one that a life's clock has as the current or the next one; as everybody's has
    /// that knows no clock.
    pub fn is_live(&self, key: usize, label: Label, life: usize, at: Instant) -> bool {
        let Some(time) = self.clocks.of(life, &self.facts.schedule, at) else { return true };
        let current = self.keys[key].window.label_at(time);
        label == current || label == current.next()
    }

    /// The oldest label of a key whose window is not over for every node.
    fn oldest(&self, key: usize, label: Label) -> Label {
        let open = &self.open[key];
        let newest = open.last().map_or(label, |window| window.label.max(label));
        // Where clocks are apart, a window is not over before it is so for who is furthest behind.
        let behind = self.clocks.earliest(&self.alive, &self.facts.schedule);
        let behind = behind.map_or(newest, |time| self.keys[key].window.label_at(time).min(newest));
        let too_many = open.len().checked_sub(WINDOWS_MAX).map_or(Label(0), |n| open[n].label);
        Label(behind.0.saturating_sub(OPEN_MAX)).max(too_many).max(self.closed_below[key])
    }

    /// Whether a window may still be written down in.
    pub fn is_open(&self, key: usize, label: Label) -> bool {
        label >= self.oldest(key, label)
    }

    fn window_mut(
        &mut self,
        key: usize,
        label: Label,
        closed: &mut Vec<WindowBook>,
    ) -> Option<&mut WindowBook> {
        // The newest window is never closed; almost everything is about it.
        if self.open[key].last().is_some_and(|newest| newest.label == label) {
            return self.open[key].last_mut();
        }
        let oldest = self.oldest(key, label);
        let open = &mut self.open[key];
        let place = open.binary_search_by_key(&label, |window| window.label);
        if label >= oldest
            && let Ok(place) = place
        {
            return open.get_mut(place);
        }
        // For good: a clock that comes to be further behind opens none of them again, for what was charged
        // in the meantime is not written down.
        let old = open.partition_point(|window| window.label < oldest);
        self.closed_below[key] = oldest;
        closed.extend(open.drain(..old));
        if label < oldest {
            return None;
        }
        let place = open.partition_point(|window| window.label < label);
        open.insert(place, WindowBook::new(key, label, self.regions));
        open.get_mut(place)
    }

    /// Writes down what was seen. Returns the windows that are closed by it.
    pub(super) fn take(&mut self, at: Instant, seen: &Seen<'_>) -> Vec<WindowBook> {
        let mut closed = Vec::new();
        match *seen {
            Seen::Started(life) => {
                self.lives.push(life);
                self.alive.push(true);
                let met = (0..self.regions).map(|region| region == life.region);
                self.met.push(met.collect());
            }
            Seen::Stopped { life } => self.alive[life] = false,
            Seen::Clock { life, shows } => {
                self.clocks.note(life, &self.facts.schedule, at, shows);
            }
            Seen::Sampled { .. } => self.clocks.compare(&self.alive, at),
            Seen::Delivered { from, to, slots } => {
                self.mark += 1;
                self.met[to][self.lives[from].region] = true;
                let mark = self.mark;
                for slot in slots {
                    if let Some(window) = self.window_mut(slot.key, slot.label, &mut closed) {
                        window.learn(mark, to, slot.life, slot.tally.counts);
                    }
                }
            }
            Seen::Stepped { life, planned, server, steps } => {
                self.step(at, (life, planned), server, steps, &mut closed);
            }
            Seen::Answered { life, planned, store, allowed: true, charges } => {
                self.weighed.clear();
                if store.is_none() {
                    charges.iter().for_each(|charge| self.weigh_answer(at, life, planned, charge));
                }
                self.mark += 1;
                let mark = self.mark;
                for charge in charges {
                    if let Some(window) = self.window_mut(charge.key, charge.label, &mut closed) {
                        let counts = at_least(&mut window.counts, life);
                        counts.used += charge.cost;
                        let counts = *counts;
                        window.use_at(at);
                        window.without_store += if store.is_none() { charge.cost } else { 0 };
                        window.learn(mark, life, life, counts);
                    }
                }
            }
            Seen::Refunded { life, charges } => {
                self.mark += 1;
                let (mark, region) = (self.mark, self.lives[life].region);
                for charge in charges {
                    if let Some(window) = self.window_mut(charge.key, charge.label, &mut closed) {
                        let counts = at_least(&mut window.counts, life);
                        counts.refunded += charge.cost;
                        let counts = *counts;
                        window.use_at(at);
                        window.given_back[region] += charge.cost;
                        // The store may know of it from now on.
                        let (agreed, record) = (&mut window.agreed, &mut window.record);
                        for held in [agreed, record, &mut window.replaced] {
                            held[region] = held[region].saturating_sub(charge.cost);
                        }
                        window.learn(mark, life, life, counts);
                    }
                }
            }
            Seen::StoreSaved { region, loss } => {
                for window in self.open.iter_mut().flatten() {
                    let record = window.record[region];
                    window.saved.push((loss, record, window.given_back[region]));
                }
            }
            Seen::StoreExpired { region } => {
                for window in self.open.iter_mut().flatten() {
                    (window.record[region], window.replaced[region]) = (0, 0);
                }
            }
            Seen::StoreLost { region, kept } => {
                for window in self.open.iter_mut().flatten() {
                    let held = window.saved.iter().find(|(loss, ..)| Some(*loss) == kept);
                    // Nodes remember what was given back since.
                    let left = |(_, record, given_back): &(usize, u64, u64)| {
                        record.saturating_sub(window.given_back[region] - given_back)
                    };
                    let left = held.map_or(0, left);
                    window.replaced[region] = std::mem::replace(&mut window.record[region], left);
                }
            }
            _ => {}
        }
        closed
    }

    /// What a node that admits something without its store must reckon with: what it knows now of its own
    /// region, and what it knew of the others when it planned.
    fn weigh_answer(&mut self, at: Instant, life: usize, planned: u64, charge: &Charge) {
        let Some(window) = self.window(charge.key, charge.label) else { return };
        let region = self.lives[life].region;
        let known = |mark: u64| {
            let mut told = Vec::new();
            window.known_at(&self.lives, self.regions, life, mark, &mut told);
            told
        };
        let (record, told) = (known(self.mark)[region], known(planned));
        let regional = self.keys[charge.key].region.is_some();
        let others = if regional { 0 } else { told.iter().sum::<u64>() - told[region] };
        let Charge { key, label, cost } = *charge;
        let step = Step { key, label, cost, holds: record + cost };
        let refunds = window.has_refunds();
        let age = at.since(self.lives[life].since);
        let kept = self.facts.kept((&self.keys[key], label), age, &self.met[life], &told);
        self.weighed.push(Weighed { step, others, record, refunds, kept });
    }

    fn step(
        &mut self,
        at: Instant,
        (life, planned): (usize, u64),
        server: Server,
        steps: &[Step],
        closed: &mut Vec<WindowBook>,
    ) {
        self.weighed.clear();
        let (region, regions) = (self.lives[life].region, self.regions);
        for step in steps {
            self.window_mut(step.key, step.label, closed);
            let facts = &self.keys[step.key];
            let (regional, quantity) = (facts.region.is_some(), facts.least(step.label));
            let ends = facts.window.end(step.label);
            let length = facts.window.kept_until(ends).since(ends) + RECORD_AFTER;
            let Self { lives, open, weighed, told, met, facts: all, .. } = self;
            let Some(window) = open[step.key].iter_mut().rev().find(|w| w.label == step.label)
            else {
                continue;
            };
            window.known_at(lives, regions, life, planned, told);
            let age = at.since(lives[life].since);
            let kept = all.kept((facts, step.label), age, &met[life], told);
            // A record outlives the last step by a window at least, not for ever: a region that restarts as a
            // whole, with a clock that is behind, may come back to a label that its store has forgotten.
            let touched = std::mem::replace(&mut window.touched[region], at);
            if at.since(touched) > length {
                (window.record[region], window.replaced[region]) = (0, 0);
            }
            let held = match server {
                Server::Current => &mut window.record[region],
                Server::Replaced => &mut window.replaced[region],
            };
            // What others told of the region weighs no more than the quantity: that refuses as surely. What was
            // known when it was planned may have been given back.
            let known = told[region].min(quantity).saturating_sub(window.given_back[region]);
            let record = (*held).max(known);
            *held = record + step.cost;
            let held = *held;
            let all: u64 = told.iter().sum();
            let others = if regional { 0 } else { all - told[region] };
            let refunds = window.has_refunds();
            weighed.push(Weighed { step: *step, others, record, refunds, kept });
            window.agreed[region] += step.cost;
            window.peak = window.peak.max(window.agreed.iter().sum());
            if step.cost > 0 {
                window.use_at(at);
                let forgotten = window.agreed[region].saturating_sub(held);
                // Written over the one before it: there is one for every admission.
                let last = window.last_step[region].get_or_insert_default();
                last.told.clone_from(told);
                last.forgotten = forgotten;
            }
        }
    }

    /// Closes every window.
    pub(super) fn take_all(&mut self) -> Vec<WindowBook> {
        self.open.iter_mut().flat_map(std::mem::take).collect()
    }
}
