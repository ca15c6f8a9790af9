//! From subjects to a store command, and from the store's reply to a decision.
//!
//! Everything here is a function of its arguments: what is known comes in as [`Known`], and what is to be
//! counted goes out as [`Planned`] operations with their outcome.

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use super::decision::{Decision, LimitVerdict, Reason};
use crate::{
    algorithm::Weighed,
    clock::Relation,
    counts::{Known, Shape},
    forecast::Ceiling,
    ids::Key,
    policy::{Algorithm, Attributes, Consistency, Limit, OnStoreFailure, Policy, Scope},
    store::{Action, COUNT_MAX, Claim, Counts, HoldId, Once, Operation, Terms},
    time::{ClusterTime, Label, Mono, Span, StoreTime, Window},
};

/// Limits that may weigh in one check.
pub const LIMITS_MAX: usize = 16;

/// How much longer than others a record is kept that is spent by rights: nobody but the record knows for sure
/// what was spent and granted, and a store whose clock is set ahead by no more than this forgets none.
const RIGHTS_KEPT: Span = Span::secs(600);

/// How far a store's clock may be from the planned label before the store asks for another one.
pub(crate) const LABEL_TOLERANCE: Span = Span::millis(500);

/// What the store's record of a limit is lifted to: what this node knows its region to have used and not given
/// back. What was given back a floor does not bring: nodes know different parts of it, and these do not add up.
///
/// What was told of this region weighs no more than what may be used: that refuses as surely as more would, so
/// nobody is decided otherwise, and a lie does not outlive its window.
pub(crate) fn floor(policy: &Policy, limit: &Limit, known: &Known) -> Counts {
    let most = limit.most_in_label();
    let told = if policy.shadow { known.siblings } else { known.siblings.min(most) };
    Counts { used: known.own_session.saturating_add(told).min(COUNT_MAX), refunded: 0 }
}

/// One thing that is asked for: who, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The request's attributes.
    pub attributes: &'a Attributes<'a>,
    /// What it costs, 1 to 1,000,000.
    pub cost: u64,
}

/// When an operation's label is right, and when its record may be forgotten, by the store's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LabelBounds {
    pub(crate) starts: StoreTime,
    pub(crate) not_before: StoreTime,
    pub(crate) not_after: StoreTime,
    pub(crate) expires: StoreTime,
}

impl LabelBounds {
    pub(crate) fn of(window: Window, label: Label, clock: Relation) -> Self {
        let (start, end) = (window.start(label), window.end(label));
        let starts = clock.store_time_of(start);
        Self {
            starts,
            not_before: starts - LABEL_TOLERANCE,
            not_after: clock.store_time_of(end) + LABEL_TOLERANCE,
            expires: clock.store_time_of(window.kept_until(end)) + LABEL_TOLERANCE.times(2),
        }
    }

    /// The same of a limit whose records are kept for longer.
    pub(crate) fn of_limit(self, limit: &Limit) -> Self {
        let kept = if limit.has_rights() { RIGHTS_KEPT } else { Span::ZERO };
        Self { expires: self.expires + kept, ..self }
    }
}

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Decide, and charge if admitted.
    Charge,
    /// Say what is used, by region; charge nothing.
    Usage,
}

/// How a check is carried out beside being decided.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner<'a> {
    /// The name that its caller gave it, and how long that is remembered: under one name it is charged once.
    pub name: Option<(&'a str, Span)>,
    /// What it is charged is held and may be settled.
    pub reserve: Option<Reserve>,
}

/// How something is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    /// The name of its holds; of a check with a name that follows from it.
    pub id: HoldId,
    /// From the store's step on.
    pub lasts: Span,
}

/// A check that cannot be planned; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More limits apply than one check may weigh.
    #[error(
        "{found} limits apply to this request, but one check weighs at most {LIMITS_MAX}: make the policies' matches narrower"
    )]
    TooManyLimits {
        /// How many apply.
        found: usize,
    },
}

