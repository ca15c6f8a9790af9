//! Convergence: once the load has ended and nothing is broken, every node soon knows the same exact sums.
//!
//! Exact means: for every region what its nodes admitted. What only a dead node had known may be missing,
//! but then it is missing everywhere alike.

use tidegate_core::{
    store::Counts,
    time::{Label, Span},
};

use super::{Book, Checker, Seen, Violations};
use crate::queue::Instant;

/// A window, and what a node knew of it, region by region.
type View = (Label, Vec<Counts>);

/// What the living nodes do not know of, at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Of all that was admitted: what some node does not know of.
    pub lost: u64,
    /// The part of it that a living node knows.
    pub though_known: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Convergence {
    /// The newest view, by key and life.
    views: Vec<Vec<Option<View>>>,
    quiet: Option<Instant>,
    /// Since when all views are right.
    since: Option<Instant>,
    losses: Losses,
    violations: Violations,
}

impl Convergence {
    /// A checker of these keys.
    pub fn new(book: &Book) -> Self {
        let views = vec![Vec::new(); book.keys.len()];
        Self {
            views,
            quiet: None,
            since: None,
            losses: Losses::default(),
            violations: Violations::default(),
        }
    }

    /// From quiet to convergence, if it came.
    pub fn after(&self) -> Option<Span> {
        Some(self.since?.since(self.quiet?))
    }

    /// What living nodes do not know of, once the run is over.
    pub const fn losses(&self) -> Losses {
        self.losses
    }

    /// Adds up what the living nodes' views of a key leave out, of the node that knows least.
    fn count_losses(&mut self, book: &Book, key: usize) {
        let views = self.views[key].iter().enumerate();
        let living = views.filter(|(life, _)| book.alive[*life]).filter_map(|(_, v)| v.as_ref());
        let living: Vec<&View> = living.collect();
        for region in 0..book.regions {
            let missing = |(label, counts): &&View| {
                let (least, most) = truth(book, key, *label, region);
                let known = counts[region].used;
                (most.used.saturating_sub(known), least.used.saturating_sub(known))
            };
            let (lost, though_known) = living.iter().map(missing).max().unwrap_or_default();
            self.losses.lost += lost;
            self.losses.though_known += though_known;
        }
    }

    /// The keys that are viewed at all.
    fn watched(&self) -> impl Iterator<Item = usize> {
        (0..self.views.len()).filter(|key| !self.views[*key].is_empty())
    }

    /// What is wrong with the views of a key, if anything.
    fn wrong(&self, book: &Book, key: usize) -> Option<String> {
        let views = &self.views[key];
        let live = (0..book.lives.len()).filter(|life| book.alive[*life]);
        // The nodes of another region hear nothing of a regional key.
        let concerned = live.filter(|life| {
            book.keys[key].region.is_none_or(|region| book.lives[*life].region == region)
        });
        let mut first: Option<&View> = None;
        for life in concerned {
            let Some(view) = views.get(life).and_then(Option::as_ref) else {
                return Some(format!("life {life} was never viewed"));
            };
            let (label, counts) = view;
            for (region, known) in counts.iter().enumerate() {
                if book.keys[key].region.is_some_and(|only| only != region) {
                    continue;
                }
                let (least, most) = truth(book, key, *label, region);
                if known.max(least) != *known || known.max(most) != most {
                    let of = book.keys[key].show(*label);
                    return Some(format!(
                        "{of}: region {region} has {most:?}, and life {life} knows of {known:?}"
                    ));
                }
            }
            match first {
                Some(other) if other != view => {
                    let of = book.keys[key].show(*label);
                    return Some(format!("{of}: two nodes know {other:?} and {view:?}"));
                }
                _ => first = Some(view),
            }
        }
        None
    }
}

/// What a region admitted and gave back in a window: at least what some living node was told, at most all of it.
fn truth(book: &Book, key: usize, label: Label, region: usize) -> (Counts, Counts) {
    let Some(window) = book.window(key, label) else { return Default::default() };
    let known = |life: usize| book.known_of(window, life);
    let least = book.lives_of(region).map(known).fold(Counts::default(), Counts::plus);
    (least, book.counts_in(window, region))
}

