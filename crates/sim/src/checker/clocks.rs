//! What nodes' clocks show, and when they agreed: labels are the system's own, and a checker may expect no
//! more of two nodes whose clocks are apart than that each counts under its own.

use std::collections::VecDeque;

use tidegate_core::time::{ClusterTime, Span, Window};

use crate::{queue::Instant, scenario::Schedule};

/// Clocks that differ by less agree: the bounds of labels tolerate as much.
const APART: Span = Span::millis(500);
/// Times in which clocks did not agree that are remembered; of more, the oldest are put together.
const TIMES_MAX: usize = 4_096;

/// A time in which clocks differed.
#[derive(Debug, Clone, Copy)]
struct Apart {
    from: Instant,
    to: Instant,
    by: Span,
}

/// The clocks of all lives.
#[derive(Debug, Default)]
pub struct Clocks {
    /// Cluster time minus the truth, by life, when it was looked at last.
    offsets: Vec<Option<i64>>,
    apart: VecDeque<Apart>,
    /// By how much some clock has changed its mind since they were compared last, at most: for a moment it was
    /// apart from others, even if all have done the same when they are looked at again.
    stepped: Span,
    looked: Instant,
}

impl Clocks {
    pub(super) fn note(&mut self, life: usize, truth: &Schedule, at: Instant, shows: ClusterTime) {
        if self.offsets.len() <= life {
            self.offsets.resize(life + 1, None);
        }
        let new = shows.0 as i64 - truth.cluster_time(at).0 as i64;
        if let Some(old) = self.offsets[life].replace(new) {
            self.stepped = self.stepped.max(Span(new.abs_diff(old)));
        }
    }

    fn offsets<'a>(&'a self, alive: &'a [bool]) -> impl Iterator<Item = i64> + 'a {
        self.offsets
            .iter()
            .zip(alive)
            .filter(|(_, alive)| **alive)
            .filter_map(|(offset, _)| *offset)
    }

    /// Every living node's clock was noted: sees how far they are apart.
    pub(super) fn compare(&mut self, alive: &[bool], at: Instant) {
        let range = self.offsets(alive).min().zip(self.offsets(alive).max());
        let by = Span(range.map_or(0, |(least, most)| most.abs_diff(least)));
        let by = by.max(std::mem::take(&mut self.stepped));
        let from = std::mem::replace(&mut self.looked, at);
        // What is not apart for any window is not worth a place: the shortest is a few milliseconds long.
        if by <= Span::millis(50) {
            return;
        }
        match self.apart.back_mut() {
            Some(last) if last.to == from && by.0.abs_diff(last.by.0) <= last.by.0 / 8 => {
                (last.to, last.by) = (at, last.by.max(by));
            }
            _ => self.apart.push_back(Apart { from, to: at, by }),
        }
        if self.apart.len() > TIMES_MAX
            && let Some(oldest) = self.apart.pop_front()
            && let Some(next) = self.apart.front_mut()
        {
            (next.from, next.by) = (oldest.from, next.by.max(oldest.by));
        }
    }

    /// Whether clocks agreed on the labels of a window, from one instant to another.
    pub fn agree(&self, window: Window, from: Instant, to: Instant) -> bool {
        let most = APART.min(window.usual_length().divided_by(2));
        // Who was apart when they were looked at last is taken to be so still.
        let meets =
            |apart: &&Apart| apart.from <= to && (from <= apart.to || apart.to == self.looked);
        self.apart.iter().filter(meets).all(|apart| apart.by <= most)
    }

    /// Whether they were ever apart.
    pub fn were_apart(&self) -> bool {
        self.apart.iter().any(|apart| apart.by > APART)
    }

    /// What a life's clock shows, going by when it was looked at last.
    pub fn of(&self, life: usize, truth: &Schedule, at: Instant) -> Option<ClusterTime> {
        let offset = self.offsets.get(life).copied().flatten()?;
        Some(ClusterTime(truth.cluster_time(at).0.saturating_add_signed(offset)))
    }

