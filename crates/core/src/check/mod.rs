//! A check: planned against what is known, carried out by the store, completed into a decision.

pub use decision::{Decision, LimitVerdict, Reason, RegionUse, RightsUse};
pub use plan::{LIMITS_MAX, Manner, PlanError, Purpose, Reserve, Subject, Ticket};
pub use reservation::{Charged, Reservation, TOKEN_CHARS_MAX};

mod decision;
pub(crate) mod plan;
mod reservation;
#[cfg(test)]
mod tests;
