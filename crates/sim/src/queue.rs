//! The event queue: what is due, in the order of virtual time, ties in the order of asking.

use std::{cmp::Reverse, collections::BinaryHeap, ops::Add};

use tidegate_core::time::Span;

/// An instant of the simulated world, in microseconds since it began. The one true time: no node sees
/// it but through a clock of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The time since `earlier`, zero if that is later.
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Span> for Instant {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

/// What stands in the heap; `E` takes no part in the order.
#[derive(Debug)]
struct Due<E> {
    at: Instant,
    sequence: u64,
    event: E,
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl<E> Eq for Due<E> {}
impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Due<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// Events and when they are due.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Due<E>>>,
    now: Instant,
    sequence: u64,
}

impl<E> Queue<E> {
    /// An empty queue at the beginning of time.
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), now: Instant(0), sequence: 0 }
    }

    /// The time of the event handled last.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Asks for `event` at `at`, or now if that is past. Of two events due at one instant the one that
    /// was asked for first comes first.
    pub fn push(&mut self, at: Instant, event: E) {
        let due = Due { at: at.max(self.now), sequence: self.sequence, event };
        self.sequence += 1;
        self.heap.push(Reverse(due));
    }

    /// The next event, if it is due before `end`; time moves to it.
    pub fn pop_before(&mut self, end: Instant) -> Option<(Instant, E)> {
        if self.heap.peek()?.0.at >= end {
            return None;
        }
        let Reverse(due) = self.heap.pop()?;
        self.now = due.at;
        Some((due.at, due.event))
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_ties_in_the_order_of_asking() {
        let mut queue = Queue::new();
        for (at, event) in [(5, "c"), (1, "a"), (5, "d"), (3, "b")] {
            queue.push(Instant(at), event);
        }
        let order: Vec<_> =
            std::iter::from_fn(|| queue.pop_before(Instant(9))).map(|(at, e)| (at.0, e)).collect();
        assert_eq!(order, [(1, "a"), (3, "b"), (5, "c"), (5, "d")]);
    }

    #[test]
    fn what_is_asked_for_in_the_past_comes_now() {
        let mut queue = Queue::new();
        queue.push(Instant(10), 1);
        queue.pop_before(Instant(20));
        queue.push(Instant(2), 2);
        assert_eq!(queue.pop_before(Instant(20)), Some((Instant(10), 2)));
    }

    #[test]
    fn nothing_at_or_after_the_end_comes() {
        let mut queue = Queue::new();
        queue.push(Instant(10), ());
        assert_eq!(queue.pop_before(Instant(10)), None);
        assert_eq!(queue.pop_before(Instant(11)), Some((Instant(10), ())));
    }
}
