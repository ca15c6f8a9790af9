//! The book that all checkers share: who admitted what, and who was told of it.
//!
//! It is filled from what drivers answered and from the frames on the wire, never from an engine. A key's
//! newest few windows are open; an older one is closed and judged.

use std::collections::VecDeque;

use tidegate_core::time::{ClusterTime, Label};

use super::{Charge, Seen, SlotSeen};
use crate::{queue::Instant, scenario::Schedule, subjects::KeyFacts};

/// Open windows per key: by the time that so many newer ones are open, all that could be told was told.
const OPEN_MAX: u64 = 3;
/// Remembered deliveries per window and receiver. A store call lasts some ten milliseconds, in which no
/// node takes so many frames.
const DELIVERIES_MAX: usize = 1_024;

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

/// What a receiver knew before a delivery.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    mark: u64,
    life: usize,
    before: u64,
}

/// What one life was told of a window.
#[derive(Debug, Clone, Default)]
struct Heard {
    /// Net use by life.
    net: Vec<u64>,
    recent: VecDeque<Delivery>,
}

/// One window of one key.
#[derive(Debug, Clone)]
pub struct WindowBook {
    /// Which key.
    pub key: usize,
    /// Which window.
    pub label: Label,
    /// What drivers were told they may admit, by life.
    pub admitted: Vec<u64>,
    /// The part of it that no store had agreed to.
    pub without_store: u64,
    /// What a lost store had known alone, by region.
    pub forgotten: Vec<u64>,
    /// By region, at the plan of its last admission: what the asking node had been told of each region.
    pub last_step: Vec<Option<Vec<u64>>>,
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
            admitted: Vec::new(),
            without_store: 0,
            forgotten: vec![0; regions],
            last_step: vec![None; regions],
            heard: Vec::new(),
        }
    }

    /// What a life admitted.
    pub fn admitted_by(&self, life: usize) -> u64 {
        self.admitted.get(life).copied().unwrap_or(0)
    }

    /// What frames told one life of another.
    pub fn heard_by(&self, listener: usize, of: usize) -> u64 {
        self.heard.get(listener).and_then(|heard| heard.net.get(of)).copied().unwrap_or(0)
    }

    fn hear(&mut self, mark: u64, listener: usize, slot: &SlotSeen) {
        let heard = at_least(&mut self.heard, listener);
        let known = at_least(&mut heard.net, slot.life);
        let net = slot.tally.counts.net();
        if net > *known {
            let before = std::mem::replace(known, net);
            heard.recent.push_back(Delivery { mark, life: slot.life, before });
            if heard.recent.len() > DELIVERIES_MAX {
                heard.recent.pop_front();
            }
        }
    }

    /// What `listener` had been told of each region when the book stood at `mark`.
    fn heard_at(
        &self,
        lives: &[LifeFacts],
        regions: usize,
        listener: usize,
        mark: u64,
    ) -> Vec<u64> {
        let mut by_region = vec![0; regions];
        let Some(heard) = self.heard.get(listener) else { return by_region };
        for (life, net) in heard.net.iter().enumerate() {
            let then = heard.recent.iter().find(|d| d.mark > mark && d.life == life);
            by_region[lives[life].region] += then.map_or(*net, |d| d.before);
        }
        by_region
    }
}

/// The shared book.
#[derive(Debug)]
pub struct Book {
    /// What is counted.
    pub keys: Vec<KeyFacts>,
    /// How many regions there are.
    pub regions: usize,
    /// When what happens.
    pub schedule: Schedule,
    /// Times in which something was broken, with the time to recover from it.
    pub disturbed: Vec<(Instant, Instant)>,
    /// Every life so far.
    pub lives: Vec<LifeFacts>,
    /// Whether it lasts, by life.
    pub alive: Vec<bool>,
    /// Open windows by key, oldest first.
    open: Vec<Vec<WindowBook>>,
    mark: u64,
}

impl Book {
    /// An empty book.
    pub fn new(
        keys: Vec<KeyFacts>,
        regions: usize,
        schedule: Schedule,
        disturbed: Vec<(Instant, Instant)>,
    ) -> Self {
        let open = vec![Vec::new(); keys.len()];
        let (lives, alive) = (Vec::new(), Vec::new());
        Self { keys, regions, schedule, disturbed, lives, alive, open, mark: 0 }
    }

    /// Counts deliveries: says what had been told when.
    pub const fn mark(&self) -> u64 {
        self.mark
    }

    /// An open window.
    pub fn window(&self, key: usize, label: Label) -> Option<&WindowBook> {
        self.open[key].iter().find(|window| window.label == label)
    }

    /// The lives of a region.
    pub fn lives_of(&self, region: usize) -> impl Iterator<Item = usize> {
        self.lives.iter().enumerate().filter(move |(_, l)| l.region == region).map(|(n, _)| n)
    }

