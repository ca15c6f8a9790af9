use std::vec::Vec;

use proptest::prelude::*;
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

use super::*;

const FAST: Outcome = Outcome::Answered(Span::millis(1));
const SLOW: Outcome = Outcome::Answered(Span::millis(51));

fn ms(n: u64) -> Mono {
    Mono(n * 1_000)
}

fn breaker(settings: Settings) -> Breaker {
    let mut breaker = Breaker::new(settings, Box::new(Xoshiro256PlusPlus::seed_from_u64(7)));
    assert_eq!(breaker.handle_reachable(ms(0), true), Some(Change::Closed));
    breaker
}

/// A call that passes, and what came of it.
fn ask(breaker: &mut Breaker, now: Mono, outcome: Outcome) -> Option<Change> {
    let call = breaker.admit(now).expect("it passes");
    breaker.complete(now, call, outcome)
}

/// One that opened by a failure at 100 ms, and when it is half open.
fn opened(settings: Settings) -> (Breaker, Mono) {
    let mut breaker = breaker(Settings { in_a_row: 2, ..settings });
    assert_eq!(ask(&mut breaker, ms(0), Outcome::Failed), None);
    let Some(Change::Opened { cause: Cause::InARow, wait: Some(wait) }) =
        ask(&mut breaker, ms(100), Outcome::Failed)
    else {
        panic!("it opens")
    };
    (breaker, ms(100) + wait)
}

#[test]
fn before_there_is_a_connection_nothing_passes_and_nothing_is_told() {
    let mut breaker =
        Breaker::new(Settings::default(), Box::new(Xoshiro256PlusPlus::seed_from_u64(7)));
    assert_eq!(breaker.handle_reachable(ms(1), false), None);
    assert_eq!((breaker.state(ms(9_999)), breaker.admit(ms(9_999))), (State::Open, None));
    assert!(breaker.opened().iter().all(|(_, times)| *times == 0));
}

#[test]
fn failures_in_a_row_open_it_unless_they_are_a_hiccup() {
    let mut breaker = breaker(Settings::default());
    for _ in 0..1_000 {
        assert_eq!(ask(&mut breaker, ms(10), Outcome::Unanswered), None);
    }
    assert_eq!(ask(&mut breaker, ms(109), Outcome::Failed), None);
    assert_eq!(ask(&mut breaker, ms(110), FAST), None, "an answer ends the row");
    for at in [111, 150, 190, 210] {
        assert_eq!(ask(&mut breaker, ms(at), Outcome::Failed), None);
    }
    let change = ask(&mut breaker, ms(211), Outcome::Failed);
    assert!(matches!(change, Some(Change::Opened { cause: Cause::InARow, .. })), "{change:?}");
    assert_eq!((breaker.state(ms(212)), breaker.admit(ms(212))), (State::Open, None));
}

/// Asks 100 times a second with every `n`th call ending otherwise, until it opens: after how many ms.
fn opens_after(breaker: &mut Breaker, n: u64, outcome: Outcome) -> Option<(u64, Cause)> {
    (1..=3_000_u64).find_map(|i| {
        let now = ms(i * 10);
        let outcome = if i % n == 0 { outcome } else { FAST };
        match ask(breaker, now, outcome) {
            Some(Change::Opened { cause, .. }) => Some((i * 10, cause)),
            _ => None,
        }
    })
}

#[test]
fn a_share_of_failures_opens_it_once_there_are_enough_calls() {
    // Of the 99 calls before the first second is over, 49 fail.
    let nearly = Settings { failures_percent: 49, ..Settings::default() };
    let nearly = opens_after(&mut breaker(nearly), 2, Outcome::Failed);
    assert_eq!(nearly, Some((1_000, Cause::Failures)), "judged when a part is over");
    let half = opens_after(&mut breaker(Settings::default()), 1, Outcome::Failed);
    assert_eq!(half, Some((110, Cause::InARow)), "a row is faster");
    assert_eq!(opens_after(&mut breaker(Settings::default()), 3, Outcome::Failed), None);
    let picky = Settings { failures_percent: 33, ..Settings::default() };
    assert_eq!(
        opens_after(&mut breaker(picky), 3, Outcome::Failed),
        Some((1_000, Cause::Failures))
    );
    let patient = Settings { failures_percent: 49, calls_min: 250, ..Settings::default() };
    let late = opens_after(&mut breaker(patient), 2, Outcome::Failed);
    assert_eq!(late, Some((3_000, Cause::Failures)));
}

