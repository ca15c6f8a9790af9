//! Relays: who is told what changed in place of its siblings, as the frames that arrive say, and which of
//! them died as one. For the report; it changes nothing.

use super::World;
use crate::frames;

impl World<'_> {
    /// A frame was taken: it says whether its receiver is the sender's relay.
    pub(super) fn note_relay(&mut self, from: usize, to: usize, bytes: &[u8]) {
        match frames::makes_relay(bytes) {
            Some(true) => self.relays.insert((from, to)),
            Some(false) => self.relays.remove(&(from, to)),
            None => false,
        };
    }

    /// A node has died: counts those for which it was the relay, if it has siblings that live.
    pub(super) fn lose_relay(&mut self, dead: usize) {
        let told = self.relays.iter().filter(|(_, relay)| *relay == dead).count();
        self.relays.retain(|(from, relay)| *from != dead && *relay != dead);
        let region = self.nodes[dead].region;
        // It is no more among those that live.
        if self.nodes.iter().any(|node| node.region == region && node.life.is_some()) {
            self.relays_died += told as u64;
        }
    }
}
