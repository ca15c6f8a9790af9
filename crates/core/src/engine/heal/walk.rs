//! Where a healing walk stands, and what it does about records that fail.

use super::{HealTicket, Place};
use crate::{
    ids::StoreEpoch,
    time::{Mono, Span},
};

/// How long a walk waits after a command that failed.
const RETRY_AFTER: Span = Span::millis(250);
/// How often one record is refused before it is left to the floors of checks.
const REFUSED_MAX: u8 = 4;
/// How often no answer comes about one record before it is left to them: eight seconds at least, in which a
/// store that is only slow, or being replaced, is either found again or no longer asked.
const UNANSWERED_MAX: u8 = 32;

/// Why a healing command was not carried out, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The store was not asked: that says nothing of the records.
    NotAsked,
    /// No answer came, or one of a server of another epoch: the records may be written, or not.
    Unanswered,
    /// The store refused, or its answer shows that it has not done it.
    Refused,
}

#[derive(Debug)]
pub(super) struct Walk {
    pub(super) epoch: StoreEpoch,
    began: Mono,
    pub(super) last_pass: bool,
    pub(super) at: Place,
    pub(super) not_before: Mono,
    /// Up to where records go one by one, because a command over several failed.
    pub(super) careful_until: Option<Place>,
    /// How often the record at hand was refused, and got no answer.
    refused: u8,
    unanswered: u8,
    /// Its commands under way.
    pub(super) in_flight: usize,
}

impl Walk {
    pub(super) fn new(epoch: StoreEpoch, now: Mono, at: Place) -> Self {
        Self {
            epoch,
            began: now,
            last_pass: false,
            at,
            not_before: now,
            careful_until: None,
            refused: 0,
            unanswered: 0,
            in_flight: 0,
        }
    }

    /// The second and last pass, which begins then.
    pub(super) fn last_pass(epoch: StoreEpoch, begins: Mono, at: Place) -> Self {
        Self { last_pass: true, ..Self::new(epoch, begins, at) }
    }

    pub(super) const fn began(&self) -> Mono {
        self.began
    }

    /// The record at hand is done with.
    pub(super) fn progress(&mut self) {
        (self.refused, self.unanswered) = (0, 0);
    }

    /// Goes back to where a command that failed began, or on behind it if its one record has failed too
    /// often. Returns how many records are left out by that.
    pub(super) fn rewind(&mut self, now: Mono, ticket: &HealTicket, failure: Failure) -> u64 {
        self.not_before = self.not_before.max(now + RETRY_AFTER);
        self.at = self.at.min(ticket.from);
        let count = match failure {
            Failure::NotAsked => return 0,
            Failure::Unanswered => &mut self.unanswered,
            Failure::Refused => &mut self.refused,
        };
        let until = self.careful_until.unwrap_or(ticket.to);
        self.careful_until = Some(until.max(ticket.to));
        if ticket.floors.len() > 1 {
            return 0;
        }
        *count += 1;
        if self.refused < REFUSED_MAX && self.unanswered < UNANSWERED_MAX {
            return 0;
        }
        self.progress();
        self.at = ticket.to;
        1
    }
}
