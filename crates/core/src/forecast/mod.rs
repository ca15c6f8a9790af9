//! `eventual`: admitting by what the other nodes will have admitted by now, and sharing out what is left.
//!
//! What is known of another region is as old as its way. Meanwhile its nodes go on, and they go on as they
//! did: so what they are asked for in that time is forecast from the growth of what they were offered, and
//! the region's ceiling is lowered by it. A margin of some standard deviations stands for chance, and falls
//! as the time runs out in which a mistake could be made good.
//!
//! A node that has refused has *stopped* in the label, and says so. Of who has stopped nothing more is to be
//! expected; and when all have stopped, all know exactly what is left, margins included, and each takes a
//! part of it by its demand: they *settle*.
//!
//! Participants are nodes: demand, stop and share belong to a session. What other nodes of the own region
//! have used comes exact from the store, so they are not forecast.

use alloc::vec::Vec;

use crate::{
    ids::{RegionIndex, SessionIndex},
    time::{Label, Mono, Span, Window},
};

pub(crate) use demand::{Demand, Memory};
use demand::{Rate, seconds};

mod demand;
#[cfg(test)]
mod tests;

/// The margin, in standard deviations of what is forecast.
const MARGIN: f64 = 3.0;
/// Own demand is taken note of so often.
const OWN_EVERY: Span = Span::millis(5);
/// How far back a surge is looked for.
const SURGE_MEMORY: Span = Span::millis(40);
/// So much more than usual is a surge …
const SURGE_FACTOR: f64 = 1.6;
/// … if it is so many units at least within its memory.
const SURGE_UNITS: f64 = 5.0;
/// For so long after a surge began, its share is admitted on evidence only.
const SURGE_LASTS: Span = Span::millis(500);
/// What comes from a place in the time that its news takes is nothing if it is less.
const QUIET: f64 = 0.5;

/// Another node, as far as the exchange knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Participant {
    pub(crate) session: SessionIndex,
    pub(crate) region: RegionIndex,
    /// All that it had told by then, by the own clock, is known here.
    pub(crate) as_of: Mono,
    /// How long its frames take.
    pub(crate) delay: Span,
}

/// What is known of the others when a decision is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight<'a> {
    pub(crate) now: Mono,
    pub(crate) gossip: Span,
    /// After which nothing more is expected of who cannot be heard.
    pub(crate) reclaim_after: Span,
    /// All that were heard of within the last hour.
    pub(crate) participants: &'a [Participant],
}

impl Sight<'_> {
    /// How long it takes until everybody has heard of a change, and has been heard.
    fn round(&self) -> Span {
        let furthest = self.participants.iter().map(|p| p.delay).max().unwrap_or_default();
        self.gossip + furthest.times(2)
    }

    fn is_heard(&self, participant: &Participant) -> bool {
        let age = self.now.since(participant.as_of);
        age <= self.gossip.times(3) + participant.delay + Span::millis(50)
    }
}

/// What is to be decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question {
    pub(crate) label: Label,
    /// Of the label.
    pub(crate) elapsed: Span,
    pub(crate) left: Span,
    pub(crate) cost: u64,
    pub(crate) quantity: u64,
    /// Net use of all other regions, as known.
    pub(crate) others: u64,
    /// Net use of the own region, as known.
    pub(crate) own_region: u64,
    /// Net use of the own session.
    pub(crate) own_session: u64,
    /// The own region's part of the whole by its weight, 0 to 1.
    pub(crate) share: f64,
    /// Whether a surge beyond the own share is admitted on evidence only.
    pub(crate) evidence: bool,
    /// A number that no other decision has, evenly distributed: what is left over by rounding is settled by
    /// it.
    pub(crate) chance: u64,
}

/// What a request is decided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ceiling {
    /// What the own region may have used with it.
    pub(crate) net: u64,
    /// What of the own cap it holds until it is answered.
    held: u64,
}

/// A node has refused in the label.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stop {
    at: Mono,
    /// What the own session may have used in the label.
    cap: u64,
    settled: Option<Mono>,
    /// Under way to the store since all have stopped.
    pending: u64,
}

/// What is known of another node's demand for the key.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Told {
    session: SessionIndex,
    demand: Demand,
    /// The newest label that it has told anything of.
    label: Label,
    /// Whether it has refused in it.
    stopped: bool,
}

