//! How soon nodes hear of each other once the last fault has ended. It is measured, not judged.
//!
//! For each node and each node of another region it is the time until the first frame arrives that tells of
//! its sender's counts. What was sent into a cut is lost, so such a frame has been made after the cut. It is
//! counted from the end of the fault or, where the connection had been given up, from when there is one
//! again: how often one dials is not a matter of counts.

use std::collections::BTreeMap;

use tidegate_core::time::Span;

use super::{Book, Seen};
use crate::queue::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct Reunion {
    /// When the last fault ended.
    since: Option<Instant>,
    /// When two lives were connected again after that.
    linked: BTreeMap<(usize, usize), Instant>,
    /// When the second heard first of the first.
    heard: BTreeMap<(usize, usize), Instant>,
}

impl Reunion {
    pub(super) fn see(&mut self, book: &Book, at: Instant, seen: &Seen<'_>) {
        match *seen {
            Seen::Healed if book.facts.faulty => self.since = Some(at),
            _ if self.since.is_none() => {}
            Seen::Linked { lives: [a, b] } => {
                for pair in [(a, b), (b, a)] {
                    self.linked.insert(pair, at);
                    self.heard.remove(&pair);
                }
            }
            Seen::Delivered { from, to, slots } if slots.iter().any(|slot| slot.life == from) => {
                self.heard.entry((from, to)).or_insert(at);
            }
            _ => {}
        }
    }

    /// The longest time of any two; `None` if nothing has healed, or some have not heard of each other.
    pub fn after(&self, book: &Book) -> Option<Span> {
        let since = self.since?;
        let alive = || (0..book.lives.len()).filter(|life| book.alive[*life]);
        let mut longest = Span::ZERO;
        for (from, to) in alive().flat_map(|a| alive().map(move |b| (a, b))) {
            if book.lives[from].region == book.lives[to].region {
                continue;
            }
            let heard = self.heard.get(&(from, to))?;
            let begin = self.linked.get(&(from, to)).map_or(since, |linked| since.max(*linked));
            longest = longest.max(heard.since(begin));
        }
        Some(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    /// Two regions of one node each; the last fault ends at once.
    fn healed() -> (Book, Reunion) {
        let mut book = book();
        book.facts.faulty = true;
        let mut reunion = Reunion::default();
        for region in 0..2 {
            let life = super::super::LifeFacts { node: region, region, since: Instant(0) };
            book.take(AT, &Seen::Started(life));
        }
        reunion.see(&book, AT, &Seen::Healed);
        (book, reunion)
    }

    fn hear(book: &Book, reunion: &mut Reunion, ms: u64, from: usize, of: usize) {
        let slots = [slot(of, 1)];
        let seen = Seen::Delivered { from, to: 1 - from, slots: &slots };
        reunion.see(book, AT + Span::millis(ms), &seen);
    }

    #[test]
    fn both_must_have_heard_of_the_other() {
        let (book, mut reunion) = healed();
        hear(&book, &mut reunion, 10, 0, 0);
        assert_eq!(reunion.after(&book), None);
        hear(&book, &mut reunion, 15, 1, 0);
        assert_eq!(reunion.after(&book), None, "it told of the listener, not of itself");
        hear(&book, &mut reunion, 30, 1, 1);
        hear(&book, &mut reunion, 90, 1, 1);
        assert_eq!(reunion.after(&book), Some(Span::millis(30)));
    }

    #[test]
    fn who_had_to_dial_counts_from_the_new_connection() {
        let (book, mut reunion) = healed();
        reunion.see(&book, AT + Span::millis(500), &Seen::Linked { lives: [0, 1] });
        hear(&book, &mut reunion, 540, 0, 0);
        hear(&book, &mut reunion, 520, 1, 1);
        assert_eq!(reunion.after(&book), Some(Span::millis(40)));
    }

    #[test]
    fn without_a_fault_nothing_is_measured() {
        let mut book = book();
        book.facts.faulty = false;
        let mut reunion = Reunion::default();
        reunion.see(&book, AT, &Seen::Healed);
        assert_eq!(reunion.after(&book), None);
    }
}