impl Checker for Convergence {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn see(&mut self, book: &Book, at: Instant, seen: &Seen<'_>) {
        match *seen {
            Seen::Quiet => self.quiet = Some(at),
            Seen::Viewed { life, key, label, regions } if self.quiet.is_some() => {
                let views = &mut self.views[key];
                if views.len() <= life {
                    views.resize(life + 1, None);
                }
                views[life] = Some((label, regions.to_vec()));
            }
            Seen::Sampled { .. } if self.quiet.is_some() => {
                let right = self.watched().next().is_some()
                    && self.watched().all(|key| self.wrong(book, key).is_none());
                self.since = if right { self.since.or(Some(at)) } else { None };
            }
            _ => {}
        }
    }

    fn finish(&mut self, book: &Book, at: Instant) {
        let watched: Vec<usize> = self.watched().collect();
        watched.into_iter().for_each(|key| self.count_losses(book, key));
        // Nodes whose clocks are apart count under other labels: there is nothing to compare.
        let incomparable = self.watched().next().is_none() && book.clocks.were_apart();
        if self.since.is_some() || incomparable {
            return;
        }
        let wrong: Vec<_> = self.watched().filter_map(|key| self.wrong(book, key)).collect();
        wrong.into_iter().for_each(|what| self.violations.note(at, what));
        if self.violations.count == 0 {
            self.violations
                .note(at, "the nodes were never viewed in quiet, or never stayed in accord");
        }
    }

    fn violations(&self) -> &Violations {
        &self.violations
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    const QUIET: Instant = Instant(3_500_000);

    fn bench() -> Bench<Convergence> {
        let book = book();
        let checker = Convergence::new(&book);
        let mut bench = Bench::new(book, checker);
        bench.admit(0, 3);
        bench.admit(1, 4);
        bench.see_at(QUIET, Seen::Quiet);
        bench
    }

    fn sample(bench: &mut Bench<Convergence>, ms: u64, first: [u64; 2], second: [u64; 2]) {
        let at = QUIET + Span::millis(ms);
        bench.view(at, 0, first);
        bench.view(at, 1, second);
        bench.see_at(at, Seen::Sampled { unfit: 0 });
    }

    #[test]
    fn the_time_until_all_know_the_exact_sums_is_measured() {
        let mut bench = bench();
        sample(&mut bench, 0, [3, 0], [3, 4]);
        sample(&mut bench, 10, [3, 4], [3, 4]);
        sample(&mut bench, 20, [3, 4], [3, 4]);
        assert_eq!(bench.checker.after(), Some(Span::millis(10)));
        assert_eq!(bench.finish(), 0);
    }

    #[test]
    fn an_accord_that_does_not_last_is_none() {
        let mut bench = bench();
        sample(&mut bench, 0, [3, 4], [3, 4]);
        bench.admit(0, 1);
        sample(&mut bench, 10, [4, 4], [3, 4]);
        assert_eq!(bench.checker.after(), None);
        assert!(bench.finish() > 0);
    }

    #[test]
    fn one_node_that_knows_too_little_is_found() {
        let mut bench = bench();
        sample(&mut bench, 0, [3, 4], [2, 4]);
        assert!(bench.finish() > 0);
    }

    #[test]
    fn a_node_that_is_not_viewed_is_no_accord() {
        let mut bench = bench();
        bench.view(QUIET, 0, [3, 4]);
        bench.see_at(QUIET, Seen::Sampled { unfit: 0 });
        assert_eq!(bench.checker.after(), None);
        assert!(bench.finish() > 0);
    }

    #[test]
    fn without_any_view_nothing_has_converged() {
        let mut bench = bench();
        bench.see_at(QUIET, Seen::Sampled { unfit: 0 });
        assert!(bench.finish() > 0);
    }

    #[test]
    fn what_only_the_dead_had_known_may_be_missing_but_alike() {
        let start = |second: [u64; 2]| {
            let mut bench = bench();
            bench.tell(1, 0, 2);
            bench.see(Seen::Stopped { life: 1 });
            bench.see(Seen::Started(super::super::LifeFacts {
                node: 1,
                region: 1,
                since: Instant(0),
            }));
            let at = QUIET + Span::millis(5);
            bench.view(at, 0, [3, 2]);
            bench.view(at, 2, second);
            bench.see_at(at, Seen::Sampled { unfit: 0 });
            bench.finish()
        };
        assert_eq!(start([3, 2]), 0);
        assert!(start([3, 3]) > 0, "two nodes know different sums");
        assert!(start([3, 1]) > 0, "one forgot what the other knows");
    }
}