/// One limit of one subject, planned.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) policy: Arc<Policy>,
    pub(crate) index: usize,
    pub(crate) cost: u64,
    pub(crate) key: Key,
    pub(crate) label: Label,
    /// Net use of all other regions, as known when it was planned; zero for a regional limit.
    pub(crate) others: u64,
    /// What this region is known to have used: the command's floor.
    pub(crate) floor: Counts,
    /// What this region is known to have used in the label before, if it still counts: a floor as well.
    pub(crate) before: u64,
    /// What this region may have used in the label at most, as far as is known and expected.
    pub(crate) ceiling: Ceiling,
    /// What its store is told of it, if it is spent by rights.
    pub(crate) claim: Option<Box<Claim>>,
    /// Whether there was room to count it when it was planned.
    pub(crate) countable: bool,
    /// Whether it is spent by rights and nothing may be, since the store cannot be relied on.
    pub(crate) suspended: bool,
    /// Under which terms its charge is held, if it is.
    pub(crate) hold: Option<Terms>,
}

impl Planned {
    pub(crate) fn limit(&self) -> &Limit {
        &self.policy.limits[self.index]
    }

    pub(crate) fn shape(&self) -> Shape {
        let limit = self.limit();
        Shape { limit: limit.id, window: limit.window, scope: limit.scope }
    }

    /// Takes what is known of its label.
    pub(crate) fn know(&mut self, known: &Known) {
        self.floor = floor(&self.policy, self.limit(), known);
        self.others = match self.limit().scope {
            Scope::Global => known.others,
            Scope::Region => 0,
        };
        self.ceiling = Ceiling::certain(self.limit().capacity().saturating_sub(self.others));
    }

    /// Whether demand for it is watched, if there is enough of it.
    pub(crate) fn has_forecast(&self) -> bool {
        self.limit().scope == Scope::Global && self.limit().consistency != Consistency::Plain
    }

    /// Whether it is spent by rights.
    pub(crate) fn has_rights(&self) -> bool {
        self.limit().has_rights()
    }

    /// The operation, which the store carries out before `until` or not at all.
    pub(crate) fn operation(
        &self,
        purpose: Purpose,
        clock: Relation,
        until: StoreTime,
    ) -> Operation {
        let limit = self.limit();
        let bounds = LabelBounds::of(limit.window, self.label, clock).of_limit(limit);
        Operation {
            key: self.key,
            action: match purpose {
                Purpose::Charge => Action::Charge { cost: self.cost },
                Purpose::Usage => Action::Peek,
            },
            label: self.label,
            not_before: bounds.not_before,
            not_after: bounds.not_after.min(until),
            ceiling: if self.suspended { 0 } else { self.ceiling.net },
            floor: self.floor,
            enforce: !self.policy.shadow,
            expires: bounds.expires,
            claim: self.claim.clone().filter(|_| !self.suspended),
            rule: limit.rule(bounds.starts, self.before),
            hold: self.hold.filter(|_| purpose == Purpose::Charge),
        }
    }

    /// Describes how the limit weighed, given this region's counts after the check, and what the store made of
    /// them where they do not decide alone.
    pub(crate) fn verdict(
        &self,
        allowed: bool,
        counts: Counts,
        weighed: Option<Weighed>,
        now: ClusterTime,
    ) -> LimitVerdict {
        let limit = self.limit();
        let in_region = weighed.map_or(counts.net(), |weighed| weighed.used);
        let used = in_region.saturating_add(self.others);
        let window_ends = limit.window.end(self.label).since(now);
        let by_window = limit.algorithm == Algorithm::FixedWindow;
        let reset_after = weighed.filter(|_| !by_window).map_or(window_ends, |w| w.reset);
        let retry_after = match weighed {
            // It waits for a place to be held by; and for the window's end where that is full too.
            Some(Weighed { wait, .. }) if by_window => {
                let is_full = in_region.saturating_add(self.cost) > self.ceiling.net;
                if is_full { wait.max(window_ends) } else { wait }
            }
            Some(Weighed { wait, .. }) => wait,
            None => window_ends,
        };
        let may_pass_later = self.cost <= limit.capacity();
        LimitVerdict {
            policy: Arc::clone(&self.policy),
            index: self.index,
            cost: self.cost,
            label: self.label,
            allowed,
            used,
            remaining: limit.capacity().saturating_sub(used),
            reset_after,
            retry_after: (!allowed && may_pass_later).then_some(retry_after),
            delay: weighed.filter(|_| allowed && limit.shapes()).map(|weighed| weighed.wait),
            staleness: None,
            regions: Vec::new(),
            worst_over_admission: None,
            rights: None,
        }
    }
}

