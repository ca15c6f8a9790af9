//! What the store holds of a key, and what may become of it: another label, floors, and holds that end.

use alloc::boxed::Box;

use super::{COUNT_MAX, Counts, Hold, Holds, Lapse, Operation};
use crate::{
    algorithm::{Meter, Reading, Rule},
    ids::StoreEpoch,
    rights::Account,
    time::{Label, Span, StoreTime},
};

/// What the store holds of a key: the counts of a label and of the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The newest label that was charged or lifted.
    pub label: Label,
    /// Counts of `label`.
    pub current: Counts,
    /// Counts of the label before it.
    pub previous: Counts,
    /// May be forgotten from then on.
    pub expires: StoreTime,
    /// The rights to it in `label`, if it is spent by rights.
    pub account: Option<Box<Account>>,
    /// What is known of it beside its counts, if they do not decide alone.
    pub meter: Option<Box<Meter>>,
    /// What of it is charged for a while only, if anything is.
    pub holds: Option<Box<Holds>>,
}

impl Record {
    pub(super) const fn fresh(label: Label, expires: StoreTime) -> Self {
        let none = Counts { used: 0, refunded: 0 };
        Self {
            label,
            current: none,
            previous: none,
            expires,
            account: None,
            meter: None,
            holds: None,
        }
    }

    /// Bytes held beside itself.
    pub(super) fn memory_bytes(&self) -> usize {
        let account = self.account.as_ref();
        let meter = self.meter.as_ref();
        let holds = self.holds.as_ref();
        account.map_or(0, |account| size_of::<Account>() + account.memory_bytes())
            + meter.map_or(0, |meter| size_of::<Meter>() + meter.memory_bytes())
            + holds.map_or(0, |holds| size_of::<Holds>() + holds.memory_bytes())
    }

    /// Makes `label` its current or previous one; `false` if it is older than both. An account ends with
    /// its label.
    pub(super) fn turn_to(&mut self, label: Label) -> bool {
        if label < self.label {
            return label.next() == self.label;
        }
        if label > self.label {
            let follows = label == self.label.next();
            self.previous = if follows { self.current } else { Counts::default() };
            self.current = Counts::default();
            self.account = None;
            self.label = label;
        }
        true
    }

    pub(super) fn counts_of(&mut self, label: Label) -> &mut Counts {
        if label == self.label { &mut self.current } else { &mut self.previous }
    }

    /// How it stands at `now` by a rule; `None` where the counts of a label alone decide.
    pub(super) fn reading<'a>(&'a mut self, rule: &'a Rule, now: StoreTime) -> Option<Reading<'a>> {
        rule.label()?;
        if self.meter.is_none() {
            self.meter = Meter::new(rule, now).map(Box::new);
        }
        let counts = [self.current, self.previous];
        Some(Reading::new(rule, now, self.meter.as_deref_mut(), counts))
    }

    /// Lifts its counts to a command's floors. What they did not know its meter takes as used at the last possible
    /// instant. Of what is held and may be undone no floor speaks: it comes on top.
    pub(super) fn lift(&mut self, operation: &Operation, now: StoreTime) -> bool {
        let label = operation.rule.label();
        let is_newest = operation.label == self.label;
        let mut lifted = false;
        // Of the label before, too, where it still counts.
        if let Some(label) = label.filter(|label| is_newest && label.before > 0) {
            let used = self.with_uncounted(label.before, operation.label.previous());
            let floor = Counts { used, refunded: 0 };
            let more = lift(&mut self.previous, floor);
            lifted |= self.note_lifted(operation, now, more, label.starts.min(now));
        }
        let used = self.with_uncounted(operation.floor.used, operation.label);
        let floor = Counts { used, ..operation.floor };
        let more = lift(self.counts_of(operation.label), floor);
        let used_by = label.filter(|_| !is_newest).map_or(now, |label| label.ends().min(now));
        lifted | self.note_lifted(operation, now, more, used_by)
    }

    /// A floor and what is held of its label and in no floor.
    pub(super) fn with_uncounted(&self, used: u64, label: Label) -> u64 {
        let held = self.holds.as_ref().map_or(0, |holds| holds.uncounted(label));
        if used == 0 { 0 } else { used.saturating_add(held).min(COUNT_MAX) }
    }

