//! Many seeds of one scenario or swarm, on several threads, and what they come to together.
//!
//! A world is judged by its checkers, and by whether it ends at all: a panic (a broken invariant, in a
//! build that stops at those) counts as a violation of its seed and does not end the others.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use serde::Serialize;

use crate::{report::Report, run, scenario::Source, swarm::Kind};

/// So many seeds that failed are told one by one; all are counted.
const TOLD_MAX: usize = 10;

/// A seed whose run violated something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The hash of its run; null if it ended in a panic.
    pub trace_hash: Option<String>,
    /// What was violated, in words.
    pub told: Vec<String>,
    /// The faults that it has, by kind, if they are drawn.
    pub faults: Vec<&'static str>,
    /// The smallest set of kinds found with which it still fails, if faults are drawn.
    pub smallest: Option<Vec<&'static str>>,
    /// The command that runs it again.
    pub replay: String,
}

/// What many seeds came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exploration {
    /// How many were run.
    pub seeds: u64,
    /// How many of them violated something.
    pub failed: u64,
    /// Violations by checker, over all seeds; `panic` counts runs that ended in one.
    pub violations: BTreeMap<String, u64>,
    /// Seeds that have each kind of fault, if they are drawn.
    pub worlds: BTreeMap<&'static str, u64>,
    /// Events handled.
    pub events: u64,
    /// Requests that came.
    pub offered: u64,
    /// Answered without the store.
    pub without_store: u64,
    /// The part of it that was shed, because too many were waiting for a store.
    pub shed: u64,
    /// How often breakers opened before stores, by cause.
    pub breaker_opened: BTreeMap<&'static str, u64>,
    /// Not answered.
    pub unanswered: u64,
    /// Admitted beyond the rule.
    pub wrong_admits: u64,
    /// Units that nodes gave back of what they had admitted.
    pub refunded: u64,
    /// How often a node died that another was telling for its siblings too.
    pub relays_died: u64,
    /// Steps that servers carried out which had been replaced.
    pub by_replaced: u64,
    /// Admitted, and not known to every node at the end of its run.
    pub lost: u64,
    /// The part of it that some living node knows.
    pub lost_though_known: u64,
    /// The longest time until all was normal after the last fault.
    pub normal_ms: f64,
    /// The longest time until all nodes knew the same sums after the load.
    pub convergence_ms: f64,
    /// The first of those that failed, by seed.
    pub failures: Vec<Failure>,
}

/// One seed's run.
struct Outcome {
    seed: u64,
    kinds: Vec<Kind>,
    report: Result<Report, String>,
}

/// Runs one seed; an error says why there is no report.
fn attempt(source: &Source, seed: u64) -> Result<Report, String> {
    let scenario = source.scenario(seed).map_err(|error| error.to_string())?;
    caught(|| run(&scenario, seed))?.map_err(|error| error.to_string())
}

/// What a run comes to; an error says how it ended in a panic.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    // What a panic leaves behind is dropped with it.
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("panicked: {}", text.unwrap_or("without a word"))
    })
}

/// Runs every seed on `jobs` threads; `progress` is told how many are done and how many of them failed.
pub fn explore(
    source: &Source,
    seeds: Range<u64>,
    jobs: usize,
    replay: &dyn Fn(u64) -> String,
    mut progress: impl FnMut(u64, u64),
) -> Exploration {
    let mut sum = Exploration::default();
    let next = AtomicU64::new(seeds.start);
    let (tell, told) = mpsc::sync_channel::<Outcome>(64);
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (tell, next, end) = (tell.clone(), &next, seeds.end);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let report = attempt(source, seed);
                    if tell.send(Outcome { seed, kinds: source.kinds(seed), report }).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for outcome in told {
            sum.add(&outcome, replay);
            progress(sum.seeds, sum.failed);
        }
    });
    sum.failures.sort_by_key(|failure| failure.seed);
    sum.failures.truncate(TOLD_MAX);
    for failure in &mut sum.failures {
        failure.smallest = shrink(source, failure.seed);
    }
    sum
}

/// Leaves out one kind of fault after the other, as long as the run still fails.
fn shrink(source: &Source, seed: u64) -> Option<Vec<&'static str>> {
    let Source::Swarm(swarm) = source else { return None };
    let fails = |kinds: &[Kind]| {
        let drawn = Source::drawn(&swarm.draw_with(seed, kinds));
        drawn.map_or(true, |source| attempt(&source, seed).map_or(true, |r| !r.holds()))
    };
    let mut kinds = swarm.draw(seed).kinds;
    let mut at = 0;
    while at < kinds.len() {
        let mut fewer = kinds.clone();
        fewer.remove(at);
        if fails(&fewer) {
            kinds = fewer;
        } else {
            at += 1;
        }
    }
    Some(kinds.into_iter().map(Kind::name).collect())
}

