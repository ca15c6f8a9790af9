//! Runs every cell with every seed, on several threads, and holds the worst against the targets.

use std::{
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::{
    Grid, Line, Measure, Results, Sample, Target, Verdict, Wanted,
    cells::{Cell, Plan},
    report::Missed,
};
use crate::{
    explore::caught,
    scenario::{Requests, Scenario},
};

/// One run.
#[derive(Clone, Copy)]
struct Job<'a> {
    cell: &'a Cell,
    /// Of the cell among all.
    place: usize,
    seed: u64,
    /// About how much there is to do.
    weight: f64,
}

/// What a run takes, roughly: requests, and frames between all nodes.
fn weight(scenario: &Scenario) -> f64 {
    let seconds = scenario.schedule.end.0 as f64 / 1e6;
    let requests: f64 = scenario
        .loads
        .iter()
        .map(|load| match &load.requests {
            Requests::Random(traffic) => traffic.per_second,
            Requests::Recorded(recording) => recording.per_second(),
        })
        .sum();
    let nodes: usize = scenario.topology.regions.iter().map(|region| region.nodes).sum();
    let frames = (nodes * nodes.saturating_sub(1)) as f64 * 1e6 / scenario.gossip.0.max(1) as f64;
    seconds * (requests + frames * 5.0)
}

fn jobs<'a>(place: usize, cell: &'a Cell, folder: &Path) -> Vec<Job<'a>> {
    match &cell.plan {
        Plan::Fixed { scenario, seeds, .. } => {
            let weight = weight(scenario);
            (1..=*seeds).map(|seed| Job { cell, place, seed, weight }).collect()
        }
        Plan::Drawn { seed, .. } => {
            let weight = drawn(cell, folder).map_or(0.0, |scenario| weight(&scenario));
            vec![Job { cell, place, seed: *seed, weight }]
        }
    }
}

/// The scenario of a random world.
fn drawn(cell: &Cell, folder: &Path) -> Result<Scenario, String> {
    let Plan::Drawn { worlds, base, seed } = &cell.plan else {
        return Err("it is not drawn".into());
    };
    let mut settings = base.clone();
    let made = settings.set(worlds.draw(*seed), &cell.name);
    made.and_then(|()| settings.scenario(&cell.name, folder)).map_err(|error| error.to_string())
}

fn run(job: &Job<'_>, folder: &Path) -> Sample {
    let run = |scenario: &Scenario| {
        caught(|| Sample::run(scenario, job.seed)).and_then(std::convert::identity)
    };
    let sample = match &job.cell.plan {
        Plan::Fixed { scenario, .. } => run(scenario),
        Plan::Drawn { .. } => drawn(job.cell, folder).and_then(|scenario| run(&scenario)),
    };
    sample.unwrap_or_else(|why| Sample::broken(job.seed, why))
}

/// The scenario of a cell as a file that can be run by itself.
fn text_of(cell: &Cell, folder: &Path) -> Option<String> {
    match &cell.plan {
        Plan::Fixed { settings, .. } => settings.text(folder).ok(),
        Plan::Drawn { worlds, base, seed } => {
            let mut settings = base.clone();
            settings.set(worlds.draw(*seed), &cell.name).ok()?;
            settings.text(folder).ok()
        }
    }
}

/// Measures all targets, `threads` runs at a time. `folder` is where their files are; `progress` is told
/// how many runs are done, and how many there are.
pub fn measure_all(
    targets: &[Target],
    folder: &Path,
    threads: usize,
    mut progress: impl FnMut(usize, usize),
) -> Results {
    let cells: Vec<&Cell> = targets
        .iter()
        .flat_map(|target| &target.grids)
        .flat_map(|grid| grid.cells.iter().flatten())
        .collect();
    let mut jobs: Vec<Job<'_>> =
        cells.iter().enumerate().flat_map(|(place, cell)| jobs(place, cell, folder)).collect();
    // The longest first, so that none is left over when all others are done.
    jobs.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); cells.len()];
    let next = AtomicUsize::new(0);
    let (tell, told) = mpsc::sync_channel::<(usize, Sample)>(64);
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (tell, next, jobs) = (tell.clone(), &next, &jobs);
            scope.spawn(move || {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if tell.send((job.place, run(job, folder))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for (done, (place, sample)) in told.into_iter().enumerate() {
            samples[place].push(sample);
            progress(done + 1, jobs.len());
        }
    });
    // Threads finish in any order; sums of fractions must not depend on it.
    samples.iter_mut().for_each(|list| list.sort_by_key(|sample| sample.seed));
    let mut samples = samples.into_iter();
    let mut results = Results::default();
    for target in targets {
        let mut met = true;
        for grid in &target.grids {
            let count = grid.cells.as_ref().map_or(0, Vec::len);
            let of_grid: Vec<Vec<Sample>> = samples.by_ref().take(count).collect();
            met &= judge(&mut results, target, grid, &of_grid, folder);
        }
        results.targets += 1;
        results.met += usize::from(met);
    }
    results
}