#[test]
fn a_95th_percentile_above_the_bound_opens_it() {
    let fate = |n, outcome| opens_after(&mut breaker(Settings::default()), n, outcome);
    assert_eq!(fate(19, SLOW), Some((1_000, Cause::Slow)));
    assert_eq!(fate(20, SLOW), None, "exactly a twentieth is slow: the percentile is not");
    assert_eq!(fate(1, Outcome::Answered(Span::millis(50))), None, "at the bound is not above it");
    assert_eq!(fate(10, Outcome::Unanswered), Some((1_000, Cause::Slow)), "slower than any bound");
    assert_eq!(fate(10, Outcome::Failed), None, "a refusal is quick");
    let off = Settings { p95: None, ..Settings::default() };
    assert_eq!(opens_after(&mut breaker(off), 1, SLOW), None);
    assert_eq!(opens_after(&mut breaker(off), 10, Outcome::Unanswered), None);
}

#[test]
fn old_calls_fall_out_of_the_window() {
    let mut breaker = breaker(Settings::default());
    for i in 0..49 {
        ask(&mut breaker, ms(i), SLOW);
    }
    for i in 0..2_000 {
        assert_eq!(ask(&mut breaker, ms(10_900 + i), FAST), None);
    }
    // And after a long silence nothing is judged by what was before it.
    for i in 0..60 {
        ask(&mut breaker, ms(12_950 + i / 2), SLOW);
    }
    assert_eq!(ask(&mut breaker, ms(90_000), FAST), None);
}

#[test]
fn after_a_silence_what_is_older_than_the_window_does_not_count() {
    let mut breaker = breaker(Settings::default());
    for n in 0..45 {
        assert_eq!(ask(&mut breaker, ms(n * 10), if n < 10 { SLOW } else { FAST }), None);
    }
    for n in 0..5 {
        assert_eq!(ask(&mut breaker, ms(9_500 + n), FAST), None, "45 calls say nothing");
    }
    assert_eq!(ask(&mut breaker, ms(18_000), FAST), None, "5 of the last 10 s");
}

#[test]
fn after_the_back_off_a_few_calls_decide() {
    let (mut breaker, due) = opened(Settings::default());
    assert_eq!(breaker.state(Mono(due.0 - 1)), State::Open);
    assert_eq!(breaker.admit(Mono(due.0 - 1)), None);
    assert_eq!(breaker.state(due), State::HalfOpen);
    let probes = [0; 5].map(|_| breaker.admit(due));
    assert_eq!(probes.map(|probe| probe.is_some()), [true, true, true, false, false]);
    let [first, second, third, ..] = probes;
    assert_eq!(breaker.complete(due, first.unwrap(), FAST), None);
    assert_eq!(breaker.admit(due), None, "answered ones count too");
    assert_eq!(breaker.complete(due, second.unwrap(), Outcome::NotAsked), None);
    let again = breaker.admit(due).expect("its place is free");
    assert_eq!(breaker.complete(due, again, FAST), None);
    assert_eq!(breaker.complete(due, third.unwrap(), FAST), Some(Change::Closed));
    assert_eq!(breaker.state(due), State::Closed);
}

#[test]
fn a_probe_that_fails_or_is_slow_opens_it_for_twice_as_long() {
    let (mut breaker, mut due) = opened(Settings::default());
    let mut longest = Vec::new();
    for outcome in [Outcome::Failed, SLOW, Outcome::Unanswered, SLOW, SLOW, SLOW, SLOW] {
        let Some(Change::Opened { cause: Cause::Probe, wait: Some(wait) }) =
            ask(&mut breaker, due, outcome)
        else {
            panic!("it opens")
        };
        longest.push(wait.as_millis());
        due += wait;
    }
    for (wait, whole) in longest.iter().zip([500, 1_000, 2_000, 4_000, 5_000, 5_000, 5_000]) {
        assert!((whole / 2..=whole).contains(wait), "{longest:?}");
    }
    assert_eq!(breaker.opened()[Cause::Probe as usize], (Cause::Probe, 7));
}