    /// What a region admitted in a window.
    pub fn admitted_in(&self, window: &WindowBook, region: usize) -> u64 {
        self.lives_of(region).map(|life| window.admitted_by(life)).sum()
    }

    /// Whether a life must hear of a window's counts of another life: one that was there for all of it.
    pub fn must_hear(&self, window: &WindowBook, listener: usize, of: usize) -> bool {
        let (here, there) = (self.lives[listener], self.lives[of]);
        let concerned = here.region == there.region || self.keys[window.key].region.is_none();
        let (start, _) = self.span_of(window.key, window.label);
        listener != of && concerned && self.alive[listener] && here.since <= start
    }

    /// The first instant of a window, and the first after it.
    fn span_of(&self, key: usize, label: Label) -> (Instant, Instant) {
        let window = self.keys[key].window;
        let instant = |time: ClusterTime| Instant(time.since(self.schedule.epoch).0);
        (instant(window.start(label)), instant(window.end(label)))
    }

    /// Whether nothing was broken while a window was open, nor until its counts had to be known.
    pub fn undisturbed(&self, key: usize, label: Label) -> bool {
        let (start, end) = self.span_of(key, label);
        let end = end + self.schedule.converge_within();
        self.disturbed.iter().all(|(from, to)| *to <= start || end <= *from)
    }

    fn window_mut(
        &mut self,
        key: usize,
        label: Label,
        closed: &mut Vec<WindowBook>,
    ) -> Option<&mut WindowBook> {
        let open = &mut self.open[key];
        let newest = open.last().map_or(label, |window| window.label.max(label));
        let oldest = Label(newest.0.saturating_sub(OPEN_MAX));
        if label < oldest {
            return None;
        }
        let place = match open.binary_search_by_key(&label, |window| window.label) {
            Ok(place) => place,
            Err(place) => {
                open.insert(place, WindowBook::new(key, label, self.regions));
                let old = open.partition_point(|window| window.label < oldest);
                closed.extend(open.drain(..old));
                place - old
            }
        };
        open.get_mut(place)
    }

    /// Writes down what was seen. Returns the windows that are closed by it.
    pub(super) fn take(&mut self, seen: &Seen<'_>) -> Vec<WindowBook> {
        let mut closed = Vec::new();
        match *seen {
            Seen::Started(life) => {
                self.lives.push(life);
                self.alive.push(true);
            }
            Seen::Stopped { life, store_lost } => self.stop(life, store_lost),
            Seen::Delivered { to, slots, .. } => {
                self.mark += 1;
                let mark = self.mark;
                for slot in slots {
                    if let Some(window) = self.window_mut(slot.key, slot.label, &mut closed) {
                        window.hear(mark, to, slot);
                    }
                }
            }
            Seen::Stepped { life, planned, charges } => {
                self.step(life, planned, charges, &mut closed);
            }
            Seen::Answered { life, store, allowed: true, charges } => {
                for charge in charges {
                    if let Some(window) = self.window_mut(charge.key, charge.label, &mut closed) {
                        *at_least(&mut window.admitted, life) += charge.cost;
                        window.without_store += if store.is_none() { charge.cost } else { 0 };
                    }
                }
            }
            _ => {}
        }
        closed
    }

    fn step(
        &mut self,
        life: usize,
        planned: u64,
        charges: &[Charge],
        closed: &mut Vec<WindowBook>,
    ) {
        let region = self.lives[life].region;
        for charge in charges {
            let regions = self.regions;
            self.window_mut(charge.key, charge.label, closed);
            let lives = &self.lives;
            let open = self.open[charge.key].iter_mut().find(|w| w.label == charge.label);
            if let Some(window) = open {
                window.last_step[region] = Some(window.heard_at(lives, regions, life, planned));
            }
        }
    }

    /// A life ends. With the store goes what nobody else was told of the region's dead lives.
    fn stop(&mut self, life: usize, store_lost: bool) {
        self.alive[life] = false;
        if !store_lost {
            return;
        }
        let region = self.lives[life].region;
        let dead: Vec<usize> = self.lives_of(region).filter(|n| !self.alive[*n]).collect();
        let listeners: Vec<usize> = (0..self.lives.len()).filter(|n| self.alive[*n]).collect();
        for window in self.open.iter_mut().flatten() {
            let known =
                |of: usize| listeners.iter().map(|n| window.heard_by(*n, of)).min().unwrap_or(0);
            let lost: u64 =
                dead.iter().map(|of| window.admitted_by(*of).saturating_sub(known(*of))).sum();
            window.forgotten[region] = window.forgotten[region].max(lost);
        }
    }

    /// Closes every window.
    pub(super) fn take_all(&mut self) -> Vec<WindowBook> {
        self.open.iter_mut().flat_map(std::mem::take).collect()
    }
}
