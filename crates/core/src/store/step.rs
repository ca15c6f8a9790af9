//! The store's step: the one place where a region decides, as a pure function.
//!
//! The memory store and the simulator call it; the Redis script is its translation and is held equal to
//! it by a differential test. So what is shown for this function holds for what runs.

use alloc::{boxed::Box, vec::Vec};

use super::{
    Action, Answer, COUNT_MAX, Claim, Counts, HOLDS_MAX, Hold, Holding, Holds, Lapse, Marker,
    Operation, OperationReply, Record, Remembered, RequestId, StoreCommand, StoreReply,
};
use crate::{
    algorithm::{Rule, Weighed},
    ids::{ConfigEpoch, Key, StoreEpoch},
    rights::{Account, Fence},
    time::{Label, Span, StoreTime},
};

/// The records that a step reads and writes.
pub trait Records {
    /// The record of `key`, unless it has expired at `now`.
    fn get(&self, key: &Key, now: StoreTime) -> Option<Record>;
    /// Which history these records belong to.
    fn epoch(&self) -> StoreEpoch;
    /// What is remembered of this history beside its records.
    fn marker(&self) -> Marker;
    /// Remembers that.
    fn mark(&mut self, marker: Marker);
    /// Whether `more` keys that are not there yet fit, after forgetting some of what has expired at
    /// `now` if they would not.
    fn make_room(&mut self, more: usize, now: StoreTime) -> bool;
    /// Writes the record of `key`.
    fn put(&mut self, key: &Key, record: Record);
    /// What is remembered of a request beside a key, unless that is over at `now`.
    fn recall(&self, key: &Key, id: &RequestId, now: StoreTime) -> Option<Remembered>;
    /// Remembers that until then. There is room for it as for a key.
    fn remember(&mut self, key: &Key, id: RequestId, until: StoreTime, remembered: Remembered);
}

/// No room for the keys of a command; nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store's table is full: raise the number of records it may hold, or add nodes")]
pub struct TableFull;

/// A record while the step works on it.
struct Draft {
    key: Key,
    /// As it was found; `None` if there was none.
    found: Option<Record>,
    /// Turned to the label and lifted to the floors: what is written if the command is refused.
    lifted: Record,
    /// Also charged: what is written if it is admitted.
    charged: Record,
    /// Whether anything but time has moved its meter.
    moved: bool,
}

impl Draft {
    /// Carries out an operation on a limit whose counts do not decide alone. Says how it stands: after which it
    /// would pass, for now.
    fn meter(&mut self, operation: &Operation, now: StoreTime) -> (bool, Option<Weighed>) {
        let (rule, ceiling) = (&operation.rule, operation.ceiling);
        let has_place = self.has_place(operation);
        let Some(mut reading) = self.charged.reading(rule, now) else { return (false, None) };
        let (passes, taken, given, wait) = match operation.action {
            Action::Charge { cost } if has_place && reading.has_room(cost, ceiling) => {
                let delay = reading.delay();
                reading.charge(cost);
                (true, cost, 0, delay)
            }
            Action::Charge { cost } => {
                let wait = reading.wait(cost, ceiling);
                let place = if has_place { Span::ZERO } else { self.charged.place_wait(now) };
                (false, 0, 0, wait.max(place))
            }
            Action::Refund { amount } => (true, 0, amount, Span::ZERO),
            Action::Peek | Action::Heal => (true, 0, 0, Span::ZERO),
            Action::Grant | Action::Settle { .. } | Action::Hold { .. } | Action::Confirm => {
                (false, 0, 0, Span::ZERO)
            }
        };
        let counts = self.charged.counts_of(operation.label);
        let given = given.min(counts.net());
        counts.used = counts.used.saturating_add(taken);
        counts.refunded += given;
        if given > 0
            && let Some(label) = rule.label()
            && let Some(mut reading) = self.charged.reading(rule, now)
        {
            reading.refund(given, label.starts);
        }
        self.moved |= taken > 0 || given > 0;
        // A level is to be remembered until it has drained.
        if let (Rule::Bucket(..), Some(reading)) = (rule, self.charged.reading(rule, now)) {
            let drained = now + reading.reset();
            self.charged.expires = self.charged.expires.max(drained);
            self.lifted.expires = self.charged.expires;
        }
        (passes, Some(Weighed { wait, ..Weighed::default() }))
    }

