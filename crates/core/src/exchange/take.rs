//! Takes a peer's frame: checks it as a whole, then merges what is in it.

use alloc::vec::Vec;

use super::{
    Exchange, Shards,
    peer::Peer,
    relay::Role,
    rights::{self, Stated},
    shard_of,
};
use crate::{
    clock::Reading,
    counts::{Shape, Tick},
    ids::{LimitId, RegionIndex, Session, SessionIndex},
    policy::Scope,
    time::{Label, Mono, Span, Window},
    wire::{
        Ask, Calendar, ClockReading, ConfigReading, Digests, FrameError, Heard, Section, Slots,
        WalkEnd, window_of,
    },
};

/// A frame's slots, checked: nothing of it has been merged yet.
pub(super) struct Told {
    session: SessionIndex,
    region: RegionIndex,
    /// Whether it is for this node to pass on.
    pass_on: bool,
    /// Whether it came because a comparison showed a difference.
    hearsay: bool,
    slots: Slots,
    window: Window,
}

#[derive(Default)]
pub(super) struct Merged {
    /// Slots that grew.
    pub(super) changes: u64,
    /// Of these, those that grew by hearsay: what the ordinary way had not brought.
    pub(super) repaired: u64,
    /// Slots of labels that had closed already.
    pub(super) closed: u64,
    /// Slots that did not fit.
    pub(super) refused: u64,
    /// Whether any of it is of a key whose demand somebody watches.
    pub(super) watched: bool,
    /// Whether any of it is of a limit that is spent by rights.
    pub(super) rights: bool,
    /// Whether a label was too far ahead, or too old for a clock that may still be set back.
    pub(super) ahead: bool,
}

impl Merged {
    /// Why not all of it was merged.
    pub(super) const fn whole(&self) -> Result<(), FrameError> {
        match self {
            Self { ahead: true, .. } => Err(FrameError::LabelAhead),
            Self { refused: 1.., .. } => Err(FrameError::Full),
            _ => Ok(()),
        }
    }
}

/// What a frame says beside its slots.
#[derive(Default)]
pub(super) struct Remarks {
    pub(super) readings: Vec<ClockReading>,
    pub(super) walk_end: Option<WalkEnd>,
    pub(super) digests: Vec<Digests>,
    pub(super) asks: Vec<Ask>,
    pub(super) heard: Vec<Heard>,
    pub(super) role: Option<Role>,
    pub(super) stated: Vec<Stated>,
    pub(super) config: Option<ConfigReading>,
}

impl Exchange {
    /// Checks a frame's sections as a whole (INV-6): a frame speaks for its sender's region. For earlier
    /// sessions of this region it is listened to until the sender has told what it knew when the two met;
    /// by hearsay, for any session that cannot speak here for itself.
    pub(super) fn checked(
        &mut self,
        from: &Session,
        sections: Vec<Section>,
    ) -> Result<(Vec<Told>, Remarks), FrameError> {
        let (mut told, mut remarks) = (Vec::<Told>::new(), Remarks::default());
        for section in sections {
            let (calendar, section) = match section {
                Section::Calendar(calendar, wrapped) => (Some(calendar), *wrapped),
                section => (None, section),
            };
            let calendar = calendar.as_ref();
            match section {
                Section::WalkEnd(end) => remarks.walk_end = Some(end),
                Section::Clock(reading) => remarks.readings.push(reading),
                Section::Config(reading) => remarks.config = Some(reading),
                Section::Slots(slots) => {
                    told.extend(self.checked_slots(from, (calendar, slots), false)?);
                }
                Section::Hearsay(slots) => {
                    told.extend(self.checked_slots(from, (calendar, slots), true)?);
                }
                Section::Digests(digests) => remarks.digests.push(digests),
                Section::Ask(ask) => remarks.asks.push(ask),
                Section::Relay => remarks.role = Some(Role::Relay),
                Section::Relayed => remarks.role = Some(Role::Relayed),
                Section::Heard(heard) => remarks.heard.push(heard),
                Section::Rights(rights) => {
                    let who = (from, self.sessions.own());
                    let told = (calendar, rights);
                    remarks.stated.extend(rights::checked(who, None, &self.regions, told)?);
                }
                Section::RightsPassedOn(of, rights) => {
                    let who = (from, self.sessions.own());
                    let told = (calendar, rights);
                    remarks.stated.extend(rights::checked(who, Some(of), &self.regions, told)?);
                }
                Section::Calendar(..) => return Err(FrameError::Malformed), // it wraps no other
            }
        }
        // What a relay is told of the sender's region is for its siblings too.
        let region = self.peers.get(&from.id).map(|peer| peer.region);
        let relays = remarks.role == Some(Role::Relay) && region != Some(RegionIndex::OWN);
        for told in told.iter_mut().filter(|told| relays && Some(told.region) == region) {
            told.pass_on = true;
        }
        Ok((told, remarks))
    }

