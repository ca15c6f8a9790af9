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
use core::mem;

use crate::{
    ids::{RegionIndex, SessionIndex},
    memory,
    store::Counts,
    time::{Label, Mono, Span, Window},
};

use demand::{Demand, FAST, Memory, Rate, SURGE_FACTOR, seconds};
pub(crate) use watched::{Watched, Whose};

mod demand;
#[cfg(test)]
mod tests;
mod watched;

/// The margin, in standard deviations of what is forecast.
const MARGIN: f64 = 2.0;
/// Own demand is taken note of so often.
const OWN_EVERY: Span = Span::millis(5);
/// A surge is one if it is so many units at least within the last moments.
const SURGE_UNITS: f64 = 5.0;
/// For so long after a surge began, its share is admitted on evidence only.
const SURGE_LASTS: Span = Span::millis(500);
/// Who has not been heard for so long is not waited for.
const SILENT: Span = Span::millis(1_500);
/// A request that costs so many times what is usual says nothing of others when it is refused.
const HEAVY: u64 = 2;
/// Nodes whose demand for one key is remembered.
const TOLD_MAX: usize = 64;
/// So many times the quantity in a second, or in a shorter window, is the most demand that anybody is believed:
/// within a millisecond all there is. No forecast is another by more, and what was claimed falsely is forgotten
/// within some ten times what rates remember.
const DEMAND_MAX: f64 = 1_000.0;
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
    /// When the newest frame was sent that it is known to have heard; `None` before the first.
    pub(crate) echoed: Option<Mono>,
    /// A number of the session that is the same on every node.
    pub(crate) fingerprint: u64,
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
    /// Whether a node both was heard lately and has heard what it was told lately: what it is granted
    /// reaches it.
    pub(crate) fn is_in_touch(&self, participant: &Participant) -> bool {
        let Some(echoed) = participant.echoed else { return false };
        let way = participant.delay.0 * 26 / 10;
        let patience = self.gossip.times(4) + Span(way) + Span::millis(60);
        self.is_heard(participant) && self.now.since(echoed) <= patience
    }

    /// How long it takes until everybody has heard of a change, and has been heard.
    fn round(&self) -> Span {
        let furthest = self.participants.iter().map(|p| p.delay).max().unwrap_or_default();
        self.gossip + furthest.times(2)
    }

    pub(crate) fn is_heard(&self, participant: &Participant) -> bool {
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
    /// Net use of all other regions, as known, and what is left to those of which nothing is.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ceiling {
    /// What the own region may have used with it.
    pub(crate) net: u64,
    /// What of the own cap it holds until it is answered.
    held: u64,
}

impl Ceiling {
    /// Nothing is forecast.
    pub(crate) const fn certain(net: u64) -> Self {
        Self { net, held: 0 }
    }
}

/// What a node tells of its demand for a key beside its counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Note {
    /// The mean cost of what was asked for, weighed by cost: what tells heavy requests from many. 0: the
    /// sender does not watch the key.
    pub(crate) weight: u32,
    /// Whether the limit is spent by rights: then regions that nobody asks grant theirs to those that are.
    pub(crate) rights: bool,
    /// Whether it has refused in the label.
    pub(crate) stopped: bool,
}

impl Note {
    /// As a number that travels.
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.weight) << 2 | u64::from(self.rights) << 1 | u64::from(self.stopped)
    }

    /// What a number stands for.
    pub(crate) fn from_bits(bits: u64) -> Self {
        let weight = u32::try_from(bits >> 2).unwrap_or(u32::MAX);
        Self { weight, rights: bits & 2 != 0, stopped: bits & 1 != 0 }
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) cost: u64,
    /// Whether it passes by this limit.
    pub(crate) passes: bool,
    /// Net use of the own session since.
    pub(crate) own_session: u64,
    /// What the own region has used since, if its store said so.
    pub(crate) region: Option<Counts>,
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
    weight: u32,
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
    /// What was offered to it since it last told.
    pub(crate) units: u64,
    pub(crate) note: Note,
    /// When it had told before, of anything, and when it told this; by the own clock.
    pub(crate) since: Mono,
    pub(crate) told: Mono,
}