    /// Carries out an operation on a limit of what is held at the moment. Says how it stands: after which it would
    /// pass, for now.
    fn concurrency(&mut self, operation: &Operation, now: StoreTime) -> (bool, Option<Weighed>) {
        let none = Holds::default();
        let holds = self.charged.holds.as_deref().unwrap_or(&none);
        let (passes, wait) = match operation.action {
            Action::Charge { cost } => {
                let fits = holds.sum().saturating_add(cost) <= operation.ceiling;
                let passes = fits && operation.hold.is_some() && self.has_place(operation);
                let wait = || holds.wait(now, cost, operation.ceiling);
                (passes, if passes { Span::ZERO } else { wait() })
            }
            Action::Peek | Action::Heal => (true, Span::ZERO),
            _ => (false, Span::ZERO),
        };
        (passes, Some(Weighed { wait, ..Weighed::default() }))
    }

    /// Whether what an operation charges can be held, if it is to be.
    fn has_place(&self, operation: &Operation) -> bool {
        let holds = matches!(operation.action, Action::Charge { .. }) && operation.hold.is_some();
        !holds || self.charged.holds().len() < HOLDS_MAX
    }

    fn hold(&mut self, operation: &Operation, amount: u64, now: StoreTime) -> bool {
        let fits = self.charged.hold(operation, amount, now);
        self.lifted.expires = self.lifted.expires.max(self.charged.expires);
        fits
    }

    /// Holds what an operation has charged, if that is asked for.
    fn hold_charge(&mut self, operation: &Operation, passes: bool, now: StoreTime) {
        if let (true, Action::Charge { cost }) = (passes, operation.action) {
            self.hold(operation, cost, now);
        }
    }

    /// Keeps what is held. Returns whether it was.
    fn confirm(&mut self, operation: &Operation, now: StoreTime) -> bool {
        let Some((holds, terms)) = self.charged.holds.as_mut().zip(operation.hold) else {
            return false;
        };
        let Some(hold) = holds.take(terms.id, true) else { return false };
        if terms.lapse == Lapse::GivenBack {
            let ends = now + terms.lasts;
            holds.add(Hold { ends, lapse: Lapse::GivenBack, ..hold });
            self.charged.expires = self.charged.expires.max(ends);
            self.lifted.expires = self.charged.expires;
        }
        self.charged.forget_no_holds();
        true
    }

    /// Holds again what the store has forgotten. Returns whether it is held.
    fn hold_again(&mut self, operation: &Operation, amount: u64, now: StoreTime) -> bool {
        let id = operation.hold.map(|terms| terms.id);
        let is_held = self.charged.holds().iter().any(|hold| Some(hold.id) == id);
        is_held || self.hold(operation, amount, now)
    }

    /// A refusal that taught nothing is not worth a write, nor a key that was not there before.
    fn is_worth_writing(&self) -> bool {
        let (outcome, none) = (&self.lifted, Counts::default());
        let untouched = |account: &Account| *account == Account::new(account.base());
        match &self.found {
            Some(found) => outcome != found,
            None => {
                outcome.current != none
                    || outcome.previous != none
                    || outcome.holds.is_some()
                    || !outcome.account.as_deref().is_none_or(untouched)
            }
        }
    }
}

