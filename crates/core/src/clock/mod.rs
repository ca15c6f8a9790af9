//! Cluster time: the clock that labels are cut from, and how it follows the stores' clocks.
//!
//! It runs on the node's monotonic clock and is drawn towards the *target*: the median of what the
//! regions' store clocks show. So a store clock that is set moves it only as far as it moves the median,
//! and never at once if that is backwards.

use alloc::vec::Vec;

use crate::time::{ClusterTime, Mono, Span, StoreTime};

use hand::Hand;

pub(crate) use estimate::{Estimate, TIME_MAX};

mod estimate;
mod hand;
#[cfg(test)]
mod tests;

/// Below this, in µs, a change of the own store's estimate waits for the next time that the clock is aimed:
/// every check brings a reading.
const NUDGE: u64 = 100;
/// How far from what it would show by itself a clock follows what others saw, in however many steps: where a
/// clock was once off by more than an hour, a person is needed, not another clock that is.
const FOLLOW_MAX: Span = Span::secs(3_600);

/// A node that is still not sure of its clock so long after its start, or after it met a peer, will not be
/// surer soon: who could not ask its store for so long takes its clock for what it is.
pub(crate) const UNSETTLED_MAX: Span = Span::secs(3);

/// A clock that steps further forward than this may make labels over of which checks are still on their way to the
/// store; smaller steps are within the time that ended labels are kept anyway.
const LEAP: Span = Span::secs(1);
/// So long after that they have been answered, or given up.
const LEAP_SETTLES: Span = Span::secs(3);

/// How the own store's clock stands to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockStatus {
    /// The own store's clock minus the median of all regions', in µs; `None` until it was read, and when
    /// it was not read for an hour.
    pub error: Option<i64>,
    /// Whether that is more than [`Settings::clock_error`](crate::engine::Settings::clock_error); ends
    /// below three quarters of it.
    pub alarm: bool,
    /// How far cluster time is ahead of its target, in µs: what slewing has still to do.
    pub ahead: i64,
    /// Regions whose clocks have weight, the own one included.
    pub regions: usize,
}

/// What a node says of its clocks, when asked at some instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) cluster: ClusterTime,
    /// Whether the node is past the time in which it may still set its cluster time back.
    pub(crate) settled: bool,
    /// The store's clock and how wrong that may be; `None` if it was not read for an hour.
    pub(crate) store: Option<(StoreTime, Span)>,
}

/// How the store's clock stands to cluster time at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relation {
    /// Store's clock minus cluster time.
    ahead: i64,
}

impl Relation {
    /// What the store's clock shows when cluster time shows `time`, as things stand.
    pub(crate) const fn store_time_of(self, time: ClusterTime) -> StoreTime {
        StoreTime(time.0.saturating_add_signed(self.ahead))
    }
}

/// One node's cluster time.
#[derive(Debug)]
pub(crate) struct Clock {
    shown: Hand,
    /// What it would show if it had followed nobody but the stores' clocks.
    alone: Hand,
    /// The own store's clock, once it was read.
    own: Option<Estimate>,
    /// Its offset when the clock was last aimed.
    aimed: i64,
    /// The other regions' store clocks minus monotonic time.
    others: Vec<i64>,
    /// The furthest cluster time, minus monotonic time, that another region was heard to have labels of.
    furthest: Option<i64>,
    /// Whether labels are in use: from then on it never runs backwards (INV-9). Before, it is a guess.
    settled: bool,
    started: Mono,
    /// When it last stepped far forward.
    leapt: Option<Mono>,
    /// Whether something was counted under a label that no store has confirmed.
    counted: bool,
    error_max: Span,
    alarm: bool,
}

impl Clock {
    /// A clock that shows `guess` at `now`, until something better is known; `error_max` is how far the
    /// own store's clock may be off before that is an alarm.
    pub(crate) fn new(now: Mono, guess: ClusterTime, error_max: Span) -> Self {
        let hand = Hand::new(now, ClusterTime(guess.0.min(TIME_MAX)));
        Self {
            shown: hand,
            alone: hand,
            own: None,
            aimed: 0,
            others: Vec::new(),
            furthest: None,
            settled: false,
            started: now,
            leapt: None,
            counted: false,
            error_max,
            alarm: false,
        }
    }

