//! The rate-limit headers of an answer.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};
use bytes::BytesMut;
use tidegate_core::{
    check::{Decision, Reason},
    time::Span,
};

use super::{ResetStyle, answer::binding};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The largest integer that a structured field may hold.
const INTEGER_MAX: u64 = 999_999_999_999_999;

/// All of them; `unix_now` is asked for the time since 1970 only where a header needs it.
pub(crate) fn of(
    decision: &Decision,
    style: ResetStyle,
    unix_now: impl FnOnce() -> Duration,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    // One buffer for all values, handed out piece by piece.
    let mut values = Values(BytesMut::with_capacity(64 + 96 * decision.limits.len()));
    if let Some(binding) = binding(decision) {
        write_policies(&mut values, decision);
        headers.insert(POLICY, values.take());
        write_states(&mut values, decision);
        headers.insert(STATE, values.take());
        headers.insert(LIMIT, values.number(binding.limit().quantity).take());
        headers.insert(REMAINING, values.number(binding.remaining).take());
        let reset = match style {
            ResetStyle::Delta => binding.reset_after.as_secs_ceil(),
            ResetStyle::UnixSeconds => {
                let end = unix_now() + Duration::from_micros(binding.reset_after.0);
                end.as_secs() + u64::from(end.subsec_nanos() > 0)
            }
        };
        headers.insert(RESET, values.number(reset).take());
    }
    if !decision.allowed && decision.reason != Some(Reason::CostExceedsLimit) {
        let wait = binding(decision).and_then(|binding| binding.retry_after);
        let seconds = wait.map_or(1, |wait| wait.as_secs_ceil().max(1));
        headers.insert(RETRY_AFTER, values.number(seconds).take());
    }
    headers
}

/// `"burst";q=10;w=1, "hourly";q=5000;w=3600`
fn write_policies(out: &mut Values, decision: &Decision) {
    for (index, verdict) in decision.limits.iter().enumerate() {
        let limit = verdict.limit();
        out.raw(if index == 0 { "" } else { ", " }).name(&limit.name);
        out.raw(";q=").number(limit.quantity.min(INTEGER_MAX));
        let window = verdict.window_length();
        // Whole seconds cannot say how long a shorter window is.
        if window >= Span::secs(1) {
            out.raw(";w=").number(window.as_secs_ceil());
        }
    }
}

/// `"burst";r=9;t=1, "hourly";r=4187;t=123`
fn write_states(out: &mut Values, decision: &Decision) {
    for (index, verdict) in decision.limits.iter().enumerate() {
        out.raw(if index == 0 { "" } else { ", " }).name(&verdict.limit().name);
        out.raw(";r=").number(verdict.remaining.min(INTEGER_MAX));
        out.raw(";t=").number(verdict.reset_after.as_secs_ceil());
    }
}

/// Writes header values, one after the other, into one buffer.
struct Values(BytesMut);

impl Values {
    fn raw(&mut self, text: &'static str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        self
    }

    /// A name as a quoted string of a structured field, which holds visible ASCII and spaces only.
    fn name(&mut self, name: &str) -> &mut Self {
        self.raw("\"");
        for c in name.chars() {
            match c {
                '"' | '\\' => self.0.extend_from_slice(&[b'\\', c as u8]),
                ' '..='~' => self.0.extend_from_slice(&[c as u8]),
                _ => self.0.extend_from_slice(b"?"),
            }
        }
        self.raw("\"")
    }

    /// What was written since the last time, as a value of its own.
    fn take(&mut self) -> HeaderValue {
        HeaderValue::from_maybe_shared(self.0.split().freeze())
            .expect("quoted names and digits are visible ASCII")
    }
}