impl Default for Exploration {
    fn default() -> Self {
        Self {
            seeds: 0,
            failed: 0,
            violations: BTreeMap::new(),
            worlds: BTreeMap::new(),
            events: 0,
            offered: 0,
            without_store: 0,
            shed: 0,
            breaker_opened: BTreeMap::new(),
            unanswered: 0,
            wrong_admits: 0,
            refunded: 0,
            relays_died: 0,
            by_replaced: 0,
            lost: 0,
            lost_though_known: 0,
            normal_ms: 0.0,
            convergence_ms: 0.0,
            failures: Vec::new(),
        }
    }
}

impl Exploration {
    /// Whether every seed's checkers were content.
    pub const fn holds(&self) -> bool {
        self.failed == 0
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names can always be written as JSON")
    }

    fn add(&mut self, outcome: &Outcome, replay: &dyn Fn(u64) -> String) {
        self.seeds += 1;
        for kind in &outcome.kinds {
            *self.worlds.entry(kind.name()).or_default() += 1;
        }
        let (trace_hash, told) = match &outcome.report {
            Ok(report) => {
                self.count(report);
                if report.holds() {
                    return;
                }
                let mut told = Vec::new();
                for checker in report.checkers.iter().filter(|c| c.violations > 0) {
                    *self.violations.entry(checker.name.to_owned()).or_default() +=
                        checker.violations;
                    let first = checker.told.first().map_or("", String::as_str);
                    told.push(format!("{} ({}): {first}", checker.name, checker.violations));
                }
                (Some(report.trace_hash.clone()), told)
            }
            Err(why) => {
                *self.violations.entry("panic".to_owned()).or_default() += 1;
                (None, vec![why.clone()])
            }
        };
        self.failed += 1;
        self.failures.push(Failure {
            seed: outcome.seed,
            trace_hash,
            told,
            faults: outcome.kinds.iter().map(|kind| kind.name()).collect(),
            smallest: None,
            replay: replay(outcome.seed),
        });
        // Threads end in any order: more are kept than told, and the lowest seeds are told.
        if self.failures.len() > 8 * TOLD_MAX {
            self.failures.sort_by_key(|failure| failure.seed);
            self.failures.truncate(TOLD_MAX);
        }
    }

    fn count(&mut self, report: &Report) {
        self.events += report.events;
        self.offered += report.offered;
        self.without_store += report.regions.values().map(|r| r.without_store).sum::<u64>();
        self.shed += report.regions.values().map(|r| r.shed).sum::<u64>();
        for (cause, times) in &report.breaker_opened {
            *self.breaker_opened.entry(cause).or_default() += times;
        }
        self.unanswered += report.regions.values().map(|r| r.unanswered).sum::<u64>();
        self.wrong_admits += report.wrong_admits;
        self.refunded += report.refunded;
        self.relays_died += report.relays_died;
        self.by_replaced += report.by_replaced;
        self.lost += report.lost;
        self.lost_though_known += report.lost_though_known;
        self.normal_ms = self.normal_ms.max(report.normal_ms.unwrap_or(0.0));
        self.convergence_ms = self.convergence_ms.max(report.convergence_ms.unwrap_or(0.0));
    }
}

impl fmt::Display for Exploration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | over {} seeds |\n| --- | ---: |", self.seeds)?;
        let rows: [(&str, u64); 13] = [
            ("failed", self.failed),
            ("requests", self.offered),
            ("answered without the store", self.without_store),
            ("of which shed", self.shed),
            ("openings of breakers", self.breaker_opened.values().sum()),
            ("unanswered", self.unanswered),
            ("units given back", self.refunded),
            ("relays that died", self.relays_died),
            ("steps of replaced servers", self.by_replaced),
            ("admitted beyond the rule", self.wrong_admits),
            ("not known to all at the end", self.lost),
            ("of which somebody knows", self.lost_though_known),
            ("events", self.events),
        ];
        for (what, number) in rows {
            writeln!(f, "| {what} | {number} |")?;
        }
        writeln!(f, "| longest time to normal | {:.0} ms |", self.normal_ms)?;
        writeln!(f, "| longest convergence | {:.0} ms |", self.convergence_ms)?;
        for (name, times) in &self.violations {
            writeln!(f, "| violations: {name} | {times} |")?;
        }
        if !self.worlds.is_empty() {
            let worlds: Vec<_> = self.worlds.iter().map(|(k, n)| format!("{k} {n}")).collect();
            writeln!(f, "\nWorlds with each kind of fault: {}.", worlds.join(", "))?;
        }
        for failure in &self.failures {
            let mut line = format!("\nSeed {}", failure.seed);
            if !failure.faults.is_empty() {
                write!(line, ", with {}", failure.faults.join(", "))?;
            }
            writeln!(f, "{line}:")?;
            for told in &failure.told {
                writeln!(f, "- {told}")?;
            }
            if let Some(smallest) = &failure.smallest {
                let kinds = if smallest.is_empty() {
                    "with no fault at all".into()
                } else {
                    format!("with these faults alone: {}", smallest.join(", "))
                };
                writeln!(f, "- it still fails {kinds}")?;
            }
            writeln!(f, "- run it again: {}", failure.replay)?;
        }
        Ok(())
    }
}
