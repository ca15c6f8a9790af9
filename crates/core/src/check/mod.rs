//! A check: planned against what is known, carried out by the store, completed into a decision.

pub use decision::{Decision, LimitVerdict, Reason, RegionUse, RightsUse};
pub use plan::{LIMITS_MAX, PlanError, Purpose, Subject, Ticket};

mod decision;
pub(crate) mod plan;
#[cfg(test)]
mod tests;
