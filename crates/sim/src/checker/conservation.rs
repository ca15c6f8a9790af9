//! Conservation: every admission is counted exactly once.
//!
//! Never more: no slot on the wire and no view of a region exceeds what drivers were told they may admit.
//! Never less: once a window is over, every node that must hear of it was told each session's exact
//! count, unless something was broken meanwhile (then convergence judges the last window). And what a
//! store decided is what the driver was answered.

use tidegate_core::store::Counts;

use super::{Book, Checker, Seen, Violations, WindowBook};
use crate::queue::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct Conservation {
    violations: Violations,
}

impl Checker for Conservation {
    fn name(&self) -> &'static str {
        "conservation"
    }

    fn see(&mut self, book: &Book, at: Instant, seen: &Seen<'_>) {
        match *seen {
            Seen::Strange { from } => {
                let node = book.lives[from].node;
                self.violations.note(at, format_args!("node {node} spoke of what never was"));
            }
            Seen::CorruptTaken { to } => {
                let node = book.lives[to].node;
                self.violations.note(at, format_args!("node {node} took a corrupt frame"));
            }
            Seen::Sent { slots, .. } => {
                for slot in slots {
                    // A window that is closed in the book was judged when it closed.
                    let Some(window) = book.window(slot.key, slot.label) else { continue };
                    let (told, true_count) = (slot.tally.counts, window.counts_of(slot.life));
                    if told.max(true_count) != true_count {
                        let of = book.keys[slot.key].show(slot.label);
                        self.violations.note(
                            at,
                            format_args!(
                                "{of}: life {} has {true_count:?}, and {told:?} was told",
                                slot.life
                            ),
                        );
                    }
                }
            }
            Seen::Viewed { life, key, label, regions } => {
                // A window that is closed in the book was judged when it closed.
                let window = book.window(key, label);
                if window.is_none() && !book.is_open(key, label) {
                    return;
                }
                for (region, counts) in regions.iter().enumerate() {
                    let true_count =
                        window.map_or(Counts::default(), |w| book.counts_in(w, region));
                    if counts.max(true_count) != true_count {
                        let of = book.keys[key].show(label);
                        self.violations.note(
                            at,
                            format_args!(
                                "{of}: region {region} has {true_count:?}, and life {life} counts {counts:?}"
                            ),
                        );
                    }
                }
            }
            Seen::Answered { store: Some(said), allowed, .. } if said != allowed => {
                self.violations
                    .note(at, format_args!("the store said {said}, the driver was told {allowed}"));
            }
            _ => {}
        }
    }

    fn close(&mut self, book: &Book, at: Instant, window: &WindowBook) {
        if !book.undisturbed(window) {
            return;
        }
        for (life, counts) in window.counts.iter().enumerate() {
            let listeners = (0..book.lives.len()).filter(|n| book.must_hear(window, *n, life));
            for listener in listeners {
                let heard = window.heard_by(listener, life);
                // What is given back when the window is over for the listener is nobody's to decide by.
                if heard.used != counts.used || heard.refunded > counts.refunded {
                    let of = book.keys[window.key].show(window.label);
                    self.violations.note(
                        at,
                        format_args!("{of}: life {life} has {counts:?}, and life {listener} was told {heard:?}"),
                    );
                }
            }
        }
    }

    fn violations(&self) -> &Violations {
        &self.violations
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::time::Span;

    use super::{
        super::{Charge, LifeFacts, testing::*},
        *,
    };

    fn bench() -> Bench<Conservation> {
        Bench::new(book(), Conservation::default())
    }

    #[test]
    fn what_is_admitted_and_told_is_conserved() {
        let mut bench = bench();
        bench.admit(0, 3);
        bench.tell(0, 1, 3);
        bench.admit(0, 2);
        bench.tell(0, 1, 5);
        bench.view(AT, 1, [5, 0]);
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn a_count_that_nobody_admitted_is_found() {
        let mut bench = bench();
        bench.admit(0, 3);
        bench.tell(0, 1, 4);
        assert!(bench.finish() > 0);
    }

    #[test]
    fn a_view_of_more_than_was_admitted_is_found() {
        let mut bench = bench();
        bench.admit(0, 3);
        bench.tell(0, 1, 3);
        bench.view(AT, 1, [4, 0]);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn an_admission_that_was_never_told_is_found() {
        let mut bench = bench();
        bench.admit(0, 3);
        bench.tell(0, 1, 3);
        bench.admit(0, 1);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn a_node_that_came_later_need_not_hear() {
        let mut bench = bench();
        bench.admit(0, 3);
        bench.tell(0, 1, 3);
        bench.see(Seen::Started(LifeFacts { node: 2, region: 1, since: AT + Span::millis(1) }));
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn in_a_disturbed_window_less_may_be_told() {
        let mut bench = bench();
        bench.book.facts.disturbed.push((Instant(2_400_000), Instant(2_600_000)));
        bench.admit(0, 3);
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn an_answer_against_the_store_is_found() {
        let mut bench = bench();
        let charges = [Charge { key: 0, label: LABEL, cost: 1 }];
        let store = Some(false);
        bench.see(Seen::Answered { life: 0, planned: 0, store, allowed: true, charges: &charges });
        bench.tell(0, 1, 1);
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn a_corrupt_frame_that_is_taken_is_found() {
        let mut bench = bench();
        bench.see(Seen::CorruptTaken { to: 1 });
        assert_eq!(bench.finish(), 1);
    }

    #[test]
    fn a_strange_frame_is_found() {
        let mut bench = bench();
        bench.see(Seen::Strange { from: 1 });
        assert_eq!(bench.finish(), 1);
    }
}
