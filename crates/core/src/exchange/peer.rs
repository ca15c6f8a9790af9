//! What one node keeps for one peer's session: how far each has told the other, and how far away it is.

use alloc::{
    collections::{BTreeSet, VecDeque},
    vec::Vec,
};

use super::{outgoing::Outgoing, relay::Role, repair::Comparison};
use crate::{
    ids::{RegionIndex, Session, SessionIndex},
    memory,
    rights::Fingerprints,
    time::{Mono, Span},
    wire::Echo,
};

/// Numbers received out of order that are remembered; beyond, a frame is merged but told again.
const OUT_OF_ORDER_MAX: usize = 256;
/// A living peer is not silent for so long: it sends an empty frame every second.
const SILENCE: Span = Span::millis(1_500);
/// Who has shown for so long no sign of hearing what it is told does not hear this node.
const UNANSWERED_MAX: Span = Span::secs(2);
/// A frame that comes so long after another was sent after it.
const OVERTAKEN_MAX: Span = Span::secs(60);

/// What the peer tells this node.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// Everything up to this number has come.
    contiguous: u64,
    beyond: BTreeSet<u64>,
    /// The newest number that was not merged whole.
    unmerged: u64,
    /// The number of the frame that ended the peer's walk.
    walk_end: Option<u64>,
    /// Whether an acknowledgement is owed.
    pub(super) owes: bool,
    /// Stamp and arrival of the newest frame.
    newest: Option<(u32, Mono)>,
    /// Arrival of the newest frame of a peer that tells its changes itself.
    told: Option<Mono>,
    /// What this node is to the peer, by the newest frame.
    role: Option<Role>,
}

impl Incoming {
    pub(super) const fn contiguous(&self) -> u64 {
        self.contiguous
    }

    /// The newest number that was not merged whole; 0: none.
    pub(super) const fn unmerged(&self) -> u64 {
        self.unmerged
    }

    /// Takes note that a frame came, whatever is in it.
    pub(super) fn handle_arrival(&mut self, now: Mono, stamp: u32, role: Option<Role>) {
        // Frames may overtake each other, though not by long; a stamp is newer if it is less than half
        // the circle ahead.
        let newer = self.newest.is_none_or(|(last, at)| {
            stamp.wrapping_sub(last) < u32::MAX / 2 || now.since(at) > OVERTAKEN_MAX
        });
        if newer {
            self.newest = Some((stamp, now));
            self.told = if role == Some(Role::Relayed) { self.told } else { Some(now) };
            self.role = role;
        }
    }

    /// Takes note that the frame `number`, the last of `open` open ones, was merged. `walk_end`: it ended
    /// the walk, of which everything not merged was told again up to that number.
    pub(super) fn handle_merged(&mut self, number: u64, open: u64, walk_end: Option<u64>) {
        self.handle_come(number, open);
        // A frame that was given up may still come: what its end stood for is told again. So is the end
        // of a walk of which something could not be merged.
        let retold = walk_end.is_some_and(|retold| retold >= self.unmerged);
        if retold && number > self.contiguous {
            self.walk_end = Some(self.walk_end.map_or(number, |end| end.min(number)));
        }
        self.advance(number);
    }

    /// Takes note that the frame `number` came but was not merged whole: the sender is told so, and tells
    /// it again.
    pub(super) fn handle_unmerged(&mut self, number: u64, open: u64) {
        self.handle_come(number, open);
        if number > self.contiguous {
            self.unmerged = self.unmerged.max(number);
            if !self.walk_is_complete() {
                self.walk_end = None;
            }
        }
        self.advance(number);
    }

    fn handle_come(&mut self, number: u64, open: u64) {
        self.owes = true;
        self.close(number.saturating_sub(open));
    }

    /// Numbers up to this one are no longer open: they were acknowledged, or given up and told again
    /// under later numbers. An end of the walk among the latter will come again too.
    fn close(&mut self, through: u64) {
        if self.walk_end.is_some_and(|end| end > self.contiguous && end <= through) {
            self.walk_end = None;
        }
        self.contiguous = self.contiguous.max(through);
    }

    fn advance(&mut self, number: u64) {
        if self.beyond.len() < OUT_OF_ORDER_MAX && number > self.contiguous {
            self.beyond.insert(number);
        }
        let next = |number: u64| number.saturating_add(1);
        while self.beyond.remove(&next(self.contiguous)) {
            self.contiguous = next(self.contiguous);
        }
        self.beyond = self.beyond.split_off(&next(self.contiguous));
    }

    /// Whether the peer has told all that it knew when the two met.
    pub(super) fn walk_is_complete(&self) -> bool {
        self.walk_end.is_some_and(|end| self.contiguous >= end)
    }

    /// When the newest frame came of those that the peer's changes are told by.
    pub(super) const fn told_at(&self) -> Option<Mono> {
        self.told
    }

