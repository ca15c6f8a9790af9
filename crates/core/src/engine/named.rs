//! Requests with a name, which are charged once: what a check asks for as a number, and what this node has admitted
//! without its store, which nobody else remembers.

use alloc::collections::{BTreeMap, BTreeSet};

use super::Engine;
use crate::{
    check::{Decision, Subject, Ticket, plan},
    guard::{Guard, Guarding},
    ids::{Caller, CallerHasher, RequestName, Secret, StoreEpoch},
    memory,
    store::{HoldId, Once, Remembered, RequestId},
    time::{Mono, Span, StoreTime},
};

/// What was admitted without the store under a name: the oldest gives way.
const ANSWERED_MAX: usize = 8_192;

/// What a node remembers of requests with a name.
#[derive(Debug, Default)]
pub(super) struct Named {
    answered: BTreeMap<RequestId, Answered>,
    /// The order in which they are forgotten.
    oldest: BTreeSet<(Mono, RequestId)>,
}

#[derive(Debug)]
struct Answered {
    of: u64,
    decision: Decision,
    until: Mono,
}

impl Named {
    fn remember(&mut self, id: RequestId, answered: Answered) {
        while self.answered.len() >= ANSWERED_MAX
            && let Some((_, oldest)) = self.oldest.pop_first()
        {
            self.answered.remove(&oldest);
        }
        if let Some(before) = self.answered.remove(&id) {
            self.oldest.remove(&(before.until, id));
        }
        self.oldest.insert((answered.until, id));
        self.answered.insert(id, answered);
    }

    fn recall(&mut self, now: Mono, id: &RequestId) -> Option<&Answered> {
        while let Some((_, oldest)) =
            self.oldest.first().copied().filter(|(until, _)| *until <= now)
        {
            self.oldest.pop_first();
            self.answered.remove(&oldest);
        }
        self.answered.get(id)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let limits =
            self.answered.values().map(|answered| memory::of_vec(&answered.decision.limits));
        memory::of_tree(&self.answered) + memory::of_set(&self.oldest) + limits.sum::<usize>()
    }
}

/// What was admitted under a name without the store.
pub(super) enum Recalled {
    /// The same was asked for.
    Same(Decision),
    /// Something else was.
    Other,
}

impl<G: Guarding> Engine<G> {
    /// Answers a check without the store by `answer`; under a name only once: who asks here again is told the same. A
    /// refusal charged nothing, and is not remembered: who asks again may find the store.
    pub(super) fn answer_by_name(
        &self,
        now: Mono,
        ticket: &Ticket,
        answer: impl FnOnce() -> Decision,
    ) -> Decision {
        let Some(once) = ticket.once else { return answer() };
        // Two that come at a time are one.
        self.named.with(|named| {
            let known = named.recall(now, &once.id).filter(|known| known.of == once.of);
            if let Some(known) = known {
                return known.decision.clone();
            }
            let decision = answer();
            if decision.allowed {
                let (of, until) = (once.of, now + once.kept);
                named.remember(once.id, Answered { of, decision: decision.clone(), until });
            }
            decision
        })
    }

    pub(super) fn recall_answered(&self, now: Mono, once: &Once) -> Option<Recalled> {
        self.named.with(|named| {
            let known = named.recall(now, &once.id)?;
            let same = known.of == once.of;
            Some(if same { Recalled::Same(known.decision.clone()) } else { Recalled::Other })
        })
    }

    /// Answers as the first time. Whoever was answered then has counted it, unless that was this very check.
    pub(super) fn answer_again(
        &self,
        now: Mono,
        mut ticket: Ticket,
        epoch: StoreEpoch,
        first: &Remembered,
    ) -> Decision {
        self.let_go(now, &mut ticket);
        for (plan, (label, _)) in ticket.planned.iter_mut().zip(&first.answer.operations) {
            if plan.label != *label {
                plan.label = *label;
                let known = self.known(plan.key, plan.label);
                plan.know(&known);
            }
        }
        if let Some(reserve) = &mut ticket.reserve {
            reserve.id = HoldId(first.says);
        }
        let replies = || first.answer.operations.iter().map(|(_, reply)| reply);
        let reservation = self.reservation(&ticket, first.at, replies().map(|op| op.passes));
        let reservation = reservation.filter(|_| first.answer.admitted);
        // Whoever was answered then has counted it; this very check was not.
        let is_own = ticket.once.is_some_and(|once| once.says == first.says);
        if ticket.unanswered && is_own {
            let passes = replies().map(|op| (op.passes, Some(op.counts)));
            self.count(now, &ticket, first.answer.admitted, passes);
            if first.answer.admitted {
                let (at, passed) = ((first.at, epoch), replies().map(|op| op.passes));
                self.note_reserved(now, at, &ticket, reservation.as_ref(), passed);
            }
        }
        let cluster = self.cluster_time(now);
        let verdicts = ticket.planned.iter().zip(replies());
        let verdicts = verdicts
            .map(|(plan, op)| plan.verdict(op.passes, op.counts, op.weighed, cluster))
            .collect();
        let limits = self.with_views(now, &ticket, verdicts);
        Decision { reservation, ..plan::decision(first.answer.admitted, limits, None) }
    }
}

/// What a remembered answer says now: spans have grown shorter.
pub(super) fn as_of(first: &Remembered, now: StoreTime) -> Remembered {
    let passed = now.since(first.at);
    let mut first = first.clone();
    for (_, reply) in &mut first.answer.operations {
        if let Some(weighed) = &mut reply.weighed {
            weighed.wait = Span(weighed.wait.0.saturating_sub(passed.0));
            weighed.reset = Span(weighed.reset.0.saturating_sub(passed.0));
        }
    }
    first
}

/// What makes a check one that is carried out once, by the name that its caller gave it: what else it says has to be
/// the same. `says` is a number that nobody else says: by it a node knows its own command again.
pub(super) fn named(
    (name, kept): (&str, Span),
    says: u64,
    secret: &Secret,
    subjects: &[Subject<'_>],
    ticket: &Ticket,
) -> Once {
    let caller = ticket.planned.first().map_or(Caller([0; 2]), |plan| plan.key.caller);
    let mut hasher = CallerHasher::new(secret).part("what is asked for");
    for subject in subjects {
        let mut attributes = subject.attributes.to_vec();
        attributes.sort_unstable();
        hasher = hasher.numbers(&[subject.cost, attributes.len() as u64]);
        for (name, value) in attributes {
            hasher = hasher.part(name).part(value);
        }
    }
    let lasts = ticket.reserve.map_or(0, |reserve| reserve.lasts.0);
    let of = hasher.numbers(&[u64::from(ticket.reserve.is_some()), lasts]).finish();
    let id = RequestName::of(secret, name, caller);
    Once { id, of: of.0[0] >> 11, says, kept, refusals: true }
}
