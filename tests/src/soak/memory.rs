//! Memory and open files of processes, as the operating system sees them, and what nodes say that they
//! hold.

use std::{collections::BTreeMap, fs, io, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{self, Instant};

use crate::node::Node;

/// Looks at all nodes again and again.
#[derive(Debug)]
pub(super) struct Watch {
    processes: Mutex<BTreeMap<String, Life>>,
    begun: Instant,
}

/// One node that has not been started again.
#[derive(Debug)]
struct Life {
    node: Node,
    pid: i32,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    resident_kib: u64,
    files: u64,
    held: Held,
}

/// What a node says that it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) keys: u64,
    /// What they take.
    pub(super) counts: u64,
    /// What all tables take.
    pub(super) tables: u64,
    /// What its allocator counts.
    pub(super) allocated: u64,
}

impl Held {
    /// What is allocated beside the tables, in KiB.
    const fn beside_kib(&self) -> u64 {
        self.allocated.saturating_sub(self.tables) / 1024
    }
}

/// How a figure went: the median of the first quarter of the faults, what it was after the peace at the
/// end, and the highest of all that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Course {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) highest: u64,
}

/// What became of one node's memory and files.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Growth {
    pub(super) node: String,
    pub(super) rss_kib: Course,
    /// By least squares over the second half of the faults.
    pub(super) rss_kib_per_minute: f64,
    /// `tidegate_keys`.
    pub(super) keys: Course,
    /// `tidegate_table_bytes` of these keys.
    pub(super) counts_bytes: Course,
    /// `tidegate_memory_bytes`, of all tables.
    pub(super) tables_bytes: Course,
    pub(super) tables_kib_per_minute: f64,
    /// `tidegate_allocated_bytes` beside that.
    pub(super) beside_kib: Course,
    pub(super) beside_kib_per_minute: f64,
    pub(super) files: Course,
}

impl Watch {
    /// Watches these nodes, each given with its process.
    pub(super) fn new(processes: impl Iterator<Item = (Node, i32)>) -> Self {
        let life =
            |(node, pid): (Node, i32)| (node.name.clone(), Life { node, pid, samples: Vec::new() });
        Self { processes: Mutex::new(processes.map(life).collect()), begun: Instant::now() }
    }

    /// A node is another process now, and of no interest any more.
    pub(super) fn restarted(&self, name: &str) {
        self.processes.lock().remove(name);
    }

    /// Looks every so often, for ever.
    pub(super) async fn keep_looking(&self, every: Duration) {
        let mut turn = time::interval(every);
        loop {
            turn.tick().await;
            self.look().await;
        }
    }

    /// Looks once.
    pub(super) async fn look(&self) {
        let lives: Vec<_> =
            self.processes.lock().values().map(|life| (life.node.clone(), life.pid)).collect();
        for (node, pid) in lives {
            // A process that was just killed is not there.
            let (Ok(held), Ok((resident_kib, files))) = (held(&node).await, look(pid)) else {
                continue;
            };
            let at = self.begun.elapsed();
            if let Some(life) = self.processes.lock().get_mut(&node.name) {
                life.samples.push(Sample { at, resident_kib, files, held });
            }
        }
    }

    /// Of the nodes that lived all the time, how they grew; faults ended so long after the begin.
    pub(super) fn growth(&self, faults: Duration) -> Vec<Growth> {
        let processes = self.processes.lock();
        processes.iter().filter_map(|(name, life)| growth(name, &life.samples, faults)).collect()
    }
}

/// What a node says that it holds.
pub(super) async fn held(node: &Node) -> Result<Held, String> {
    let metrics = node.metrics().await?;
    let value = |series: &str| {
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.ok_or_else(|| format!("{}: no {series}", node.name))
    };
    Ok(Held {
        keys: value("tidegate_keys ")?,
        counts: value("tidegate_table_bytes{table=\"counts\"} ")?,
        tables: value("tidegate_memory_bytes ")?,
        allocated: value("tidegate_allocated_bytes ")?,
    })
}

fn growth(name: &str, samples: &[Sample], faults: Duration) -> Option<Growth> {
    let disturbed = samples.partition_point(|sample| sample.at <= faults);
    let course = |of: fn(&Sample) -> u64| {
        let first = median(samples.get(..disturbed / 4)?.iter().map(of))?;
        let highest = samples.iter().map(of).max()?;
        Some(Course { first, last: of(samples.last()?), highest })
    };
    let second_half = &samples[disturbed / 2..disturbed];
    Some(Growth {
        node: name.into(),
        rss_kib: course(|sample| sample.resident_kib)?,
        rss_kib_per_minute: slope(second_half, |sample| sample.resident_kib),
        keys: course(|sample| sample.held.keys)?,
        counts_bytes: course(|sample| sample.held.counts)?,
        tables_bytes: course(|sample| sample.held.tables)?,
        tables_kib_per_minute: slope(second_half, |sample| sample.held.tables / 1024),
        beside_kib: course(|sample| sample.held.beside_kib())?,
        beside_kib_per_minute: slope(second_half, |sample| sample.held.beside_kib()),
        files: course(|sample| sample.files)?,
    })
}

fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// How much a figure grows in a minute, by least squares.
fn slope(samples: &[Sample], of: fn(&Sample) -> u64) -> f64 {
    let n = samples.len() as f64;
    let points = samples.iter().map(|s| (s.at.as_secs_f64() / 60.0, of(s) as f64));
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
                held: Held {
                    keys: if i < 80 { 40 + i * grow } else { 7 },
                    counts: 2_048,
                    tables: 4_096,
                    allocated: 8_192 + i * grow * 512,
                },
            };
            (0..=80).map(sample).collect()
        };
        let faults = Duration::from_secs(79);
        let level = growth("n", &samples(0), faults).expect("enough");
        assert_eq!(level.rss_kib, Course { first: 1_000, last: 1_000, highest: 1_000 });
        assert_eq!((level.rss_kib_per_minute, level.files.last), (0.0, 9));
        let grown = growth("n", &samples(2), faults).expect("enough");
        assert_eq!(grown.rss_kib, Course { first: 1_020, last: 1_160, highest: 1_160 });
        assert_eq!(grown.keys, Course { first: 60, last: 7, highest: 198 });
        assert!((grown.rss_kib_per_minute - 120.0).abs() < 1e-6, "{grown:?}");
        assert_eq!(grown.beside_kib, Course { first: 14, last: 84, highest: 84 });
        assert!((grown.beside_kib_per_minute - 60.0).abs() < 1e-6, "{grown:?}");
        assert!(growth("n", &[], faults).is_none());
    }

    #[test]
    fn a_process_can_be_looked_at() {
        let own = i32::try_from(std::process::id()).expect("small");
        let (resident, files) = look(own).expect("it runs");
        assert!(resident > 100 && files >= 3, "{resident} KiB, {files} files");
    }
}