/// Carries out `command` at `now`: all enforced operations pass, or nothing is charged (INV-4).
///
/// Records are lifted to the command's floors whether it is admitted or not, since a floor is a fact
/// and not a request; in the same way holds are ended whose time is over. A command of peeks alone writes nothing,
/// but is answered as if it had. A command that is to be carried out once is answered as the first time, if that
/// is remembered.
pub fn step<R: Records>(
    records: &mut R,
    command: &StoreCommand,
    now: StoreTime,
) -> Result<StoreReply, TableFull> {
    let epoch = records.epoch();
    let mut marker = records.marker();
    if marker.take(epoch, command, now) {
        records.mark(marker);
    }
    let once = command.once.zip(command.operations.first().map(|operation| operation.key));
    if let Some((once, key)) = once
        && let Some(first) = records.recall(&key, &once.id, now)
    {
        return Ok(if first.of == once.of {
            StoreReply::Repeated { now, epoch, first: Box::new(first) }
        } else {
            StoreReply::OtherRequest { now, epoch }
        });
    }
    let state = State { epoch, marker, claimed: command.proposed.epoch };
    let mut drafts: Vec<Draft> = Vec::with_capacity(command.operations.len());
    let mut replies = Vec::with_capacity(command.operations.len());
    let mut left_out = Vec::new();
    let mut admitted = true;

    for operation in &command.operations {
        let Some(draft) = draft_for(&mut drafts, records, operation, now) else {
            if operation.action.may_be_left_out() {
                // What nobody can ask for any more needs no healing.
                left_out.push(replies.len());
                replies.push(OperationReply::new(false, Counts::default()));
                continue;
            }
            return Ok(relabel(records, command, now));
        };
        draft.lifted.expires = draft.lifted.expires.max(operation.expires);
        draft.charged.expires = draft.lifted.expires;
        draft.lifted.lift(operation, now);
        draft.moved |= draft.charged.lift(operation, now);
        let of_hold = match operation.action {
            Action::Settle { keep } => Some(draft.charged.settle(operation, keep, now)),
            Action::Hold { amount } => Some(draft.hold_again(operation, amount, now)),
            Action::Confirm => Some(draft.confirm(operation, now)),
            _ => None,
        };
        if let Some(passes) = of_hold {
            draft.moved |= passes;
            admitted &= passes || !operation.enforce;
            replies.push(OperationReply::new(passes, Counts::default()));
            continue;
        }
        if operation.rule != Rule::FixedWindow {
            let (passes, weighed) = match operation.rule {
                Rule::Concurrency => draft.concurrency(operation, now),
                _ => draft.meter(operation, now),
            };
            draft.hold_charge(operation, passes, now);
            admitted &= passes || !operation.enforce;
            replies
                .push(OperationReply { weighed, ..OperationReply::new(passes, Counts::default()) });
            continue;
        }
        let has_place = draft.has_place(operation);
        let charged = draft.charged.counts_of(operation.label);
        let claim = operation.claim.as_deref();
        let (passes, holding) = match (operation.action, claim) {
            (Action::Heal, _) | (Action::Peek, None) => (true, None),
            (Action::Grant, None) => (false, None),
            (Action::Refund { amount }, None) => {
                charged.refunded += amount.min(charged.net());
                (true, None)
            }
            (Action::Charge { cost }, None) => {
                let fits = has_place && charged.net().saturating_add(cost) <= operation.ceiling;
                charged.used = charged.used.saturating_add(if fits { cost } else { 0 });
                (fits, None)
            }
            (_, Some(claim)) => {
                let (passes, holding) = spend(draft, operation, claim, &state);
                (passes, Some(Box::new(holding)))
            }
            // Done with above.
            (Action::Settle { .. } | Action::Hold { .. } | Action::Confirm, None) => (false, None),
        };
        // When its window ends who asks knows; when there is a place again only the record does.
        let wait = (!has_place && holding.is_none()).then(|| draft.charged.place_wait(now));
        let weighed = wait.map(|wait| Weighed { wait, ..Weighed::default() });
        draft.hold_charge(operation, passes, now);
        admitted &= passes || !operation.enforce;
        let counts = Counts::default();
        replies.push(OperationReply { holding, weighed, ..OperationReply::new(passes, counts) });
    }

    let writes = command.operations.iter().any(|o| o.action != Action::Peek);
    for draft in drafts.iter_mut().filter(|_| admitted) {
        if !draft.moved {
            // Time alone is not worth a write.
            draft.charged.meter.clone_from(&draft.lifted.meter);
        }
        draft.lifted.clone_from(&draft.charged);
    }
    let changed = || drafts.iter().filter(|draft| writes && draft.is_worth_writing());
    let remembers = once.filter(|(once, _)| once.kept > Span::ZERO && (admitted || once.refusals));
    let fresh = changed().filter(|draft| draft.found.is_none()).count();
    let room = |records: &mut R, more: usize| more == 0 || records.make_room(more, now);
    let remembers = remembers.filter(|_| room(records, fresh + 1));
    // What is settled is settled all the same: it makes room.
    let settles = |o: &Operation| matches!(o.action, Action::Settle { .. });
    let may_forget = command.answer.is_none() && command.operations.iter().all(settles);
    let forgets = once
        .is_some_and(|(once, _)| once.kept > Span::ZERO && (admitted || once.refusals))
        && remembers.is_none();
    if (forgets && !may_forget) || !room(records, fresh) {
        return Err(TableFull);
    }
    changed().for_each(|draft| records.put(&draft.key, draft.lifted.clone()));
    for (at, (operation, reply)) in command.operations.iter().zip(&mut replies).enumerate() {
        if left_out.contains(&at) {
            continue;
        }
        let draft = drafts.iter_mut().find(|draft| draft.key == operation.key);
        let Some(draft) = draft else { continue };
        reply.counts = *draft.lifted.counts_of(operation.label);
        let Some(weighed) = &mut reply.weighed else { continue };
        (weighed.used, weighed.reset) = draft.lifted.weigh(&operation.rule, now);
    }
    if let Some((once, key)) = remembers {
        let of_then = |(operation, reply): (&Operation, &OperationReply)| {
            (operation.label, OperationReply { holding: None, ..reply.clone() })
        };
        let own = || Answer {
            admitted,
            operations: command.operations.iter().zip(&replies).map(of_then).collect(),
        };
        let answer = command.answer.as_deref().cloned().unwrap_or_else(own);
        let (of, says, at) = (once.of, once.says, now);
        let remembered = Remembered { of, says, at, answer };
        records.remember(&key, once.id, now + once.kept, remembered);
    }
    let adopted = command.speaks_of_rights().then_some(marker.adopted);
    Ok(StoreReply::Done { admitted, now, epoch, adopted, operations: replies })
}