/// What another node has told of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct News {
    pub(crate) session: SessionIndex,
    pub(crate) label: Label,
    /// What was offered to it since it last told, and the squares of that.
    pub(crate) units: u64,
    pub(crate) squares: u64,
    pub(crate) stopped: bool,
    /// When it had told before, of anything, and when it told this; by the own clock.
    pub(crate) since: Mono,
    pub(crate) told: Mono,
}

/// Why peers should hear of the key sooner than usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// They need not.
    None,
    /// It has refused for the first time, or demand has surged.
    Now,
}

/// What one node knows of all nodes' demand for a key that is in demand.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Forecast {
    memory: Memory,
    label: Label,
    own: Demand,
    fast: Rate,
    /// Asked for since `own` was taken note of: units, squares.
    asked: (f64, f64),
    surged: Option<Mono>,
    stop: Option<Stop>,
    told: Vec<Told>,
}

impl Forecast {
    /// Of a key of which nothing is known.
    pub(crate) fn new(window: Window, label: Label, now: Mono) -> Self {
        Self {
            memory: Memory::of(window),
            label,
            own: Demand::new(now),
            fast: Rate::default(),
            asked: (0.0, 0.0),
            surged: None,
            stop: None,
            told: Vec::new(),
        }
    }

    /// Whether the own node has refused in the label.
    pub(crate) fn has_stopped(&self, label: Label) -> bool {
        self.label == label && self.stop.is_some()
    }

    /// Takes what another node has told.
    pub(crate) fn handle_news(&mut self, news: &News) {
        let at = match self.told.iter().position(|told| told.session == news.session) {
            Some(at) => at,
            None => {
                let (session, label) = (news.session, news.label);
                let demand = Demand::new(news.since);
                self.told.push(Told { session, demand, label, stopped: false });
                self.told.len() - 1
            }
        };
        let told = &mut self.told[at];
        let (units, squares) = (news.units as f64, news.squares as f64);
        told.demand.observe(units, squares, news.since, news.told, self.memory);
        if news.label > told.label {
            (told.label, told.stopped) = (news.label, false);
        }
        told.stopped |= news.stopped && news.label == told.label;
    }

    /// Takes a request, however it will be answered.
    pub(crate) fn handle_asked(&mut self, now: Mono, label: Label, cost: u64) -> Urgency {
        self.turn(label);
        self.asked.0 += cost as f64;
        self.asked.1 += cost as f64 * cost as f64;
        let over = now.since(self.own.at());
        if over < OWN_EVERY {
            return Urgency::None;
        }
        let (units, squares) = core::mem::take(&mut self.asked);
        self.fast.observe(units, over, SURGE_MEMORY);
        self.own.observe(units, squares, self.own.at(), now, self.memory);
        // A demand that is there for the first time is a surge too.
        let (fast, usual) = (self.fast.unwatched_as_none(), self.own.unwatched_as_none());
        let surges = fast > SURGE_FACTOR * usual && fast * seconds(SURGE_MEMORY) >= SURGE_UNITS;
        if surges && self.surged.is_none_or(|at| now.since(at) >= SURGE_LASTS) {
            self.surged = Some(now);
            return Urgency::Now;
        }
        Urgency::None
    }

    /// What the own region may have used in the label for the request to pass: what the store's step is
    /// given as ceiling.
    pub(crate) fn ceiling(&mut self, question: &Question, sight: &Sight<'_>) -> Ceiling {
        self.turn(question.label);
        let certain = question.quantity.saturating_sub(question.others);
        let free = |net| Ceiling { net, held: 0 };
        if self.stop.is_some() && self.all_have_stopped(question, sight) {
            self.settle(question, sight);
            let Some(stop) = &mut self.stop else { return free(certain) };
            let wants = question.own_session + stop.pending + question.cost;
            if wants > stop.cap {
                return free(0);
            }
            stop.pending += question.cost;
            return Ceiling { net: certain, held: question.cost };
        }
        let (growth, variance) = self.growth(question, sight);
        if variance < 1.0 {
            // Less than one request is under way: nothing to forecast.
            return free(certain);
        }
        let correctable = seconds(question.left) / seconds(sight.round()).max(1e-6);
        let margin = MARGIN * libm::sqrt(variance) * correctable.min(1.0);
        let ceiling = certain.saturating_sub(libm::ceil(growth + margin) as u64);
        if question.evidence && self.lacks_evidence(question, sight) {
            let share = libm::floor(question.share * question.quantity as f64) as u64;
            return free(ceiling.min(share));
        }
        free(ceiling)
    }

