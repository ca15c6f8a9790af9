//! Asks a node of the own region whether a request may pass.
//!
//! # When it fails
//!
//! A check is sent once. It is never repeated after it left, since a repeat would be charged again; so
//! after [`Error::TimedOut`] and [`Error::Interrupted`] nobody here knows whether it was charged.
//! [`Error::Unreachable`] was not: no connection came about. (A request that was about to use a kept
//! connection which the node had closed meanwhile, and of which nothing was sent, goes out on a new
//! one.) What then happens to the request that asked is the caller's choice: let it pass where the
//! service matters more than the limit, refuse it where the limit does. This crate does not choose.
//!
//! A check with a name ([`Client::check_once`]) may be asked again, of any node of the region: it is charged once, and
//! answered as the first time, also if that was a refusal. Who comes back later gives it a new name. Settling what was
//! reserved may be asked again as well.
//!
//! [`Error::Refused`] means that the node understood that it was asked wrongly: it is a mistake in the
//! program or its configuration, and asking again will not help.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = tidegate_client::Client::new("http://127.0.0.1:8080")?;
//! let answer = client.check(&[("api_key", "k"), ("route", "/orders")], 1).await?;
//! if !answer.allowed {
//!     println!("come back in {:?} ms", answer.check.retry_after_ms);
//! }
//! # Ok(())
//! # }
//! ```

pub use answer::{Answer, Check, Settled, Verdict};
pub use client::{Client, DEADLINE_DEFAULT};
pub use error::{BadUrl, Error, Mistake, Problem};

mod answer;
mod client;
mod error;

#[cfg(test)]
mod tests;
