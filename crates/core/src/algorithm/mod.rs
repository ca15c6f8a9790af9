//! Algorithms: how what was used before weighs on the next request. One file each, with its formula.
//!
//! Every record counts what was used in a label and in the one before. A fixed window needs no more. The others
//! keep a [`Meter`] beside that: the store's step reads and writes it by a [`Rule`], which each command brings
//! along. So what nodes tell each other and what they write into a store that has forgotten is of one kind for
//! all: where counts are lifted by a floor, the meter takes what it did not know as used just now.
//!
//! Times are the store's, and none goes back: a meter remembers the last, and is never asked of an earlier one. A
//! clock that is set back neither gives nor takes.
//!
//! All numbers are whole and stay below 2^53, where the script in Redis counts exactly.

use alloc::vec::Vec;

use crate::{
    memory,
    store::Counts,
    time::{Span, StoreTime},
};

pub use bucket::{Bucket, Level};
pub use sliding_log::Log;

pub(crate) mod bucket;
pub(crate) mod sliding_log;
pub(crate) mod sliding_window;

/// By which algorithm an operation counts, and what the store has to know for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rule {
    /// What is used in the label.
    #[default]
    FixedWindow,
    /// What is used in the label, and a part of the one before: see [`sliding_window`].
    SlidingWindow(LabelTime),
    /// What was used within one window's length: see [`sliding_log`].
    SlidingLog(LabelTime),
    /// What was used and has not drained yet: see [`bucket`].
    Bucket(LabelTime, Bucket),
}

/// Where an operation's label lies in the store's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LabelTime {
    /// Its first instant.
    pub starts: StoreTime,
    /// How long a window is.
    pub length: Span,
}

impl LabelTime {
    /// The first instant after it.
    pub fn ends(self) -> StoreTime {
        self.starts + self.length
    }
}

/// What a record holds of a key beside its counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Meter {
    /// The latest time that it was asked of.
    pub at: StoreTime,
    /// What it says as of then.
    pub held: Held,
}

/// What is held, by algorithm.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Held {
    /// The counts say all.
    Counts,
    /// A level that drains.
    Level(Level),
    /// When what was used.
    Log(Log),
}

/// How a limit stands after an operation, for who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Weighed {
    /// What counts as used, rounded up.
    pub used: u64,
    /// After which the operation would pass if nobody else asked; zero if it passes, and without meaning if it
    /// never will.
    pub wait: Span,
    /// Until nothing counts as used any more, if nobody asks.
    pub reset: Span,
}

/// A meter at an instant, by its rule: what the step works with.
pub(crate) struct Reading<'a> {
    rule: &'a Rule,
    meter: &'a mut Meter,
    /// Counts of the operation's label and of the one before it.
    counts: [Counts; 2],
}

impl Meter {
    /// Of a key that nobody has asked for; `None` where the counts alone decide.
    pub(crate) fn new(rule: &Rule, at: StoreTime) -> Option<Self> {
        let held = match rule {
            Rule::FixedWindow => return None,
            Rule::SlidingWindow(_) => Held::Counts,
            Rule::SlidingLog(_) => Held::Log(Log::default()),
            Rule::Bucket(_, bucket) => Held::Level(Level::empty(bucket)),
        };
        Some(Self { at, held })
    }

    /// Bytes held beside itself.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.held {
            Held::Counts | Held::Level(_) => 0,
            Held::Log(log) => log.memory_bytes(),
        }
    }

    /// As it is at `now`, or at the latest time that it was asked of, if that is later.
    pub(crate) fn read<'a>(
        &'a mut self,
        rule: &'a Rule,
        now: StoreTime,
        counts: [Counts; 2],
    ) -> Reading<'a> {
        let before = self.at;
        self.at = self.at.max(now);
        match (rule, &mut self.held) {
            (Rule::SlidingLog(label), Held::Log(log)) => log.forget(self.at, label.length),
            (Rule::Bucket(_, bucket), Held::Level(level)) => level.drain(bucket, before, self.at),
            _ => {}
        }
        Reading { rule, meter: self, counts }
    }
}

