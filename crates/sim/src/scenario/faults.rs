//! What goes wrong in a scenario, and until when.

use serde::Deserialize;
use tidegate_core::{rights::Regions, time::Span};

use crate::{queue::Instant, topology::Topology};

/// What becomes of a region's store when a node restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreFate {
    /// It lives elsewhere and keeps its memory.
    Kept,
    /// It lived in the node and is empty.
    Lost,
}

/// A node dies, and comes back as another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Which node, by its place in [`Topology::nodes`].
    pub node: usize,
    /// When it dies.
    pub at: Instant,
    /// How long until it runs again; `None`: never.
    pub down: Option<Span>,
    /// What becomes of its region's store.
    pub store: StoreFate,
    /// By how much its wall clock is behind the truth when it comes back.
    pub clock_back: Span,
}

/// A node's process stands still: what comes for it waits and is handled afterwards, all at once. Its
/// monotonic clock goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// Which node.
    pub node: usize,
    /// From this instant on …
    pub at: Instant,
    /// … for so long.
    pub lasts: Span,
}

/// What a node that lies adds to its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Claims {
    /// That it has used as much as can be told, of each global limit that the frame speaks of.
    Used,
    /// That its region has granted as much as can be told to every other region.
    Granted,
}

/// For a while a node tells the other regions what is not true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lie {
    /// Which node.
    pub node: usize,
    /// From this instant on …
    pub start: Instant,
    /// … until just before this one.
    pub end: Instant,
    /// What.
    pub claims: Claims,
}

/// For a while, some calls to a region's store go wrong. The shares add up to 1 at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StoreFault {
    /// Whose store, by the region's place.
    pub region: usize,
    /// From this instant on …
    pub start: Instant,
    /// … until just before this one.
    pub end: Instant,
    /// Share of answers that come late …
    pub late: f64,
    /// … by this much.
    pub late_by: Span,
    /// Share of answers that come twice.
    pub twice: f64,
    /// Share of questions that are never answered; the step runs or does not, evenly.
    pub never: f64,
    /// Share of calls that take longer, step and answer alike …
    pub slow: f64,
    /// … by an exponential delay of this mean: some beyond the deadline.
    pub slow_by: Span,
    /// Share of questions that cannot be sent: the node knows at once.
    pub gone: f64,
    /// Share of questions that the store refuses to carry out: read-only, or out of memory.
    pub refuse: f64,
}

/// A store loses its memory while its region's nodes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLoss {
    /// Whose store.
    pub region: usize,
    /// When.
    pub at: Instant,
    /// It is again what it was so long ago, as after a failover to a lagging replica; `None`: empty.
    pub back: Option<Span>,
    /// For how long the region's first node goes on asking the server that was replaced: each knows nothing of
    /// what the other does.
    pub lingers: Span,
}

/// A clock that does not show the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockFault {
    /// Of a node, from its starts on: its wall clock, read at its start, is off by `offset` µs, and its
    /// monotonic clock runs `drift_ppm` millionths too fast.
    Node {
        /// Which node.
        node: usize,
        /// In microseconds; negative is behind.
        offset: i64,
        /// In millionths; negative is slow.
        drift_ppm: i64,
    },
    /// Of a region's store: from `at` on it is off by `offset` µs more, and runs `drift_ppm` millionths
    /// faster.
    Store {
        /// Whose store.
        region: usize,
        /// From when on.
        at: Instant,
        /// In microseconds; negative is behind.
        offset: i64,
        /// In millionths; negative is slow.
        drift_ppm: i64,
    },
}

/// How far a clock that runs `ppm` millionths too fast has got ahead after `elapsed`, in µs.
pub fn drifted(elapsed: Span, ppm: i64) -> i64 {
    // Most clocks do not drift, and a division of this width is slow.
    if ppm == 0 {
        return 0;
    }
    (i128::from(elapsed.0) * i128::from(ppm) / 1_000_000) as i64
}

/// All faults of nodes, stores and clocks; those of links are part of the topology.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Nodes that die and come back.
    pub restarts: Vec<Restart>,
    /// Nodes that stand still.
    pub pauses: Vec<Pause>,
    /// Nodes that lie.
    pub lies: Vec<Lie>,
    /// Stores that answer badly.
    pub store_faults: Vec<StoreFault>,
    /// Stores that lose their memory.
    pub store_losses: Vec<StoreLoss>,
    /// Clocks that are wrong.
    pub clocks: Vec<ClockFault>,
    /// Configurations that take the place of the first, in their order: nodes that start from an instant on
    /// have them.
    pub configs: Vec<(Instant, Regions)>,
}

