//! Why there is no answer.

use std::{fmt, time::Duration};

use serde::Deserialize;

/// A URL that no node can be asked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{url}` is not the URL of a node: {reason}; try `http://127.0.0.1:8080`")]
pub struct BadUrl {
    /// What was given.
    pub url: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Why a check was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection came about; nothing was charged.
    #[error("no node can be reached at {url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// No whole answer came in time; whether the check was charged is not known.
    #[error("{url} did not answer within {after:?}; the check may have been charged")]
    TimedOut {
        /// Where.
        url: String,
        /// The deadline.
        after: Duration,
    },
    /// The connection broke before the whole answer came; whether the check was charged is not known.
    #[error("the connection to {url} broke: {reason}; the check may have been charged")]
    Interrupted {
        /// Where.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The name of a request is none; nothing was sent.
    #[error("`{0}` cannot be the name of a request: 1 to 255 visible characters of ASCII")]
    BadName(String),
    /// The node says that it was asked wrongly, or cannot do what was asked; nothing was charged.
    #[error("the node refused the request: {0}")]
    Refused(Problem),
    /// Something answered that does not speak as a node does.
    #[error("{url} answered {status}, but not as a node does: {excerpt}")]
    NotUnderstood {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How its answer begins.
        excerpt: String,
    },
}

/// What a node says about a request that it does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, for people.
    pub detail: String,
    /// What is wrong, field by field; may be empty.
    #[serde(default)]
    pub errors: Vec<Mistake>,
}

/// One thing wrong in a request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Mistake {
    /// Where.
    pub field: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.title, self.detail)?;
        // The detail of a single mistake is that mistake.
        for Mistake { field, message } in self.errors.iter().filter(|_| self.errors.len() > 1) {
            write!(f, "; {field}: {message}")?;
        }
        Ok(())
    }
}
