//! What a run came to: for programs as JSON, for people as a table (which is Markdown too).

use std::{collections::BTreeMap, fmt};

use serde::Serialize;
use tidegate_core::breaker::Cause;

use crate::{
    checker::Violations,
    ledger::{Accuracy, Deviation},
    scenario::Scenario,
    table::{percent, table},
    world::{Finished, RegionCount},
};

/// One region's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegionReport {
    /// Requests that came.
    pub offered: u64,
    /// Let through.
    pub admitted: u64,
    /// Turned away.
    pub refused: u64,
    /// Of these two: answered without the store.
    pub without_store: u64,
    /// Of these: because too many calls were waiting for it.
    pub shed: u64,
    /// For which no node was there.
    pub unanswered: u64,
}

/// One checker's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckerReport {
    /// Its name.
    pub name: &'static str,
    /// How often its property did not hold.
    pub violations: u64,
    /// The first few, for people.
    #[serde(skip)]
    pub told: Vec<String>,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Of the scenario.
    #[serde(skip)]
    pub name: String,
    /// What all chance came from.
    pub seed: u64,
    /// Over all that happened: 16 hex digits.
    pub trace_hash: String,
    /// Events handled.
    pub events: u64,
    /// Requests that came.
    pub offered: u64,
    /// Requests let through.
    pub admitted: u64,
    /// Admitted beyond the quantity, per measured window and key.
    pub over: Deviation,
    /// Not admitted although the central limiter admitted it.
    pub under: Deviation,
    /// Refused although there was room by true counts.
    pub needless: Deviation,
    /// How far apart regions are in the part of their requests that they admitted, in percentage points.
    pub fairness_points: f64,
    /// By name.
    pub regions: BTreeMap<String, RegionReport>,
    /// How often the breakers that stand before stores opened, by cause.
    pub breaker_opened: BTreeMap<&'static str, u64>,
    /// From the end of the load until all nodes knew the same exact sums; null if they never did.
    pub convergence_ms: Option<f64>,
    /// From the end of the last fault until all was as if there had been none; null if there was no fault
    /// that ends, or that never came.
    pub normal_ms: Option<f64>,
    /// Admitted beyond what the rule allows, whatever goes wrong.
    pub wrong_admits: u64,
    /// Units that nodes gave back of what they had admitted.
    pub refunded: u64,
    /// How often a node died that another was telling for its siblings too.
    pub relays_died: u64,
    /// Steps that servers carried out which had been replaced.
    pub by_replaced: u64,
    /// Admitted in the last windows, and not known to every node at the end.
    pub lost: u64,
    /// The part of it that some living node knows.
    pub lost_though_known: u64,
    /// UDP payload between regions under load, per admitted request: frames and what QUIC adds to them.
    pub bytes_per_admitted: f64,
    /// What must hold of every run.
    pub checkers: Vec<CheckerReport>,
    /// Accuracy of each limit, in the order in which loads meet them.
    #[serde(skip)]
    pub limits: Vec<(String, Accuracy)>,
    /// Names in the scenario's order.
    #[serde(skip)]
    pub order: Vec<String>,
}

impl Report {
    /// Sums a run up.
    pub fn new(scenario: &Scenario, seed: u64, finished: &mut Finished) -> Self {
        let sum = |field: fn(&RegionCount) -> u64| finished.counts.iter().map(field).sum::<u64>();
        let order: Vec<String> =
            scenario.topology.regions.iter().map(|region| region.name.to_string()).collect();
        let regions = order.iter().zip(&finished.counts).map(|(name, count)| {
            let RegionCount { offered, admitted, refused, without_store, shed, unanswered } =
                *count;
            let report =
                RegionReport { offered, admitted, refused, without_store, shed, unanswered };
            (name.clone(), report)
        });
        let losses = finished.panel.losses();
        let checkers = finished.panel.results().into_iter().map(|(name, violations)| {
            let Violations { count, told } = violations;
            CheckerReport { name, violations: count, told }
        });
        let keys = &finished.subjects.keys;
        let accuracy =
            |wanted: &dyn Fn(usize) -> bool| finished.ledger.accuracy(&finished.subjects, wanted);
        let mut limits: Vec<(String, Accuracy)> = Vec::new();
        for facts in keys {
            if limits.iter().all(|(limit, _)| *limit != facts.limit) {
                let of_limit = accuracy(&|key| keys[key].limit == facts.limit);
                limits.push((facts.limit.clone(), of_limit));
            }
        }
        let all = accuracy(&|key| keys[key].enforced);
        let admitted = sum(|count| count.admitted);
        let bytes = finished.bytes_between_regions as f64;
        Self {
            name: scenario.name.clone(),
            seed,
            trace_hash: format!("{:016x}", finished.trace_hash),
            events: finished.events,
            offered: sum(|count| count.offered),
            admitted,
            over: all.over,
            under: all.under,
            needless: all.needless,
            fairness_points: finished.ledger.spread(),
            regions: regions.collect(),
            breaker_opened: Cause::ALL.map(Cause::name).into_iter().zip(finished.opened).collect(),
            convergence_ms: finished.panel.converged_after().map(|span| span.0 as f64 / 1e3),
            normal_ms: finished.panel.normal_after().map(|span| span.0 as f64 / 1e3),
            wrong_admits: finished.panel.wrongly_admitted(),
            refunded: finished.refunded,
            relays_died: finished.relays_died,
            by_replaced: finished.by_replaced,
            lost: losses.lost,
            lost_though_known: losses.though_known,
            bytes_per_admitted: if admitted == 0 { 0.0 } else { bytes / admitted as f64 },
            checkers: checkers.collect(),
            limits,
            order,
        }
    }

