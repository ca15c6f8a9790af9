//! What nodes know, looked at from outside: for the checkers, changing nothing.

use tidegate_core::{
    store::Counts,
    time::{Label, Span},
};

use super::{Event, World};
use crate::{checker::Seen, queue::Instant};

/// Keys whose views are compared; with more, the first stand for all.
const WATCHED_MAX: usize = 64;
/// Keys of these that are viewed at a time while there is load.
const VIEWED_UNDER_LOAD: usize = 4;
/// How often views are compared once the load has ended, until they agree.
const QUIET_SAMPLE: Span = Span::millis(1);

impl World<'_> {
    /// Views nodes' counts: a few keys now and then under load, all that are watched often in quiet.
    pub(super) fn sample(&mut self, now: Instant) {
        let schedule = self.scenario.schedule;
        let watched = self.subjects.keys.len().min(WATCHED_MAX);
        self.look_at_clocks(now);
        if self.quiet {
            for key in 0..watched {
                // Merges into a window end with the next one: a short one is over before counts converge.
                if self.subjects.keys[key].window.usual_length() >= schedule.converge_within() {
                    self.view_the_last(now, key);
                }
            }
        } else {
            for _ in 0..watched.min(VIEWED_UNDER_LOAD) {
                self.next_view = (self.next_view + 1) % watched;
                self.view(now, self.next_view, None);
            }
        }
        let unfit = self.unfit(now);
        self.panel.see(now, &Seen::Sampled { unfit });
        // Once they agree it is enough to see now and then that they still do.
        let impatient = self.quiet && self.panel.converged_after().is_none();
        let pause = if impatient { QUIET_SAMPLE } else { self.scenario.gossip };
        if self.quiet || now + pause < schedule.load_end {
            self.queue.push(now + pause, Event::Sample);
        }
    }

    /// How much is not as it should be: nodes that are down, still or not ready, and links that are down.
    /// Nodes that never come back are missed by nobody.
    fn unfit(&mut self, now: Instant) -> usize {
        let peers = self.nodes.len() - 1;
        let faults = &self.scenario.faults;
        let mut unfit = 0;
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let fit = node
                .life
                .as_mut()
                .is_some_and(|life| life.paused_until <= now && life.is_ready(now, peers));
            unfit += usize::from(!fit && !faults.is_gone(at, now));
        }
        for at in 0..self.network.len() {
            let link = self.network.link(at);
            let missed = !link.up && !link.ends.iter().any(|end| faults.is_gone(*end, now));
            unfit += usize::from(missed);
        }
        unfit
    }

    /// Notes what every node's clock shows.
    fn look_at_clocks(&mut self, now: Instant) {
        for life in self.nodes.iter_mut().filter_map(|node| node.life.as_mut()) {
            let shows = life.engine.cluster_time(life.mono(now));
            self.panel.see(now, &Seen::Clock { life: life.number, shows });
        }
    }

    /// Views a key in the last window that had load, if all agreed on what that was.
    fn view_the_last(&mut self, now: Instant, key: usize) {
        let (schedule, book) = (self.scenario.schedule, self.panel.book());
        let end = Instant(schedule.load_end.0 - 1);
        let window = self.subjects.keys[key].window;
        let label = window.label_at(book.clocks.middle(&book.alive, &schedule, end));
        if !book.is_open(key, label) {
            return; // nobody's to judge any more
        }
        let used = book.window(key, label).and_then(|window| window.used);
        if book.clocks.agree(window, used.map_or(end, |(first, _)| first), now) {
            self.view(now, key, Some(label));
        }
    }

    /// Views what every node knows of a key in a window, or in the one that is current by its own clock.
    fn view(&mut self, now: Instant, key: usize, label: Option<Label>) {
        let Self { nodes, panel, subjects, scenario, .. } = self;
        let facts = &subjects.keys[key];
        for node in nodes.iter().filter(|node| facts.region.is_none_or(|only| only == node.region))
        {
            let Some(life) = &node.life else { continue };
            let shows = life.engine.cluster_time(life.mono(now));
            // A clock whose labels are not in use yet may be set back: the node has let go of what it knew.
            if label.is_none() && shows < life.shown {
                continue;
            }
            let label = label.unwrap_or_else(|| facts.window.label_at(shows));
            let mut regions = vec![Counts::default(); scenario.topology.regions.len()];
            for (name, tally) in life.engine.regions_of(facts.key, label) {
                if let Some(region) = scenario.topology.region(name.as_str()) {
                    regions[region] = regions[region].plus(tally.counts);
                }
            }
            // What it has heard of liars is not its fault.
            let lies = |region: usize| {
                let mut nodes = nodes.iter().enumerate();
                nodes.any(|(at, node)| node.region == region && scenario.faults.is_liar(at, now))
            };
            let book = panel.book();
            for (region, counts) in regions.iter_mut().enumerate().filter(|(r, _)| lies(*r)) {
                let truth = book.window(key, label).map(|window| book.counts_in(window, region));
                let truth = truth.unwrap_or_default();
                let (used, refunded) =
                    (counts.used.min(truth.used), counts.refunded.min(truth.refunded));
                *counts = Counts { used, refunded };
            }
            let seen = Seen::Viewed { life: life.number, key, label, regions: &regions };
            panel.see(now, &seen);
        }
    }
}