/// What a plan waits for: give it back with the store's outcome, exactly once.
#[derive(Debug)]
#[must_use = "a plan's ticket must be completed, or its admission is not counted"]
pub struct Ticket {
    pub(crate) purpose: Purpose,
    pub(crate) planned: Vec<Planned>,
    pub(crate) asked_at: Mono,
    /// Whether the store has asked for other labels already.
    pub(crate) relabelled: bool,
    /// What is reserved.
    pub(crate) reserve: Option<Reserve>,
    /// If it is carried out once only.
    pub(crate) once: Option<Once>,
    /// Whether it was sent before and no answer came: what the store remembers of it nobody has counted.
    pub(crate) unanswered: bool,
}

impl Ticket {
    /// Whether its command may be sent again if no answer comes: it is carried out once. Says that it is.
    pub fn send_again(&mut self) -> bool {
        let may = self.once.is_some() && !self.unanswered;
        self.unanswered |= may;
        may
    }

    /// Number of limits that weigh.
    pub fn limits(&self) -> usize {
        self.planned.len()
    }
}

/// How a failed store is answered, limit by limit, in order: `take` takes a limit's cost of this node's share
/// of what is left, if it is there.
pub(crate) fn decide_without_store(
    planned: &[Planned],
    mut take: impl FnMut(&Planned) -> bool,
) -> (bool, Vec<bool>) {
    let passes = planned.iter().map(|plan| match plan.policy.on_store_failure {
        // What is spent by rights only the store can spend.
        _ if plan.has_rights() => false,
        OnStoreFailure::Open => true,
        OnStoreFailure::Closed => false,
        // What cannot be counted cannot be limited.
        OnStoreFailure::Degrade => plan.countable && take(plan),
    });
    let passes: Vec<bool> = passes.collect();
    let admitted = planned.iter().zip(&passes).all(|(plan, passes)| *passes || plan.policy.shadow);
    (admitted, passes)
}

/// Puts verdicts together. `reason` is what answered in place of the limits, if something did.
pub(crate) fn decision(
    admitted: bool,
    limits: Vec<LimitVerdict>,
    unanswered: Option<Reason>,
) -> Decision {
    let binding = binding(&limits, admitted);
    let refused = |verdict: &LimitVerdict| !verdict.allowed;
    let reason = unanswered.or_else(|| {
        let verdict = binding.filter(|_| !admitted).map(|at| &limits[at])?;
        let hopeless = verdict.cost > verdict.limit().capacity();
        Some(if hopeless { Reason::CostExceedsLimit } else { Reason::Limit })
    });
    Decision {
        allowed: admitted,
        reason,
        shadow: admitted && limits.iter().any(refused),
        degraded: unanswered.is_some(),
        binding,
        limits,
        reservation: None,
    }
}

/// The limit that describes a decision: when refused, the refusing one with the longest wait (never is
/// longest); else the one with the smallest remaining part. Shadow limits describe it only when there are
/// no others.
fn binding(limits: &[LimitVerdict], admitted: bool) -> Option<usize> {
    let some_enforced = limits.iter().any(|verdict| !verdict.policy.shadow);
    let speaks = |verdict: &LimitVerdict| !(some_enforced && verdict.policy.shadow);
    let candidates = limits.iter().enumerate().filter(|(_, verdict)| speaks(verdict));
    if admitted {
        // remaining_a / quantity_a < remaining_b / quantity_b, without division.
        let scale = |v: &LimitVerdict, by: &LimitVerdict| {
            u128::from(v.remaining) * u128::from(by.limit().quantity)
        };
        let least = candidates.min_by(|(_, a), (_, b)| scale(a, b).cmp(&scale(b, a)));
        return least.map(|(at, _)| at);
    }
    let wait = |verdict: &LimitVerdict| verdict.retry_after.map_or(u64::MAX, |wait| wait.0);
    let refusing = candidates.filter(|(_, verdict)| !verdict.allowed);
    // The first of several equals: `max_by_key` would take the last.
    refusing.rev().max_by_key(|(_, verdict)| wait(verdict)).map(|(at, _)| at)
}