/// How soon peers should hear of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// Later than usual does: most of it is left, and will be for a while.
    Later,
    /// As usual.
    None,
    /// Sooner: it will be used up soon.
    Soon,
    /// At once: it has refused for the first time, or demand has surged.
    Now,
}

/// What one node knows of all nodes' demand for a key that is in demand.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Forecast {
    memory: Memory,
    window: Window,
    label: Label,
    own: Demand,
    fast: Rate,
    /// Asked for since `own` was taken note of: units, squares.
    asked: (f64, f64),
    surged: Option<Mono>,
    stop: Option<Stop>,
    told: Vec<Told>,
    /// By which quantity was decided last.
    quantity: u64,
    /// What the own region has used in the label, as its store said.
    region: Counts,
    /// Whether the limit is spent by rights.
    rights: bool,
    /// The label of which the store said last that nothing may be spent.
    closed: Option<Label>,
}

impl Forecast {
    /// Of a key of which nothing is known.
    pub(crate) fn new(window: Window, label: Label, now: Mono) -> Self {
        Self {
            memory: Memory::of(window),
            window,
            label,
            own: Demand::new(now),
            fast: Rate::default(),
            asked: (0.0, 0.0),
            surged: None,
            stop: None,
            told: Vec::new(),
            quantity: 0,
            region: Counts::default(),
            rights: false,
            closed: None,
        }
    }

    /// Bytes held beside itself.
    pub(crate) fn memory_bytes(&self) -> usize {
        memory::of_vec(&self.told)
    }

    /// The limit is spent by rights.
    pub(crate) const fn note_rights(&mut self) {
        self.rights = true;
    }

    /// The store has said whether anything may be spent in a label.
    pub(crate) fn note_open(&mut self, label: Label, open: bool) {
        if !open {
            self.closed = self.closed.max(Some(label));
        } else if self.closed == Some(label) {
            self.closed = None;
        }
    }

    /// Whether nothing may be spent in a label, as far as the store has said.
    pub(crate) fn is_closed(&self, label: Label) -> bool {
        self.closed == Some(label)
    }

    /// Whether the limit is spent by rights.
    pub(crate) const fn has_rights(&self) -> bool {
        self.rights
    }

    /// What is told of a session's demand in a label: the own one's, or what it has told.
    pub(crate) fn note(&self, session: SessionIndex, label: Label) -> Note {
        if session == SessionIndex::OWN {
            let (units, squares) = (self.own.usual(), self.own.squares());
            let weight = if units > 0.0 { libm::round(squares / units).max(1.0) as u32 } else { 1 };
            return Note { weight, rights: self.rights, stopped: self.has_stopped(label) };
        }
        let told = self.told.iter().find(|told| told.session == session);
        told.map_or(Note::default(), |told| Note {
            weight: told.weight,
            rights: self.rights,
            stopped: told.stopped && told.label == label,
        })
    }

    /// Whether the own node has refused in the label.
    fn has_stopped(&self, label: Label) -> bool {
        self.label == label && self.stop.is_some()
    }

    /// Takes what another node has told.
    pub(crate) fn handle_news(&mut self, news: &News) {
        let at = match self.told.iter().position(|told| told.session == news.session) {
            Some(at) => at,
            None => {
                let (session, label) = (news.session, news.label);
                let demand = Demand::new(news.since);
                if self.told.len() == TOLD_MAX {
                    // Of sessions there are few; those that end are not told of any more.
                    let oldest = (0..TOLD_MAX).min_by_key(|at| self.told[*at].demand.at());
                    self.told.swap_remove(oldest.unwrap_or(0));
                }
                self.told.push(Told { session, demand, label, weight: 1, stopped: false });
                self.told.len() - 1
            }
        };
        let most = self.most();
        let told = &mut self.told[at];
        told.weight = news.note.weight.max(1);
        self.rights |= news.note.rights;
        let units = news.units as f64;
        let squares = units * f64::from(told.weight);
        told.demand.observe(units, squares, news.since, news.told, self.memory);
        told.demand.believe(most);
        if news.label > told.label {
            (told.label, told.stopped) = (news.label, false);
        }
        told.stopped |= news.note.stopped && news.label == told.label;
    }

