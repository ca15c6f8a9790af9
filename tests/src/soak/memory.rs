//! Memory and open files of processes, as the operating system sees them.

use std::{collections::BTreeMap, fs, io, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{self, Instant};

/// Looks at all nodes again and again.
#[derive(Debug)]
pub(super) struct Watch {
    processes: Mutex<BTreeMap<String, Life>>,
    begun: Instant,
}

/// One node, since it was started last.
#[derive(Debug)]
struct Life {
    pid: i32,
    restarted: bool,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    resident_kib: u64,
    files: u64,
}

/// What became of one node's memory and files: medians of the first and the last quarter of the run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Growth {
    pub(super) node: String,
    pub(super) rss_kib_first: u64,
    pub(super) rss_kib_last: u64,
    /// By least squares over the second half of the run.
    pub(super) rss_kib_per_minute: f64,
    pub(super) files_first: u64,
    pub(super) files_last: u64,
}

impl Watch {
    /// Watches these processes, by the names of their nodes.
    pub(super) fn new(processes: impl Iterator<Item = (String, i32)>) -> Self {
        let life = |pid| Life { pid, restarted: false, samples: Vec::new() };
        let processes = processes.map(|(name, pid)| (name, life(pid))).collect();
        Self { processes: Mutex::new(processes), begun: Instant::now() }
    }

    /// A node is another process now.
    pub(super) fn restarted(&self, name: &str, pid: i32) {
        let life = Life { pid, restarted: true, samples: Vec::new() };
        self.processes.lock().insert(name.into(), life);
    }

    /// Looks every so often, for ever.
    pub(super) async fn keep_looking(&self, every: Duration) {
        let mut turn = time::interval(every);
        loop {
            turn.tick().await;
            let at = self.begun.elapsed();
            for life in self.processes.lock().values_mut() {
                // A process that was just killed is not there.
                if let Ok((resident_kib, files)) = look(life.pid) {
                    life.samples.push(Sample { at, resident_kib, files });
                }
            }
        }
    }

    /// Of the nodes that lived all the time, how they grew.
    pub(super) fn growth(&self) -> Vec<Growth> {
        let processes = self.processes.lock();
        let whole = processes.iter().filter(|(_, life)| !life.restarted);
        whole.filter_map(|(name, life)| growth(name, &life.samples)).collect()
    }
}

fn growth(name: &str, samples: &[Sample]) -> Option<Growth> {
    let quarter = samples.len() / 4;
    let (first, last) = (samples.get(..quarter)?, samples.get(samples.len() - quarter..)?);
    Some(Growth {
        node: name.into(),
        rss_kib_first: median(first.iter().map(|sample| sample.resident_kib))?,
        rss_kib_last: median(last.iter().map(|sample| sample.resident_kib))?,
        rss_kib_per_minute: slope(&samples[samples.len() / 2..]),
        files_first: median(first.iter().map(|sample| sample.files))?,
        files_last: median(last.iter().map(|sample| sample.files))?,
    })
}

fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

fn slope(samples: &[Sample]) -> f64 {
    let n = samples.len() as f64;
    let points = samples.iter().map(|s| (s.at.as_secs_f64() / 60.0, s.resident_kib as f64));
    let (x, y) = points.clone().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let (over, under) = points.fold((0.0, 0.0), |(over, under), p| {
        (over + (p.0 - x) * (p.1 - y), under + (p.0 - x) * (p.0 - x))
    });
    if under > 0.0 { over / under } else { 0.0 }
}

/// Resident KiB and open files of a process.
fn look(pid: i32) -> io::Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|line| line.split_whitespace().next()?.parse().ok());
    let files = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
    Ok((resident.ok_or_else(|| io::Error::other("no VmRSS"))?, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_seen_and_a_level_is_level() {
        let samples = |grow: u64| -> Vec<_> {
            let sample = |i: u64| Sample {
                at: Duration::from_secs(i),
                resident_kib: 1_000 + i * grow,
                files: 9,
            };
            (0..80).map(sample).collect()
        };
        let level = growth("n", &samples(0)).expect("enough");
        assert_eq!((level.rss_kib_first, level.rss_kib_last), (1_000, 1_000));
        assert_eq!((level.rss_kib_per_minute, level.files_last), (0.0, 9));
        let grown = growth("n", &samples(2)).expect("enough");
        assert_eq!((grown.rss_kib_first, grown.rss_kib_last), (1_020, 1_140));
        assert!((grown.rss_kib_per_minute - 120.0).abs() < 1e-6, "{grown:?}");
        assert!(growth("n", &[]).is_none());
    }

    #[test]
    fn a_process_can_be_looked_at() {
        let own = i32::try_from(std::process::id()).expect("small");
        let (resident, files) = look(own).expect("it runs");
        assert!(resident > 100 && files >= 3, "{resident} KiB, {files} files");
    }
}