    /// Takes what became of a request in `label` that was given a `ceiling`: whether it `passes` by this
    /// limit, and the net use of the own session since.
    pub(crate) fn handle_answer(
        &mut self,
        now: Mono,
        label: Label,
        ceiling: Ceiling,
        passes: bool,
        own_session: u64,
    ) -> Urgency {
        if self.label != label {
            return Urgency::None;
        }
        match &mut self.stop {
            Some(stop) => {
                stop.pending = stop.pending.saturating_sub(ceiling.held);
                Urgency::None
            }
            None if passes => Urgency::None,
            None => {
                let stop = Stop { at: now, cap: own_session, settled: None, pending: 0 };
                self.stop = Some(stop);
                Urgency::Now
            }
        }
    }

    /// Forgets what belongs to an earlier label.
    fn turn(&mut self, label: Label) {
        if label > self.label {
            self.label = label;
            self.stop = None;
        }
    }

    /// What the nodes of other regions are expected to have been asked for that is not known here, and its
    /// variance.
    fn growth(&self, question: &Question, sight: &Sight<'_>) -> (f64, f64) {
        let others = sight.participants.iter().filter(|p| p.region != RegionIndex::OWN);
        let all_slow: f64 =
            self.told.iter().map(|told| told.demand.slow()).sum::<f64>() + self.own.slow();
        others.fold((0.0, 0.0), |(growth, variance), participant| {
            let Some(told) = self.told.iter().find(|t| t.session == participant.session) else {
                return (growth, variance);
            };
            let over = told.label > question.label;
            if over || (told.label == question.label && told.stopped) {
                return (growth, variance);
            }
            let age = sight.now.since(participant.as_of);
            if age > sight.reclaim_after {
                return (growth, variance);
            }
            let counted = if told.label < question.label { age.min(question.elapsed) } else { age };
            let mut units = told.demand.usual() * seconds(counted);
            let mut squares = told.demand.squares() * seconds(counted);
            if !sight.is_heard(participant) && all_slow > 0.0 {
                // Perhaps it is cut off: it will not take more than its share.
                let most = told.demand.slow() / all_slow * question.quantity as f64;
                if units > most {
                    squares *= most / units;
                    units = most;
                }
            }
            (growth + units, variance + squares)
        })
    }

    /// Whether nobody who can be heard will admit any more on a forecast: all have stopped in the label, and
    /// what they had used when this node stopped is known.
    fn all_have_stopped(&self, question: &Question, sight: &Sight<'_>) -> bool {
        let Some(stop) = &self.stop else { return false };
        sight.participants.iter().filter(|p| sight.is_heard(p)).all(|participant| {
            let Some(told) = self.told.iter().find(|t| t.session == participant.session) else {
                return true;
            };
            let age = seconds(sight.now.since(participant.as_of));
            let quiet = told.demand.usual() * age < QUIET;
            let stopped = told.label == question.label && told.stopped;
            told.label > question.label || ((stopped || quiet) && participant.as_of > stop.at)
        })
    }

    /// Takes a part of what is left, by demand, once in a round.
    fn settle(&mut self, question: &Question, sight: &Sight<'_>) {
        let Some(mut stop) = self.stop else { return };
        if stop.settled.is_some_and(|at| sight.now.since(at) < sight.round()) {
            return;
        }
        let used = question.others.saturating_add(question.own_region);
        let left = question.quantity.saturating_sub(used) as f64;
        let heard = sight.participants.iter().filter(|p| sight.is_heard(p));
        let of = |p: &Participant| self.told.iter().find(|t| t.session == p.session);
        let others: f64 = heard.filter_map(of).map(|told| told.demand.usual()).sum();
        let all = others + self.own.usual();
        let part = if all > 0.0 { left * self.own.usual() / all } else { 0.0 };
        let rest = part - libm::floor(part);
        let lucky = (question.chance >> 11) as f64 / (1_u64 << 53) as f64;
        stop.cap = question.own_session + libm::floor(part) as u64 + u64::from(lucky < rest);
        stop.settled = Some(sight.now);
        self.stop = Some(stop);
    }

    /// Whether the own demand has just surged, beyond the own share, and not everybody has told since that
    /// theirs has not.
    fn lacks_evidence(&self, question: &Question, sight: &Sight<'_>) -> bool {
        let Some(surged) = self.surged.filter(|at| sight.now.since(*at) < SURGE_LASTS) else {
            return false;
        };
        let mut heard = sight.participants.iter().filter(|p| sight.is_heard(p));
        question.own_region as f64 > question.share * question.quantity as f64
            && heard.any(|participant| participant.as_of <= surged)
    }
}
