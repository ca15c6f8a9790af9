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

#[cfg(test)]
mod tests {
    use tidegate_core::time::{ClusterTime, Span};

    use super::*;
    use crate::{queue::Instant, subjects::testing::subjects};

    /// Windows of one second from label 100 on: 100 warms up, 101 and 102 are measured.
    fn ledger() -> (Subjects, Ledger) {
        let subjects = subjects();
        let window = Window::new(Span::secs(1)).expect("in range");
        let schedule = Schedule {
            window,
            load_start: Instant(2_000_000),
            measured_from: Instant(3_000_000),
            measured_to: Instant(5_000_000),
            load_end: Instant(5_100_000),
            end: Instant(5_500_000),
            epoch: ClusterTime(98_000_000),
        };
        let ledger = Ledger::new(&subjects, &schedule).expect("little");
        (subjects, ledger)
    }

    #[test]
    fn over_and_under_are_shares_of_quantity_and_of_the_central_limiter() {
        let (subjects, mut ledger) = ledger();
        for (label, admitted, central) in [(101, 12, 10), (102, 6, 8)] {
            ledger.admitted(0, Label(label), admitted);
            ledger.central(0, Label(label), central);
        }
        let accuracy = ledger.accuracy(&subjects, |key| key == 0);
        assert_eq!(accuracy.windows, 2);
        assert_eq!(accuracy.over, Deviation { mean_pct: 10.0, worst_pct: 20.0 });
        assert_eq!(accuracy.under, Deviation { mean_pct: 12.5, worst_pct: 25.0 });
    }

    #[test]
    fn warm_up_and_the_unfinished_window_are_left_out() {
        let (subjects, mut ledger) = ledger();
        for label in [99, 100, 103, 104] {
            ledger.admitted(0, Label(label), 1_000);
            ledger.central(0, Label(label), 1_000);
        }
        let accuracy = ledger.accuracy(&subjects, |_| true);
        assert_eq!((accuracy.over, accuracy.under), Default::default());
        assert_eq!(accuracy.windows, 2 * subjects.keys.len() as u64);
    }

    #[test]
    fn nothing_measured_is_no_deviation() {
        let (subjects, ledger) = ledger();
        assert_eq!(ledger.accuracy(&subjects, |_| false), Accuracy::default());
    }
}