    /// Units per second that anybody is believed to be asked for, and the most that one of them costs; before
    /// anything was decided there is nothing to compare with.
    fn most(&self) -> Option<(f64, f64)> {
        let quantity = (self.quantity > 0).then_some(self.quantity as f64)?;
        let per = seconds(self.window.usual_length().min(Span::secs(1)));
        Some((DEMAND_MAX * quantity / per, quantity))
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
        let (units, squares) = mem::take(&mut self.asked);
        self.fast.observe(units, over, FAST);
        self.own.observe(units, squares, self.own.at(), now, self.memory);
        // A demand that is there for the first time is a surge too.
        let (fast, usual) = (self.fast.unwatched_as_none(), self.own.unwatched_as_none());
        let surges = fast > SURGE_FACTOR * usual && fast * seconds(FAST) >= SURGE_UNITS;
        if surges && self.surged.is_none_or(|at| now.since(at) >= SURGE_LASTS) {
            self.surged = Some(now);
            return Urgency::Now;
        }
        Urgency::None
    }

    /// What the own region may have used in the label for the request to pass: what the store's step is
    /// given as ceiling. And how soon peers should hear of the key.
    pub(crate) fn ceiling(&mut self, question: &Question, sight: &Sight<'_>) -> (Ceiling, Urgency) {
        self.turn(question.label);
        self.note_quantity(question.quantity);
        let question =
            &Question { own_region: question.own_region.max(self.region.net()), ..*question };
        (self.decide(question, sight), self.urgency(question, sight))
    }

    /// Says by which quantity is decided from now on.
    pub(crate) fn note_quantity(&mut self, quantity: u64) {
        if mem::replace(&mut self.quantity, quantity) == quantity {
            return;
        }
        if let Some(stop) = &mut self.stop {
            // What is left is another: it is shared out at once.
            stop.settled = None;
        }
        let most = self.most();
        self.told.iter_mut().for_each(|told| told.demand.believe(most));
    }

    /// A request that was given a ceiling is asked with another one instead.
    pub(crate) fn give_back(&mut self, label: Label, ceiling: Ceiling) {
        if let Some(stop) = self.stop.as_mut().filter(|_| self.label == label) {
            stop.pending = stop.pending.saturating_sub(ceiling.held);
        }
    }

    /// What the own region may have used in the label as far as is known and expected of the others: up to
    /// there a `bounded` limit is overdrawn.
    pub(crate) fn expected(&mut self, question: &Question, sight: &Sight<'_>) -> u64 {
        self.turn(question.label);
        let certain = question.quantity.saturating_sub(question.others);
        let (growth, variance) = self.growth(question, sight);
        certain.saturating_sub(self.kept_free(growth, variance, question, sight))
    }

    /// What is to be kept free for growth of which that is the mean and the variance.
    fn kept_free(&self, growth: f64, variance: f64, question: &Question, sight: &Sight<'_>) -> u64 {
        if variance < 1.0 {
            // Less than one request is under way: nothing to forecast.
            return 0;
        }
        let correctable = seconds(question.left) / seconds(sight.round()).max(1e-6);
        let margin = MARGIN * libm::sqrt(variance) * correctable.min(1.0);
        libm::ceil(growth + margin) as u64
    }

    /// Whether what the region has left, `rem`, is used up before others could grant more: then they should
    /// hear of it at once, if that is new.
    pub(crate) fn runs_dry(&self, rem: u64, sight: &Sight<'_>) -> bool {
        let fast = self.fast.unwatched_as_none();
        let usual = self.own.fading(sight.now, self.memory).0;
        fast > 1.5 * usual && (rem as f64) < fast * seconds(sight.round())
    }

