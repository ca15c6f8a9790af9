//! What is measured of a run, and what the runs of one cell come to.

use serde::Serialize;

use crate::{
    checker::Violations, ledger::WindowDeviation, queue::Instant, report::Report,
    scenario::Scenario, world::World,
};

/// Something that is measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Measure {
    /// Over-admission, mean of all windows.
    OverMean,
    /// Over-admission of the worst window.
    OverWorst,
    /// Over-admission of each run's first window.
    OverFirst,
    /// Under-admission, mean of all windows.
    UnderMean,
    /// Under-admission of the worst window.
    UnderWorst,
    /// From the end of the last fault until all nodes have heard of each other.
    HealMs,
    /// Which full window after the last fault is the first with so little over- and under-admission.
    HealWindow {
        /// Over, in percent.
        over: f64,
        /// Under, in percent.
        under: f64,
    },
    /// UDP payload between regions for each admitted request.
    BytesPerAdmitted,
    /// How far regions are apart in the part of their requests that they admitted.
    Fairness,
    /// What these checkers found wrong; empty: all.
    Violations(Vec<String>),
}

impl Measure {
    /// In words.
    pub fn name(&self) -> String {
        match self {
            Self::OverMean => "over, mean".into(),
            Self::OverWorst => "over, worst window".into(),
            Self::OverFirst => "over, first window".into(),
            Self::UnderMean => "under, mean".into(),
            Self::UnderWorst => "under, worst window".into(),
            Self::HealMs => "heard of each other".into(),
            Self::HealWindow { over, under } => {
                format!("window with over ≤ {over} %, under ≤ {under} %")
            }
            Self::BytesPerAdmitted => "bytes per admitted".into(),
            Self::Fairness => "fairness".into(),
            Self::Violations(_) => "violations".into(),
        }
    }

    /// A value of it, for people.
    pub fn show(&self, value: f64) -> String {
        if value.is_infinite() {
            return "never".into();
        }
        match self {
            Self::OverMean | Self::OverWorst | Self::OverFirst => format!("{value:.2} %"),
            Self::UnderMean | Self::UnderWorst => format!("{value:.2} %"),
            Self::HealMs => format!("{value:.0} ms"),
            Self::HealWindow { .. } => format!("no. {value:.0}"),
            Self::BytesPerAdmitted => format!("{value:.2} B"),
            Self::Fairness => format!("{value:.1} points"),
            Self::Violations(_) => format!("{value:.0}"),
        }
    }

    /// Whether it is what a mode under rights promises, whatever happens: no such thing may be missed.
    pub const fn is_bound(&self, rights: bool) -> bool {
        match self {
            Self::Violations(_) => true,
            Self::OverMean | Self::OverWorst | Self::OverFirst => rights,
            _ => false,
        }
    }

    /// What a cell's runs come to: the mean of what is a mean, and else the worst.
    pub fn of(&self, samples: &[Sample]) -> f64 {
        let windows = || samples.iter().flat_map(|sample| &sample.windows);
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
            if count > 0.0 { sum / count } else { 0.0 }
        };
        let worst = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        match self {
            Self::OverMean => mean(&mut windows().map(|window| window.over_pct)),
            Self::OverWorst => worst(&mut windows().map(|window| window.over_pct)),
            Self::OverFirst => {
                let first = samples.iter().filter_map(|sample| sample.windows.first());
                worst(&mut first.map(|window| window.over_pct))
            }
            Self::UnderMean => mean(&mut windows().map(|window| window.under_pct)),
            Self::UnderWorst => worst(&mut windows().map(|window| window.under_pct)),
            Self::HealMs => {
                worst(&mut samples.iter().map(|sample| sample.heal_ms.unwrap_or(f64::INFINITY)))
            }
            Self::HealWindow { over, under } => worst(&mut samples.iter().map(|sample| {
                let good = |w: &&WindowDeviation| w.over_pct <= *over && w.under_pct <= *under;
                let after = sample.windows_after_heal().enumerate();
                let first = after.filter(|(_, window)| good(window)).map(|(n, _)| n + 1).next();
                first.map_or(f64::INFINITY, |n| n as f64)
            })),
            Self::BytesPerAdmitted => mean(&mut samples.iter().map(|s| s.bytes_per_admitted)),
            Self::Fairness => mean(&mut samples.iter().map(|s| s.fairness_points)),
            Self::Violations(checkers) => {
                let found = samples.iter().flat_map(|sample| &sample.violations);
                let wanted = found.filter(|(name, _)| {
                    // A run that ended in a panic has kept no promise at all.
                    checkers.is_empty() || *name == PANIC || checkers.iter().any(|c| c == name)
                });
                wanted.map(|(_, violations)| violations.count).sum::<u64>() as f64
            }
        }
    }
}

/// What a run that ended in a panic violates.
pub(super) const PANIC: &str = "panic";

