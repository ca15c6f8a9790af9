//! Liveness: once the last fault has ended, all is soon as if there had been none.
//!
//! That is: every request is answered, and with the store's word; every node runs and is ready, and every
//! link is up; and what any living node knew at the end of the last fault has reached all whom it
//! concerns. How long this took is measured; what is still not so after the stated time is a violation.
//! (That nodes then know the same sums is for convergence, which needs quiet.)

use tidegate_core::{
    store::Counts,
    time::{Label, Span},
};

use super::{Book, Checker, Seen, Violations};
use crate::queue::Instant;

/// A count that was known to somebody when the last fault ended.
#[derive(Debug, Clone, Copy)]
struct Backlog {
    key: usize,
    label: Label,
    of: usize,
    counts: Counts,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Liveness {
    healed: bool,
    /// What has not reached everybody yet.
    backlog: Vec<Backlog>,
    /// When something was last not as it should be.
    last_bad: Option<Instant>,
    /// Whether the backlog and the nodes were judged at the end of their time.
    judged: bool,
    violations: Violations,
}

impl Liveness {
    /// From the last fault's end until all was normal.
    pub fn normal_after(&self, book: &Book) -> Option<Span> {
        let normal = book.facts.faulty && self.healed && self.backlog.is_empty();
        let last = self.last_bad.unwrap_or(book.facts.healed);
        normal.then(|| last.since(book.facts.healed))
    }

    /// Something is not as it should be.
    fn bad(&mut self, book: &Book, at: Instant, what: &str) {
        if !self.healed {
            return;
        }
        self.last_bad = Some(at);
        if at > book.facts.recovered() {
            let after = at.since(book.facts.healed).as_millis();
            self.violations.note(at, format_args!("{after} ms after the last fault {what}"));
        }
    }

    fn remember(&mut self, book: &Book) {
        for window in book.windows() {
            for of in 0..book.lives.len() {
                let counts = book.known_of(window, of);
                if counts.used > 0 {
                    self.backlog.push(Backlog { key: window.key, label: window.label, of, counts });
                }
            }
        }
    }

    /// Lets go of what has reached everybody whom it must reach.
    fn settle(&mut self, book: &Book, at: Instant) {
        let before = self.backlog.len();
        self.backlog.retain(|item| who_misses(book, at, item).is_some());
        if self.backlog.len() < before {
            self.last_bad = self.last_bad.max(Some(at));
        }
    }
}

/// Somebody who should know of a count and does not: whose clock has not passed its window. Of what was
/// counted while clocks were apart nobody must know: who is ahead has let go of a window before it begins for
/// who is behind.
fn who_misses(book: &Book, at: Instant, item: &Backlog) -> Option<usize> {
    let window = book.window(item.key, item.label)?;
    let (first, _) = window.used?;
    if !book.clocks.agree(book.keys[item.key].window, first, at) {
        return None;
    }
    (0..book.lives.len()).find(|listener| {
        book.concerned(item.key, *listener, item.of)
            && book.is_live(item.key, item.label, *listener, at)
            && {
                let heard = window.heard_by(*listener, item.of);
                heard.max(item.counts) != heard
            }
    })
}

impl Checker for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn see(&mut self, book: &Book, at: Instant, seen: &Seen<'_>) {
        match *seen {
            Seen::Healed => {
                self.healed = true;
                self.remember(book);
                self.settle(book, at);
                self.last_bad = None;
            }
            Seen::Answered { store: None, .. } if book.facts.roomy => {
                self.bad(book, at, "a request was answered without the store");
            }
            Seen::Unanswered { region } => {
                self.bad(book, at, &format!("region {region} has nobody to answer"));
            }
            Seen::Sampled { unfit } if self.healed => {
                self.settle(book, at);
                if unfit > 0 {
                    self.last_bad = Some(at);
                }
                if at <= book.facts.recovered() || self.judged {
                    return;
                }
                self.judged = true;
                if unfit > 0 {
                    self.bad(
                        book,
                        at,
                        &format!("{unfit} nodes or links are not as they should be"),
                    );
                }
                for item in std::mem::take(&mut self.backlog) {
                    let Some(listener) = who_misses(book, at, &item) else { continue };
                    let (of, Backlog { of: life, counts, .. }) =
                        (book.keys[item.key].show(item.label), item);
                    let what = format!(
                        "{of}: life {listener} does not know that life {life} has {counts:?}"
                    );
                    self.bad(book, at, &what);
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

    /// The last fault ends at 2.5 s; by 2.9 s all must be well.
    fn bench() -> Bench<Liveness> {
        let mut book = book();
        book.facts.faulty = true;
        book.facts.healed = AT;
        book.facts.recover_within = Span::millis(400);
        Bench::new(book, Liveness::default())
    }

    fn ms(after: u64) -> Instant {
        AT + Span::millis(after)
    }

    fn sample(bench: &mut Bench<Liveness>, after: u64, unfit: usize) {
        bench.see_at(ms(after), Seen::Sampled { unfit });
    }

    fn answer(bench: &mut Bench<Liveness>, after: u64, store: Option<bool>) {
        let seen = Seen::Answered { life: 0, planned: 0, store, allowed: false, charges: &[] };
        bench.see_at(ms(after), seen);
    }

    #[test]
    fn the_time_to_normal_is_that_of_the_last_that_was_not() {
        let mut bench = bench();
        bench.admit(0, 3);
        answer(&mut bench, 0, None);
        bench.see(Seen::Healed);
        answer(&mut bench, 100, None);
        sample(&mut bench, 150, 1);
        answer(&mut bench, 160, Some(true));
        bench.tell(0, 1, 3);
        sample(&mut bench, 200, 0);
        sample(&mut bench, 500, 0);
        assert_eq!(bench.checker.normal_after(&bench.book), Some(Span::millis(200)));
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn an_answer_without_the_store_is_found_when_it_should_be_back() {
        let mut bench = bench();
        bench.see(Seen::Healed);
        answer(&mut bench, 401, None);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn nobody_to_answer_is_found() {
        let mut bench = bench();
        bench.see(Seen::Healed);
        bench.see_at(ms(500), Seen::Unanswered { region: 1 });
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn a_node_or_link_that_does_not_return_is_found() {
        let mut bench = bench();
        bench.see(Seen::Healed);
        sample(&mut bench, 450, 2);
        sample(&mut bench, 460, 2);
        assert_eq!(bench.finish(), 1, "once is enough");
    }

    #[test]
    fn news_that_does_not_arrive_is_found() {
        let mut bench = bench();
        bench.admit(0, 3);
        bench.tell(0, 1, 2);
        bench.see(Seen::Healed);
        sample(&mut bench, 450, 0);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn what_only_the_dead_knew_need_not_arrive() {
        let mut bench = bench();
        bench.admit(0, 3);
        bench.see(Seen::Stopped { life: 0 });
        bench.see(Seen::Healed);
        sample(&mut bench, 450, 0);
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn without_a_fault_there_is_no_time_to_normal() {
        let mut bench = bench();
        bench.book.facts.faulty = false;
        bench.see(Seen::Healed);
        sample(&mut bench, 450, 0);
        assert_eq!(bench.checker.normal_after(&bench.book), None);
    }
}
