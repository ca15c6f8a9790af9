use std::vec::Vec;

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

use super::*;
use crate::{
    breaker::State::{Closed, Open},
    engine,
};

const PICKY: breaker::Settings = breaker::Settings {
    failures_percent: 50,
    p95: Some(Span::millis(50)),
    calls_min: 50,
    in_a_row: 5,
    window: Span::secs(10),
    backoff: Span::millis(250),
    backoff_max: Span::secs(5),
    probes: 1,
};

fn unreached(calls_max: u32) -> Calls {
    let settings = Settings { breaker: PICKY, calls_max, timeout: Span::millis(30) };
    Calls::new(settings, Box::new(Xoshiro256PlusPlus::seed_from_u64(1)))
}

fn calls(calls_max: u32) -> Calls {
    let mut calls = unreached(calls_max);
    assert_eq!(calls.learn(ms(0), true), Some(Change::Closed));
    calls
}

const fn ms(ms: u64) -> Mono {
    Mono(ms * 1_000)
}

/// One call, which comes to this.
fn ask(calls: &mut Calls, now: Mono, took: Span, answer: Result<(), Failure>) -> Option<Change> {
    let mut call = calls.admit(now).expect("it is let through");
    call.note(took, answer);
    calls.end(now, call)
}

#[test]
fn without_a_connection_nothing_passes_and_with_one_all_that_fits() {
    let mut calls = unreached(2);
    assert_eq!(calls.admit(ms(0)), Err(NotLetThrough::Unreachable));
    assert_eq!(calls.state(ms(0)).state, Open);
    assert_eq!(calls.learn(ms(0), true), Some(Change::Closed));
    let held = [calls.admit(ms(0)), calls.admit(ms(0))];
    assert_eq!(calls.admit(ms(0)), Err(NotLetThrough::Overload));
    let state = calls.state(ms(0));
    assert_eq!((state.state, state.calls, state.calls_limit), (Closed, 2, 2));
    for call in held {
        assert_eq!(calls.end(ms(1), call.expect("there is room")), None);
    }
    assert_eq!(calls.state(ms(1)).calls, 0);
    let opened = Change::Opened { cause: Cause::Unreachable, wait: None };
    assert_eq!(calls.learn(ms(2), false), Some(opened));
    assert_eq!(calls.learn(ms(3), false), None, "that is no news");
    assert_eq!(calls.admit(ms(3)), Err(NotLetThrough::Unreachable));
    let opened = calls.state(ms(3)).opened;
    assert_eq!(opened[Cause::Unreachable as usize], (Cause::Unreachable, 1));
}

/// All that a store may say, whether that opens a breaker, what a check makes of it, and what healing does.
fn answers() -> [(Result<(), Failure>, bool, &'static str, &'static str); 9] {
    use NotLetThrough::{Open, Overload, Unreachable};
    [
        (Ok(()), false, "-", "-"),
        (Err(Failure::Record), false, "cancelled", "cancelled"),
        (Err(Failure::Refused), true, "cancelled", "cancelled"),
        (Err(Failure::Unserved), false, "cancelled", "shed"),
        (Err(Failure::Timeout), true, "unknown", "unknown"),
        (Err(Failure::Broken), true, "unknown", "unknown"),
        (Err(Unreachable.into()), true, "cancelled", "shed"),
        (Err(Open.into()), false, "cancelled", "shed"),
        (Err(Overload.into()), false, "shed", "shed"),
    ]
}

#[test]
fn only_what_speaks_against_the_store_opens_it() {
    for (answer, opens, ..) in answers() {
        let mut calls = calls(8);
        let asked = (0..5).map(|n| ask(&mut calls, ms(30 * n), Span::millis(1), answer));
        let changes: Vec<_> = asked.flatten().collect();
        assert_eq!(!changes.is_empty(), opens, "{answer:?}");
        assert_eq!(calls.admit(ms(121)).err(), opens.then_some(NotLetThrough::Open), "{answer:?}");
    }
}

#[test]
fn what_the_store_says_of_one_record_closes_it_again_unless_it_is_slow() {
    let half_open = || {
        let mut calls = calls(8);
        for n in 0..5 {
            ask(&mut calls, ms(30 * n), Span::ZERO, Err(Failure::Refused));
        }
        assert_eq!(calls.state(ms(121)).state, Open);
        calls
    };
    for (answer, opens, ..) in answers() {
        let mut calls = half_open();
        let change = ask(&mut calls, ms(5_000), Span::millis(1), answer);
        let asked = !matches!(
            answer,
            Err(Failure::Unserved
                | Failure::NotLetThrough(NotLetThrough::Open | NotLetThrough::Overload))
        );
        assert_eq!(change == Some(Change::Closed), asked && !opens, "{answer:?}");
        assert_eq!(calls.state(ms(5_000)).state == Open, opens, "{answer:?}");
        assert_eq!(calls.state(ms(5_000)).calls, 0);
    }
    let mut slow = half_open();
    let change = ask(&mut slow, ms(5_000), Span::millis(51), Err(Failure::Record));
    assert!(matches!(change, Some(Change::Opened { cause: Cause::Probe, .. })), "{change:?}");
}

#[test]
fn a_call_that_is_shed_does_not_count_as_a_probe() {
    let mut calls = calls(1);
    for n in 0..5 {
        ask(&mut calls, ms(30 * n), Span::ZERO, Err(Failure::Refused));
    }
    // One from before is still under way when it is half open.
    assert!(calls.congestion.begin());
    for _ in 0..3 {
        assert_eq!(calls.admit(ms(5_000)), Err(NotLetThrough::Overload));
    }
    calls.congestion.end(ms(5_000), None);
    assert_eq!(ask(&mut calls, ms(5_000), Span::millis(1), Ok(())), Some(Change::Closed));
}

#[test]
fn a_call_of_which_nothing_was_noted_was_not_made() {
    let mut calls = calls(8);
    let call = calls.admit(ms(0)).expect("it is closed");
    assert_eq!(call.outcome(), breaker::Outcome::NotAsked);
    assert_eq!(calls.end(ms(29), call), None);
    assert_eq!(calls.state(ms(29)).calls, 0);
}

#[test]
fn of_a_call_that_is_made_twice_the_second_answer_counts() {
    let mut calls = calls(8);
    let mut call = calls.admit(ms(0)).expect("it is closed");
    call.note(Span::millis(2), Ok(()));
    call.note(Span::millis(3), Err(Failure::Broken));
    assert_eq!((call.outcome(), call.took), (breaker::Outcome::Failed, None));
    let _ = calls.end(ms(5), call);
}

#[test]
fn what_was_not_sent_is_certainly_not_done() {
    let name = |outcome: engine::Outcome| match outcome {
        engine::Outcome::Reply(_) => "reply",
        engine::Outcome::Unknown => "unknown",
        engine::Outcome::Cancelled => "cancelled",
        engine::Outcome::Shed => "shed",
    };
    for (answer, _, check, heal) in answers() {
        let Err(failure) = answer else { continue };
        assert_eq!((name(failure.of_check()), name(failure.of_heal())), (check, heal));
        assert_eq!(failure.nothing_done(), check != "unknown", "{failure:?}");
    }
}
