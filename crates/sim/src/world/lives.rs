//! Nodes start, stand still, die and come back; stores forget what has expired, and more when they must.

use tidegate_core::time::{ClusterTime, Span};

use super::{Event, World};
use crate::{
    checker::{LifeFacts, Seen},
    node::{Clocks, Life},
    queue::Instant,
    scenario::{ClockFault, Restart, StoreFate},
    store::Server,
};

/// How often stores forget what has expired, and how much they look at.
const SWEEP: Span = Span::millis(100);
const SWEEP_BUDGET: usize = 4_096;

impl World<'_> {
    pub(super) fn start(&mut self, now: Instant, node: usize) {
        let number = self.panel.book().lives.len();
        self.note(10, node as u64, number as u64);
        let clocks = self.clocks_of(node, now);
        let started = &mut self.nodes[node];
        let region = started.region;
        let session = started.start(number, self.scenario, now, clocks, self.seed);
        self.sessions.insert(session, number);
        self.panel.see(now, &Seen::Started(LifeFacts { node, region, since: now }));
        for link in self.network.of_node(node) {
            self.queue.push(now, Event::Dial { link });
        }
        self.schedule_wake(now, node);
    }

    /// What a node's clocks show if it starts now.
    fn clocks_of(&self, node: usize, now: Instant) -> Clocks {
        let faults = &self.scenario.faults;
        let (mut offset, mut drift_ppm) = (0, 0);
        for fault in &faults.clocks {
            if let ClockFault::Node { node: whose, offset: off, drift_ppm: drift } = *fault
                && whose == node
            {
                offset += off;
                drift_ppm += drift;
            }
        }
        let comes_back =
            |restart: &&Restart| restart.node == node && restart.over() == now && now > Instant(0);
        let back = faults.restarts.iter().find(comes_back).map_or(Span::ZERO, |r| r.clock_back);
        let truth = self.scenario.schedule.cluster_time(now);
        let wall = ClusterTime(truth.0.saturating_add_signed(offset)) - back;
        Clocks { wall, drift_ppm }
    }

    /// A node's process stands still.
    pub(super) fn pause(&mut self, now: Instant, pause: usize) {
        let pause = self.scenario.faults.pauses[pause];
        self.note(12, pause.node as u64, pause.lasts.0);
        let Some(life) = &mut self.nodes[pause.node].life else { return };
        life.paused_until = now + pause.lasts;
        // Its timer rings as soon as it can.
        life.wake_at = life.paused_until;
        self.queue.push(life.wake_at, Event::Wake { node: pause.node, life: life.number });
        for link in self.network.of_node(pause.node) {
            self.expect_silence(now, link);
        }
    }

    /// Copies a store for a loss to come.
    pub(super) fn save_store(&mut self, now: Instant, loss: usize) {
        let region = self.scenario.faults.store_losses[loss].region;
        self.note(13, region as u64, loss as u64);
        self.stores[region].save(loss);
        self.panel.see(now, &Seen::StoreSaved { region, loss });
    }

    /// A store loses its memory, and its nodes live on.
    pub(super) fn lose_store(&mut self, now: Instant, loss: usize) {
        let facts = self.scenario.faults.store_losses[loss];
        let kept = facts.back.map(|_| loss);
        self.note(14, facts.region as u64, loss as u64);
        let time = self.store_time(facts.region, now);
        let lingers = (facts.lingers > Span::ZERO).then(|| now + facts.lingers);
        self.stores[facts.region].lose_memory(kept, time, lingers);
        // What it holds again may have expired by a clock that was set forward since it was copied.
        let error = |at| self.scenario.faults.store_clock_error(facts.region, at);
        let saved = facts.back.map(|back| Instant(facts.at.0.saturating_sub(back.0)));
        let kept = kept.filter(|_| saved.is_some_and(|saved| error(now) <= error(saved)));
        self.panel.see(now, &Seen::StoreLost { region: facts.region, kept });
    }

    /// Which of its region's servers a node asks: the first of a region is the last to hear of a replacement.
    pub(super) fn server_of(&self, now: Instant, node: usize) -> Server {
        let region = self.nodes[node].region;
        let is_first = || self.nodes.iter().position(|other| other.region == region) == Some(node);
        self.stores[region].server(now, is_first)
    }

    pub(super) fn stop(&mut self, now: Instant, restart: usize) {
        let restart = self.scenario.faults.restarts[restart];
        let node = restart.node;
        let Some(life) = self.nodes[node].life.take() else { return };
        let store_lost = restart.store == StoreFate::Lost;
        self.note(11, node as u64, u64::from(store_lost));
        for at in self.network.of_node(node) {
            self.network.break_link(at);
            let link = self.network.link(at);
            let side = usize::from(link.ends[1] == node);
            link.believes[side] = None;
            self.expect_silence(now, at);
        }
        self.examine(now, &life);
        self.lose_relay(node);
        self.panel.see(now, &Seen::Stopped { life: life.number });
        if store_lost {
            let region = self.nodes[node].region;
            let time = self.store_time(region, now);
            self.stores[region].lose_memory(None, time, None);
            self.panel.see(now, &Seen::StoreLost { region, kept: None });
        }
        if let Some(down) = restart.down {
            self.queue.push(now + down, Event::Start { node });
        }
    }

    /// At the end of a life: tells what its engine found broken, and adds up what its breaker did.
    pub(super) fn examine(&mut self, now: Instant, life: &Life) {
        let opened = life.guard.calls().state(life.mono(now)).opened;
        for (sum, (_, times)) in self.opened.iter_mut().zip(opened) {
            *sum += times;
        }
        for (invariant, times) in life.engine.stats().broken {
            self.panel.see(now, &Seen::Broken { life: life.number, invariant, times });
        }
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        for region in 0..self.stores.len() {
            let time = self.store_time(region, now);
            self.stores[region].sweep(time, SWEEP_BUDGET);
        }
        self.queue.push(now + SWEEP, Event::Sweep);
    }
}