    pub(super) fn note_lifted(
        &mut self,
        operation: &Operation,
        now: StoreTime,
        more: u64,
        used_by: StoreTime,
    ) -> bool {
        if more > 0
            && let Some(mut reading) = self.reading(&operation.rule, now)
        {
            reading.lift(more, used_by);
        }
        more > 0
    }

    /// Adds what an operation holds of `amount`; `false` if there is no room for it, or nothing to hold it by.
    pub(super) fn hold(&mut self, operation: &Operation, amount: u64, now: StoreTime) -> bool {
        let Some(terms) = operation.hold else { return false };
        let (ends, label) = (now + terms.lasts, operation.label);
        let hold = Hold { ends, id: terms.id, made: now, label, amount, lapse: terms.lapse };
        let fits = self.holds.get_or_insert_default().add(hold);
        if fits {
            self.expires = self.expires.max(ends);
        }
        fits
    }

    pub(super) fn holds(&self) -> &[Hold] {
        self.holds.as_ref().map_or(&[], |holds| holds.all())
    }

    /// Until there is room for one more.
    pub(super) fn place_wait(&self, now: StoreTime) -> Span {
        self.holds.as_ref().map_or(Span::ZERO, |holds| holds.wait(now, 0, u64::MAX))
    }

    /// What counts as used, and how long until nothing does.
    pub(super) fn weigh(&mut self, rule: &Rule, now: StoreTime) -> (u64, Span) {
        match (rule, &self.holds) {
            // Its window's end the store does not know.
            (Rule::FixedWindow, _) => (self.current.net(), Span::ZERO),
            (Rule::Concurrency, Some(holds)) => {
                (holds.sum(), holds.last_ends().map_or(Span::ZERO, |ends| ends.since(now)))
            }
            _ => {
                let reading = self.reading(rule, now);
                reading.map_or_else(Default::default, |r| (r.used(), r.reset()))
            }
        }
    }

    /// Ends the holds whose time is over. Returns whether there was any. What was reserved before this epoch began stays
    /// charged: the store may have forgotten that it was settled.
    pub(super) fn lapse(&mut self, rule: &Rule, now: StoreTime, epoch: StoreEpoch) -> bool {
        let Some(holds) = self.holds.as_mut() else { return false };
        let over = holds.take_lapsed(now);
        self.forget_no_holds();
        for hold in &over {
            let is_known = hold.lapse == Lapse::Undone || hold.made.0 >= epoch.0;
            if is_known {
                self.give_back(rule, hold, hold.amount, now);
            }
        }
        !over.is_empty()
    }

    /// Ends the hold that an operation names, and keeps so much of it charged. Returns whether there is one.
    pub(super) fn settle(&mut self, operation: &Operation, keep: u64, now: StoreTime) -> bool {
        let Some((holds, terms)) = self.holds.as_mut().zip(operation.hold) else { return false };
        let Some(hold) = holds.take(terms.id, terms.lapse == Lapse::Undone) else { return false };
        self.forget_no_holds();
        self.give_back(&operation.rule, &hold, hold.amount.saturating_sub(keep), now);
        true
    }

    pub(super) fn forget_no_holds(&mut self) {
        self.holds.take_if(|holds| holds.is_empty());
    }

    /// Gives back of a hold, where its label is still known.
    pub(super) fn give_back(&mut self, rule: &Rule, hold: &Hold, amount: u64, now: StoreTime) {
        if hold.label > self.label || hold.label.next() < self.label {
            return;
        }
        let counts = self.counts_of(hold.label);
        let amount = amount.min(counts.net());
        match hold.lapse {
            Lapse::GivenBack => counts.refunded += amount,
            Lapse::Undone => counts.used -= amount,
        }
        if amount > 0
            && let Some(mut reading) = self.reading(rule, now)
        {
            reading.refund(amount, hold.made);
        }
    }
}

/// Lifts counts to a floor, and returns by how much net use grew.
fn lift(counts: &mut Counts, floor: Counts) -> u64 {
    let before = counts.net();
    *counts = counts.max(floor);
    counts.net().saturating_sub(before)
}
