//! Algorithms: how what was used before weighs on the next request. One file each, with its formula.
//!
//! Every record counts what was used in a label and in the one before. Fixed and sliding windows need no more.
//! Buckets and logs keep a [`Meter`] beside that: the store's step reads and writes it by a [`Rule`], which each
//! command brings along. So what nodes tell each other and what they write into a store that has forgotten is of
//! one kind for all: where counts are lifted by a floor, the meter takes what it did not know as used at the last
//! possible instant.
//!
//! Times are the store's. A meter remembers the latest, and none goes back behind that: a clock that is set back
//! neither gives nor takes. Windows have their labels for that, which only go on.
//!
//! All numbers are whole and stay below 2^53, where the script in Redis counts exactly.

use crate::{
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
    /// What is used in the label, and a part of the one before.
    SlidingWindow(LabelTime),
    /// What was used within one window's length.
    SlidingLog(LabelTime),
    /// What was used and has not drained yet.
    Bucket(LabelTime, Bucket),
    /// What is held at the moment.
    Concurrency,
}

/// Where an operation's label lies in the store's time, and what was used in the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LabelTime {
    /// Its first instant.
    pub starts: StoreTime,
    /// How long a window is.
    pub length: Span,
    /// What the asking node knows the region to have used in the label before: a floor as well.
    pub before: u64,
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
    /// A level that drains.
    Level(Level),
    /// When what was used.
    Log(Log),
}

impl Rule {
    /// Where the operation's label lies, unless the counts of its label alone decide.
    pub(crate) const fn label(&self) -> Option<&LabelTime> {
        match self {
            Self::FixedWindow | Self::Concurrency => None,
            Self::SlidingWindow(label) | Self::SlidingLog(label) | Self::Bucket(label, _) => {
                Some(label)
            }
        }
    }
}

impl Rule {
    /// The same, which brings no floor.
    pub(crate) fn without_floor(self) -> Self {
        self.with_floor(0)
    }

    /// The same, with a floor of what was used in the label before.
    pub(crate) fn with_floor(mut self, before: u64) -> Self {
        match &mut self {
            Self::FixedWindow | Self::Concurrency => {}
            Self::SlidingWindow(label) | Self::SlidingLog(label) | Self::Bucket(label, _) => {
                label.before = before;
            }
        }
        self
    }
}

/// How a limit stands after an operation, for who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Weighed {
    /// What counts as used, rounded up.
    pub used: u64,
    /// After which the operation would pass if nobody else asked, and without meaning if it never will. If it
    /// passes: after which what it is for may go on, by a bucket that shapes; else zero.
    pub wait: Span,
    /// Until nothing counts as used any more, if nobody asks.
    pub reset: Span,
}

/// How a limit stands at an instant, by its rule: what the step works with.
pub(crate) struct Reading<'a> {
    rule: &'a Rule,
    /// The store's clock.
    now: StoreTime,
    /// The same, or the latest that the meter was asked of, if that is later.
    at: StoreTime,
    held: Option<&'a mut Held>,
    /// Counts of the record's newest label and of the one before it.
    counts: [Counts; 2],
}

impl Meter {
    /// Of a key that nobody has asked for; `None` where the counts alone decide.
    pub(crate) fn new(rule: &Rule, at: StoreTime) -> Option<Self> {
        let held = match rule {
            Rule::FixedWindow | Rule::SlidingWindow(_) | Rule::Concurrency => return None,
            Rule::SlidingLog(_) => Held::Log(Log::default()),
            Rule::Bucket(_, bucket) => Held::Level(Level::empty(bucket)),
        };
        Some(Self { at, held })
    }

    /// Bytes held beside itself.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.held {
            Held::Level(_) => 0,
            Held::Log(log) => log.memory_bytes(),
        }
    }
}

impl<'a> Reading<'a> {
    /// How it stands at `now`. A meter moves on with the time.
    pub(crate) fn new(
        rule: &'a Rule,
        now: StoreTime,
        meter: Option<&'a mut Meter>,
        counts: [Counts; 2],
    ) -> Self {
        let Some(meter) = meter else { return Self { rule, now, at: now, held: None, counts } };
        let before = meter.at;
        meter.at = before.max(now);
        match (rule, &mut meter.held) {
            (Rule::SlidingLog(label), Held::Log(log)) => log.forget(meter.at, label.length),
            (Rule::Bucket(_, bucket), Held::Level(level)) => level.drain(bucket, before, meter.at),
            _ => {}
        }
        Self { rule, now, at: meter.at, held: Some(&mut meter.held), counts }
    }

