//! What was admitted, window by window: by the regions, and by the central limiter. And what was refused
//! although there was room, and which part of its requests each region admitted.

use serde::Serialize;
use tidegate_core::time::{ClusterTime, Label, Window};

use crate::{queue::Instant, scenario::Schedule, subjects::Subjects};

/// At most so many windows of keys are measured, so that a run's memory has a bound.
pub const CELLS_MAX: u64 = 8_000_000;

#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    admitted: u64,
    central: u64,
    needless: u64,
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
    /// Refused although all regions together had admitted less than the quantity until then, of the
    /// quantity; also where that room was used later.
    pub needless: Deviation,
    /// Windows measured.
    pub windows: u64,
}

/// Too many windows to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} windows of keys to measure; at most {CELLS_MAX}: fewer callers, fewer windows, or longer ones"
)]
pub struct TooMuch(u64);

/// A region's requests while measuring.
#[derive(Debug, Clone, Copy, Default)]
struct Served {
    offered: u64,
    admitted: u64,
}

/// Admissions by key and label.
#[derive(Debug)]
pub struct Ledger {
    rows: Vec<Row>,
    cells: Vec<Cell>,
    served: Vec<Served>,
    /// Requests are measured that come from here …
    from: Instant,
    /// … until just before this.
    to: Instant,
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
    pub fn new(subjects: &Subjects, regions: usize, schedule: &Schedule) -> Result<Self, TooMuch> {
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
        Ok(Self {
            rows,
            cells: vec![Cell::default(); at],
            served: vec![Served::default(); regions],
            from: schedule.measured_from,
            to: schedule.measured_to,
        })
    }

    /// A request comes to a region. Returns whether it is one of those that are measured.
    pub fn offered(&mut self, region: usize, at: Instant) -> bool {
        let measured = self.from <= at && at < self.to;
        self.served[region].offered += u64::from(measured);
        measured
    }

    /// A measured request of a region passes.
    pub fn passed(&mut self, region: usize) {
        self.served[region].admitted += 1;
    }

    fn place(&self, key: usize, label: Label) -> Option<usize> {
        let row = self.rows[key];
        let place = usize::try_from(label.0.checked_sub(row.first.0)?).ok()?;
        (place < row.labels).then_some(row.at + place)
    }

    fn cell(&mut self, key: usize, label: Label) -> Option<&mut Cell> {
        let place = self.place(key, label)?;
        self.cells.get_mut(place)
    }

    /// What all regions together have admitted in a window until now, if it is measured.
    pub fn admitted_so_far(&self, key: usize, label: Label) -> Option<u64> {
        self.place(key, label).map(|place| self.cells[place].admitted)
    }

    /// A request was refused for want of room that there was.
    pub fn needless(&mut self, key: usize, label: Label, cost: u64) {
        if let Some(cell) = self.cell(key, label) {
            cell.needless += cost;
        }
    }

    /// A region admitted. Windows that are not measured are left out.
    pub fn admitted(&mut self, key: usize, label: Label, cost: u64) {
        if let Some(cell) = self.cell(key, label) {
            cell.admitted += cost;
        }
    }

    /// A region gave back.
    pub fn refunded(&mut self, key: usize, label: Label, cost: u64) {
        if let Some(cell) = self.cell(key, label) {
            cell.admitted = cell.admitted.saturating_sub(cost);
        }
    }

    /// The central limiter gave back.
    pub fn central_refunded(&mut self, key: usize, label: Label, cost: u64) {
        if let Some(cell) = self.cell(key, label) {
            cell.central = cell.central.saturating_sub(cost);
        }
    }

    /// The central limiter admitted.
    pub fn central(&mut self, key: usize, label: Label, cost: u64) {
        if let Some(cell) = self.cell(key, label) {
            cell.central += cost;
        }
    }

    /// How far apart regions are in the part of their requests that they admitted, in percentage points:
    /// the largest less the smallest, of all regions that were asked while measuring.
    pub fn spread(&self) -> f64 {
        let asked = self.served.iter().filter(|served| served.offered > 0);
        let shares = asked.map(|served| percent(served.admitted, served.offered));
        let (least, most) =
            shares.fold((f64::INFINITY, 0.0), |(a, b): (f64, f64), x| (a.min(x), b.max(x)));
        (most - least).max(0.0)
    }

