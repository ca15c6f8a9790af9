//! Load on all regions at once, and what was seen of it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep_until};

use super::{
    cluster::{Cluster, REGIONS},
    http::Http,
};

/// So much older may be what a region knew when the store decided than when it asked: the way to
/// the store, and clocks that are read in whole milliseconds.
const DECISION: Duration = Duration::from_millis(10);
/// How old what a node knows can be at the most when it begins to decide: it has heard the others by then,
/// or waited so long for them.
const START_SYNC: Duration = Duration::from_secs(2);

/// A load: so many requests to each region, evenly over a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load<'a> {
    /// Chooses the policy.
    pub(crate) route: &'a str,
    /// Requests to each region.
    pub(crate) each: u32,
    /// Within this time.
    pub(crate) over: Duration,
}

/// What one region answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) offered: u64,
    pub(crate) admitted: u64,
    /// By label of the limit's window.
    labels: BTreeMap<u64, LabelTally>,
}

/// What one region answered in one window.
#[derive(Debug, Clone, Default)]
struct LabelTally {
    /// When each request was sent, from the start of the load.
    sent: Vec<Duration>,
    /// The same of those that were admitted, and how old the region's knowledge of others was then;
    /// `None` if it had not heard of one yet.
    admitted: Vec<(Duration, Option<Duration>)>,
    /// The longest that an answer took: a request is decided between its sending and its answer.
    slowest: Duration,
}

/// What all regions answered, in the order of [`REGIONS`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen([Tally; 3]);

/// One answer to a check.
struct Answer {
    /// From the start of the load.
    sent: Duration,
    took: Duration,
    allowed: bool,
    label: u64,
    staleness: Option<Duration>,
}

impl Load<'_> {
    /// Puts the load on. Every request is answered, or this is an error: what became of an
    /// unanswered request nobody knows, and nothing would add up any more.
    pub(crate) async fn put_on(&self, cluster: &Cluster) -> Result<Seen, String> {
        let start = Instant::now();
        let mut requests = JoinSet::new();
        let mut seen = Seen::default();
        for number in 0..self.each {
            sleep_until(
                (start + self.over.mul_f64(f64::from(number) / f64::from(self.each))).into(),
            )
            .await;
            for (index, region) in REGIONS.iter().enumerate() {
                let url = format!("{}/v1/check", cluster.node(region).url());
                let ask = ask(cluster.http.clone(), url, self.route.to_owned(), start);
                requests.spawn(async move { (index, ask.await) });
            }
            while let Some(answered) = requests.try_join_next() {
                seen.count(answered.map_err(|error| error.to_string())?)?;
            }
        }
        while let Some(answered) = requests.join_next().await {
            seen.count(answered.map_err(|error| error.to_string())?)?;
        }
        Ok(seen)
    }
}

impl LabelTally {
    /// The most requests that can have been decided within any stretch of time so long.
    fn most_within(&self, stretch: Duration) -> u64 {
        let mut sent = self.sent.clone();
        sent.sort_unstable();
        let stretch = stretch + self.slowest;
        let mut first = 0;
        let mut most = 0;
        for (last, at) in sent.iter().enumerate() {
            while sent[first] + stretch < *at {
                first += 1;
            }
            most = most.max(last - first + 1);
        }
        most as u64
    }

    /// How old the region's knowledge of others was when it last admitted something.
    fn last_staleness(&self) -> Option<Duration> {
        let last = self.admitted.iter().map(|(sent, _)| *sent).max().unwrap_or_default();
        // Any of those under way at that time may have been decided last.
        let candidates = self.admitted.iter().filter(|(sent, _)| *sent + self.slowest >= last);
        candidates.map(|(_, staleness)| *staleness).try_fold(Duration::ZERO, |oldest, staleness| {
            staleness.map(|staleness| oldest.max(staleness))
        })
    }
}

impl Seen {
    fn count(&mut self, (index, answer): (usize, Result<Answer, String>)) -> Result<(), String> {
        let Answer { sent, took, allowed, label, staleness } = answer?;
        let tally = &mut self.0[index];
        tally.offered += 1;
        let in_label = tally.labels.entry(label).or_default();
        in_label.sent.push(sent);
        in_label.slowest = in_label.slowest.max(took);
        if allowed {
            tally.admitted += 1;
            in_label.admitted.push((sent, staleness));
        }
        Ok(())
    }

    pub(crate) fn offered(&self) -> u64 {
        self.0.iter().map(|tally| tally.offered).sum()
    }

    /// Admitted by each region.
    pub(crate) fn by_region(&self) -> [u64; 3] {
        [0, 1, 2].map(|index| self.0[index].admitted)
    }

    pub(crate) fn admitted(&self) -> u64 {
        self.by_region().into_iter().sum()
    }

    /// The last label of the load.
    pub(crate) fn last_label(&self) -> Option<u64> {
        self.0.iter().filter_map(|tally| tally.labels.keys().next_back().copied()).max()
    }

    /// The labels of which the load covered every instant: all but the first and the last.
    pub(crate) fn whole_labels(&self) -> Vec<u64> {
        let labels = self.0.iter().flat_map(|tally| tally.labels.keys().copied());
        let all: std::collections::BTreeSet<u64> = labels.collect();
        let inner = all.len().saturating_sub(2);
        all.into_iter().skip(1).take(inner).collect()
    }

    /// How much `plain` may admit of `limit` in one window: the limit, and what the others may have
    /// admitted while the region that admitted last had not heard of it.
    pub(crate) fn bound(&self, limit: u64, label: u64) -> u64 {
        let tallies = self.in_label(label);
        let unheard_by = |last: usize| -> u64 {
            let age = tallies[last].last_staleness().unwrap_or(START_SYNC) + DECISION;
            let others = tallies.iter().enumerate().filter(|(index, _)| *index != last);
            others.map(|(_, tally)| tally.most_within(age).min(limit)).sum()
        };
        limit + (0..REGIONS.len()).map(unheard_by).max().unwrap_or(0)
    }

    /// Admitted by each region in one window.
    pub(crate) fn admitted_in(&self, label: u64) -> [u64; 3] {
        [0, 1, 2].map(|index| {
            self.0[index].labels.get(&label).map_or(0, |tally| tally.admitted.len() as u64)
        })
    }

    /// What each region answered in one window.
    fn in_label(&self, label: u64) -> [LabelTally; 3] {
        [0, 1, 2].map(|index| self.0[index].labels.get(&label).cloned().unwrap_or_default())
    }
}

async fn ask(http: Http, url: String, route: String, start: Instant) -> Result<Answer, String> {
    let sent = start.elapsed();
    let body = json!({ "attributes": { "api_key": "demo", "route": route }, "cost": 1 });
    let (status, answer) = http.ask(Method::POST, &url, Some(&body)).await?;
    let wrong = || format!("POST {url}: {status} {answer}");
    let allowed = match status {
        StatusCode::OK => true,
        StatusCode::TOO_MANY_REQUESTS => false,
        _ => return Err(wrong()),
    };
    let limit: &Value = &answer["limits"][0];
    let label = limit["label"].as_u64().ok_or_else(wrong)?;
    if answer["degraded"] == true {
        return Err(format!("{} (the store did not decide)", wrong()));
    }
    let took = start.elapsed() - sent;
    let staleness = limit["staleness_ms"].as_u64().map(Duration::from_millis);
    Ok(Answer { sent, took, allowed, label, staleness })
}