impl Reading<'_> {
    /// Takes note of use that the counts were lifted by, in the label before the current one or in that: nobody
    /// knows when in it. It counts as used at the last possible instant.
    pub(crate) fn lift(&mut self, amount: u64) {
        let at = self.meter.at;
        match (self.rule, &mut self.meter.held) {
            (Rule::SlidingLog(label), Held::Log(log)) => {
                log.add(at.min(label.ends()), amount);
                log.forget(at, label.length);
            }
            (Rule::Bucket(label, bucket), Held::Level(level)) => {
                level.lift(bucket, amount, label.ends().min(at), at);
            }
            _ => {}
        }
    }

    /// What counts as used, rounded up.
    pub(crate) fn used(&self) -> u64 {
        let [current, previous] = self.counts;
        match (self.rule, &self.meter.held) {
            (Rule::SlidingWindow(label), _) => {
                let weight = sliding_window::weight(previous.net(), *label, self.meter.at);
                current.net().saturating_add(weight)
            }
            (Rule::SlidingLog(_), Held::Log(log)) => log.sum(),
            (Rule::Bucket(_, bucket), Held::Level(level)) => level.used(bucket),
            _ => current.net(),
        }
    }

    /// Whether there is room for `cost`. Of a bucket the ceiling is its capacity, whatever is said here.
    pub(crate) fn has_room(&self, cost: u64, ceiling: u64) -> bool {
        match (self.rule, &self.meter.held) {
            (Rule::Bucket(_, bucket), Held::Level(level)) => level.has_room(bucket, cost),
            _ => self.used().saturating_add(cost) <= ceiling,
        }
    }

    /// Takes `cost`; the counts are the caller's.
    pub(crate) fn charge(&mut self, cost: u64) {
        let at = self.meter.at;
        match (self.rule, &mut self.meter.held) {
            (_, Held::Log(log)) => log.add(at, cost),
            (Rule::Bucket(_, bucket), Held::Level(level)) => level.charge(bucket, cost),
            _ => {}
        }
    }

    /// Gives `amount` back.
    pub(crate) fn refund(&mut self, amount: u64) {
        match (self.rule, &mut self.meter.held) {
            (_, Held::Log(log)) => log.refund(amount),
            (Rule::Bucket(_, bucket), Held::Level(level)) => level.refund(bucket, amount),
            _ => {}
        }
    }

    /// After which there would be room for `cost` if nobody else asked.
    pub(crate) fn wait(&self, cost: u64, ceiling: u64) -> Span {
        let (at, counts) = (self.meter.at, self.counts.map(Counts::net));
        match (self.rule, &self.meter.held) {
            (Rule::SlidingWindow(label), _) => {
                sliding_window::wait(counts, *label, at, cost, ceiling)
            }
            (Rule::SlidingLog(label), Held::Log(log)) => log.wait(at, label.length, cost, ceiling),
            (Rule::Bucket(_, bucket), Held::Level(level)) => level.wait(bucket, at, cost),
            _ => Span::ZERO,
        }
    }

    /// Until nothing counts as used any more, if nobody asks.
    pub(crate) fn reset(&self) -> Span {
        let (at, counts) = (self.meter.at, self.counts.map(Counts::net));
        match (self.rule, &self.meter.held) {
            (Rule::SlidingWindow(label), _) => sliding_window::reset(counts, *label, at),
            (Rule::SlidingLog(label), Held::Log(log)) => log.reset(at, label.length),
            (Rule::Bucket(_, bucket), Held::Level(level)) => level.reset(bucket, at),
            _ => Span::ZERO,
        }
    }
}

pub(crate) fn bytes_of<T>(list: &Vec<T>) -> usize {
    memory::of_vec(list)
}
