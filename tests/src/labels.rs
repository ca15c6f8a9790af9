//! Requests that come at random whatever becomes of them, and what each window of a limit admitted.
//!
//! An open loop: a node that is slow or away is asked on. Which window a request fell into its answer
//! says, so no clock of the test's is in the figures. What was not answered counts nowhere: the promise
//! is about what callers were told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tidegate_client::{Answer, Client, Error};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::node::Node;

/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests under way to one node; more are not sent, and counted.
const UNDER_WAY_MAX: usize = 512;

/// One caller who asks one policy everywhere.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Its `route`.
    pub route: String,
    /// Its `api_key`.
    pub api_key: String,
    /// Requests per second over all nodes together, Poisson.
    pub per_second: f64,
}

/// One window of one caller's limit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    /// Of the caller.
    pub route: String,
    /// The caller.
    pub api_key: String,
    /// Which window.
    pub label: u64,
}

/// What came of the requests in a window.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    /// Answered.
    pub offered: u64,
    /// Admitted.
    pub admitted: u64,
    /// The limit, as the answers say.
    pub quantity: u64,
    /// Answered without the store, which may have charged it all the same.
    pub degraded: u64,
}

/// What came of all requests.
#[derive(Debug, Clone, Default)]
pub struct Books {
    /// By window.
    pub windows: BTreeMap<Window, Sum>,
    /// Decided without the store, and of those admitted.
    pub degraded: (u64, u64),
    /// Nobody was there: nothing was charged.
    pub unreachable: u64,
    /// The node died while it was asked.
    pub interrupted: u64,
    /// Not sent, since too many were under way.
    pub unsent: u64,
    /// Anything else, and the first of them.
    pub errors: u64,
    /// What the first of them was.
    pub first_error: Option<String>,
    /// How much later than due each request was sent, and how long its answer then took.
    late: Vec<(Duration, Duration)>,
}

/// How far windows were from what one limiter for all would have done, in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Accuracy {
    /// Windows that were looked at.
    pub windows: usize,
    /// Admitted above the quantity, of the quantity: mean and worst window.
    pub over: (f64, f64),
    /// Refused that the one limiter had admitted, of what that admits: mean and worst window.
    pub under: (f64, f64),
}

