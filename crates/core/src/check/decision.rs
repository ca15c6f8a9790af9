//! What a check is answered.

use alloc::{sync::Arc, vec::Vec};

use super::reservation::Reservation;
use crate::{
    ids::RegionName,
    policy::{Limit, Policy},
    store::Counts,
    time::{Label, Span},
};

/// Why a check was not answered by its limits alone, or why it was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A limit had no room.
    Limit,
    /// The cost alone is more than a limit's quantity: waiting does not help.
    CostExceedsLimit,
    /// The store could not be asked; the policies' `on_store_failure` answered.
    StoreUnavailable,
    /// Too much was waiting for the store already; nothing was asked.
    Overload,
}

/// What one region has used of a key in one label, as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionUse {
    /// Which region.
    pub region: RegionName,
    /// Its counts.
    pub counts: Counts,
    /// How old that knowledge is; `None` if the region has never been heard.
    pub staleness: Option<Span>,
}

/// How a region stands with its rights to a key in one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RightsUse {
    /// What the region may spend in all: 0 while its store may have forgotten some of the label.
    pub held: u64,
    /// What it has granted to others.
    pub granted: u64,
    /// What regions that cannot be reached hold and have not spent, as far as is known: nobody else can
    /// spend it in the label.
    pub stranded: u64,
}

impl RightsUse {
    pub(crate) fn add(&mut self, more: Self) {
        self.held = self.held.saturating_add(more.held);
        self.granted = self.granted.saturating_add(more.granted);
        self.stranded = self.stranded.saturating_add(more.stranded);
    }
}

/// How one limit weighed one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitVerdict {
    /// The policy it belongs to.
    pub policy: Arc<Policy>,
    /// Which of the policy's limits.
    pub index: usize,
    /// What the request costs.
    pub cost: u64,
    /// The window it was weighed in.
    pub label: Label,
    /// Whether this limit had room. A shadow limit without room does not refuse the request.
    pub allowed: bool,
    /// What counts as used after the check: in all regions for a global limit, in this one otherwise.
    pub used: u64,
    /// What may be used at a time (the quantity, or the burst of a bucket) less that, not below zero.
    pub remaining: u64,
    /// Until the window ends; unless it is fixed, until nothing counts as used any more.
    pub reset_after: Span,
    /// After which the same request passes if nobody else asks; `None` if allowed, if it never will, or
    /// if it waits for the store, whose return nobody knows.
    pub retry_after: Option<Span>,
    /// If allowed by a bucket that shapes: after which the request is to go on.
    pub delay: Option<Span>,
    /// Age of the oldest view of another region; `None` for a regional limit, and while another
    /// region has never been heard.
    pub staleness: Option<Span>,
    /// By region, this one first; only where use was asked for.
    pub regions: Vec<RegionUse>,
    /// By how much all regions together may exceed the limit at most in this window, because what others
    /// admit now is not known here yet; only of a global limit where use was asked for, and `None` while
    /// peers are expected and none was ever met.
    pub worst_over_admission: Option<u64>,
    /// Only of a limit that is spent by rights, where use was asked for and the store answered.
    pub rights: Option<RightsUse>,
}

impl LimitVerdict {
    /// The limit that weighed.
    pub fn limit(&self) -> &Limit {
        &self.policy.limits[self.index]
    }

    /// How long the window is that it was weighed in: of a day, week or month, what that one has.
    pub fn window_length(&self) -> Span {
        self.limit().window.length_of(self.label)
    }
}

/// The answer to a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may pass.
    pub allowed: bool,
    /// Why not, or why without asking the store.
    pub reason: Option<Reason>,
    /// It passes only because the limit without room is in shadow.
    pub shadow: bool,
    /// The store did not decide; what is known did.
    pub degraded: bool,
    /// The limit that describes the answer: the refusing one with the longest wait, else the one with
    /// the smallest remaining part. `None` only without limits.
    pub binding: Option<usize>,
    /// Every limit that weighed, in file order.
    pub limits: Vec<LimitVerdict>,
    /// What was reserved, if that was asked for and the store has done it.
    pub reservation: Option<Reservation>,
}