    /// Whether every checker is content.
    pub fn holds(&self) -> bool {
        self.checkers.iter().all(|checker| checker.violations == 0)
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names can always be written as JSON")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}\n", self.name)?;
        writeln!(f, "Seed {}, {} events, trace {}.\n", self.seed, self.events, self.trace_hash)?;

        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |name: &str, r: &RegionReport| {
            let numbers = [r.offered, r.admitted, r.refused, r.without_store, r.unanswered];
            rows.push(
                [name.to_owned()].into_iter().chain(numbers.map(|n| n.to_string())).collect(),
            );
        };
        let mut total = RegionReport {
            offered: 0,
            admitted: 0,
            refused: 0,
            without_store: 0,
            shed: 0,
            unanswered: 0,
        };
        for name in &self.order {
            let region = &self.regions[name];
            row(name, region);
            total.offered += region.offered;
            total.admitted += region.admitted;
            total.refused += region.refused;
            total.without_store += region.without_store;
            total.shed += region.shed;
            total.unanswered += region.unanswered;
        }
        row("all", &total);
        let head = ["region", "offered", "admitted", "refused", "without store", "unanswered"];
        table(f, &head, &rows)?;

        let limits = self.limits.iter().map(|(name, a)| {
            vec![
                name.clone(),
                a.windows.to_string(),
                percent(a.over.mean_pct),
                percent(a.over.worst_pct),
                percent(a.under.mean_pct),
                percent(a.under.worst_pct),
                percent(a.needless.mean_pct),
            ]
        });
        writeln!(f)?;
        let head = [
            "limit",
            "windows",
            "over, mean",
            "over, worst",
            "under, mean",
            "under, worst",
            "needless, mean",
        ];
        table(f, &head, &limits.collect::<Vec<_>>())?;

        writeln!(f)?;
        let convergence = match self.convergence_ms {
            Some(ms) => format!("knew the same exact sums within {ms:.0} ms"),
            None if self.checkers.iter().any(|c| c.name == "convergence" && c.violations > 0) => {
                "should have known the same exact sums in time, and did NOT".into()
            }
            None => "counted under labels of its own, since clocks were apart".into(),
        };
        writeln!(f, "After the load every node {convergence}.")?;
        if let Some(ms) = self.normal_ms {
            writeln!(f, "After the last fault all was normal again within {ms:.0} ms.")?;
        }
        if self.refunded > 0 {
            writeln!(f, "Given back: {} units.", self.refunded)?;
        }
        if self.relays_died > 0 {
            writeln!(f, "Relays died: {}.", self.relays_died)?;
        }
        if self.by_replaced > 0 {
            writeln!(f, "Steps of servers that had been replaced: {}.", self.by_replaced)?;
        }
        let causes = self.breaker_opened.iter().filter(|(_, times)| **times > 0);
        let causes: Vec<_> = causes.map(|(cause, times)| format!("{cause} {times}")).collect();
        if !causes.is_empty() {
            writeln!(f, "Breakers before stores opened: {}.", causes.join(", "))?;
        }
        if total.shed > 0 {
            writeln!(f, "Shed, because too many were waiting for a store: {}.", total.shed)?;
        }
        writeln!(
            f,
            "Admitted beyond the rule: {}. Not known to all at the end: {}, of which somebody knows {}.",
            self.wrong_admits, self.lost, self.lost_though_known
        )?;
        writeln!(
            f,
            "Regions differ by {:.1} points in the part of their requests that they admitted.",
            self.fairness_points
        )?;
        writeln!(
            f,
            "Between regions {:.2} bytes of UDP payload were sent per admitted request.\n",
            self.bytes_per_admitted
        )?;

        let checkers =
            self.checkers.iter().map(|c| vec![c.name.to_owned(), c.violations.to_string()]);
        table(f, &["checker", "violations"], &checkers.collect::<Vec<_>>())?;
        for checker in self.checkers.iter().filter(|checker| checker.violations > 0) {
            writeln!(f, "\n{}:", checker.name)?;
            for told in &checker.told {
                writeln!(f, "- {told}")?;
            }
        }
        Ok(())
    }
}