    // -- getters

    /// What time labels are cut from. It grows with `now`, at half to one and a half times its speed.
    pub(crate) fn cluster_time(&self, now: Mono) -> ClusterTime {
        self.shown.time(now)
    }

    /// How the store's clock stands to cluster time. A store that was never read is taken to show it.
    pub(crate) fn relation(&self, now: Mono) -> Relation {
        let cluster = offset(self.cluster_time(now), now);
        Relation { ahead: self.own.map_or(0, |own| own.offset() - cluster) }
    }

    /// What the store's clock shows; `None` until it was read.
    pub(crate) fn store_time(&self, now: Mono) -> Option<StoreTime> {
        self.own.map(|own| StoreTime(now.0.saturating_add_signed(own.offset())))
    }

    /// Whether labels that are over are over for good. They are not while the clock is a guess that may still
    /// be set back: own slots that were forgotten would begin again from nothing, below what others were told
    /// (INV-2), and what others told would be missing until counts are compared. That lasts for
    /// [`UNSETTLED_MAX`] at most. Nor are they just after the clock has stepped far forward: checks of such labels
    /// are still to be answered, and counted where the others of the label are.
    pub(crate) fn may_forget(&self, now: Mono) -> bool {
        let sure = self.settled || (!self.counted && now.since(self.started) > UNSETTLED_MAX);
        sure && self.leapt.is_none_or(|at| now.since(at) > LEAP_SETTLES)
    }

    /// Whether labels under rights may be cut by it: the own store's clock is as far from the others' as is
    /// allowed at most, and this clock from where it should be. Who knows of no other clock cannot say that
    /// its own is wrong.
    pub(crate) fn is_trusted(&self, now: Mono) -> bool {
        let ahead = offset(self.cluster_time(now), now).saturating_sub(self.shown.target());
        !self.alarm && ahead <= self.error_max.0 as i64
    }

    /// A time from which on no label is in use yet, in any region that was heard of; `None` while that
    /// cannot be said. `alone`: whether there is no other region, or the own labels in use are known.
    ///
    /// A node that is new in its region has no other way to know how far its region has been than that
    /// clocks of regions do not differ by much, as long as they are trusted.
    pub(crate) fn furthest(&self, now: Mono, alone: bool) -> Option<ClusterTime> {
        let shown =
            (self.settled && (alone || !self.others.is_empty())).then(|| self.cluster_time(now))?;
        let heard = self.furthest.map(|offset| ClusterTime(now.0.saturating_add_signed(offset)));
        // A peer that claims what cannot be closes a region for an hour at most.
        let heard = heard.filter(|heard| heard.since(shown) <= FOLLOW_MAX);
        Some(heard.map_or(shown, |heard| heard.max(shown)))
    }

    /// What to tell others.
    pub(crate) fn reading(&self, now: Mono) -> Reading {
        let own = self.own.filter(|own| !own.is_old(now));
        Reading {
            cluster: self.cluster_time(now),
            settled: self.settled,
            store: own
                .map(|own| (StoreTime(now.0.saturating_add_signed(own.offset())), own.error(now))),
        }
    }

    pub(crate) fn status(&self, now: Mono) -> ClockStatus {
        ClockStatus {
            error: self.own_error(now),
            alarm: self.alarm,
            ahead: offset(self.cluster_time(now), now) - self.shown.target(),
            regions: self.others.len() + usize::from(self.own_error(now).is_some()),
        }
    }

    fn own_error(&self, now: Mono) -> Option<i64> {
        let own = self.own.filter(|own| !own.is_old(now))?;
        Some(own.offset() - self.shown.target())
    }

    // -- inputs

    /// Takes a reading that the own store made between `asked` and `now`.
    pub(crate) fn handle_store(&mut self, asked: Mono, now: Mono, reading: StoreTime) {
        let latest = reading + now.since(asked);
        let Some(new) = Estimate::new(asked, now, reading.0, latest.0) else { return };
        match &mut self.own {
            Some(own) => {
                own.update(new);
                if own.offset().abs_diff(self.aimed) < NUDGE {
                    return;
                }
            }
            None => self.own = Some(new),
        }
        self.aim(now);
    }

