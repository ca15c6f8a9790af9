//! Variants of one scenario on the same arrivals, side by side.

use std::fmt;

use serde::Serialize;

use crate::{
    ledger::TooMuch,
    report::Report,
    run,
    scenario::Variants,
    table::{percent, table},
};

/// What one variant came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// What it is called.
    pub variant: String,
    /// Its run.
    #[serde(flatten)]
    pub report: Report,
}

/// What all came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Of the scenario.
    pub name: String,
    /// What all chance came from.
    pub seed: u64,
    /// In the order of the file.
    pub variants: Vec<Compared>,
}

/// Runs every variant with the same seed: the same requests come at the same instants.
pub fn compare(variants: &Variants, seed: u64) -> Result<Comparison, TooMuch> {
    let one = |variant: &crate::scenario::Variant| {
        let report = run(&variant.scenario, seed)?;
        Ok(Compared { variant: variant.name.clone(), report })
    };
    let all: Result<Vec<Compared>, TooMuch> = variants.all.iter().map(one).collect();
    Ok(Comparison { name: variants.name.clone(), seed, variants: all? })
}

impl Comparison {
    /// Whether every checker of every variant is content.
    pub fn holds(&self) -> bool {
        self.variants.iter().all(|compared| compared.report.holds())
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names can always be written as JSON")
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}\n\nSeed {}, the same requests for all.\n", self.name, self.seed)?;
        let rows = self.variants.iter().map(|Compared { variant, report }| {
            let violations: u64 = report.checkers.iter().map(|c| c.violations).sum();
            vec![
                variant.clone(),
                report.offered.to_string(),
                report.admitted.to_string(),
                percent(report.over.mean_pct),
                percent(report.over.worst_pct),
                percent(report.under.mean_pct),
                percent(report.under.worst_pct),
                format!("{:.1}", report.fairness_points),
                percent(report.needless.mean_pct),
                format!("{:.2}", report.bytes_per_admitted),
                violations.to_string(),
            ]
        });
        let head = [
            "variant",
            "offered",
            "admitted",
            "over, mean",
            "over, worst",
            "under, mean",
            "under, worst",
            "fairness, points",
            "needless",
            "bytes/admitted",
            "violations",
        ];
        table(f, &head, &rows.collect::<Vec<_>>())?;
        for Compared { variant, report } in &self.variants {
            for checker in report.checkers.iter().filter(|checker| checker.violations > 0) {
                writeln!(f, "\n{variant}, {}:", checker.name)?;
                checker.told.iter().try_for_each(|told| writeln!(f, "- {told}"))?;
            }
        }
        Ok(())
    }
}