    fn checked_slots(
        &mut self,
        from: &Session,
        (calendar, slots): (Option<&Calendar>, Slots),
        hearsay: bool,
    ) -> Result<Option<Told>, FrameError> {
        let Some(window) = window_of(calendar, slots.window)? else { return Ok(None) };
        if !slots.entries.iter().all(|entry| entry.tally().is_sound()) {
            return Err(FrameError::Unsound); // INV-3
        }
        if !slots.global && from.id.region != self.sessions.own().id.region {
            return Err(FrameError::SpeaksForAnother); // what a regional limit counts never leaves its region
        }
        let session = match &slots.of {
            None => from.clone(),
            Some(speaker) => speaker.session().ok_or(FrameError::Malformed)?,
        };
        if session == *self.sessions.own() {
            return Ok(None); // an echo of ourselves teaches nothing
        }
        let live = self.peers.get(&session.id).is_some_and(|p| p.connected && p.session == session);
        let of_sender = session.id.region == from.id.region;
        if !of_sender {
            if hearsay {
                // Who is connected speaks for itself, and no later than others do; but a sibling may pass
                // on what it was told for the whole region.
                if live && from.id.region != self.sessions.own().id.region {
                    return Ok(None);
                }
            } else {
                if session.id.region != self.sessions.own().id.region {
                    return Err(FrameError::SpeaksForAnother);
                }
                // Whose acknowledgement was lost tells its walk again. Of a sibling that is here it teaches
                // nothing, but refusing it would have it told for ever, with all that changes in the same
                // frames.
                let walking = |peer: &Peer| !peer.incoming.walk_is_complete();
                if live && !self.peers.get(&from.id).is_some_and(walking) {
                    return Ok(None);
                }
            }
        }
        let (session, region) = self.sessions.intern_told(&session).map_err(FrameError::from)?;
        let pass_on = region == RegionIndex::OWN && !live;
        Ok(Some(Told { session, region, pass_on, hearsay, slots, window }))
    }

    /// Between when what `from` has just told of a session's demand came about, by the own clock; nothing if
    /// the session is not heard regularly.
    fn news_of(&self, now: Mono, from: &Session, told: &Told) -> Option<(Mono, Mono)> {
        let sender = self.peers.get(&from.id)?;
        let of = self.peers.values().find(|peer| peer.index == told.session && peer.connected)?;
        // What a sibling passes on regularly has come to it the same way.
        let passed_on = sender.region == RegionIndex::OWN && of.passed_on == of.as_of();
        let further = if told.hearsay { of.distance.delay() } else { Span::ZERO };
        let until = now - (sender.distance.delay() + further);
        let since = of.as_of().unwrap_or(until).min(until);
        // Who is asked for a watched key speaks every period or two. Who was silent for longer was not, and
        // speaks as soon as it is.
        let was_idle = until.since(since) > self.gossip.times(5).divided_by(2);
        let since = if was_idle { until - self.gossip.divided_by(2) } else { since };
        (!told.hearsay || passed_on).then_some((since, until))
    }

    pub(super) fn merge<S: Shards>(
        &self,
        now: Mono,
        clock: Reading,
        from: &Session,
        told: Vec<Told>,
        shards: &S,
    ) -> Merged {
        let (mut merged, tick, cluster) = (Merged::default(), Tick::of(now), clock.cluster);
        let grace = self.grace();
        for told in told {
            let news = self.news_of(now, from, &told);
            let Told { session, region, pass_on, hearsay, slots, window } = told;
            let label = Label(slots.label);
            let current = window.label_at(cluster);
            let past = label < current.previous();
            // A node that starts may be ahead of the others and not know it. What they tell it first would
            // be over by its clock and told only once: where nobody with that clock would have kept it, it
            // is to be told again, and else it is kept.
            let gone = window.kept_until(window.end(label)) + grace <= cluster;
            if label > current.next() || (past && gone && !clock.settled) {
                merged.ahead = true;
                continue;
            }
            let closed = past && clock.settled;
            merged.closed += if closed { slots.entries.len() as u64 } else { 0 };
            let scope = if slots.global { Scope::Global } else { Scope::Region };
            let shape = Shape { limit: LimitId(slots.limit), window, scope };
            let elapsed = cluster.since(window.start(label));
            for entry in &slots.entries {
                let entry = entry.read(shape, label, session);
                merged.rights |= entry.note.rights;
                merged.watched |= entry.note.weight > 0;
                let shard = shard_of(entry.caller, shards.count());
                let grew = shards.with(shard, |shard| {
                    if !closed {
                        let grown = shard.merge(&entry, region, pass_on, tick)?;
                        if let Some(between) = news {
                            shard.hear(&entry, grown.offered, between, elapsed);
                        }
                        return Ok(grown.at_all);
                    }
                    // It decides nothing any more, but may show that a limit was exceeded.
                    shard.merge_closed(&entry, region, pass_on, tick).map(|_| false)
                });
                merged.refused += u64::from(grew.is_err());
                merged.changes += u64::from(grew == Ok(true));
                merged.repaired += u64::from(grew == Ok(true) && hearsay);
            }
        }
        merged
    }
}
