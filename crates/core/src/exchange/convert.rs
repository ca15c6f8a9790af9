//! Between what travels and what is counted.

use crate::{
    counts::{Entry, Shape, Tally},
    forecast::Note,
    ids::{Boot, Caller, NodeId, Session, SessionIndex},
    store::Counts,
    time::Label,
    wire::{SlotEntry, Speaker},
};

impl Speaker {
    pub(super) fn of(session: &Session) -> Self {
        Self {
            region: session.id.region.as_str().into(),
            node: session.id.node.as_str().into(),
            boot: session.boot.0,
        }
    }

    pub(super) fn session(&self) -> Option<Session> {
        let id = NodeId::new(&self.region, &self.node).ok()?;
        Some(Session { id, boot: Boot(self.boot) })
    }
}

impl SlotEntry {
    pub(super) fn of(entry: &Entry) -> Self {
        let Tally { counts: Counts { used, refunded }, offered } = entry.tally;
        Self {
            caller: entry.caller.to_bytes(),
            used,
            refunded,
            refused: offered.saturating_sub(used),
            note: entry.note.to_bits(),
        }
    }

    pub(super) fn tally(&self) -> Tally {
        let counts = Counts { used: self.used, refunded: self.refunded };
        Tally { counts, offered: self.used.saturating_add(self.refused) }
    }

    pub(super) fn read(&self, shape: Shape, label: Label, session: SessionIndex) -> Entry {
        let caller = Caller::from_bytes(self.caller);
        Entry {
            caller,
            shape,
            label,
            session,
            tally: self.tally(),
            note: Note::from_bits(self.note),
        }
    }
}