impl Books {
    fn note(&mut self, flow: &Flow, answer: Result<Answer, Error>, late: Duration, took: Duration) {
        match answer {
            Ok(answer) => {
                self.late.push((late, took));
                self.degraded.0 += u64::from(answer.check.degraded);
                self.degraded.1 += u64::from(answer.check.degraded && answer.allowed);
                for verdict in &answer.check.limits {
                    let Flow { route, api_key, .. } = flow.clone();
                    let window = Window { route, api_key, label: verdict.label };
                    let sum = self.windows.entry(window).or_default();
                    sum.offered += 1;
                    sum.admitted += u64::from(answer.allowed);
                    sum.degraded += u64::from(answer.check.degraded);
                    sum.quantity = verdict.quantity;
                }
            }
            Err(Error::Unreachable { .. }) => self.unreachable += 1,
            Err(Error::Interrupted { .. }) => self.interrupted += 1,
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| error.to_string());
            }
        }
    }

    /// The windows that admitted more than their quantity and this.
    pub fn over(&self, beyond: u64) -> Vec<(Window, Sum)> {
        let over = |sum: &Sum| sum.admitted > sum.quantity + beyond;
        self.windows.iter().filter(|(_, s)| over(s)).map(|(w, s)| (w.clone(), *s)).collect()
    }

    /// How far the windows were off, without the first `warm_up` and the first and last, which the load
    /// did not fill.
    pub fn accuracy(&self, warm_up: usize) -> Accuracy {
        let sums: Vec<_> = self.windows.values().collect();
        let end = sums.len().saturating_sub(1);
        let whole = sums.get(1 + warm_up..end).unwrap_or_default();
        let (mut over, mut under) = (Vec::new(), Vec::new());
        for sum in whole {
            let central = sum.offered.min(sum.quantity).max(1) as f64;
            let above = sum.admitted.saturating_sub(sum.quantity) as f64;
            over.push(100.0 * above / sum.quantity.max(1) as f64);
            under.push(100.0 * (central - sum.admitted as f64).max(0.0) / central);
        }
        let of = |all: &[f64]| {
            let mean = all.iter().sum::<f64>() / all.len().max(1) as f64;
            (mean, all.iter().copied().fold(0.0, f64::max))
        };
        Accuracy { windows: whole.len(), over: of(&over), under: of(&under) }
    }

    /// The part `p` (0 to 1) of the requests that were answered was sent at most so late, and answered
    /// within so long.
    pub fn percentile(&self, p: f64) -> (Duration, Duration) {
        let at = |mut all: Vec<Duration>| {
            all.sort_unstable();
            let index = (all.len() as f64 * p) as usize;
            all.get(index.min(all.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        (
            at(self.late.iter().map(|(late, _)| *late).collect()),
            at(self.late.iter().map(|(_, took)| *took).collect()),
        )
    }
}

/// A load that goes on until it is stopped.
#[derive(Debug)]
pub struct Labels {
    books: Arc<Mutex<Books>>,
    stop: Arc<AtomicBool>,
    askers: JoinSet<()>,
}

impl Labels {
    /// Begins to ask these nodes, each for the same part of every flow.
    pub fn start<'a>(nodes: impl IntoIterator<Item = &'a Node>, flows: &[Flow], seed: u64) -> Self {
        let nodes: Vec<_> = nodes.into_iter().collect();
        let part = 1.0 / nodes.len() as f64;
        Self::start_spread(nodes.into_iter().map(|node| (node, part)), flows, seed)
    }

    /// Begins to ask these nodes, each for its own part of every flow.
    pub fn start_spread<'a>(
        nodes: impl IntoIterator<Item = (&'a Node, f64)>,
        flows: &[Flow],
        seed: u64,
    ) -> Self {
        let mut labels =
            Self { books: Arc::default(), stop: Arc::default(), askers: JoinSet::new() };
        for (n, (node, part)) in nodes.into_iter().enumerate() {
            let client = Client::new(&format!("http://{}", node.http)).expect("a URL");
            let client = client.with_deadline(PATIENCE);
            for (f, flow) in flows.iter().enumerate() {
                let per_second = flow.per_second * part;
                let flow = Arc::new(Flow { per_second, ..flow.clone() });
                let random = StdRng::seed_from_u64(seed ^ ((n as u64) << 8) ^ ((f as u64) << 16));
                let (books, stop) = (Arc::clone(&labels.books), Arc::clone(&labels.stop));
                labels.askers.spawn(ask(client.clone(), flow, books, stop, random));
            }
        }
        labels
    }

    /// What has come so far.
    pub fn books(&self) -> Books {
        self.books.lock().clone()
    }

    /// How many windows answers have named so far.
    pub fn windows(&self) -> usize {
        self.books.lock().windows.len()
    }

    /// Ends, with every request answered or given up.
    ///
    /// # Panics
    ///
    /// If an asker did.
    pub async fn stop(mut self) -> Books {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.askers.join_next().await {
            ended.expect("no asker panics");
        }
        self.books.lock().clone()
    }
}

/// Asks for one flow at one node.
async fn ask(
    client: Client,
    flow: Arc<Flow>,
    books: Arc<Mutex<Books>>,
    stop: Arc<AtomicBool>,
    mut random: StdRng,
) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut requests = JoinSet::new();
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // Exponential: one less the drawn is never zero.
        let pause = -(1.0 - random.random_range(0.0..1.0_f64)).ln() / flow.per_second;
        due += Duration::from_secs_f64(pause);
        sleep_until(due).await;
        while requests.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&under_way).try_acquire_owned() else {
            books.lock().unsent += 1;
            continue;
        };
        let (client, flow, books) = (client.clone(), Arc::clone(&flow), Arc::clone(&books));
        requests.spawn(async move {
            let sent = Instant::now();
            let attributes = [("api_key", &*flow.api_key), ("route", &*flow.route)];
            let answer = client.check(&attributes, 1).await;
            books.lock().note(&flow, answer, sent.saturating_duration_since(due), sent.elapsed());
            drop(permit);
        });
    }
    while let Some(ended) = requests.join_next().await {
        ended.expect("no request panics");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_were_not_filled_are_left_out() {
        let mut books = Books::default();
        let sums = [(9, 9), (200, 100), (200, 110), (80, 76), (200, 100), (1, 1)];
        for (label, (offered, admitted)) in (0..).zip(sums) {
            let window = Window { route: "/r".into(), api_key: "k".into(), label };
            books.windows.insert(window, Sum { offered, admitted, quantity: 100, degraded: 0 });
        }
        let found = books.accuracy(1);
        assert_eq!((found.windows, found.over.1), (3, 10.0));
        assert!((found.over.0 - 10.0 / 3.0).abs() < 1e-9 && (found.under.1 - 5.0).abs() < 1e-9);
        assert_eq!((books.over(0).len(), books.over(10).len()), (1, 0));
        assert_eq!(Books::default().accuracy(2), Accuracy::default());
    }
}