    /// Whether what the peer tells is for this node to pass on to its siblings.
    pub(super) fn is_for_siblings(&self) -> bool {
        self.role == Some(Role::Relay)
    }

    /// When the newest frame came.
    pub(super) fn newest_at(&self) -> Option<Mono> {
        self.newest.map(|(_, at)| at)
    }

    /// What the peer needs to measure its round trip.
    pub(super) fn echo(&self, now: Mono) -> Option<Echo> {
        self.newest.map(|(stamp, at)| Echo::of(stamp, now.since(at)))
    }
}

/// How far away a peer is, and how its clock differs.
#[derive(Debug, Default)]
pub(super) struct Distance {
    /// Smoothed round trip.
    round_trip: Option<Span>,
    /// The newest clock differences, with the round trip that each was measured under.
    offsets: VecDeque<(Span, i64)>,
}

/// Clock differences that are remembered; the one with the shortest round trip is believed.
const OFFSETS_KEPT: usize = 8;

impl Distance {
    /// The smoothed round trip, once an echo has come.
    pub(super) const fn round_trip(&self) -> Option<Span> {
        self.round_trip
    }

    /// One-way delay: half a round trip. Zero until one is known.
    pub(super) fn delay(&self) -> Span {
        self.round_trip.unwrap_or_default().divided_by(2)
    }

    /// Peer's clock minus ours in µs, from the measurement with the shortest round trip among the last.
    pub(super) fn clock_offset(&self) -> Option<i64> {
        self.offsets.iter().min_by_key(|(trip, _)| *trip).map(|(_, offset)| *offset)
    }

    pub(super) fn handle_echo(&mut self, trip: Span) {
        self.round_trip = Some(self.round_trip.map_or(trip, |old| Span((old.0 * 7 + trip.0) / 8)));
    }

    /// Takes a reading of the peer's clock that has just come; `own` is ours now.
    pub(super) fn handle_clock(&mut self, peer: u64, own: u64) {
        let Some(trip) = self.round_trip else { return };
        let at_arrival = i128::from(peer) + i128::from(trip.0 / 2);
        let offset = at_arrival - i128::from(own);
        let offset = offset.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
        if self.offsets.len() == OFFSETS_KEPT {
            self.offsets.pop_front();
        }
        self.offsets.push_back((trip, offset));
    }
}

/// Frames, bytes and changes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Their bytes, without the transport's own.
    pub bytes: u64,
    /// Slots in them.
    pub changes: u64,
}

/// Everything about one peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) session: Session,
    pub(super) index: SessionIndex,
    pub(super) region: RegionIndex,
    pub(super) connected: bool,
    /// Since when it is not, until its slots have been passed on.
    pub(super) silent_since: Option<Mono>,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
    pub(super) distance: Distance,
    pub(super) comparison: Comparison,
    /// Whether it hears of this node's changes from a sibling of its own.
    pub(super) relayed: bool,
    /// As of when its changes are known by way of a sibling.
    pub(super) passed_on: Option<Mono>,
    /// When the newest frame was sent that it is known to have heard.
    pub(super) echoed: Option<Mono>,
    /// When there was no room for something that it told.
    pub(super) refused_at: Option<Mono>,
    /// When the connection came to stand.
    pub(super) met_at: Mono,
    /// When the next frame may go.
    pub(super) next_at: Mono,
    /// When the last one went; `None` before the first of a connection.
    pub(super) last_sent: Option<Mono>,
    /// When the last reading of our clock went.
    pub(super) last_clock: Option<Mono>,
    /// The number of its configuration of regions, and what it is like.
    pub(super) configured: Option<Fingerprints>,
    /// Encoded frames that wait for the driver to take them; at most one batch.
    pub(super) ready: VecDeque<Vec<u8>>,
    pub(super) sent: Traffic,
    pub(super) received: Traffic,
}

impl Peer {
    pub(super) fn new(
        session: Session,
        index: SessionIndex,
        region: RegionIndex,
        outgoing: Outgoing,
    ) -> Self {
        Self {
            session,
            index,
            region,
            connected: false,
            silent_since: None,
            outgoing,
            incoming: Incoming::default(),
            distance: Distance::default(),
            comparison: Comparison::default(),
            relayed: false,
            passed_on: None,
            echoed: None,
            refused_at: None,
            met_at: Mono::default(),
            next_at: Mono::default(),
            last_sent: None,
            last_clock: None,
            configured: None,
            ready: VecDeque::new(),
            sent: Traffic::default(),
            received: Traffic::default(),
        }
    }

