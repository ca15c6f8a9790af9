//! The breaker: a store that answers is asked, one that does not is left alone, and never too many wait.
//!
//! The checker knows what every call came to, and when the breaker said that it opened and closed. Then
//!
//! - open, nothing is sent until its back-off is over, and after that no more than its probes;
//! - it opens only for a reason: failures in a row, enough of the last calls failed or slow, a probe that
//!   was, or no connection;
//! - it closes only when all probes were answered well, or the connection is back;
//! - it does not stay closed when calls fail one after the other for long enough;
//! - no more calls of a node wait at a time than may, and none is shed while there is room for certain.

use std::collections::VecDeque;

use tidegate_core::{
    breaker::{Cause, Change, Outcome, Settings},
    time::Span,
};

use super::{Book, Checker, Seen, Violations};
use crate::queue::Instant;

/// Failures in a row open a breaker only when they last so long.
const ROW_MIN: Span = Span::millis(100);
/// However late answers are, so many calls may wait for a store.
const WAIT_LEAST: u32 = 64;
/// Breakers measure by clocks that drift, by one part in so many at most.
const DRIFT: u64 = 100;
/// What calls came to is remembered of so many per life: more than any scenario makes in a window.
const NOTED_MAX: usize = 1 << 17;

/// One call, as the breaker sees it.
#[derive(Debug, Clone, Copy)]
struct Noted {
    at: Instant,
    failed: bool,
    slow: bool,
}

/// What is known of one life's breaker.
#[derive(Debug, Default)]
struct Life {
    closed: bool,
    reachable: bool,
    /// When it opened, and for how long; `None`: until there is a connection.
    opened: Option<(Instant, Option<Span>)>,
    /// Calls let through so far, and those of them before it last opened or closed.
    calls: u64,
    before: u64,
    /// Calls under way.
    waiting: u32,
    /// Calls let through, and answered well, since it last opened.
    probes: u32,
    well: u32,
    /// What calls came to since it last opened or closed.
    noted: VecDeque<Noted>,
}

impl Life {
    /// The failures that the newest calls are, one after the other: how many, and for how long.
    fn row(&self) -> (usize, Span) {
        let row = || self.noted.iter().rev().take_while(|noted| noted.failed);
        let span = row().next().zip(row().last()).map(|(last, first)| last.at.since(first.at));
        (row().count(), span.unwrap_or_default())
    }

    fn is_due_to_open(&self, settings: &Settings) -> bool {
        let (row, lasted) = self.row();
        row >= settings.in_a_row as usize && lasted >= ROW_MIN + slack(lasted)
    }

    /// Whether what calls came to is a reason to open.
    fn justifies(&self, settings: &Settings, cause: Cause, at: Instant) -> bool {
        // The window has parts of which the oldest falls out: it may hold one more than its length.
        let window = settings.window + settings.window.divided_by(10);
        let recent = || self.noted.iter().filter(|n| at.since(n.at) <= window + slack(window));
        let count = |test: fn(&Noted) -> bool| recent().filter(|n| test(n)).count() as u64;
        let calls = u64::from(settings.calls_min);
        match cause {
            Cause::InARow => self.row().0 >= settings.in_a_row as usize,
            Cause::Failures => {
                count(|n| n.failed) * 100 >= calls * u64::from(settings.failures_percent)
            }
            Cause::Slow => count(|n| n.slow) * 20 > calls,
            Cause::Unreachable => !self.reachable,
            Cause::Probe => self.noted.back().is_some_and(|n| n.failed || n.slow),
        }
    }
}

/// By how much a clock may be off after so long.
fn slack(span: Span) -> Span {
    Span(span.0 / DRIFT + 1)
}

/// See the module.
#[derive(Debug, Default)]
pub struct Breaker {
    lives: Vec<Life>,
    violations: Violations,
}

