//! When the store is left alone.

use std::ops::RangeInclusive;

use tidegate_core::{breaker::Settings, time::Span};

use super::Resolver;
use crate::{
    clock,
    config::raw::{self, Text},
};

const COUNTS: RangeInclusive<u32> = 1..=1_000_000;
const P95: RangeInclusive<Span> = Span::millis(1)..=Span::secs(5);
const WINDOW: RangeInclusive<Span> = Span::secs(1)..=Span::secs(600);
const BACKOFF: RangeInclusive<Span> = Span::millis(10)..=Span::secs(60);
const PROBES: RangeInclusive<u32> = 1..=1_000;

impl Resolver<'_> {
    pub(super) fn breaker(&mut self, raw: &raw::Breaker) -> Option<Settings> {
        let usual = Settings::default();
        let count = |this: &mut Self, field, written: &Option<_>, usual, range| {
            this.number(field, written.as_ref(), usual, range)
        };
        let span = |this: &mut Self, field, written: &Option<Text>, usual, range| {
            this.span(field, written.as_ref(), usual, range).map(clock::span)
        };
        let failures_percent =
            count(self, "store.breaker.failures", &raw.failures, usual.failures_percent, 1..=100);
        let p95 = match &raw.p95 {
            Some(text) if text.get_ref() == "off" => Some(None),
            None => Some(usual.p95),
            written => self
                .span("store.breaker.p95", written.as_ref(), Span::ZERO, P95)
                .map(|bound| Some(clock::span(bound))),
        };
        let calls_min =
            count(self, "store.breaker.calls_min", &raw.calls_min, usual.calls_min, COUNTS);
        let in_a_row = count(self, "store.breaker.in_a_row", &raw.in_a_row, usual.in_a_row, COUNTS);
        let window = span(self, "store.breaker.window", &raw.window, usual.window, WINDOW);
        let backoff = span(self, "store.breaker.backoff", &raw.backoff, usual.backoff, BACKOFF);
        let backoff_max =
            span(self, "store.breaker.backoff_max", &raw.backoff_max, usual.backoff_max, BACKOFF);
        let probes = count(self, "store.breaker.probes", &raw.probes, usual.probes, PROBES);
        let (backoff, backoff_max) = (backoff?, backoff_max?);
        // The defaults are in order, so that one of the two was written if they are not.
        if let (true, Some(text)) =
            (backoff > backoff_max, raw.backoff_max.as_ref().or(raw.backoff.as_ref()))
        {
            let [first, longest] = [backoff, backoff_max].map(clock::duration);
            let message = format_args!("{longest:?} is shorter than `backoff`, which is {first:?}");
            return self.refuse("store.breaker.backoff_max", text, message);
        }
        Some(Settings {
            failures_percent: failures_percent?,
            p95: p95?,
            calls_min: calls_min?,
            in_a_row: in_a_row?,
            window: window?,
            backoff,
            backoff_max,
            probes: probes?,
        })
    }
}
