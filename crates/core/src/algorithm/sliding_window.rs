//! The sliding window counter: what was used in the label, and of the label before it the part that a window
//! ending now still covers, as if it had been used evenly.
//!
//! ```text
//! left := ⌈(length - elapsed) / tick⌉      all := ⌊length / tick⌋      tick := ⌈length / 2^20⌉ µs
//! used := current + ⌈previous × left / all⌉
//! ```
//!
//! The fraction has at most 2^20 steps, so that its products stay below 2^53; it is rounded up.
//! The formula is that of Cloudflare's counter (*How we built rate limiting capable of scaling to millions of
//! domains*, 2017). It is off where use was uneven: a burst at the end of a label leaves its successor less,
//! and never more than one window's quantity in the next whole window; see docs/algorithm.md.

use super::LabelTime;
use crate::time::{Span, StoreTime};

/// Into so many steps a window is divided at most.
const STEPS: u64 = 1 << 20;

fn tick(length: Span) -> u64 {
    length.0.div_ceil(STEPS)
}

/// What is left of the label at `at`.
fn left(label: LabelTime, at: StoreTime) -> Span {
    Span(label.ends().since(at).0.min(label.length.0))
}

/// What of `previous` counts while so much of a window is left.
fn part(previous: u64, left: u64, length: Span) -> u64 {
    let all = length.0 / tick(length);
    let left = left.div_ceil(tick(length)).min(all);
    (previous / all) * left + ((previous % all) * left).div_ceil(all)
}

/// What was used in the label before and still counts at `at`.
pub(crate) fn weight(previous: u64, label: LabelTime, at: StoreTime) -> u64 {
    part(previous, left(label, at).0, label.length)
}

/// After which `cost` has room under `ceiling`.
pub(crate) fn wait(
    [current, previous]: [u64; 2],
    label: LabelTime,
    at: StoreTime,
    cost: u64,
    ceiling: u64,
) -> Span {
    let (rest, length) = (left(label, at).0, label.length);
    if current.saturating_add(cost) <= ceiling {
        let room = ceiling - current - cost;
        return Span(rest - until(previous, room, rest, length));
    }
    // In the next label this one is the one before.
    let room = ceiling.saturating_sub(cost);
    Span(rest + length.0 - until(current, room, length.0, length))
}

/// The most that may be left of a window, of at most `most`, for `previous` to count no more than `room`.
fn until(previous: u64, room: u64, most: u64, length: Span) -> u64 {
    if part(previous, most, length) <= room {
        return most;
    }
    // It fits with `low` ticks left, and not with `high`.
    let tick = tick(length);
    let (mut low, mut high) = (0, most.div_ceil(tick));
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if part(previous, middle * tick, length) <= room { low = middle } else { high = middle }
    }
    low * tick
}

/// Until nothing counts any more.
pub(crate) fn reset([current, previous]: [u64; 2], label: LabelTime, at: StoreTime) -> Span {
    let rest = left(label, at);
    match (current, previous) {
        (0, 0) => Span::ZERO,
        (0, _) => rest,
        _ => rest + label.length,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn label(length: u64) -> LabelTime {
        LabelTime { starts: StoreTime(1_000_000_000), length: Span(length), before: 0 }
    }

    #[test]
    fn the_label_before_fades_evenly_and_is_rounded_up() {
        let of = |elapsed: u64| weight(10, label(1_000_000), StoreTime(1_000_000_000 + elapsed));
        assert_eq!([0, 1, 100_000, 500_000, 900_001, 999_999].map(of), [10, 10, 9, 5, 1, 1]);
        assert_eq!(of(1_000_000), 0);
        assert_eq!(weight(10, label(1_000_000), StoreTime(5)), 10, "before its label");
    }

    proptest! {
        /// It is the exact part, rounded up to whole units and to a millionth of the window.
        #[test]
        fn it_is_the_exact_part_rounded_up(
            previous in 0..=crate::store::COUNT_MAX,
            length in 1_000_u64..=400 * 86_400 * 1_000_000,
            elapsed in 0.0..=1.0_f64,
        ) {
            let elapsed = (length as f64 * elapsed) as u64;
            let at = StoreTime(1_000_000_000 + elapsed);
            let found = weight(previous, label(length), at);
            let exact = u128::from(previous) * u128::from(length - elapsed.min(length));
            let least = exact.div_ceil(u128::from(length)) as u64;
            prop_assert!(found >= least);
            prop_assert!(found <= least + previous / (STEPS / 2) + 1);
        }

        /// Who waits passes, and not sooner.
        #[test]
        fn who_waits_passes_and_no_sooner(
            (current, previous) in (0..2_000_u64, 0..2_000_u64),
            length in 1_000_u64..=100_000_000,
            elapsed in 0.0..1.0_f64,
            (cost, ceiling) in (1..50_u64, 50..2_000_u64),
        ) {
            let at = StoreTime(1_000_000_000 + (length as f64 * elapsed) as u64);
            let wait = wait([current, previous], label(length), at, cost, ceiling);
            let used = |at: StoreTime| {
                let over = at >= label(length).ends();
                let (now, before) = if over { (0, current) } else { (current, previous) };
                let starts = if over { label(length).ends() } else { label(length).starts };
                now + weight(before, LabelTime { starts, ..label(length) }, at)
            };
            prop_assert!(used(at + wait) + cost <= ceiling);
            if wait > Span::ZERO {
                let before = StoreTime((at + wait).0 - 1);
                prop_assert!(used(before) + cost > ceiling);
            }
        }
    }
}