impl Breaker {
    fn call(&mut self, book: &Book, at: Instant, life: usize) {
        let (known, store) = (&mut self.lives[life], &book.facts.store);
        known.calls += 1;
        known.waiting += 1;
        let mut wrong = Vec::new();
        if known.waiting > store.calls_max {
            wrong.push(format!("{} calls wait, of {}", known.waiting, store.calls_max));
        }
        if known.closed {
            if known.is_due_to_open(&store.breaker) {
                let (row, lasted) = known.row();
                let ms = lasted.as_millis();
                wrong.push(format!("asks after {row} failures in a row over {ms} ms"));
            }
        } else {
            known.probes += 1;
            let due = known.opened.and_then(|(opened, wait)| {
                let wait = wait?;
                Some(opened + Span(wait.0 - slack(wait).0.min(wait.0)))
            });
            if due.is_none_or(|due| at < due) {
                wrong.push("asks while its breaker is open".to_owned());
            }
            let most = store.breaker.probes;
            if known.probes > most {
                wrong.push(format!("asks {} times while half open, of {most}", known.probes));
            }
        }
        self.note(book, at, life, &wrong);
    }

    fn end(&mut self, book: &Book, life: usize, at: Instant, call: u64, outcome: Outcome) {
        let known = &mut self.lives[life];
        known.waiting = known.waiting.saturating_sub(1);
        if call <= known.before || outcome == Outcome::NotAsked {
            return; // it says nothing of the store as it is now
        }
        let failed = matches!(outcome, Outcome::Unanswered | Outcome::Failed);
        let slow = book.facts.store.breaker.p95.is_some_and(|p95| match outcome {
            Outcome::Answered(took) => took > p95,
            Outcome::Unanswered => true,
            Outcome::Failed | Outcome::NotAsked => false,
        });
        known.well += u32::from(!failed && !slow);
        known.noted.push_back(Noted { at, failed, slow });
        if known.noted.len() > NOTED_MAX {
            known.noted.pop_front();
        }
    }

    fn change(&mut self, book: &Book, at: Instant, life: usize, change: Change) {
        let (known, settings) = (&mut self.lives[life], &book.facts.store.breaker);
        let mut wrong = Vec::new();
        match change {
            Change::Opened { cause, wait } => {
                if !known.justifies(settings, cause, at) {
                    wrong.push(format!("its breaker opened ({}) without a reason", cause.name()));
                }
                known.opened = Some((at, wait));
            }
            Change::Closed => {
                let back = known.opened.is_none_or(|(_, wait)| wait.is_none()) && known.reachable;
                if known.closed || !(back || known.well >= settings.probes) {
                    wrong.push("its breaker closed without a reason".to_owned());
                }
            }
        }
        known.closed = change == Change::Closed;
        known.before = known.calls;
        (known.probes, known.well) = (0, 0);
        known.noted.clear();
        self.note(book, at, life, &wrong);
    }

    /// Without a connection an open breaker stays open until there is one, whatever its back-off was.
    fn connection(&mut self, at: Instant, life: usize, reachable: bool) {
        let known = &mut self.lives[life];
        known.reachable = reachable;
        if !reachable && !known.closed {
            known.opened = Some((at, None));
        }
    }

    fn note(&mut self, book: &Book, at: Instant, life: usize, wrong: &[String]) {
        let node = book.lives[life].node;
        for what in wrong {
            self.violations.note(at, format_args!("node {node}: {what}"));
        }
    }
}