/// What is kept of one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Sample {
    /// The seed.
    pub seed: u64,
    /// Measured windows of enforced limits, in the order of time for each.
    #[serde(skip)]
    pub windows: Vec<WindowDeviation>,
    /// When the last fault had ended, by true cluster time in µs.
    #[serde(skip)]
    pub healed: Option<u64>,
    /// From then until all had heard of each other.
    pub heal_ms: Option<f64>,
    /// UDP payload between regions.
    pub bytes_per_admitted: f64,
    /// Percentage points.
    pub fairness_points: f64,
    /// By checker, those that found something.
    #[serde(skip)]
    pub violations: Vec<(String, Violations)>,
}

impl Sample {
    /// Runs a scenario that was found to be within bounds.
    pub(super) fn run(scenario: &Scenario, seed: u64) -> Result<Self, String> {
        let world = World::new(scenario, seed).map_err(|error| error.to_string())?;
        let mut finished = world.run();
        let keys = &finished.subjects.keys;
        let windows = finished.ledger.windows(&finished.subjects, |key| keys[key].enforced);
        let heal_ms = finished.panel.reunited_after().map(|span| span.0 as f64 / 1e3);
        let report = Report::new(scenario, seed, &mut finished);
        let found = report.checkers.into_iter().filter(|checker| checker.violations > 0);
        let violations = found.map(|checker| {
            let violations = Violations { count: checker.violations, told: checker.told };
            (checker.name.to_owned(), violations)
        });
        let healed = scenario.faults.healed(&scenario.topology);
        let time = |at: Instant| scenario.schedule.cluster_time(at).0;
        Ok(Self {
            seed,
            windows,
            healed: healed.map(time),
            heal_ms,
            bytes_per_admitted: report.bytes_per_admitted,
            fairness_points: report.fairness_points,
            violations: violations.collect(),
        })
    }

    /// A run that ended in a panic, or never began.
    pub(super) fn broken(seed: u64, why: String) -> Self {
        let violations = vec![(PANIC.to_owned(), Violations { count: 1, told: vec![why] })];
        Self { seed, violations, ..Self::default() }
    }

    /// The windows that begin once nothing is wrong any more.
    fn windows_after_heal(&self) -> impl Iterator<Item = &WindowDeviation> {
        let healed = self.healed.unwrap_or(0);
        self.windows.iter().filter(move |window| window.begins.0 >= healed)
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::time::ClusterTime;

    use super::*;

    fn sample(windows: &[(f64, f64)]) -> Sample {
        let window = |(n, (over_pct, under_pct)): (usize, &(f64, f64))| WindowDeviation {
            begins: ClusterTime(n as u64),
            over_pct: *over_pct,
            under_pct: *under_pct,
        };
        let windows = windows.iter().enumerate().map(window).collect();
        Sample { windows, fairness_points: 2.0, ..Sample::default() }
    }

    #[test]
    fn means_are_means_of_all_windows_and_worst_is_the_worst_of_any_seed() {
        let samples = [sample(&[(1.0, 0.0), (3.0, 8.0)]), sample(&[(4.0, 0.0), (0.0, 0.0)])];
        let of = |measure: Measure| measure.of(&samples);
        assert_eq!((of(Measure::OverMean), of(Measure::OverWorst)), (2.0, 4.0));
        assert_eq!((of(Measure::UnderMean), of(Measure::UnderWorst)), (2.0, 8.0));
        assert_eq!(of(Measure::OverFirst), 4.0);
        assert_eq!(of(Measure::Fairness), 2.0);
    }

    #[test]
    fn the_first_good_window_counts_from_the_end_of_the_fault() {
        let mut healed = sample(&[(0.0, 0.0), (9.0, 0.0), (0.5, 5.0), (0.5, 1.0)]);
        healed.healed = Some(1);
        let measure = Measure::HealWindow { over: 1.0, under: 2.0 };
        assert_eq!(measure.of(&[healed.clone()]), 3.0);
        healed.windows.pop();
        assert_eq!(measure.of(&[healed]), f64::INFINITY);
        assert_eq!(Measure::HealMs.of(&[sample(&[])]), f64::INFINITY, "never");
    }

    #[test]
    fn violations_are_those_of_the_named_checkers_and_panics() {
        let mut bad = sample(&[]);
        for (name, count) in [("gate", 2), ("convergence", 3)] {
            bad.violations.push((name.into(), Violations { count, told: Vec::new() }));
        }
        let of = |names: &[&str], sample: &Sample| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            Measure::Violations(names).of(std::slice::from_ref(sample))
        };
        assert_eq!((of(&[], &bad), of(&["gate"], &bad), of(&["liveness"], &bad)), (5.0, 2.0, 0.0));
        let broken = Sample::broken(7, "it stopped".into());
        assert_eq!(of(&["gate"], &broken), 1.0);
    }
}