    /// What is asked for in a region, by its nodes that are heard: `None` is the own node, whose siblings
    /// are to be among `nodes`.
    pub(crate) fn demand_in<'a>(
        &self,
        now: Mono,
        label: Label,
        own: bool,
        nodes: impl Iterator<Item = &'a Participant>,
    ) -> (f64, bool) {
        let start = if own {
            (self.own.fading(now, self.memory).0, self.has_stopped(label))
        } else {
            (0.0, false)
        };
        nodes.fold(start, |(rate, stopped), node| {
            let Some(told) = self.told_by(node) else { return (rate, stopped) };
            let asked = told.demand.fading(node.as_of, self.memory).0;
            (rate + asked, stopped || (told.stopped && told.label == label))
        })
    }

    /// Net use of the own region in a label, as its store said last; 0 if it has not.
    pub(crate) fn region_net(&self, label: Label) -> u64 {
        if self.label == label { self.region.net() } else { 0 }
    }

    fn decide(&mut self, question: &Question, sight: &Sight<'_>) -> Ceiling {
        let certain = question.quantity.saturating_sub(question.others);
        let free = Ceiling::certain;
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
            return free(certain);
        }
        let ceiling = certain.saturating_sub(self.kept_free(growth, variance, question, sight));
        if question.evidence && self.lacks_evidence(question, sight) {
            let share = libm::floor(question.share * question.quantity as f64) as u64;
            // Where there is so much left, it does not matter.
            let likewise = libm::ceil(self.if_all_surge(sight)) as u64;
            return free(ceiling.min(share.max(ceiling.saturating_sub(likewise))));
        }
        free(ceiling)
    }

    /// Takes what became of a request in `label` that was given a `ceiling`. A refusal stops the node in the
    /// label, but not one of a request that is much heavier than most: others may still fit.
    pub(crate) fn handle_answer(
        &mut self,
        now: Mono,
        label: Label,
        ceiling: Ceiling,
        answered: &Answered,
    ) -> Urgency {
        if self.label != label {
            return Urgency::None;
        }
        self.region = self.region.max(answered.region.unwrap_or_default());
        self.give_back(label, ceiling);
        let weight = self.note(SessionIndex::OWN, label).weight;
        let heavy = answered.cost > u64::from(weight).saturating_mul(HEAVY);
        if answered.passes || heavy || self.stop.is_some() {
            return Urgency::None;
        }
        self.stop = Some(Stop { at: now, cap: answered.own_session, settled: None, pending: 0 });
        Urgency::Now
    }

    /// Takes note of what this node gives back: it may be spent again, by who has stopped too.
    pub(crate) fn handle_refund(&mut self, label: Label, amount: u64) {
        if self.label == label {
            self.region.refunded = self.region.refunded.saturating_add(amount);
            if let Some(stop) = &mut self.stop {
                stop.settled = None;
            }
        }
    }

    /// Forgets what belongs to an earlier label.
    fn turn(&mut self, label: Label) {
        if label > self.label {
            self.label = label;
            self.stop = None;
            self.region = Counts::default();
        }
    }

    /// What the nodes of other regions are expected to have been asked for that is not known here, and its
    /// variance.
    fn growth(&self, question: &Question, sight: &Sight<'_>) -> (f64, f64) {
        let others = sight.participants.iter().filter(|p| p.region != RegionIndex::OWN);
        others.fold((0.0, 0.0), |(growth, variance), participant| {
            let Some(told) = self.told_by(participant) else {
                return (growth, variance);
            };
            let over = told.label > question.label;
            if over || (told.label == question.label && told.stopped && self.stop.is_none()) {
                return (growth, variance);
            }
            let age = sight.now.since(participant.as_of);
            if age > sight.reclaim_after {
                return (growth, variance);
            }
            let counted = if told.label < question.label { age.min(question.elapsed) } else { age };
            let (units, squares) = told.demand.fading(participant.as_of, self.memory);
            let (mut units, mut squares) = (units * seconds(counted), squares * seconds(counted));
            if !sight.is_heard(participant) {
                // Perhaps it is cut off: it will not take more than its share.
                let most = self.share_of(told, question);
                if units > most {
                    squares *= most / units;
                    units = most;
                }
            }
            (growth + units, variance + squares)
        })
    }

    /// A node's share of the quantity, by what is asked for over a longer time.
    fn share_of(&self, told: &Told, question: &Question) -> f64 {
        let all: f64 = self.told.iter().map(|told| told.demand.slow()).sum();
        let all = all + self.own.slow();
        if all > 0.0 { told.demand.slow() / all * question.quantity as f64 } else { 0.0 }
    }

    /// What is left to nodes of other regions that cannot be heard, and are not taken for dead yet: what they
    /// will be asked for in the whole label, up to their share, less what is known of it.
    fn left_to_silent(&self, question: &Question, sight: &Sight<'_>) -> f64 {
        let silent = sight.participants.iter().filter(|participant| {
            let age = sight.now.since(participant.as_of);
            participant.region != RegionIndex::OWN
                && !sight.is_heard(participant)
                && age <= sight.reclaim_after
        });
        let window = seconds(question.elapsed + question.left);
        silent
            .filter_map(|participant| {
                let told = self.told_by(participant)?;
                let (rate, _) = told.demand.fading(participant.as_of, self.memory);
                Some((rate * window).min(self.share_of(told, question)))
            })
            .sum()
    }

    /// Whether nobody who can be heard will admit any more on a forecast: all have stopped in the label, and
    /// what they had used when this node stopped is known.
    fn all_have_stopped(&self, question: &Question, sight: &Sight<'_>) -> bool {
        let Some(stop) = &self.stop else { return false };
        sight.participants.iter().filter(|p| sight.is_heard(p)).all(|participant| {
            let Some(told) = self.told_by(participant) else {
                return true;
            };
            let age = seconds(sight.now.since(participant.as_of));
            let quiet = told.demand.fading(participant.as_of, self.memory).0 * age < QUIET;
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
        let left = (left - self.left_to_silent(question, sight)).max(0.0);
        let own = self.own.fading(sight.now, self.memory).0;
        let all = own + self.demand_of_others(sight);
        let part = if all > 0.0 { left * own / all } else { 0.0 };
        let rest = part - libm::floor(part);
        let lucky = (question.chance >> 11) as f64 / (1_u64 << 53) as f64;
        stop.cap = question.own_session + libm::floor(part) as u64 + u64::from(lucky < rest);
        stop.settled = Some(sight.now);
        self.stop = Some(stop);
    }

    /// Units per second that nodes that can be heard are asked for, the own one left out.
    fn demand_of_others(&self, sight: &Sight<'_>) -> f64 {
        let heard = sight.participants.iter().filter(|p| sight.is_heard(p));
        heard
            .map(|p| self.told_by(p).map_or(0.0, |t| t.demand.fading(p.as_of, self.memory).0))
            .sum()
    }

    fn told_by(&self, participant: &Participant) -> Option<&Told> {
        self.told.iter().find(|told| told.session == participant.session)
    }

    /// By when the limit is likely to be used up. After that it is told of as usual: what is asked for
    /// then is what the next label is forecast by.
    fn urgency(&self, question: &Question, sight: &Sight<'_>) -> Urgency {
        if self.stop.is_some() {
            return Urgency::None;
        }
        let used = question.others.saturating_add(question.own_region);
        let left = question.quantity.saturating_sub(used);
        let own = self.own.fading(sight.now, self.memory).0;
        let demand = own + self.demand_of_others(sight);
        let lasts = left as f64 / demand.max(1e-9);
        if lasts < seconds(sight.gossip.times(3) + Span::millis(150)) {
            Urgency::Soon
        } else if left * 2 > question.quantity && lasts > 0.6 {
            Urgency::Later
        } else {
            Urgency::None
        }
    }

    /// What nodes of other regions would have been asked for that is not known here, if each were asked for as
    /// much as this one.
    fn if_all_surge(&self, sight: &Sight<'_>) -> f64 {
        let others = sight.participants.iter().filter(|p| p.region != RegionIndex::OWN);
        let ages =
            others.map(|p| sight.now.since(p.as_of)).filter(|age| *age <= sight.reclaim_after);
        let (own, _) = self.own.fading(sight.now, self.memory);
        ages.map(|age| own * seconds(age)).sum()
    }

    /// Whether the own demand has just surged, beyond the own share, and not everybody has told since that
    /// theirs has not.
    fn lacks_evidence(&self, question: &Question, sight: &Sight<'_>) -> bool {
        let Some(surged) = self.surged.filter(|at| sight.now.since(*at) < SURGE_LASTS) else {
            return false;
        };
        // An idle node is heard of once a second only.
        let lives = |p: &&Participant| sight.now.since(p.as_of) <= SILENT + p.delay;
        let mut heard = sight.participants.iter().filter(lives);
        question.own_region as f64 > question.share * question.quantity as f64
            && heard.any(|participant| participant.as_of <= surged)
    }
}
