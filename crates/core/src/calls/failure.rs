//! Why a store did not do what it was asked, and what that means to the breaker, the bound and the engine.

use crate::{breaker, engine, time::Span};

/// Why a call is not let through; nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotLetThrough {
    /// There is no connection.
    Unreachable,
    /// The breaker is open.
    Open,
    /// Too many calls wait already.
    Overload,
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The call was not let through, or found no connection when it was to be sent.
    NotLetThrough(NotLetThrough),
    /// The store found fault with one record, or has no room for one more; nothing was carried out.
    Record,
    /// The store refused, as it would anything; nothing was carried out.
    Refused,
    /// The record is on its way between the store's servers, or none of them has it; nothing was carried out.
    Unserved,
    /// No answer in time: the step may have been carried out.
    Timeout,
    /// The connection broke, or the answer cannot be read: the step may have been carried out.
    Broken,
}

impl Failure {
    /// Whether the step was certainly not carried out.
    pub const fn nothing_done(self) -> bool {
        matches!(self, Self::NotLetThrough(_) | Self::Record | Self::Refused | Self::Unserved)
    }

    /// What the engine is told of a check.
    pub const fn of_check(self) -> engine::Outcome {
        match self {
            Self::NotLetThrough(NotLetThrough::Overload) => engine::Outcome::Shed,
            failure if failure.nothing_done() => engine::Outcome::Cancelled,
            _ => engine::Outcome::Unknown,
        }
    }

    /// What the engine is told of a command that heals the store: one that was not sent, or that nobody served,
    /// says nothing of the records in it, which are not to be given up for it.
    pub const fn of_heal(self) -> engine::Outcome {
        match self {
            Self::NotLetThrough(_) | Self::Unserved => engine::Outcome::Shed,
            failure => failure.of_check(),
        }
    }

    /// What the breaker is told if this came after `took`, and how long the answer took where that says
    /// something.
    pub(super) const fn noted(self, took: Span) -> (breaker::Outcome, Option<Span>) {
        match self {
            // A fault found with one record, or with one more of them, is an answer like another.
            Self::Record => (breaker::Outcome::Answered(took), Some(took)),
            Self::Timeout => (breaker::Outcome::Unanswered, Some(took)),
            // That a record has moved says nothing of the server that was asked.
            Self::NotLetThrough(NotLetThrough::Open | NotLetThrough::Overload) | Self::Unserved => {
                (breaker::Outcome::NotAsked, None)
            }
            Self::NotLetThrough(NotLetThrough::Unreachable) | Self::Refused | Self::Broken => {
                (breaker::Outcome::Failed, None)
            }
        }
    }
}

impl From<NotLetThrough> for Failure {
    fn from(why: NotLetThrough) -> Self {
        Self::NotLetThrough(why)
    }
}
