//! Nodes start, die and come back; stores forget what has expired.

use tidegate_core::time::Span;

use super::{Event, World};
use crate::{
    checker::{LifeFacts, Seen},
    network::SILENCE_MAX,
    node::Life,
    queue::Instant,
    scenario::StoreFate,
};

/// How often stores forget what has expired, and how much they look at.
const SWEEP: Span = Span::millis(100);
const SWEEP_BUDGET: usize = 4_096;

impl World<'_> {
    pub(super) fn start(&mut self, now: Instant, node: usize) {
        let number = self.panel.book().lives.len();
        self.note(10, node as u64, number as u64);
        let clock = self.scenario.schedule.cluster_time(now);
        let started = &mut self.nodes[node];
        let region = started.region;
        let spans = [self.scenario.gossip, self.scenario.store.timeout];
        let session = started.start(number, spans, now, clock, self.seed);
        self.sessions.insert(session, number);
        self.panel.see(now, &Seen::Started(LifeFacts { node, region, since: now }));
        for link in self.network.of_node(node) {
            self.queue.push(now, Event::Dial { link });
        }
        self.schedule_wake(now, node);
    }

    pub(super) fn stop(&mut self, now: Instant, restart: usize) {
        let restart = self.scenario.restarts[restart];
        let node = restart.node;
        let Some(life) = self.nodes[node].life.take() else { return };
        let store_lost = restart.store == StoreFate::Lost;
        self.note(11, node as u64, u64::from(store_lost));
        if store_lost {
            self.stores[self.nodes[node].region].lose_memory();
        }
        for at in self.network.of_node(node) {
            self.network.break_link(at);
            let link = self.network.link(at);
            let side = usize::from(link.ends[1] == node);
            link.believes[side] = None;
            let epoch = link.epoch;
            self.queue.push(now + SILENCE_MAX, Event::Silence { link: at, epoch, since: now });
        }
        self.examine(now, &life);
        self.panel.see(now, &Seen::Stopped { life: life.number, store_lost });
        self.queue.push(now + restart.down, Event::Start { node });
    }

    /// At the end of a life: tells what its engine found broken.
    pub(super) fn examine(&mut self, now: Instant, life: &Life) {
        for (invariant, times) in life.engine.stats().broken {
            self.panel.see(now, &Seen::Broken { life: life.number, invariant, times });
        }
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        let time = self.store_time(now);
        self.stores.iter_mut().for_each(|store| store.sweep(time, SWEEP_BUDGET));
        self.queue.push(now + SWEEP, Event::Sweep);
    }
}
