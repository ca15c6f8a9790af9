//! Reservations: checks whose charge is held until it is settled, and requests that are carried out once.
//!
//! A reservation is charged like a check, and counted by the session that admitted it. What of it is not kept is
//! given back twice over: in the store by the step that settles it, or ends it when its time is over, whichever
//! node asks; and in the slot of the session that counted it, by that session alone. So this node remembers what
//! it has reserved, and looks after it when its time is over: another node may have settled it meanwhile, and the
//! store remembers to what.
//!
//! A store of another epoch has forgotten its holds. What was reserved in it stays charged then, until its window
//! ends, since nobody knows whether it was used. The places of concurrency limits are held again: each node tells
//! the store of those that it was given and that nobody has given back through it.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use super::{Engine, Outcome};
use crate::{
    algorithm::Rule,
    check::{Charged, Reservation, Reserve, Ticket, plan::Planned},
    guard::{Guard, Guarding},
    ids::StoreEpoch,
    memory,
    policy::{Algorithm, PolicySet},
    store::{
        Action, COUNT_MAX, Counts, HoldId, Lapse, Once, Operation, StoreCommand, StoreReply, Terms,
    },
    time::{Mono, Span, StoreTime},
};

/// Reservations that this node looks after. What is reserved beyond is charged until its window ends, unless it is
/// settled by this node before its time is over.
pub const RESERVED_MAX: usize = 65_536;
/// So long after a reservation's end it is looked after, since clocks differ a little.
const LOOK_AFTER: Span = Span::secs(1);
/// So long it is tried again if the store does not answer.
const LOOK_FOR: Span = Span::secs(300);
/// How long a store remembers a settling beyond the end of the reservation: longer than anybody asks.
const SETTLING_KEPT: Span = Span::secs(900);
/// Between two tries.
pub(super) const RETRY_AFTER: Span = Span::secs(1);
/// Reservations that are looked after at a time.
const LOOKS_MAX: usize = 16;
/// What became of a request to settle a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// So much of it stays charged; where it was settled before, as it was said then.
    Charged(u64),
    /// There is no such reservation any more: its time is over, or the store has forgotten it.
    Unknown,
    /// The store did not say.
    Unanswered,
}

/// What a settling command waits for: give it back to [`Engine::handle_settled`], exactly once.
#[derive(Debug)]
#[must_use = "a settling command's ticket must be given back, or what was given back is not counted"]
pub struct SettleTicket {
    reservation: Reservation,
    keep: u64,
    /// Whether it only asks what has become of it.
    looks: bool,
    asked_at: Mono,
}

/// Reservations since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReserveStats {
    /// Looked after at the moment.
    pub open: usize,
    /// Units of cost that nobody looks after: there was no room, the store did not say, or has forgotten.
    pub unsettled: u64,
}

/// What a node remembers of reservations and named requests.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    pub(super) by_id: BTreeMap<HoldId, Open>,
    /// By when they are to be looked at.
    due: BTreeSet<(Mono, HoldId)>,
    /// How many of them are of places only.
    places: usize,
    looking: usize,
    unsettled: u64,
    /// How often the store had begun a new epoch when all places were looked at last, and how far that has come.
    pub(super) looked: u64,
    pub(super) looking_at: Option<HoldId>,
    /// Whether another round is due after that one, and from when on.
    pub(super) another: Option<Mono>,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) reservation: Reservation,
    /// Of the store, of each charge's caller, when it was made; of a place, when the store was last told of it.
    pub(super) epochs: Vec<Option<StoreEpoch>>,
    /// When it was made, by the store's clock.
    pub(super) made: StoreTime,
    due: Mono,
    until: Mono,
    /// Whether all of it is to be kept: it was admitted without the store, which may hold it all the same.
    keeps: bool,
    /// Whether it is of places only, which end by themselves.
    places_only: bool,
}

impl Reserved {
    fn add(&mut self, open: Open) {
        let (others, places) = (self.by_id.len() - self.places, self.places);
        if open.places_only {
            if places >= RESERVED_MAX {
                return;
            }
            self.places += 1;
        } else if others >= RESERVED_MAX {
            self.unsettled = self.unsettled.saturating_add(open.reservation.cost());
            return;
        }
        self.due.insert((open.due, open.reservation.id));
        self.by_id.insert(open.reservation.id, open);
    }

