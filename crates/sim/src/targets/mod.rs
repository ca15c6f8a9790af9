//! Targets: what the limits must reach, as files, and whether they do.
//!
//! A target file names a scenario, a grid of settings on top of it, and what must come out in every cell:
//! see [`file`]. Each cell is run with several seeds, all of them on as many threads as there are cores, and
//! the worst cell is held against the target.

mod cells;
mod file;
mod measure;
mod report;
mod runs;
mod worlds;

use std::path::{Path, PathBuf};

pub use file::Accepted;
pub use measure::{Measure, Sample};
pub use report::{Line, Missed, Results, Verdict};
pub use runs::measure_all;

use cells::Cell;

use crate::scenario::ScenarioError;

/// One requirement on what comes out of a grid's cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// What is measured.
    pub measure: Measure,
    /// It may be so much.
    pub at_most: f64,
    /// A miss that is known and lived with.
    pub accepted: Option<Accepted>,
}

/// Cells that share a mode and requirements.
#[derive(Debug, Clone)]
pub struct Grid {
    /// What is special about it; may be empty.
    pub what: String,
    /// The mode of its global limits, with the overdraft if there is one.
    pub mode: String,
    /// What must come out.
    pub wanted: Vec<Wanted>,
    /// Its cells; or why the mode is refused.
    cells: Result<Vec<Cell>, String>,
}

impl Grid {
    /// How many runs it takes; 0 if its mode is refused.
    pub fn runs(&self) -> u64 {
        self.cells.iter().flatten().map(Cell::runs).sum()
    }
}

/// One target.
#[derive(Debug, Clone)]
pub struct Target {
    /// What it is called, such as `T6b`.
    pub id: String,
    /// What it is about.
    pub what: String,
    /// All must be as they should.
    pub grids: Vec<Grid>,
}

/// Reads every target of a folder, in the order of the files' names. `only` names those that are wanted;
/// empty: all. `short` takes fewer seeds and windows.
pub fn load(folder: &Path, only: &[String], short: bool) -> Result<Vec<Target>, ScenarioError> {
    let bad = |message: String| ScenarioError(vec![format!("{}: {message}", folder.display())]);
    let entries = std::fs::read_dir(folder).map_err(|error| bad(error.to_string()))?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| bad(error.to_string()))?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    let (mut targets, mut mistakes): (Vec<Target>, Vec<String>) = (Vec::new(), Vec::new());
    for path in paths {
        match file::load(&path, short) {
            Ok(Some(target)) if targets.iter().any(|other| other.id == target.id) => {
                mistakes.push(format!("{}: another target is `{}`", path.display(), target.id));
            }
            Ok(target) => targets.extend(target),
            Err(error) => mistakes.extend(error.0),
        }
    }
    for id in only.iter().filter(|id| targets.iter().all(|target| target.id != **id)) {
        let known: Vec<_> = targets.iter().map(|target| target.id.as_str()).collect();
        mistakes.push(format!("no target is called `{id}`; there are {}", known.join(", ")));
    }
    if !mistakes.is_empty() {
        return Err(ScenarioError(mistakes));
    }
    targets.retain(|target| only.is_empty() || only.contains(&target.id));
    if targets.is_empty() {
        return Err(bad("there is no target in it: a file with a table `target`".into()));
    }
    Ok(targets)
}
