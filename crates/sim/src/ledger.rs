//! What was admitted, window by window: by the regions, and by the central limiter.

use serde::Serialize;
use tidegate_core::time::{Label, Window};

use crate::{scenario::Schedule, subjects::Subjects};

/// At most so many windows of keys are measured, so that a run's memory has a bound.
pub const CELLS_MAX: u64 = 8_000_000;

#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    admitted: u64,
    central: u64,
}

/// The measured labels of one key: `first` and the next ones, `cells` of them from `at` on.
#[derive(Debug, Clone, Copy)]
struct Row {
    first: Label,
    labels: usize,
    at: usize,
}

/// Mean and worst window, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Deviation {
    /// Over all measured windows.
    pub mean_pct: f64,
    /// Of the worst of them.
    pub worst_pct: f64,
}

/// How far from the limit, and from the central limiter.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Accuracy {
    /// Admitted beyond the quantity, of the quantity.
    pub over: Deviation,
    /// Not admitted although the central limiter admitted it, of what that admitted.
    pub under: Deviation,
    /// Windows measured.
    pub windows: u64,
}

/// Too many windows to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} windows of keys to measure; at most {CELLS_MAX}: fewer callers, fewer windows, or longer ones"
)]
pub struct TooMuch(u64);

/// Admissions by key and label.
#[derive(Debug)]
pub struct Ledger {
    rows: Vec<Row>,
    cells: Vec<Cell>,
}

/// The first label that lies wholly in the measured time, and how many do.
fn measured(window: Window, schedule: &Schedule) -> (Label, u64) {
    let from = schedule.cluster_time(schedule.measured_from);
    let to = schedule.cluster_time(schedule.measured_to);
    let cut = window.label_at(from);
    let first = if window.start(cut) == from { cut } else { cut.next() };
    let behind = window.label_at(to); // the label that is not over at the end
    (first, behind.0.saturating_sub(first.0))
}

impl Ledger {
    /// An empty ledger for all keys of a run.
    pub fn new(subjects: &Subjects, schedule: &Schedule) -> Result<Self, TooMuch> {
        let wanted = subjects.keys.iter().map(|key| measured(key.window, schedule).1);
        let total = wanted.fold(0_u64, u64::saturating_add);
        if total > CELLS_MAX {
            return Err(TooMuch(total));
        }
        let mut at = 0;
        let mut row = |window| {
            let (first, labels) = measured(window, schedule);
            let row = Row { first, labels: labels as usize, at };
            at += row.labels;
            row
        };
        let rows = subjects.keys.iter().map(|key| row(key.window)).collect();
        Ok(Self { rows, cells: vec![Cell::default(); at] })
    }

    fn cell(&mut self, key: usize, label: Label) -> Option<&mut Cell> {
        let row = self.rows[key];
        let place = usize::try_from(label.0.checked_sub(row.first.0)?).ok()?;
        if place < row.labels { self.cells.get_mut(row.at + place) } else { None }
    }

    /// A region admitted. Windows that are not measured are left out.
    pub fn admitted(&mut self, key: usize, label: Label, cost: u64) {
        if let Some(cell) = self.cell(key, label) {
            cell.admitted += cost;
        }
    }

    /// The central limiter admitted.
    pub fn central(&mut self, key: usize, label: Label, cost: u64) {
        if let Some(cell) = self.cell(key, label) {
            cell.central += cost;
        }
    }

    /// How accurate the keys were that `wanted` names.
    pub fn accuracy(&self, subjects: &Subjects, wanted: impl Fn(usize) -> bool) -> Accuracy {
        let mut accuracy = Accuracy::default();
        let (mut over_sum, mut under_sum) = (0.0, 0.0);
        for (key, row) in self.rows.iter().enumerate().filter(|(key, _)| wanted(*key)) {
            let quantity = subjects.keys[key].quantity;
            for cell in &self.cells[row.at..row.at + row.labels] {
                let over = percent(cell.admitted.saturating_sub(quantity), quantity);
                let under = percent(cell.central.saturating_sub(cell.admitted), cell.central);
                over_sum += over;
                under_sum += under;
                accuracy.over.worst_pct = accuracy.over.worst_pct.max(over);
                accuracy.under.worst_pct = accuracy.under.worst_pct.max(under);
                accuracy.windows += 1;
            }
        }
        if accuracy.windows > 0 {
            accuracy.over.mean_pct = over_sum / accuracy.windows as f64;
            accuracy.under.mean_pct = under_sum / accuracy.windows as f64;
        }
        accuracy
    }
}

/// `part` of `whole` in percent; 0 of nothing.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}