    /// Takes note of use until some instant that the counts were lifted by: nobody knows when it was before that,
    /// so it counts as used then.
    pub(crate) fn lift(&mut self, amount: u64, used_by: StoreTime) {
        // As long ago by the meter's time, which may be ahead.
        let (at, used_by) = (self.at, self.at - self.now.since(used_by));
        match (self.rule, self.held.as_deref_mut()) {
            (Rule::SlidingLog(label), Some(Held::Log(log))) => {
                log.add(used_by, amount);
                log.forget(at, label.length);
            }
            (Rule::Bucket(_, bucket), Some(Held::Level(level))) => {
                level.lift(bucket, amount, used_by, at);
            }
            _ => {}
        }
    }

    /// What counts as used, rounded up.
    pub(crate) fn used(&self) -> u64 {
        let [current, previous] = self.counts;
        match (self.rule, self.held.as_deref()) {
            (Rule::SlidingWindow(label), _) => {
                let weight = sliding_window::weight(previous.net(), *label, self.at);
                current.net().saturating_add(weight)
            }
            (Rule::SlidingLog(_), Some(Held::Log(log))) => log.sum(),
            (Rule::Bucket(_, bucket), Some(Held::Level(level))) => level.used(bucket),
            _ => current.net(),
        }
    }

    /// Whether there is room for `cost`. Of a bucket the ceiling is its capacity, whatever is said here.
    pub(crate) fn has_room(&self, cost: u64, ceiling: u64) -> bool {
        match (self.rule, self.held.as_deref()) {
            (Rule::Bucket(_, bucket), Some(Held::Level(level))) => level.has_room(bucket, cost),
            _ => self.used().saturating_add(cost) <= ceiling,
        }
    }

    /// Takes `cost`; the counts are the caller's.
    pub(crate) fn charge(&mut self, cost: u64) {
        let at = self.at;
        match (self.rule, self.held.as_deref_mut()) {
            (_, Some(Held::Log(log))) => log.add(at, cost),
            (Rule::Bucket(_, bucket), Some(Held::Level(level))) => level.charge(bucket, cost),
            _ => {}
        }
    }

    /// Gives `amount` back that was used since some instant: of a bucket what of it cannot have drained yet, and of
    /// a log the oldest.
    pub(crate) fn refund(&mut self, amount: u64, since: StoreTime) {
        match (self.rule, self.held.as_deref_mut()) {
            (_, Some(Held::Log(log))) => log.refund(amount),
            (Rule::Bucket(_, bucket), Some(Held::Level(level))) => {
                let since = self.at - self.now.since(since);
                level.refund(bucket, amount, since, self.at);
            }
            _ => {}
        }
    }

    /// After which what is admitted now may go on.
    pub(crate) fn delay(&self) -> Span {
        match self.rule {
            Rule::Bucket(_, bucket) if bucket.shapes => self.reset(),
            _ => Span::ZERO,
        }
    }

    /// After which there would be room for `cost` if nobody else asked.
    pub(crate) fn wait(&self, cost: u64, ceiling: u64) -> Span {
        let counts = self.counts.map(Counts::net);
        self.ahead(match (self.rule, self.held.as_deref()) {
            (Rule::SlidingWindow(label), _) => {
                sliding_window::wait(counts, *label, self.at, cost, ceiling)
            }
            (Rule::SlidingLog(label), Some(Held::Log(log))) => {
                log.wait(self.at, label.length, cost, ceiling)
            }
            (Rule::Bucket(_, bucket), Some(Held::Level(level))) => {
                level.wait(bucket, self.at, cost)
            }
            _ => Span::ZERO,
        })
    }

    /// Until nothing counts as used any more, if nobody asks.
    pub(crate) fn reset(&self) -> Span {
        let counts = self.counts.map(Counts::net);
        self.ahead(match (self.rule, self.held.as_deref()) {
            (Rule::SlidingWindow(label), _) => sliding_window::reset(counts, *label, self.at),
            (Rule::SlidingLog(label), Some(Held::Log(log))) => log.reset(self.at, label.length),
            (Rule::Bucket(_, bucket), Some(Held::Level(level))) => level.reset(bucket, self.at),
            _ => Span::ZERO,
        })
    }

    /// A time from the meter's latest on, which the clock has to reach first.
    fn ahead(&self, span: Span) -> Span {
        if span == Span::ZERO { span } else { span + self.at.since(self.now) }
    }
}
