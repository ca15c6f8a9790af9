//! Links are made, cut and given up.

use tidegate_core::ids::Session;

use super::{Event, World};
use crate::{
    checker::Seen,
    network::{REDIAL, SILENCE_MAX},
    queue::Instant,
};

impl World<'_> {
    pub(super) fn dial(&mut self, now: Instant, link: usize) {
        let ends = self.network.link(link).ends;
        if self.network.link(link).up {
            return;
        }
        let alive = ends.iter().all(|end| self.nodes[*end].life.is_some());
        if alive && self.can_meet(now, link) {
            // A handshake takes a round trip and a half.
            let trip = self.network.round_trip(link);
            let epoch = self.network.link(link).epoch;
            let at = now + trip + trip.divided_by(2);
            self.queue.push(at, Event::Connected { link, epoch });
        } else if alive {
            self.queue.push(now + REDIAL, Event::Dial { link });
        }
        // Without both ends there is nobody to dial: a start does.
    }

    /// Whether a handshake can succeed now: the path is whole and neither end stands still.
    fn can_meet(&mut self, now: Instant, link: usize) -> bool {
        let ends = self.network.link(link).ends;
        let awake = |end: &usize| {
            self.nodes[*end].life.as_ref().is_none_or(|life| life.paused_until <= now)
        };
        ends.iter().all(awake) && self.network.is_whole(link, now)
    }

    pub(super) fn connect(&mut self, now: Instant, at: usize, epoch: u64) {
        let link = self.network.link(at);
        if link.up || link.epoch != epoch {
            return;
        }
        if !self.can_meet(now, at) {
            self.queue.push(now + REDIAL, Event::Dial { link: at });
            return;
        }
        self.note(7, at as u64, epoch);
        let link = self.network.link(at);
        link.up = true;
        link.epoch += 1;
        let (ends, believes) = (link.ends, link.believes);
        for (side, (end, other)) in [(ends[0], ends[1]), (ends[1], ends[0])].into_iter().enumerate()
        {
            let (Some(life), Some(peer)) = (&self.nodes[end].life, &self.nodes[other].life) else {
                continue;
            };
            let mono = life.mono(now);
            if believes[side].is_some_and(|believed| believed != peer.number)
                && let Some(session) = self.session_of(believes[side])
            {
                life.engine.handle_disconnected(mono, session);
            }
            // A session that is refused tells nothing and is told nothing: the checkers will see.
            let taken = life.engine.handle_connected(mono, &peer.session);
            let number = peer.number;
            self.note(8, end as u64, u64::from(taken.is_ok()));
            self.network.link(at).believes[side] = Some(number);
            self.schedule_wake(now, end);
        }
        let number = |end: usize| self.nodes[end].life.as_ref().map(|life| life.number);
        if let (Some(a), Some(b)) = (number(ends[0]), number(ends[1])) {
            self.panel.see(now, &Seen::Linked { lives: [a, b] });
        }
    }

    pub(super) fn session_of(&self, life: Option<usize>) -> Option<&Session> {
        self.sessions.iter().find(|(_, number)| Some(**number) == life).map(|(session, _)| session)
    }

    pub(super) fn begin_cut(&mut self, now: Instant, cut: usize) {
        let cut = self.scenario.topology.cuts[cut];
        for link in 0..self.network.len() {
            let [a, b] = self.network.ends(link);
            if cut.concerns(a, b) || cut.concerns(b, a) {
                self.expect_silence(now, link);
            }
        }
    }

    /// Looks at a link again when its ends, having heard nothing since now, would give it up.
    pub(super) fn expect_silence(&mut self, now: Instant, link: usize) {
        let epoch = self.network.link(link).epoch;
        self.queue.push(now + SILENCE_MAX, Event::Silence { link, epoch, since: now });
    }

    /// Breaks a link over which nothing can have passed since `since`, in at least one direction.
    pub(super) fn fall_silent(&mut self, now: Instant, at: usize, epoch: u64, since: Instant) {
        let [a, b] = self.network.ends(at);
        let cut = self.scenario.topology.cuts.iter().any(|cut| {
            let here = cut.concerns(a, b) || cut.concerns(b, a);
            here && cut.start <= since && now < cut.end
        });
        let paused = self.scenario.faults.pauses.iter().any(|pause| {
            let here = pause.node == a.0 || pause.node == b.0;
            here && pause.at <= since && now < pause.at + pause.lasts
        });
        let lasts = cut || paused;
        let link = self.network.link(at);
        if link.epoch != epoch {
            return; // another connection by now
        }
        if link.up && lasts {
            self.network.break_link(at);
            self.forget_peers(now, at);
            self.queue.push(now + REDIAL, Event::Dial { link: at });
        } else if !link.up {
            self.forget_peers(now, at); // a dead end has been missed for long enough
        }
    }

    /// Tells both ends of a link that the other is gone.
    pub(super) fn forget_peers(&mut self, now: Instant, at: usize) {
        self.note(9, at as u64, 0);
        let (ends, believes) = {
            let link = self.network.link(at);
            (link.ends, std::mem::take(&mut link.believes))
        };
        for (end, believed) in ends.into_iter().zip(believes) {
            if let (Some(life), Some(peer)) = (&self.nodes[end].life, believed) {
                self.lose_peer(now, end, life.number, peer);
            }
        }
    }

    /// Tells a node that a peer's session is gone: when it can hear it.
    pub(super) fn lose_peer(&mut self, now: Instant, node: usize, life: usize, peer: usize) {
        let Some(here) = self.nodes[node].life.as_ref().filter(|l| l.number == life) else {
            return;
        };
        if now < here.paused_until {
            self.queue.push(here.paused_until, Event::PeerLost { node, life, peer });
            return;
        }
        if let Some(session) = self.session_of(Some(peer)) {
            here.engine.handle_disconnected(here.mono(now), session);
            self.schedule_wake(now, node);
        }
    }
}