/// Writes the lines of one grid. Returns whether all of it is as wanted.
fn judge(
    results: &mut Results,
    target: &Target,
    grid: &Grid,
    samples: &[Vec<Sample>],
    folder: &Path,
) -> bool {
    let line =
        |measure: &Measure, wanted: String, measured: Option<f64>, cell: String, verdict| Line {
            id: target.id.clone(),
            what: if grid.what.is_empty() {
                target.what.clone()
            } else {
                format!("{}: {}", target.what, grid.what)
            },
            mode: grid.mode.clone(),
            measure: measure.name(),
            wanted,
            shown: measured.map(|value| measure.show(value)).unwrap_or_default(),
            measured: measured.filter(|value| value.is_finite()),
            cell,
            verdict,
        };
    let cells = match &grid.cells {
        Ok(cells) => cells,
        Err(refused) => {
            for Wanted { measure, at_most, .. } in &grid.wanted {
                let wanted = format!("≤ {}", measure.show(*at_most));
                let verdict = Verdict::Refused { why: refused.clone() };
                results.lines.push(line(measure, wanted, None, String::new(), verdict));
            }
            return false;
        }
    };
    let mut wanted = grid.wanted.clone();
    let names_violations = |wanted: &Wanted| matches!(wanted.measure, Measure::Violations(_));
    let silent = !wanted.iter().any(names_violations);
    if silent {
        let measure = Measure::Violations(Vec::new());
        wanted.push(Wanted { measure, at_most: 0.0, accepted: None });
    }
    let mut met = true;
    for Wanted { measure, at_most, accepted } in &wanted {
        let values = samples.iter().map(|samples| measure.of(samples));
        let worst = values.clone().enumerate().fold((0, f64::NEG_INFINITY), |worst, (n, value)| {
            if value > worst.1 { (n, value) } else { worst }
        });
        let (cell, mut value) = worst;
        let violations = matches!(measure, Measure::Violations(_));
        if violations {
            value = values.fold(0.0, |sum, value| sum + value);
        }
        let good = value <= *at_most;
        // That all checkers are content goes without saying.
        if violations && silent && good {
            continue;
        }
        let verdict = match accepted {
            _ if good => Verdict::Met,
            Some(accepted) if value <= accepted.limit => {
                Verdict::Accepted { limit: accepted.limit, reason: accepted.reason.clone() }
            }
            _ => Verdict::Missed,
        };
        met &= good;
        let name = cells[cell].name.clone();
        if !good {
            let seed = samples[cell].iter().max_by(|a, b| {
                let value = |sample: &Sample| measure.of(std::slice::from_ref(sample));
                value(a).total_cmp(&value(b))
            });
            let told = samples[cell].iter().flat_map(|sample| &sample.violations);
            results.missed.push(Missed {
                id: target.id.clone(),
                mode: grid.mode.clone(),
                measure: measure.name(),
                cell: name.clone(),
                seed: seed.map_or(1, |sample| sample.seed),
                told: told.flat_map(|(_, violations)| violations.told.clone()).take(3).collect(),
                scenario: text_of(&cells[cell], folder).unwrap_or_default(),
            });
        }
        let wanted = format!("≤ {}", measure.show(*at_most));
        let cell = if violations && good { String::new() } else { name };
        results.lines.push(line(measure, wanted, Some(value), cell, verdict));
    }
    met
}