    /// Takes where the other regions' store clocks stand now.
    pub(crate) fn handle_others(&mut self, now: Mono, others: Vec<i64>) {
        self.others = others;
        self.aim(now);
    }

    /// Takes how far other regions were heard to be, minus monotonic time.
    pub(crate) fn handle_furthest(&mut self, furthest: Option<i64>) {
        self.furthest = furthest;
    }

    /// A node of this region whose labels are in use showed `time` just before: this one is not behind
    /// it (INV-10), and joins it if its own labels are not in use yet.
    pub(crate) fn handle_sibling(&mut self, now: Mono, time: ClusterTime) {
        // Who knows of no store's clock has nothing that could speak against a sibling.
        let ignorant = self.own.is_none() && self.others.is_empty();
        if self.settled {
            self.handle_seen(now, time);
        } else if ignorant || self.is_in_reach(now, time) {
            self.follow(now, time);
        }
    }

    /// The region was at `time` already: a record in its store is of a label that began then.
    pub(crate) fn handle_seen(&mut self, now: Mono, time: ClusterTime) {
        if time > self.cluster_time(now) && self.is_in_reach(now, time) {
            self.follow(now, time);
        }
    }

    fn is_in_reach(&self, now: Mono, time: ClusterTime) -> bool {
        self.alone.time(now).0.abs_diff(time.0) <= FOLLOW_MAX.0
    }

    /// A label of this clock is in use from now on.
    pub(crate) fn settle(&mut self) {
        self.settled = true;
    }

    /// Something is about to be counted that the store has not confirmed.
    pub(crate) fn handle_count(&mut self, now: Mono) {
        self.counted = true;
        self.handle_timeout(now);
    }

    /// Ends the time in which what is in use may still be set back.
    pub(crate) fn handle_timeout(&mut self, now: Mono) {
        if self.counted && now.since(self.started) > UNSETTLED_MAX {
            self.settle();
        }
    }

    /// Draws the clock to the median of what is known.
    fn aim(&mut self, now: Mono) {
        let own = self.own.filter(|own| !own.is_old(now)).map(|own| own.offset());
        self.aimed = own.unwrap_or(self.aimed);
        let mut all: Vec<i64> = self.others.iter().copied().chain(own).collect();
        let target = median(&mut all);
        let before = self.cluster_time(now);
        self.shown.aim(now, target, self.settled);
        debug_assert!(!self.settled || self.cluster_time(now) >= before, "INV-9");
        if self.settled {
            self.note_leap(now, before);
        }
        self.alone.aim(now, target, self.settled);
        if let Some(error) = self.own_error(now) {
            let bound = if self.alarm { Span(self.error_max.0 / 4 * 3) } else { self.error_max };
            self.alarm = error.unsigned_abs() > bound.0;
        } else {
            self.alarm = false;
        }
    }

    /// Shows what another node saw: that is better than a guess.
    fn follow(&mut self, now: Mono, time: ClusterTime) {
        debug_assert!(!self.settled || time >= self.cluster_time(now), "INV-9");
        let (before, in_use) = (self.cluster_time(now), self.settled);
        self.settled = true;
        if self.own.is_none() && self.others.is_empty() {
            self.shown.rest_at(now, time);
        } else {
            self.shown.set(now, time);
        }
        // Under a guess nothing was counted yet that a store had charged.
        if in_use {
            self.note_leap(now, before);
        }
    }

    fn note_leap(&mut self, now: Mono, before: ClusterTime) {
        if self.cluster_time(now).since(before) > LEAP {
            self.leapt = Some(now);
        }
    }
}

/// A time minus monotonic time.
fn offset(time: ClusterTime, now: Mono) -> i64 {
    let time = i64::try_from(time.0).unwrap_or(i64::MAX);
    time.saturating_sub_unsigned(now.0)
}

/// The middle one, or the mean of the two in the middle.
fn median(values: &mut [i64]) -> Option<i64> {
    values.sort_unstable();
    let (low, high) =
        (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(low + (high - low) / 2)
}