    fn remove(&mut self, reservation: &Reservation) -> Option<Open> {
        let same = self.by_id.get(&reservation.id)?.reservation == *reservation;
        let open = same.then(|| self.by_id.remove(&reservation.id)).flatten()?;
        self.due.remove(&(open.due, reservation.id));
        self.places -= usize::from(open.places_only);
        Some(open)
    }

    fn forget(&mut self, id: HoldId) {
        if let Some(open) = self.by_id.remove(&id) {
            self.places -= usize::from(open.places_only);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let charged = self.by_id.values().map(|open| memory::of_vec(&open.reservation.charged));
        memory::of_tree(&self.by_id) + memory::of_set(&self.due) + charged.sum::<usize>()
    }
}

impl<G: Guarding> Engine<G> {
    /// How it stands with reservations.
    pub fn reserve_stats(&self) -> ReserveStats {
        self.reserved.with(|reserved| ReserveStats {
            open: reserved.by_id.len(),
            unsettled: reserved.unsettled,
        })
    }

    /// Under which terms a planned limit's charge is held, if it is.
    pub(super) fn terms(&self, plan: &Planned, reserve: Option<Reserve>) -> Option<Terms> {
        let limit = plan.limit();
        let lease =
            (limit.algorithm == Algorithm::Concurrency).then(|| limit.window.usual_length());
        let Reserve { id, lasts } = match (reserve, lease) {
            (Some(reserve), Some(lease)) => Reserve { lasts: reserve.lasts.min(lease), ..reserve },
            (Some(reserve), None) => reserve,
            (None, Some(lasts)) => Reserve { id: self.hold_id(), lasts },
            (None, None) => return None,
        };
        Some(Terms { id, lasts, lapse: Lapse::GivenBack })
    }

    /// A name for a hold that nobody else has.
    pub fn hold_id(&self) -> HoldId {
        HoldId((self.chance() >> 11).max(1))
    }

    /// What the store has reserved by a ticket, if it was to reserve something and has.
    pub(super) fn reservation(
        &self,
        ticket: &Ticket,
        at: StoreTime,
        passes: impl Iterator<Item = bool>,
    ) -> Option<Reservation> {
        let Reserve { id, lasts } = ticket.reserve?;
        let charged = ticket.planned.iter().zip(passes).filter(|(_, passes)| *passes);
        let charged =
            charged.map(|(plan, _)| Charged { key: plan.key, label: plan.label, cost: plan.cost });
        let charged: Vec<_> = charged.collect();
        let ends = at + lasts;
        (!charged.is_empty()).then_some(Reservation { id, ends, charged })
    }

    /// The epoch of the store that each charge of a reservation is in now.
    pub(super) fn epochs_of(&self, reservation: &Reservation) -> Vec<Option<StoreEpoch>> {
        let charged = reservation.charged.iter();
        charged.map(|charged| self.epoch_of(self.bucket_of(charged.key.caller))).collect()
    }

    /// Looks after what a check has reserved, and the places that it was given, from now on.
    pub(super) fn note_reserved(
        &self,
        now: Mono,
        (at, epoch): (StoreTime, StoreEpoch),
        ticket: &Ticket,
        reservation: Option<&Reservation>,
        passes: impl Iterator<Item = bool>,
    ) {
        let first = ticket.planned.first().map(|plan| self.bucket_of(plan.key.caller));
        let open = |reservation: Reservation, lasts: Span, places_only| {
            let due = now + lasts + LOOK_AFTER;
            // A newer one may have been met since the answer was given.
            let in_force = reservation.charged.iter().map(|charged| {
                let bucket = self.bucket_of(charged.key.caller);
                if Some(bucket) == first { Some(epoch) } else { self.epoch_of(bucket) }
            });
            let epochs = in_force.collect();
            let (made, until) = (at, due + LOOK_FOR);
            Open { reservation, epochs, made, due, until, places_only, keeps: false }
        };
        if let Some((reservation, reserve)) = reservation.zip(ticket.reserve) {
            let of_places = |plan: &Planned| plan.limit().algorithm == Algorithm::Concurrency;
            let places_only = ticket.planned.iter().all(of_places);
            let open = open(reservation.clone(), reserve.lasts, places_only);
            self.reserved.with(|reserved| reserved.add(open));
            return;
        }
        let taken = ticket.planned.iter().zip(passes).filter(|(_, passes)| *passes);
        for (plan, _) in taken.filter(|_| ticket.reserve.is_none()) {
            let Some(Terms { id, lasts, .. }) = plan.hold else { continue };
            let charged = Charged { key: plan.key, label: plan.label, cost: plan.cost };
            let reservation = Reservation { id, ends: at + lasts, charged: [charged].into() };
            self.reserved.with(|reserved| reserved.add(open(reservation, lasts, true)));
        }
    }