/// What the store is, as a claim meets it.
struct State {
    epoch: StoreEpoch,
    marker: Marker,
    /// By which configuration the claims of the command are made.
    claimed: ConfigEpoch,
}

/// Carries out an operation on a limit under rights. What others told is a fact, and is kept whether the
/// command is admitted or not; so is what is granted. Of the label before the record's newest nothing is
/// known any more: nothing is spent in it.
fn spend(
    draft: &mut Draft,
    operation: &Operation,
    claim: &Claim,
    State { epoch, marker, claimed }: &State,
) -> (bool, Holding) {
    let (epoch, adopted, start) = (*epoch, &marker.adopted, claim.label_start);
    let has_place = draft.has_place(operation);
    if operation.label != draft.charged.label {
        return (operation.action == Action::Peek, Holding::none(epoch, false));
    }
    let fence = Fence { label_start: start, opens: marker.opens };
    if draft.charged.account.is_none() {
        let base = adopted.base(*claimed, claim.bases, start);
        draft.charged.account = base.map(|base| Account::new(base).into());
    }
    let Some(account) = draft.charged.account.as_mut() else {
        return (operation.action == Action::Peek, Holding::none(epoch, fence.is_behind()));
    };
    // Who goes by an older configuration does not know which base is the least, nor does a store that nobody
    // has told how far the region was.
    let knows = *claimed == adopted.epoch && marker.opens.is_some();
    let least = adopted.least_base(claim.bases, start).filter(|_| knows);
    if let Some((reopening, least)) = claim.reopening.as_ref().zip(least)
        && account.reopen(epoch, fence, reopening)
    {
        account.lower_base(least);
        let of = [
            (&mut draft.lifted.current, &draft.lifted.holds),
            (&mut draft.charged.current, &draft.charged.holds),
        ];
        for (counts, holds) in of {
            // What others know of this region says nothing of what may be undone, as with a floor.
            let held = holds.as_ref().map_or(0, |holds| holds.uncounted(operation.label));
            let used = counts.refunded.saturating_add(reopening.used).saturating_add(held);
            counts.used = counts.used.max(used.min(COUNT_MAX));
        }
    }
    let net = draft.charged.current.net();
    if let Some((seen, known)) = &claim.granted
        && *seen == epoch
    {
        account.lift_given(known);
    }
    for told in &claim.received {
        account.receive(*told);
    }
    let open = account.is_open(epoch, fence);
    let served = open && adopted.serves(*claimed, start);
    let passes = match operation.action {
        Action::Charge { cost } => {
            let within = net.saturating_add(cost) <= operation.ceiling;
            let allowance = if within && adopted.knows(start) { claim.allowance } else { 0 };
            let most = claim.bound.map_or(u64::MAX, |bound| bound.most(epoch));
            has_place
                && served
                && net.saturating_add(cost) <= most
                && account.allows(net, cost, allowance)
        }
        Action::Grant => {
            for (to, amount) in claim.grants.iter().filter(|_| served) {
                account.grant(net, *to, *amount);
            }
            true
        }
        Action::Refund { amount } => {
            draft.charged.current.refunded += amount.min(net);
            true
        }
        Action::Peek | Action::Heal => true,
        Action::Settle { .. } | Action::Hold { .. } | Action::Confirm => false,
    };
    let holding = Holding::of(account, epoch, open);
    draft.lifted.account.clone_from(&draft.charged.account);
    if let (true, Action::Charge { cost }) = (passes, operation.action) {
        draft.charged.current.used = draft.charged.current.used.saturating_add(cost);
    }
    (passes, holding)
}

