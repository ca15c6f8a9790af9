//! What nodes know, looked at from outside: for the checkers, changing nothing.

use tidegate_core::{
    store::Counts,
    time::{ClusterTime, Span},
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
        if self.quiet {
            let last = schedule.cluster_time(Instant(schedule.load_end.0 - 1));
            for key in 0..watched {
                // Merges into a window end with the next one: a short one is over before counts converge.
                if self.subjects.keys[key].window.length() >= schedule.converge_within() {
                    self.view(now, key, last);
                }
            }
        } else {
            for _ in 0..watched.min(VIEWED_UNDER_LOAD) {
                self.next_view = (self.next_view + 1) % watched;
                self.view(now, self.next_view, schedule.cluster_time(now));
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

    /// Views what every node knows of a key in the window of a true time.
    pub(super) fn view(&mut self, now: Instant, key: usize, time: ClusterTime) {
        let Self { nodes, panel, subjects, scenario, .. } = self;
        let facts = &subjects.keys[key];
        let label = facts.window.label_at(time);
        for node in nodes.iter().filter(|node| facts.region.is_none_or(|only| only == node.region))
        {
            let Some(life) = &node.life else { continue };
            let mut regions = vec![Counts::default(); scenario.topology.regions.len()];
            for (name, tally) in life.engine.regions_of(facts.key, label) {
                if let Some(region) = scenario.topology.region(name.as_str()) {
                    regions[region] = regions[region].plus(tally.counts);
                }
            }
            let seen = Seen::Viewed { life: life.number, key, label, regions: &regions };
            panel.see(now, &seen);
        }
    }
}