    /// Bytes held beside itself, without the names, which the table of sessions has.
    pub(super) fn memory_bytes(&self) -> usize {
        let ready = self.ready.iter().map(memory::of_vec);
        self.outgoing.memory_bytes()
            + memory::of_set(&self.incoming.beyond)
            + memory::of_queue(&self.distance.offsets)
            + self.comparison.memory_bytes()
            + memory::of_queue(&self.ready)
            + ready.sum::<usize>()
    }

    /// As of when its changes are known from itself.
    pub(super) fn told_at(&self) -> Option<Mono> {
        self.incoming.told_at().map(|at| at - self.distance.delay())
    }

    /// As of when its changes are known, from whomever.
    pub(super) fn as_of(&self) -> Option<Mono> {
        self.told_at().max(self.passed_on)
    }

    /// Age of what is known from it: of the newest frame plus one-way delay; `None` before the first.
    pub(super) fn staleness(&self, now: Mono) -> Option<Span> {
        self.as_of().map(|as_of| now.since(as_of))
    }

    /// Whether the peer has not been heard for longer than a living one is silent.
    pub(super) fn is_silent(&self, now: Mono) -> bool {
        self.incoming.newest_at().is_some_and(|at| now.since(at) > SILENCE)
    }

    /// Whether what either says reaches the other soon.
    pub(super) fn is_in_touch(&self, now: Mono) -> bool {
        self.connected && !self.is_silent(now) && self.outgoing.waits(now) < UNANSWERED_MAX
    }

    /// How long to wait for an acknowledgement: a round trip, and a period on either side.
    pub(super) fn patience(&self, gossip: Span) -> Span {
        let round_trip = self.distance.round_trip().unwrap_or(Span::millis(500));
        round_trip + gossip.times(2) + Span::millis(50)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_merged_whole_is_told_to_the_sender() {
        let mut incoming = Incoming::default();
        incoming.handle_merged(1, 1, None);
        incoming.handle_merged(3, 3, Some(0));
        assert_eq!(incoming.contiguous(), 1);
        assert!(!incoming.walk_is_complete());
        incoming.handle_unmerged(2, 2);
        assert_eq!((incoming.contiguous(), incoming.unmerged()), (3, 2), "2 came, not whole");
        assert!(!incoming.walk_is_complete(), "what was in 2 is still to come");
        // The sender had not heard of it when it sent an end once more, and then it had.
        incoming.handle_merged(4, 1, Some(0));
        assert!(!incoming.walk_is_complete());
        incoming.handle_merged(5, 1, Some(3));
        assert!(incoming.walk_is_complete());
    }

    #[test]
    fn a_walk_is_complete_only_with_all_that_came_before_its_end() {
        let mut incoming = Incoming::default();
        incoming.handle_merged(2, 2, Some(0));
        assert!(!incoming.walk_is_complete());
        incoming.handle_merged(1, 1, None);
        assert!(incoming.walk_is_complete());
    }

    #[test]
    fn an_end_of_the_walk_that_was_given_up_does_not_complete_it() {
        let mut incoming = Incoming::default();
        incoming.handle_merged(3, 3, Some(0)); // 1 and 2 are lost
        incoming.handle_merged(4, 1, None); // all told again, beginning with 4
        assert!(!incoming.walk_is_complete());
        incoming.handle_merged(5, 2, Some(0));
        assert!(incoming.walk_is_complete());
    }

    #[test]
    fn an_end_of_the_walk_that_comes_after_it_was_given_up_does_not_complete_it() {
        let mut incoming = Incoming::default();
        incoming.handle_merged(4, 1, None); // 1 to 3 were given up and are told again, from 4 on
        incoming.handle_merged(3, 3, Some(0)); // 3 was not lost, but overtaken
        assert!(!incoming.walk_is_complete(), "what 1 and 2 told is still on its way");
        incoming.handle_merged(5, 2, Some(0));
        assert!(incoming.walk_is_complete());
    }

    #[test]
    fn a_peer_that_returns_after_days_is_heard_again() {
        let mut incoming = Incoming::default();
        let days = |n: u64| Mono(n * 86_400_000_000);
        incoming.handle_arrival(days(0), 7, None);
        // Stamps count to 2^32 in five days; after three, this one looks like an older one.
        incoming.handle_arrival(days(3), 7 + 3 * 864_000_000, None);
        assert_eq!(incoming.newest_at(), Some(days(3)));
    }

    #[test]
    fn the_clock_offset_of_the_shortest_round_trip_is_believed() {
        let mut distance = Distance::default();
        distance.handle_clock(1_000, 0);
        assert_eq!(distance.clock_offset(), None, "no round trip yet");
        distance.handle_echo(Span::micros(100));
        distance.handle_clock(1_000_000, 900_050);
        for _ in 0..4 {
            distance.handle_echo(Span::millis(50));
            distance.handle_clock(2_000_000, 1_000_000);
        }
        assert_eq!(distance.clock_offset(), Some(100_000));
    }
}