    /// What the clock showed that is furthest behind, when they were looked at last.
    pub(super) fn earliest(&self, alive: &[bool], truth: &Schedule) -> Option<ClusterTime> {
        let least = self.offsets(alive).min()?;
        Some(ClusterTime(truth.cluster_time(self.looked).0.saturating_add_signed(least)))
    }

    /// The middle one of what living nodes' clocks show.
    pub fn middle(&self, alive: &[bool], truth: &Schedule, at: Instant) -> ClusterTime {
        let mut offsets: Vec<i64> = self.offsets(alive).collect();
        offsets.sort_unstable();
        let middle = offsets.get(offsets.len() / 2).copied().unwrap_or_default();
        ClusterTime(truth.cluster_time(at).0.saturating_add_signed(middle))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::book, *};

    const SECOND: u64 = 1_000_000;

    /// Looks at the clocks of two nodes, second by second; they are so many milliseconds apart.
    fn clocks(apart: &[u64]) -> (Clocks, Schedule) {
        let truth = book().facts.schedule;
        let mut clocks = Clocks::default();
        for (n, ms) in apart.iter().enumerate() {
            let at = Instant(n as u64 * SECOND);
            clocks.note(0, &truth, at, truth.cluster_time(at));
            clocks.note(1, &truth, at, truth.cluster_time(at) + Span::millis(*ms));
            clocks.compare(&[true, true], at);
        }
        (clocks, truth)
    }

    #[test]
    fn who_was_apart_a_moment_ago_is_so_until_seen_otherwise() {
        let window = Window::new(Span::secs(60)).expect("in range");
        let since = |(clocks, _): (Clocks, Schedule)| {
            let at = clocks.looked + Span::millis(10);
            clocks.agree(window, at, at)
        };
        assert!(!since(clocks(&[0, 9_000])));
        assert!(since(clocks(&[0, 9_000, 0, 0])));
    }

    #[test]
    fn clocks_that_step_together_were_apart_for_a_moment() {
        let (mut clocks, truth) = clocks(&[0, 0]);
        let at = Instant(2 * SECOND);
        for life in 0..2 {
            clocks.note(life, &truth, at, truth.cluster_time(at) + Span::secs(30));
        }
        clocks.compare(&[true, true], at);
        let window = Window::new(Span::secs(60)).expect("in range");
        assert!(clocks.agree(window, Instant(0), Instant(SECOND / 2)));
        assert!(!clocks.agree(window, Instant(0), at));
    }

    #[test]
    fn windows_that_meet_a_time_apart_are_told_from_others() {
        let (clocks, _) = clocks(&[0, 0, 400, 400, 90_000, 0, 0]);
        let agree = |length, from: u64, to: u64| {
            let window = Window::new(length).expect("in range");
            clocks.agree(window, Instant(from * SECOND), Instant(to * SECOND))
        };
        assert!(agree(Span::secs(60), 0, 2));
        assert!(agree(Span::secs(1), 0, 0) && agree(Span::secs(1), 6, 6));
        assert!(!agree(Span::secs(1), 5, 6), "one has stepped back since the fourth second");
        assert!(!agree(Span::millis(700), 2, 3), "400 ms are more than half of it");
        assert!(!agree(Span::secs(60), 2, 4) && clocks.were_apart());
    }

    #[test]
    fn the_dead_have_no_clock_and_the_last_one_sets_the_pace() {
        let (clocks, truth) = clocks(&[200]);
        let time = truth.cluster_time(Instant(0));
        assert_eq!(clocks.earliest(&[true, true], &truth), Some(time));
        assert_eq!(clocks.earliest(&[false, true], &truth), Some(time + Span::millis(200)));
        assert_eq!(clocks.earliest(&[false, false], &truth), None);
        let later = clocks.of(1, &truth, Instant(SECOND));
        assert_eq!(later, Some(time + Span::millis(1_200)));
        assert_eq!(clocks.of(7, &truth, Instant(0)), None);
        assert_eq!(clocks.middle(&[true, true], &truth, Instant(0)), time + Span::millis(200));
    }
}