/// The answer to labels that do not fit: it says how far the records are, so that a node whose clock is
/// behind its region's need not ask twice.
fn relabel<R: Records>(records: &R, command: &StoreCommand, now: StoreTime) -> StoreReply {
    let newest = |o: &Operation| records.get(&o.key, now).map_or(Label(0), |record| record.label);
    let newest = command.operations.iter().map(newest).collect();
    StoreReply::Relabel { now, epoch: records.epoch(), newest }
}

/// The draft of an operation's record, turned to its label; `None` if the label does not fit the
/// store's clock or the record has moved on.
fn draft_for<'a, R: Records>(
    drafts: &'a mut Vec<Draft>,
    records: &R,
    operation: &Operation,
    now: StoreTime,
) -> Option<&'a mut Draft> {
    let of_hold = operation.action.is_of_a_hold();
    if !of_hold && (now < operation.not_before || now >= operation.not_after) {
        return None;
    }
    let at = match drafts.iter().position(|draft| draft.key == operation.key) {
        Some(at) => at,
        None => {
            let found = records.get(&operation.key, now);
            let fresh = Record::fresh(operation.label, operation.expires);
            let start = found.clone().unwrap_or(fresh);
            let (key, lifted) = (operation.key, start.clone());
            drafts.push(Draft { key, found, lifted, charged: start, moved: false });
            drafts.len() - 1
        }
    };
    let draft = &mut drafts[at];
    let fits =
        of_hold || draft.lifted.turn_to(operation.label) && draft.charged.turn_to(operation.label);
    // What weighs on the label before the newest is not known any more, and what is held is held in the newest.
    let newest_only = match operation.action {
        Action::Charge { .. } | Action::Hold { .. } if operation.hold.is_some() => true,
        Action::Charge { .. } | Action::Peek => matches!(operation.rule, Rule::SlidingWindow(_)),
        _ => false,
    };
    if !fits || newest_only && operation.label != draft.charged.label {
        return None;
    }
    let epoch = records.epoch();
    draft.lifted.lapse(&operation.rule, now, epoch);
    draft.moved |= draft.charged.lapse(&operation.rule, now, epoch);
    Some(draft)
}
