//! What regional stores are like, and what stands before them, checked.

use std::ops::RangeInclusive;

use tidegate_core::{breaker, time::Span};

use super::{Notes, file};
use crate::scenario::StoreSettings;

/// Calls that a store may carry out in a second, if that is limited: a service time in whole microseconds.
const CALLS_PER_SECOND: RangeInclusive<u32> = 1..=1_000_000;
/// Calls of a node that may wait, at most.
const CALLS_MAX: u32 = 65_536;

pub(super) fn build(notes: &mut Notes, file: &file::Store) -> StoreSettings {
    let settings = StoreSettings {
        delay: file.delay.0,
        timeout: file.timeout.0,
        records: file.records,
        per_second: file.per_second,
        calls_max: file.calls_max,
        fence: file.fence.0,
        breaker: build_breaker(notes, &file.breaker),
    };
    if settings.timeout == Span::ZERO {
        notes.add("store.timeout", "must be longer than nothing");
    }
    if settings.delay >= settings.timeout {
        notes
            .add("store.delay", "must be shorter than store.timeout, or no answer is ever in time");
    }
    if settings.records == 0 {
        notes.add("store.records", "must be 1 or more");
    }
    if settings.per_second.is_some_and(|n| !CALLS_PER_SECOND.contains(&n)) {
        let (least, most) = CALLS_PER_SECOND.into_inner();
        notes.add("store.per_second", format_args!("must be {least} to {most}"));
    }
    if !(1..=CALLS_MAX).contains(&settings.calls_max) {
        notes.add("store.calls_max", format_args!("must be 1 to {CALLS_MAX}"));
    }
    settings
}

/// The ranges are those of a server.
fn build_breaker(notes: &mut Notes, file: &file::Breaker) -> breaker::Settings {
    let mut count = |field: &str, n: u32, most: u32| {
        if !(1..=most).contains(&n) {
            notes.add(&format!("store.breaker.{field}"), format_args!("{n}; must be 1 to {most}"));
        }
    };
    count("failures", file.failures, 100);
    count("calls_min", file.calls_min, 1_000_000);
    count("in_a_row", file.in_a_row, 1_000_000);
    count("probes", file.probes, 1_000);
    let mut span = |field: &str, span: Span, least: Span, most: Span| {
        if span < least || span > most {
            let [ms, least, most] = [span, least, most].map(Span::as_millis);
            let place = format!("store.breaker.{field}");
            notes.add(&place, format_args!("{ms} ms; must be {least} to {most} ms"));
        }
    };
    if let Some(p95) = file.p95.0 {
        span("p95", p95, Span::millis(1), Span::secs(5));
    }
    span("window", file.window.0, Span::secs(1), Span::secs(600));
    span("backoff", file.backoff.0, Span::millis(10), Span::secs(60));
    span("backoff_max", file.backoff_max.0, file.backoff.0, Span::secs(60));
    breaker::Settings {
        failures_percent: file.failures,
        p95: file.p95.0,
        calls_min: file.calls_min,
        in_a_row: file.in_a_row,
        window: file.window.0,
        backoff: file.backoff.0,
        backoff_max: file.backoff_max.0,
        probes: file.probes,
    }
}
