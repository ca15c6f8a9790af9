//! Takes a peer's frame: checks it as a whole, then merges what is in it.

use alloc::vec::Vec;

use super::{Exchange, Shards, peer::Peer, shard_of};
use crate::{
    counts::Shape,
    ids::{LimitId, RegionIndex, Session, SessionIndex},
    policy::Scope,
    time::{ClusterTime, Label, Span, Window},
    wire::{ClockReading, FrameError, Section, Slots},
};

/// A frame's slots, checked: nothing of it has been merged yet.
pub(super) struct Told {
    session: SessionIndex,
    region: RegionIndex,
    /// Whether it is for this node to pass on.
    pass_on: bool,
    slots: Slots,
    window: Window,
}

#[derive(Default)]
pub(super) struct Merged {
    /// Slots that grew.
    pub(super) changes: u64,
    /// Slots of labels that had closed already.
    pub(super) closed: u64,
    /// Why not all of it was merged.
    pub(super) refused: Option<FrameError>,
}

impl Exchange {
    /// Checks a frame's sections as a whole (INV-6): a frame speaks for its sender's region. For earlier
    /// sessions of this region it is listened to until the sender has told what it knew when the two met.
    pub(super) fn checked(
        &mut self,
        from: &Session,
        sections: Vec<Section>,
    ) -> Result<(Vec<Told>, Vec<ClockReading>, bool), FrameError> {
        let (mut told, mut readings, mut ends_walk) = (Vec::new(), Vec::new(), false);
        for section in sections {
            match section {
                Section::WalkEnd => ends_walk = true,
                Section::Clock(reading) => readings.push(reading),
                Section::Slots(slots) => told.extend(self.checked_slots(from, slots)?),
            }
        }
        Ok((told, readings, ends_walk))
    }

    fn checked_slots(&mut self, from: &Session, slots: Slots) -> Result<Option<Told>, FrameError> {
        let window = Window::new(Span(slots.window)).ok_or(FrameError::Unsound)?;
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
        if session.id.region != from.id.region {
            if session.id.region != self.sessions.own().id.region {
                return Err(FrameError::SpeaksForAnother);
            }
            // Whose acknowledgement was lost tells its walk again. We have merged it: it teaches nothing,
            // but refusing it would have it told for ever, with all that changes in the same frames.
            let walking = |peer: &Peer| !peer.incoming.walk_is_complete();
            if !self.peers.get(&from.id).is_some_and(walking) {
                return Ok(None);
            }
        }
        let live = self.peers.get(&session.id).is_some_and(|p| p.connected && p.session == session);
        let (session, region) = self.sessions.intern_told(&session).map_err(FrameError::from)?;
        let pass_on = region == RegionIndex::OWN && !live;
        Ok(Some(Told { session, region, pass_on, slots, window }))
    }

    pub(super) fn merge<S: Shards>(
        &self,
        cluster: ClusterTime,
        told: Vec<Told>,
        shards: &S,
    ) -> Merged {
        let mut merged = Merged::default();
        for Told { session, region, pass_on, slots, window } in told {
            let label = Label(slots.label);
            let current = window.label_at(cluster);
            if label < current.previous() {
                merged.closed += slots.entries.len() as u64;
                continue;
            }
            if label > current.next() {
                merged.refused = Some(FrameError::LabelAhead);
                continue;
            }
            let scope = if slots.global { Scope::Global } else { Scope::Region };
            let shape = Shape { limit: LimitId(slots.limit), window, scope };
            for entry in &slots.entries {
                let entry = entry.read(shape, label, session);
                let shard = shard_of(entry.caller, shards.count());
                match shards.with(shard, |shard| shard.merge(&entry, region, pass_on)) {
                    Ok(grew) => merged.changes += u64::from(grew),
                    Err(_) => merged.refused = Some(FrameError::Full),
                }
            }
        }
        merged
    }
}