    /// Every measured window of the keys that `wanted` names, in the order of keys and time.
    pub fn windows(
        &self,
        subjects: &Subjects,
        wanted: impl Fn(usize) -> bool,
    ) -> Vec<WindowDeviation> {
        let mut windows = Vec::new();
        for (key, row) in self.rows.iter().enumerate().filter(|(key, _)| wanted(*key)) {
            let facts = &subjects.keys[key];
            for (n, cell) in self.cells[row.at..row.at + row.labels].iter().enumerate() {
                let label = Label(row.first.0 + n as u64);
                let quantity = facts.most(label);
                windows.push(WindowDeviation {
                    begins: facts.window.start(label),
                    over_pct: percent(cell.admitted.saturating_sub(quantity), quantity),
                    under_pct: percent(cell.central.saturating_sub(cell.admitted), cell.central),
                });
            }
        }
        windows
    }

    /// How accurate the keys were that `wanted` names.
    pub fn accuracy(&self, subjects: &Subjects, wanted: impl Fn(usize) -> bool) -> Accuracy {
        let mut accuracy = Accuracy::default();
        for (key, row) in self.rows.iter().enumerate().filter(|(key, _)| wanted(*key)) {
            for (n, cell) in self.cells[row.at..row.at + row.labels].iter().enumerate() {
                let quantity = subjects.keys[key].most(Label(row.first.0 + n as u64));
                let over = cell.admitted.saturating_sub(quantity);
                let under = cell.central.saturating_sub(cell.admitted);
                accuracy.over.add(percent(over, quantity));
                accuracy.under.add(percent(under, cell.central));
                accuracy.needless.add(percent(cell.needless, quantity));
                accuracy.windows += 1;
            }
        }
        for deviation in [&mut accuracy.over, &mut accuracy.under, &mut accuracy.needless] {
            deviation.mean_pct /= accuracy.windows.max(1) as f64;
        }
        accuracy
    }
}

/// One measured window of one key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowDeviation {
    /// When it begins, by true cluster time.
    pub begins: ClusterTime,
    /// Admitted beyond the quantity, in percent of it.
    pub over_pct: f64,
    /// Not admitted although the central limiter admitted it, in percent of that.
    pub under_pct: f64,
}

impl Deviation {
    /// One window more; the mean is a sum until it is divided.
    fn add(&mut self, percent: f64) {
        self.mean_pct += percent;
        self.worst_pct = self.worst_pct.max(percent);
    }
}

/// `part` of `whole` in percent; 0 of nothing.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use tidegate_core::time::Span;

    use super::*;
    use crate::subjects::testing::subjects;

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
        let ledger = Ledger::new(&subjects, 3, &schedule).expect("little");
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
        let windows = ledger.windows(&subjects, |key| key == 0);
        let told: Vec<_> = windows.iter().map(|w| (w.begins.0, w.over_pct, w.under_pct)).collect();
        assert_eq!(told, [(101_000_000, 20.0, 0.0), (102_000_000, 0.0, 25.0)]);
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

    #[test]
    fn what_was_refused_although_there_was_room_is_a_share_of_the_quantity() {
        let (subjects, mut ledger) = ledger();
        ledger.admitted(0, Label(101), 7);
        assert_eq!(ledger.admitted_so_far(0, Label(101)), Some(7));
        assert_eq!(ledger.admitted_so_far(0, Label(100)), None, "it warms up");
        for (label, cost) in [(101, 2), (101, 1), (100, 50)] {
            ledger.needless(0, Label(label), cost);
        }
        let needless = ledger.accuracy(&subjects, |key| key == 0).needless;
        assert_eq!(needless, Deviation { mean_pct: 15.0, worst_pct: 30.0 });
    }

    #[test]
    fn fairness_is_the_distance_of_the_regions_that_were_asked() {
        let (_, mut ledger) = ledger();
        assert_eq!(ledger.spread(), 0.0);
        let mut ask = |region, at, n: u64, passed: u64| {
            for k in 0..n {
                if ledger.offered(region, Instant(at)) && k < passed {
                    ledger.passed(region);
                }
            }
        };
        ask(0, 3_000_000, 10, 4);
        ask(1, 4_999_999, 20, 15);
        // Before and after measuring nothing counts, and the third region is asked only then.
        for at in [2_999_999, 5_000_000] {
            ask(0, at, 100, 100);
            ask(2, at, 100, 0);
        }
        assert!((ledger.spread() - 35.0).abs() < 1e-9, "{}", ledger.spread());
    }
}
