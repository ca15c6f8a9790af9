//! The table of targets, for people and as JSON.

use std::fmt;

use serde::Serialize;

use crate::table::table;

/// Whether one requirement is met.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Verdict {
    /// It is.
    Met,
    /// It is not.
    Missed,
    /// It is not, which is lived with up to a limit, and it is not beyond that.
    Accepted {
        /// Up to here.
        limit: f64,
        /// Why.
        reason: String,
    },
    /// There is nothing to measure: the mode does not exist yet.
    Refused {
        /// What the policy loader says.
        why: String,
    },
}

/// One requirement on one grid.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Of the target.
    pub id: String,
    /// What the target, and this grid of it, is about.
    pub what: String,
    /// The mode of its limits.
    pub mode: String,
    /// What is measured.
    pub measure: String,
    /// What it may be.
    pub wanted: String,
    /// What it is; null if that is nothing that can be measured, or never came.
    pub measured: Option<f64>,
    /// The same for people.
    #[serde(skip)]
    pub shown: String,
    /// The cell in which it is worst.
    pub cell: String,
    /// Whether that is good.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// A requirement that was missed, and how to see it again.
#[derive(Debug, Clone, PartialEq)]
pub struct Missed {
    /// Of the target.
    pub id: String,
    /// The mode of its limits.
    pub mode: String,
    /// What is measured.
    pub measure: String,
    /// The worst cell …
    pub cell: String,
    /// … and its worst seed.
    pub seed: u64,
    /// What checkers said.
    pub told: Vec<String>,
    /// The cell as a scenario file.
    pub scenario: String,
}

impl Missed {
    /// A name for its file.
    pub fn file_name(&self) -> String {
        let name = format!("{} {} {} {}", self.id, self.mode, self.cell, self.measure);
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let dashed: String = name.chars().map(plain).collect();
        let parts: Vec<&str> = dashed.split('-').filter(|part| !part.is_empty()).collect();
        format!("{}.toml", parts.join("-"))
    }
}

/// What all came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Results {
    /// Requirements, in the order of the files.
    pub lines: Vec<Line>,
    /// How many targets there are.
    pub targets: usize,
    /// Targets of which every requirement is met.
    pub met: usize,
    /// What was missed.
    #[serde(skip)]
    pub missed: Vec<Missed>,
}

impl Results {
    /// Whether every target is met.
    pub const fn holds(&self) -> bool {
        self.met == self.targets
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names can always be written as JSON")
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        let rows = self.lines.iter().map(|line| {
            // What a target is about stands in its first line.
            let same = std::mem::replace(&mut last, &line.what) == line.what;
            let verdict = match &line.verdict {
                Verdict::Met => "yes",
                Verdict::Missed => "NO",
                Verdict::Accepted { .. } => "NO, accepted",
                Verdict::Refused { .. } => "NO, refused",
            };
            vec![
                line.id.clone(),
                if same { String::new() } else { line.what.clone() },
                line.mode.clone(),
                line.measure.clone(),
                line.wanted.clone(),
                line.shown.clone(),
                line.cell.clone(),
                verdict.to_owned(),
            ]
        });
        let head = ["id", "what", "mode", "measure", "target", "measured", "worst cell", "met"];
        table(f, &head, &rows.collect::<Vec<_>>())?;
        let mut refused: Vec<(&str, &str)> = Vec::new();
        for line in &self.lines {
            let what = format!("{}, {} ({})", line.id, line.measure, line.mode);
            match &line.verdict {
                Verdict::Accepted { limit, reason } => {
                    writeln!(f, "\n{what}: a miss up to {limit} is accepted: {reason}")?;
                }
                Verdict::Refused { why } if !refused.contains(&(&line.mode, why)) => {
                    refused.push((&line.mode, why));
                    writeln!(f, "\nThe mode \"{}\" is refused: {why}", line.mode)?;
                }
                _ => {}
            }
        }
        for missed in self.missed.iter().filter(|missed| !missed.told.is_empty()) {
            writeln!(
                f,
                "\n{} ({}), {}, seed {}:",
                missed.id, missed.mode, missed.cell, missed.seed
            )?;
            missed.told.iter().try_for_each(|told| writeln!(f, "- {told}"))?;
        }
        writeln!(f, "\n{} of {} targets met", self.met, self.targets)
    }
}