impl Checker for Breaker {
    fn name(&self) -> &'static str {
        "breaker"
    }

    fn see(&mut self, book: &Book, at: Instant, seen: &Seen<'_>) {
        match *seen {
            Seen::Started(_) => self.lives.push(Life::default()),
            Seen::Called { life } => self.call(book, at, life),
            Seen::CallEnded { life, call, outcome } => self.end(book, life, at, call, outcome),
            Seen::Breaker { life, change } => self.change(book, at, life, change),
            Seen::Connection { life, reachable } => self.connection(at, life, reachable),
            Seen::Shed { life } => {
                let waiting = self.lives[life].waiting;
                if waiting < WAIT_LEAST.min(book.facts.store.calls_max) {
                    let what = format!("a call was shed while {waiting} waited");
                    self.note(book, at, life, &[what]);
                }
            }
            _ => {}
        }
    }

    fn violations(&self) -> &Violations {
        &self.violations
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    const OPENED: Change = opened(Cause::InARow, 200);

    const fn opened(cause: Cause, wait: u64) -> Change {
        Change::Opened { cause, wait: Some(Span::millis(wait)) }
    }

    /// A bench whose life 0 has a closed breaker.
    fn bench() -> Bench<Breaker> {
        let mut bench = Bench::new(book(), Breaker::default());
        connection(&mut bench, 0, true);
        change(&mut bench, 0, Change::Closed);
        bench
    }

    fn ms(ms: u64) -> Instant {
        AT + Span::millis(ms)
    }

    fn change(bench: &mut Bench<Breaker>, at: u64, change: Change) {
        bench.see_at(ms(at), Seen::Breaker { life: 0, change });
    }

    fn connection(bench: &mut Bench<Breaker>, at: u64, reachable: bool) {
        bench.see_at(ms(at), Seen::Connection { life: 0, reachable });
    }

    fn call(bench: &mut Bench<Breaker>, at: u64, call: u64, outcome: Outcome) {
        bench.see_at(ms(at), Seen::Called { life: 0 });
        bench.see_at(ms(at), Seen::CallEnded { life: 0, call, outcome });
    }

    /// Failures every 30 ms, numbered from 1.
    fn failures(bench: &mut Bench<Breaker>, n: u64) {
        (0..n).for_each(|k| call(bench, 30 * k, k + 1, Outcome::Failed));
    }

    const GOOD: Outcome = Outcome::Answered(Span::millis(1));

    #[test]
    fn a_store_that_fails_is_left_alone_probed_and_asked_again() {
        let mut bench = bench();
        failures(&mut bench, 5);
        change(&mut bench, 120, OPENED);
        (6..9).for_each(|n| call(&mut bench, 320 + n, n, GOOD));
        change(&mut bench, 330, Change::Closed);
        call(&mut bench, 331, 9, GOOD);
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn a_breaker_that_does_not_open_is_found() {
        let mut bench = bench();
        failures(&mut bench, 5);
        call(&mut bench, 140, 6, GOOD);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn asking_before_the_back_off_is_over_is_found() {
        let mut bench = bench();
        failures(&mut bench, 5);
        change(&mut bench, 120, OPENED);
        call(&mut bench, 310, 6, GOOD);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn more_probes_than_there_may_be_are_found() {
        let mut bench = bench();
        failures(&mut bench, 5);
        change(&mut bench, 120, OPENED);
        (6..10).for_each(|_| bench.see_at(ms(330), Seen::Called { life: 0 }));
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn opening_without_a_reason_is_found() {
        let opens = |outcome: Outcome, calls: u64, cause| {
            let mut bench = bench();
            (0..calls).for_each(|n| call(&mut bench, n, n + 1, outcome));
            change(&mut bench, 1_000, opened(cause, 200));
            bench.finish()
        };
        assert_eq!(opens(GOOD, 100, Cause::Slow), 1);
        assert_eq!(opens(Outcome::Answered(Span::millis(51)), 3, Cause::Slow), 0);
        assert_eq!(opens(Outcome::Failed, 4, Cause::InARow), 1);
        assert_eq!(opens(Outcome::Failed, 24, Cause::Failures), 1);
        assert_eq!(opens(Outcome::Failed, 25, Cause::Failures), 0);
        assert_eq!(opens(Outcome::Failed, 5, Cause::Unreachable), 1, "there is a connection");
    }

    #[test]
    fn closing_without_a_reason_is_found() {
        let mut bench = bench();
        failures(&mut bench, 5);
        change(&mut bench, 120, OPENED);
        // The second one was let through before it opened, and says nothing.
        call(&mut bench, 330, 6, GOOD);
        call(&mut bench, 330, 5, GOOD);
        call(&mut bench, 330, 7, GOOD);
        change(&mut bench, 331, Change::Closed);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn a_connection_that_is_lost_and_found_closes_what_was_open_already() {
        let mut bench = bench();
        failures(&mut bench, 5);
        change(&mut bench, 120, OPENED);
        connection(&mut bench, 130, false);
        connection(&mut bench, 150, true);
        change(&mut bench, 150, Change::Closed);
        call(&mut bench, 150, 6, GOOD);
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn too_many_that_wait_and_too_few_that_wait_are_found() {
        let mut bench = bench();
        bench.book.facts.store.calls_max = 2;
        bench.see(Seen::Called { life: 0 });
        bench.see(Seen::Shed { life: 0 });
        bench.see(Seen::Called { life: 0 });
        bench.see(Seen::Shed { life: 0 });
        bench.see(Seen::Called { life: 0 });
        assert_eq!(bench.finish(), 2, "shed beside one that waited, and three that wait");
    }
}
