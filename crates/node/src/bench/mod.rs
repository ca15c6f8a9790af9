//! `tidegate bench`: puts load on nodes and measures how they answer.
//!
//! With a rate it is an *open loop*: each request is due at its instant, whether or not earlier ones
//! are answered, and its latency counts from that instant. A node that stalls shows in the latency of
//! all that was due meanwhile. With `max` it is a closed loop: as many requests under way as there are
//! connections, each sent when the last is answered.
//!
//! All load comes from one thread: one core of load, and the cost per request stays the same.

use std::{str::FromStr, sync::Arc};

use tokio::task::LocalSet;

use self::{connection::Target, load::Load, requests::Requests, schedule::Schedule};
use crate::cli::{
    arguments::Bench,
    exit::{Exit, Failure},
    files, output, runtime,
};

mod connection;
mod load;
mod pacer;
mod report;
mod requests;
mod schedule;

/// In an open loop at most so many requests are under way. What is due beyond them waits, and its
/// latency counts on.
const OPEN_LOOP_CONNECTIONS: u32 = 4096;
const CLOSED_LOOP_CONNECTIONS: u32 = 64;

/// How many requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rate {
    /// So many a second, above zero.
    PerSecond(f64),
    /// As many as are answered.
    Max,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const RATES: std::ops::RangeInclusive<f64> = 0.001..=1e7;
        match (text, text.parse()) {
            ("max", _) => Ok(Self::Max),
            (_, Ok(rate)) if RATES.contains(&rate) => Ok(Self::PerSecond(rate)),
            _ => Err("a rate is requests per second, from 0.001 to 10000000, or `max`".into()),
        }
    }
}

/// Puts the load on, and prints what came of it.
pub(crate) fn run(asked: &Bench) -> Result<Exit, Failure> {
    let targets = asked
        .url
        .iter()
        .map(|url| Target::parse(url))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Failure::usage)?;
    let requests = Requests::new(&asked.attributes, asked.keys).map_err(Failure::usage)?;
    let connections = asked.connections.unwrap_or(match asked.rate {
        Rate::PerSecond(_) => OPEN_LOOP_CONNECTIONS,
        Rate::Max => CLOSED_LOOP_CONNECTIONS,
    });
    let connections = connections.max(u32::try_from(targets.len()).unwrap_or(u32::MAX));
    let allowed = files::allow(connections);
    if allowed.connections < connections {
        tracing::warn!(
            files = allowed.files,
            "only {} of {connections} connections: a process here may not have more open files \
             (`ulimit -n`)",
            allowed.connections.max(1)
        );
    }
    let connections = allowed.connections.max(1);
    let schedule = Schedule::new(asked.rate, asked.duration);
    let load = Load { targets, requests: Arc::new(requests), schedule, connections };
    let report = LocalSet::new().block_on(&runtime()?, load.run()).map_err(Failure::unreachable)?;
    if let Some(error) = &report.first_error {
        tracing::warn!(errors = report.errors, "the first error: {error}");
    }
    if asked.json {
        output::json(&report.summary());
    } else {
        output::line(&report.table());
    }
    if report.answered() == 0 {
        return Err(Failure::unreachable("no request was answered"));
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_or_max() {
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!("2.5".parse(), Ok(Rate::PerSecond(2.5)));
        for bad in ["", "0", "-1", "NaN", "inf", "1e9", "fast"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad:?}");
        }
    }
}
