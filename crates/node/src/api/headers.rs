//! The rate-limit headers of an answer.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};
use bytes::BytesMut;
use tidegate_core::check::{Decision, Reason};

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
    let mut buffer = BytesMut::with_capacity(64 + 64 * decision.limits.len());
    let mut put = |name, write: &dyn Fn(&mut BytesMut) -> fmt::Result| {
        write(&mut buffer).expect("a buffer that grows takes every text");
        let value = HeaderValue::from_maybe_shared(buffer.split().freeze())
            .expect("quoted names and digits are visible ASCII");
        headers.insert(name, value);
    };

    if let Some(binding) = binding(decision) {
        put(POLICY, &|out| write_policies(out, decision));
        put(STATE, &|out| write_states(out, decision));
        put(LIMIT, &|out| write!(out, "{}", binding.limit().quantity));
        put(REMAINING, &|out| write!(out, "{}", binding.remaining));
        let reset = match style {
            ResetStyle::Delta => binding.reset_after.as_secs_ceil(),
            ResetStyle::UnixSeconds => {
                let end = unix_now() + Duration::from_micros(binding.reset_after.0);
                end.as_secs() + u64::from(end.subsec_nanos() > 0)
            }
        };
        put(RESET, &|out| write!(out, "{reset}"));
    }
    if !decision.allowed && decision.reason != Some(Reason::CostExceedsLimit) {
        let wait = binding(decision).and_then(|binding| binding.retry_after);
        let seconds = wait.map_or(1, |wait| wait.as_secs_ceil().max(1));
        put(RETRY_AFTER, &|out| write!(out, "{seconds}"));
    }
    headers
}

/// `"burst";q=10;w=1, "hourly";q=5000;w=3600`
fn write_policies(out: &mut BytesMut, decision: &Decision) -> fmt::Result {
    for (index, verdict) in decision.limits.iter().enumerate() {
        let limit = verdict.limit();
        write_name(out, index, &limit.name)?;
        write!(out, ";q={}", limit.quantity.min(INTEGER_MAX))?;
        let window = limit.window.length();
        // Whole seconds cannot say how long such a window is.
        if window.as_millis() >= 1_000 {
            write!(out, ";w={}", window.as_secs_ceil())?;
        }
    }
    Ok(())
}

/// `"burst";r=9;t=1, "hourly";r=4187;t=123`
fn write_states(out: &mut BytesMut, decision: &Decision) -> fmt::Result {
    for (index, verdict) in decision.limits.iter().enumerate() {
        write_name(out, index, &verdict.limit().name)?;
        let (remaining, seconds) =
            (verdict.remaining.min(INTEGER_MAX), verdict.reset_after.as_secs_ceil());
        write!(out, ";r={remaining};t={seconds}")?;
    }
    Ok(())
}

/// A name as a quoted string of a structured field, which holds visible ASCII and spaces only.
fn write_name(out: &mut BytesMut, index: usize, name: &str) -> fmt::Result {
    out.write_str(if index == 0 { "\"" } else { ", \"" })?;
    for c in name.chars() {
        match c {
            '"' | '\\' => write!(out, "\\{c}")?,
            ' '..='~' => out.write_char(c)?,
            _ => out.write_char('?')?,
        }
    }
    out.write_char('"')
}
