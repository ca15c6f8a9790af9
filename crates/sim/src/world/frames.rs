//! A frame's way: a node's timer, the link, the engine at the other end.

use std::borrow::Cow;

use tidegate_core::{
    FrameError,
    ids::{RegionNumber, Session},
    store::COUNT_MAX,
};

use super::{Event, Flight, World};
use crate::{
    checker::{Seen, SlotSeen},
    frames,
    queue::Instant,
    scenario::Claims,
};

impl World<'_> {
    /// Sets a node's timer to what its engine wants.
    pub(super) fn schedule_wake(&mut self, now: Instant, node: usize) {
        let reachable = self.stores[self.nodes[node].region].is_reachable(now);
        let Some(life) = &mut self.nodes[node].life else { return };
        // Something has happened to it, perhaps to its clock, and perhaps for a moment only.
        let shows = life.engine.cluster_time(life.mono(now));
        life.shown = life.shown.max(shows);
        self.panel.see(now, &Seen::Clock { life: life.number, shows });
        let at = life.next_wake(now, reachable);
        if at < life.wake_at {
            life.wake_at = at;
            self.queue.push(at, Event::Wake { node, life: life.number });
        }
    }

    pub(super) fn wake(&mut self, now: Instant, node: usize, life: usize) {
        let Some(awake) = self.nodes[node].life.as_mut().filter(|l| l.number == life) else {
            return;
        };
        if awake.wake_at != now {
            return; // an earlier ring has replaced this one
        }
        awake.wake_at = Instant(u64::MAX);
        let mono = awake.mono(now);
        awake.engine.handle_timeout(mono);
        while let Some(life) = &self.nodes[node].life
            && let Some((to, bytes)) = life.engine.poll_frame(mono)
        {
            self.send(now, node, life.number, &to, &bytes);
        }
        self.read_clock(now, node);
        self.heal(now, node);
        self.grant(now, node);
        self.schedule_wake(now, node);
    }

    pub(super) fn send(
        &mut self,
        now: Instant,
        node: usize,
        life: usize,
        to: &Session,
        bytes: &[u8],
    ) {
        self.note(4, node as u64, bytes.len() as u64);
        self.trace.bytes(bytes);
        let slots = self.read(now, life, bytes);
        let Some(peer) = self.nodes.iter().position(|other| other.id == to.id) else { return };
        match &slots {
            Some(slots) => self.panel.see(now, &Seen::Sent { from: life, to: peer, slots }),
            None => self.panel.see(now, &Seen::Strange { from: life }),
        }
        let at = self.network.between(node, peer);
        let link = self.network.link(at);
        // A frame for a session that is no more goes nowhere.
        let current = self.nodes[peer].life.as_ref().is_some_and(|life| life.session == *to);
        if !link.up || !current {
            return;
        }
        let epoch = link.epoch;
        let bytes = &self.with_lies(now, node, peer, slots.as_deref().unwrap_or_default(), bytes);
        let fate = self.network.send(node, peer, bytes.len(), now);
        let (bytes, corrupt) = if fate.corrupt {
            match self.corrupt(node, peer, bytes) {
                Some(mangled) => (mangled, true),
                None => return,
            }
        } else {
            (bytes.to_vec(), false)
        };
        for arrival in fate.arrivals.into_iter().flatten() {
            let flight = Flight {
                link: at,
                epoch,
                from: node,
                to: peer,
                bytes: bytes.clone(),
                corrupt,
                slots: slots.clone(),
            };
            let frame = self.flights.insert(flight);
            self.queue.push(arrival, Event::Frame { frame });
        }
    }

    /// A frame with what a node that lies adds to it for another region, of all that it speaks of in its own
    /// name. Checkers go by what it should have told.
    fn with_lies<'b>(
        &self,
        now: Instant,
        node: usize,
        peer: usize,
        slots: &[SlotSeen],
        bytes: &'b [u8],
    ) -> Cow<'b, [u8]> {
        let (from, to) = (&self.nodes[node], &self.nodes[peer]);
        let mut bytes = Cow::Borrowed(bytes);
        let Some(life) = from.life.as_ref().filter(|_| from.region != to.region) else {
            return bytes;
        };
        let own = |slot: &&SlotSeen| slot.life == life.number && !slot.hearsay;
        let epoch = self.stores[from.region].epoch();
        let others = self.scenario.topology.regions.iter().enumerate();
        let others = others.filter(|(region, _)| *region != from.region);
        let mut others: Vec<_> = others.map(|(_, r)| RegionNumber::of(&r.name)).collect();
        others.sort_unstable();
        for claims in self.scenario.faults.claims(node, now) {
            for slot in slots.iter().filter(own) {
                let facts = &self.subjects.keys[slot.key];
                let (key, window, label) = (&facts.key, facts.window, slot.label);
                let bytes = bytes.to_mut();
                match claims {
                    Claims::Used => frames::claim_used(bytes, key, window, label, COUNT_MAX),
                    Claims::Granted if facts.has_rights() => {
                        let all = (&others[..], COUNT_MAX);
                        frames::claim_granted(bytes, key, window, label, epoch, all);
                    }
                    Claims::Granted => {}
                }
            }
        }
        bytes
    }

    /// Mangles a frame's bytes. What can still be read as a frame is dropped, as by a transport that
    /// authenticates what it carries; the rest must be refused by whoever takes it.
    fn corrupt(&mut self, from: usize, to: usize, bytes: &[u8]) -> Option<Vec<u8>> {
        let mangled = self.network.mangle(from, to, bytes);
        frames::slots_of(&mangled).is_none().then_some(mangled)
    }

    /// Reads a frame as the checkers see it; `None` if there is anything strange about it.
    pub(super) fn read(&self, now: Instant, sender: usize, bytes: &[u8]) -> Option<Vec<SlotSeen>> {
        let lives = &self.panel.book().lives;
        let told = frames::slots_of(bytes)?;
        told.into_iter()
            .map(|slot| {
                let life = match &slot.of {
                    Some(session) => *self.sessions.get(session)?,
                    None => sender,
                };
                let key = self.subjects.key_index(&slot.key, lives[life].region)?;
                let (label, tally, hearsay) = (slot.label, slot.tally, slot.hearsay);
                Some(SlotSeen { life, key, label, tally, hearsay })
            })
            .filter(|slot| slot.as_ref().is_none_or(|slot| !self.is_lie(now, slot)))
            .collect()
    }

    /// Whether a slot is what somebody has heard of a liar: what is passed on is nobody else's fault.
    fn is_lie(&self, now: Instant, slot: &SlotSeen) -> bool {
        let book = self.panel.book();
        let window = book.window(slot.key, slot.label);
        let truth = || window.map(|window| window.counts_of(slot.life)).unwrap_or_default();
        self.scenario.faults.is_liar(book.lives[slot.life].node, now)
            && slot.tally.counts.max(truth()) != truth()
    }

    pub(super) fn deliver(&mut self, now: Instant, frame: usize) {
        let Some(flight) = self.flights.remove(frame) else { return };
        self.note(5, flight.from as u64, flight.to as u64);
        let link = self.network.link(flight.link);
        if !link.up || link.epoch != flight.epoch {
            return;
        }
        let (Some(from), Some(to)) = (&self.nodes[flight.from].life, &self.nodes[flight.to].life)
        else {
            return;
        };
        // Of who is connected only itself and its region are listened to, and a sibling of the listener; and who
        // has not told yet what it knew when the two met.
        let (mut deaf_to, mut walking) = (Vec::new(), false);
        if self.nodes[flight.from].region != self.nodes[flight.to].region {
            for peer in to.engine.peers(to.mono(now)).into_iter().filter(|peer| peer.connected) {
                walking |= peer.session == from.session && !peer.answered;
                deaf_to.extend(self.sessions.get(&peer.session).copied());
            }
        }
        let sender = from.number;
        let lives = &self.panel.book().lives;
        let heard = |slot: &SlotSeen| {
            let of_sender = lives[slot.life].region == lives[sender].region;
            of_sender || (walking && !slot.hearsay) || !deaf_to.contains(&slot.life)
        };
        let slots: Option<Vec<SlotSeen>> =
            flight.slots.map(|slots| slots.into_iter().filter(heard).collect());
        // What is mangled on the way no honest peer has said: it must not be held against one.
        let said_by = if flight.corrupt { &self.nobody } else { &from.session };
        // Of a frame with labels that are too far ahead the rest is taken, and is told again with them.
        let keys = &self.panel.book().keys;
        let cluster = to.engine.cluster_time(to.mono(now));
        let fits = |slot: &SlotSeen| {
            let current = keys[slot.key].window.label_at(cluster);
            (current.previous()..=current.next()).contains(&slot.label)
        };
        let fitting = || slots.iter().flatten().copied().filter(fits).collect::<Vec<_>>();
        let taken = to.engine.handle_frame(to.mono(now), said_by, &flight.bytes);
        let slots = if taken == Err(FrameError::LabelAhead) { Some(fitting()) } else { slots };
        let (from, to) = (from.number, to.number);
        while let Some(life) = &self.nodes[flight.to].life
            && let Some(sentence) = life.engine.poll_sentence()
        {
            if sentence.session != self.nobody {
                self.panel.see(now, &Seen::Quarantined { life: to, peer: from });
            }
        }
        match (taken, &slots) {
            (Ok(()), _) if flight.corrupt => self.panel.see(now, &Seen::CorruptTaken { to }),
            (Ok(()) | Err(FrameError::LabelAhead), Some(slots)) => {
                self.panel.see(now, &Seen::Delivered { from, to, slots });
            }
            _ => {}
        }
        if self.scenario.topology.relays && taken.is_ok() {
            self.note_relay(flight.from, flight.to, &flight.bytes);
        }
        self.note(6, u64::from(taken.is_ok()), 0);
        self.schedule_wake(now, flight.to);
    }
}