#[test]
fn the_back_off_is_forgotten_when_it_was_closed_for_a_whole_window() {
    for (closed_for, whole) in [(9_900, 500), (10_000, 250)] {
        let (mut breaker, due) = opened(Settings { probes: 1, ..Settings::default() });
        assert_eq!(ask(&mut breaker, due, FAST), Some(Change::Closed));
        ask(&mut breaker, due + Span::millis(closed_for - 100), Outcome::Failed);
        let change = ask(&mut breaker, due + Span::millis(closed_for), Outcome::Failed);
        let Some(Change::Opened { wait: Some(wait), .. }) = change else { panic!("{change:?}") };
        assert!((whole / 2..=whole).contains(&wait.as_millis()), "{closed_for}: {wait:?}");
    }
}

#[test]
fn calls_from_before_it_opened_say_nothing_afterwards() {
    let mut breaker = breaker(Settings { in_a_row: 1, probes: 1, ..Settings::default() });
    let [early, late] = [0; 2].map(|_| breaker.admit(ms(0)).unwrap());
    ask(&mut breaker, ms(0), Outcome::Failed);
    let change = ask(&mut breaker, ms(100), Outcome::Failed);
    let Some(Change::Opened { wait: Some(wait), .. }) = change else { panic!("{change:?}") };
    assert_eq!(breaker.complete(ms(101), early, FAST), None);
    let due = ms(100) + wait;
    let probe = breaker.admit(due).unwrap();
    assert_eq!(breaker.complete(due, late, Outcome::Unanswered), None);
    assert_eq!(breaker.complete(due, probe, FAST), Some(Change::Closed));
}

#[test]
fn a_lost_connection_opens_it_at_once_until_it_is_back() {
    let mut breaker = breaker(Settings::default());
    let lost = Some(Change::Opened { cause: Cause::Unreachable, wait: None });
    assert_eq!(breaker.handle_reachable(ms(5), false), lost);
    assert_eq!(breaker.handle_reachable(ms(6), false), None);
    assert_eq!(breaker.state(ms(100_000)), State::Open);
    assert_eq!(breaker.handle_reachable(ms(100_000), true), Some(Change::Closed));
    // Also out of any back-off: while there is no connection, there is nothing to try.
    let (mut breaker, due) = opened(Settings::default());
    assert_eq!(breaker.handle_reachable(ms(101), false), None);
    assert_eq!(breaker.admit(due), None);
    assert_eq!(breaker.handle_reachable(due, true), Some(Change::Closed));
}

proptest! {
    /// Whatever comes: no more probes than it may have are under way, it is closed only as it may be,
    /// and after a good while a store that answers is asked again.
    #[test]
    fn it_always_finds_back(events in prop::collection::vec((0..6_u8, 0..400_u64), 0..300)) {
        let settings = Settings { in_a_row: 3, calls_min: 10, ..Settings::default() };
        let mut breaker = breaker(settings);
        let mut now = ms(0);
        let mut calls = Vec::new();
        for (event, step) in events {
            now += Span::millis(step);
            let outcome = match event {
                0 => {
                    let was = breaker.state(now);
                    let call = breaker.admit(now);
                    prop_assert!(was != State::Open || call.is_none());
                    prop_assert!(was != State::Closed || call.is_some());
                    calls.extend(call);
                    continue;
                }
                1 => FAST,
                2 => SLOW,
                3 => Outcome::Failed,
                4 => Outcome::NotAsked,
                _ => {
                    breaker.handle_reachable(now, step % 2 == 0);
                    continue;
                }
            };
            if !calls.is_empty() {
                let call = calls.swap_remove(step as usize % calls.len());
                breaker.complete(now, call, outcome);
            }
            if breaker.state(now) == State::HalfOpen {
                let current = calls.iter().filter(|call| call.turn == breaker.turn).count();
                prop_assert!(current <= 3);
            }
        }
        for call in calls {
            breaker.complete(now, call, Outcome::NotAsked);
        }
        breaker.handle_reachable(now, true);
        // It may open once more by what it had seen before.
        for _ in 0..3 {
            now += Span::secs(5);
            for _ in 0..3 {
                if let Some(call) = breaker.admit(now) {
                    breaker.complete(now, call, FAST);
                }
            }
        }
        prop_assert_eq!(breaker.state(now), State::Closed);
    }
}