    /// What was to be reserved was admitted without the store, which may have done it all the same: nobody can settle
    /// it, and it is not to be given back.
    pub(super) fn note_unanswered(&self, now: Mono, ticket: &Ticket) {
        let Some(Reserve { id, lasts }) = ticket.reserve else { return };
        let charged =
            ticket.planned.iter().filter(|plan| plan.limit().algorithm != Algorithm::Concurrency);
        let charged =
            charged.map(|plan| Charged { key: plan.key, label: plan.label, cost: plan.cost });
        let charged: Vec<_> = charged.collect();
        if charged.is_empty() {
            return;
        }
        let epochs = charged.iter().map(|_| None).collect();
        let (due, made) = (now, StoreTime(0));
        let reservation = Reservation { id, ends: StoreTime(0), charged };
        let until = now + lasts + LOOK_FOR;
        let open = Open { reservation, epochs, made, due, until, places_only: false, keeps: true };
        self.reserved.with(|reserved| reserved.add(open));
    }

    /// Has the store end a reservation and keep `keep` of it, at most what was reserved: carry out the command,
    /// then call [`handle_settled`](Self::handle_settled). The command may be sent again: it is carried out once.
    pub fn settle(
        &self,
        policies: &PolicySet,
        now: Mono,
        reservation: Reservation,
        keep: u64,
    ) -> (StoreCommand, SettleTicket) {
        self.settling(policies, now, reservation, keep, false)
    }

    fn settling(
        &self,
        policies: &PolicySet,
        now: Mono,
        reservation: Reservation,
        keep: u64,
        looks: bool,
    ) -> (StoreCommand, SettleTicket) {
        let (clock, shows) = self.clock.with(|clock| (clock.relation(now), clock.store_time(now)));
        let limit_of =
            |charged: &Charged| policies.limit(charged.key.limit).map(|(_, limit)| limit);
        let is_place = |charged: &Charged| {
            limit_of(charged).is_some_and(|limit| limit.algorithm == Algorithm::Concurrency)
        };
        let of_places = reservation.charged.iter().all(is_place);
        let operation = |charged: &Charged| {
            let limit = limit_of(charged);
            let rule = limit.map_or_else(Rule::default, |limit| {
                limit.rule(clock.store_time_of(limit.window.start(charged.label)), 0)
            });
            let (id, lapse) = (reservation.id, Lapse::GivenBack);
            Operation {
                key: charged.key,
                action: Action::Settle { keep },
                label: charged.label,
                not_before: StoreTime(0),
                not_after: StoreTime(u64::MAX),
                ceiling: 0,
                floor: Counts::default(),
                // A place may be over before the reservation is.
                enforce: of_places || !is_place(charged),
                expires: StoreTime(0),
                claim: None,
                rule,
                hold: Some(Terms { id, lasts: Span::ZERO, lapse }),
            }
        };
        let left = shows.map_or(Span::ZERO, |shows| reservation.ends.since(shows));
        let once = Once {
            id: reservation.settling(),
            of: 0,
            says: keep,
            kept: left + SETTLING_KEPT,
            refusals: false,
        };
        let operations = reservation.charged.iter().map(operation).collect();
        let command = StoreCommand { once: Some(once), ..StoreCommand::new(operations) };
        (command, SettleTicket { reservation, keep, looks, asked_at: now })
    }