impl Restart {
    /// When the node runs again; when it dies, if it never does.
    pub fn over(&self) -> Instant {
        self.at + self.down.unwrap_or_default()
    }
}

impl Faults {
    /// What a node that starts now has, if it is not the first configuration.
    pub fn regions(&self, now: Instant) -> Option<&Regions> {
        let known = self.configs.iter().rev().find(|(at, _)| *at <= now);
        known.map(|(_, regions)| regions)
    }

    /// Whether a node is dead and will not come back.
    pub fn is_gone(&self, node: usize, now: Instant) -> bool {
        self.restarts.iter().any(|r| r.node == node && r.down.is_none() && r.at <= now)
    }

    /// What a node claims falsely at an instant.
    pub fn claims(&self, node: usize, now: Instant) -> impl Iterator<Item = Claims> {
        let lies = self.lies.iter();
        let lies = lies.filter(move |l| l.node == node && l.start <= now && now < l.end);
        lies.map(|lie| lie.claims)
    }

    /// Whether a node lies, or has.
    pub fn is_liar(&self, node: usize, now: Instant) -> bool {
        self.lies.iter().any(|lie| lie.node == node && lie.start <= now)
    }

    /// What a region's store clock shows beyond the truth at an instant, in µs.
    pub fn store_clock_error(&self, region: usize, now: Instant) -> i64 {
        let of = |fault: &ClockFault| match *fault {
            ClockFault::Store { region: whose, at, offset, drift_ppm }
                if whose == region && at <= now =>
            {
                offset + drifted(now.since(at), drift_ppm)
            }
            _ => 0,
        };
        self.clocks.iter().map(of).sum()
    }

    /// Every fault's beginning and end. A wrong clock that stays wrong ends with its last step, for
    /// nodes get used to it; one that steps is news to them.
    fn spans(&self) -> impl Iterator<Item = (Instant, Instant)> {
        let restarts = self.restarts.iter().map(|r| (r.at, r.over()));
        let pauses = self.pauses.iter().map(|p| (p.at, p.at + p.lasts));
        let stores = self.store_faults.iter().map(|f| (f.start, f.end));
        let losses = self.store_losses.iter().map(|l| (l.at, l.at + l.lingers));
        let lies = self.lies.iter().map(|l| (l.start, l.end));
        let steps = self.clocks.iter().filter_map(|fault| match fault {
            ClockFault::Store { at, .. } if *at > Instant(0) => Some((*at, *at)),
            _ => None,
        });
        restarts.chain(pauses).chain(stores).chain(losses).chain(lies).chain(steps)
    }

    /// When the last fault ends, those of links included; `None` if there is none that ends.
    pub fn healed(&self, topology: &Topology) -> Option<Instant> {
        let cuts = topology.cuts.iter().map(|cut| cut.end);
        let links = topology.link_faults.iter().map(|fault| fault.end);
        self.spans().map(|(_, end)| end).chain(cuts).chain(links).max()
    }

    /// Times in which counts may not travel as they should, those of links included.
    pub fn delays(&self, topology: &Topology) -> Vec<(Instant, Instant)> {
        let restarts = self.restarts.iter().map(|r| (r.at, r.over()));
        let pauses = self.pauses.iter().map(|p| (p.at, p.at + p.lasts));
        let cuts = topology.cuts.iter().map(|cut| (cut.start, cut.end));
        let links = topology.link_faults.iter().filter(|fault| fault.delays());
        let links = links.map(|fault| (fault.start, fault.end));
        restarts.chain(pauses).chain(cuts).chain(links).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(region: usize, at: u64, offset: i64, drift_ppm: i64) -> ClockFault {
        ClockFault::Store { region, at: Instant(at), offset, drift_ppm }
    }

    #[test]
    fn a_clock_steps_and_drifts() {
        let clocks = vec![store(0, 0, 500, 100), store(0, 2_000_000, -1_500, 0)];
        let faults = Faults { clocks, ..Faults::default() };
        assert_eq!(faults.store_clock_error(0, Instant(0)), 500);
        assert_eq!(faults.store_clock_error(0, Instant(1_000_000)), 600);
        assert_eq!(faults.store_clock_error(0, Instant(2_000_000)), -800);
        assert_eq!(faults.store_clock_error(1, Instant(2_000_000)), 0);
    }

    #[test]
    fn drift_is_in_millionths_both_ways() {
        assert_eq!(drifted(Span::secs(10), 200), 2_000);
        assert_eq!(drifted(Span::secs(10), -200), -2_000);
    }
}
