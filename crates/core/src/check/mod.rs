//! A check: planned against what is known, carried out by the store, completed into a decision.

pub use decision::{Decision, LimitVerdict, Reason, RegionUse};

mod decision;