    /// Takes what became of a settling command. What was given back of what this session has counted is given back
    /// in its slot, too.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is given back once")]
    pub fn handle_settled(&self, now: Mono, ticket: SettleTicket, outcome: &Outcome) -> Settled {
        if ticket.looks {
            self.reserved.with(|reserved| reserved.looking = reserved.looking.saturating_sub(1));
        }
        let settled = match outcome {
            Outcome::Reply(reply) => self.settled(now, &ticket, reply),
            _ => return self.look_again(now, &ticket),
        };
        // Who comes too late hears so; what has become of it the look finds out.
        if settled == Settled::Unknown && !ticket.looks {
            return settled;
        }
        let open = self.reserved.with(|reserved| reserved.remove(&ticket.reservation));
        let Some(open) = open else { return settled };
        if open.keeps {
            return settled;
        }
        let kept = match settled {
            Settled::Charged(kept) => Some(kept),
            // Its time was over, and the store has given it back.
            Settled::Unknown
                if ticket.looks && open.epochs == self.epochs_of(&open.reservation) =>
            {
                Some(0)
            }
            _ => None,
        };
        match kept {
            Some(kept) => self.give_back(now, &ticket.reservation, kept),
            None => self.note_unsettled(&open.reservation),
        }
        settled
    }

    fn settled(&self, now: Mono, ticket: &SettleTicket, reply: &StoreReply) -> Settled {
        if let Some(first) = ticket.reservation.charged.first() {
            self.handle_epoch(now, self.bucket_of(first.key.caller), reply.epoch());
        }
        match reply {
            StoreReply::Done { admitted, now: reading, .. } => {
                self.clock.with(|clock| clock.handle_store(ticket.asked_at, now, *reading));
                if *admitted { Settled::Charged(ticket.keep) } else { Settled::Unknown }
            }
            StoreReply::Repeated { first, .. } => Settled::Charged(first.says),
            StoreReply::Relabel { .. } | StoreReply::OtherRequest { .. } => Settled::Unknown,
        }
    }

    fn look_again(&self, now: Mono, ticket: &SettleTicket) -> Settled {
        self.reserved.with(|reserved| {
            if !ticket.looks {
                return;
            }
            let Some(mut open) = reserved.remove(&ticket.reservation) else { return };
            open.due = now + RETRY_AFTER;
            if open.due < open.until {
                reserved.add(open);
            } else {
                reserved.unsettled = reserved.unsettled.saturating_add(open.reservation.cost());
            }
        });
        Settled::Unanswered
    }

    fn note_unsettled(&self, reservation: &Reservation) {
        self.reserved.with(|reserved| {
            reserved.unsettled = reserved.unsettled.saturating_add(reservation.cost());
        });
    }

    /// Gives back in this session's slots what of a reservation is not kept.
    fn give_back(&self, now: Mono, reservation: &Reservation, kept: u64) {
        for Charged { key, label, cost } in &reservation.charged {
            let amount = self.refund_slot(now, *key, *label, cost.saturating_sub(kept));
            self.upkeep.with(|upkeep| upkeep.refunds.given += amount);
        }
        self.pace.note_change(now, self.settings.gossip);
    }

    /// The next reservation that is to be looked after, if one is due: carry out the command, then call
    /// [`handle_settled`](Self::handle_settled). Call until `None`; bounded, and harmless when early.
    pub fn poll_settle(
        &self,
        policies: &PolicySet,
        now: Mono,
    ) -> Option<(StoreCommand, SettleTicket)> {
        let (reservation, keeps) = self.reserved.with(|reserved| {
            if reserved.looking >= LOOKS_MAX {
                return None;
            }
            loop {
                let (due, id) = reserved.due.first().copied().filter(|(due, _)| *due <= now)?;
                reserved.due.pop_first();
                match reserved.by_id.get(&id) {
                    // Another one has the name by now.
                    Some(open) if open.due != due => continue,
                    Some(open) if !open.places_only => {
                        reserved.looking += 1;
                        return Some((open.reservation.clone(), open.keeps));
                    }
                    Some(_) => reserved.forget(id),
                    None => continue,
                };
            }
        })?;
        let keep = if keeps { COUNT_MAX } else { 0 };
        let (command, ticket) = self.settling(policies, now, reservation, keep, true);
        // Of what nobody was told nobody asks again; and its end is not known, by which it would have a name.
        let once = command.once.filter(|_| !keeps);
        Some((StoreCommand { once, ..command }, ticket))
    }
}
