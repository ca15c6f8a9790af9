//! What came of the load.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::connection::Answer;

/// Latencies above a minute count as a minute.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Counts of one run.
#[derive(Debug)]
pub(super) struct Report {
    /// Requests that were due.
    pub(super) offered: u64,
    pub(super) sent: u64,
    pub(super) allowed: u64,
    pub(super) refused: u64,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// From the start to the last answer.
    pub(super) duration: Duration,
    /// Of answers, in microseconds from the instant at which the request was due.
    latency: Histogram<u64>,
}

/// The report as outsiders parse it.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    offered: u64,
    sent: u64,
    allowed: u64,
    refused: u64,
    errors: u64,
    duration_s: f64,
    latency_us: Latency,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Report {
    pub(super) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)
            .expect("bounds and digits are those of a sound histogram");
        Self {
            offered: 0,
            sent: 0,
            allowed: 0,
            refused: 0,
            errors: 0,
            first_error: None,
            duration: Duration::ZERO,
            latency,
        }
    }

    /// Counts one exchange.
    pub(super) fn count(&mut self, outcome: Result<Answer, String>, latency: Duration) {
        match outcome {
            Ok(Answer::Allowed) => self.allowed += 1,
            Ok(Answer::Refused) => self.refused += 1,
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert(error);
                return;
            }
        }
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_MAX_US);
        self.latency.saturating_record(micros.max(1));
    }

    pub(super) fn answered(&self) -> u64 {
        self.allowed + self.refused
    }

    pub(super) fn summary(&self) -> Summary {
        let at = |quantile| self.latency.value_at_quantile(quantile);
        Summary {
            offered: self.offered,
            sent: self.sent,
            allowed: self.allowed,
            refused: self.refused,
            errors: self.errors,
            duration_s: (self.duration.as_secs_f64() * 1e6).round() / 1e6,
            latency_us: Latency {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: self.latency.max(),
            },
        }
    }

    /// The report for people.
    pub(super) fn table(&self) -> String {
        let Summary { latency_us: latency, duration_s, .. } = self.summary();
        let rate = self.answered() as f64 / duration_s.max(1e-6);
        let unsent = match self.offered - self.sent {
            0 => String::new(),
            unsent => format!(" ({unsent} could not be sent in time)"),
        };
        format!(
            "offered   {:>12}\nsent      {:>12}{unsent}\nallowed   {:>12}\nrefused   {:>12}\n\
             errors    {:>12}\nanswered  {rate:>12.0} per second, {duration_s:.2} s\n\
             latency   {:>12} us p50\n{:>22} us p90\n{:>22} us p99\n{:>22} us p99.9\n{:>22} us max",
            self.offered,
            self.sent,
            self.allowed,
            self.refused,
            self.errors,
            latency.p50,
            latency.p90,
            latency.p99,
            latency.p999,
            latency.max,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_the_names_that_outsiders_parse() {
        let mut report = Report::new();
        report.offered = 3;
        report.sent = 3;
        report.count(Ok(Answer::Allowed), Duration::from_micros(100));
        report.count(Ok(Answer::Refused), Duration::from_micros(300));
        report.count(Err("gone".into()), Duration::from_secs(9));
        report.duration = Duration::from_millis(1500);
        let json = serde_json::to_string(&report.summary()).expect("is JSON");
        assert_eq!(
            json,
            r#"{"offered":3,"sent":3,"allowed":1,"refused":1,"errors":1,"duration_s":1.5,"latency_us":{"p50":100,"p90":300,"p99":300,"p999":300,"max":300}}"#
        );
        assert_eq!(report.first_error.as_deref(), Some("gone"));
    }

    #[test]
    fn a_table_says_what_was_not_sent() {
        let mut report = Report::new();
        report.offered = 10;
        report.sent = 7;
        assert!(report.table().contains("3 could not be sent in time"));
    }
}
