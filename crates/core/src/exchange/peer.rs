//! What one node keeps for one peer's session: how far each has told the other, and how far away it is.
//!
//! Telling is a cursor, not a queue. A frame remembers where the cursor stood behind it; an
//! acknowledgement moves the told part up to there, and a loss moves the cursor back. What changed twice
//! in between is told once.

use alloc::{
    collections::{BTreeSet, VecDeque},
    vec::Vec,
};

use super::{relay::Role, repair::Comparison};
use crate::{
    counts::Cursor,
    ids::{RegionIndex, Session, SessionIndex},
    time::{Mono, Span},
    wire::Echo,
};

/// Frames that may be under way to one peer.
pub(super) const IN_FLIGHT_MAX: usize = 64;
/// Numbers received out of order that are remembered; beyond, a frame is merged but told again.
const OUT_OF_ORDER_MAX: usize = 256;
/// Resends in a row that come as promptly as the first.
const PROMPT_RESENDS: u32 = 3;
/// A living peer is not silent for so long: it sends an empty frame every second.
const SILENCE: Span = Span::millis(1_500);
/// Who has shown for so long no sign of hearing what it is told does not hear this node.
const UNANSWERED_MAX: Span = Span::secs(2);
/// A frame that comes so long after another was sent after it.
const OVERTAKEN_MAX: Span = Span::secs(60);
/// The longest wait before unacknowledged changes are told again.
const RESEND_AFTER_MAX: Span = Span::secs(4);

/// How far a peer has been told, over all shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// One cursor per shard.
    pub(super) cursors: Vec<Cursor>,
    /// Whether the end of the walk has been told.
    pub(super) walk_ended: bool,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    sent: Mono,
    /// Where the cursor stood behind this frame; `None` in all but the last of frames cut from one batch.
    behind: Option<Position>,
}

/// What this node tells the peer.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Told, perhaps not acknowledged.
    pub(super) position: Position,
    acknowledged: Position,
    in_flight: VecDeque<InFlight>,
    last_number: u64,
    /// The oldest frame that the peer has shown no sign of, and when it was sent. Telling the same again
    /// under later numbers is no sign.
    unanswered: Option<(u64, Mono)>,
    /// Consecutive resends without progress.
    resends: u32,
    /// The newest number that the peer said it could not merge whole.
    unmerged: u64,
    /// Since when something is owed that the peer could not merge: told again from where the
    /// acknowledgement stood.
    owed_since: Option<Mono>,
    /// How often in a row the peer could not merge what it was told again.
    refusals: u32,
    /// All up to this number was merged whole, or told again behind it.
    retold: u64,
}

impl Outgoing {
    /// Nothing told yet; the first frame has the number after `last_number`.
    pub(super) fn new(start: Position, last_number: u64) -> Self {
        Self {
            acknowledged: start.clone(),
            position: start,
            in_flight: VecDeque::new(),
            last_number,
            unanswered: None,
            resends: 0,
            unmerged: 0,
            owed_since: None,
            refusals: 0,
            retold: 0,
        }
    }

    /// Where a peer that is told by a relay may stand: no further back than it did.
    pub(super) fn follow(&mut self, passed: &Position) {
        if self.is_quiet() {
            let pairs = self.acknowledged.cursors.iter_mut().zip(&passed.cursors);
            for (cursor, passed) in pairs.filter(|(cursor, _)| cursor.walk.is_none()) {
                cursor.log = cursor.log.max(passed.log);
            }
            self.position = self.acknowledged.clone();
        }
    }

    pub(super) const fn acknowledged_position(&self) -> &Position {
        &self.acknowledged
    }

    /// Whether the peer has been told all that this node knew when the two met.
    pub(super) const fn walk_is_told(&self) -> bool {
        self.acknowledged.walk_ended
    }

    /// The log position of each shard up to which this peer needs nothing any more.
    pub(super) fn acknowledged(&self) -> &[Cursor] {
        &self.acknowledged.cursors
    }

    /// The number of the newest frame.
    pub(super) const fn last_number(&self) -> u64 {
        self.last_number
    }

    pub(super) fn has_window(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT_MAX
    }

    /// Numbers the next frame. Returns its number and how many are open, itself included.
    pub(super) fn number(&mut self, now: Mono, behind: Option<Position>) -> (u64, u64) {
        self.last_number += 1;
        self.unanswered.get_or_insert((self.last_number, now));
        self.in_flight.push_back(InFlight { number: self.last_number, sent: now, behind });
        (self.last_number, self.in_flight.len() as u64)
    }

    /// The cursor moved, but there was nothing for this peer to hear.
    pub(super) fn skip_told(&mut self) {
        match self.in_flight.back_mut() {
            Some(frame) if frame.behind.is_some() => frame.behind = Some(self.position.clone()),
            None if self.owed_since.is_none() => self.acknowledged = self.position.clone(),
            _ => {}
        }
    }

    /// Takes the peer's word that everything up to `number` has come, and that it could not merge
    /// `unmerged` and perhaps some before it. What is owed does not hold up what is new: frames go on, and
    /// after a while all behind the last good acknowledgement is told again.
    pub(super) fn handle_acknowledged(&mut self, now: Mono, number: u64, unmerged: u64) {
        let first = self.in_flight.front().map(|frame| frame.number);
        if unmerged > self.unmerged {
            self.unmerged = unmerged;
            // What was given up in the meantime is being told again already.
            if first.is_some_and(|first| first <= unmerged) && self.owed_since.is_none() {
                self.owed_since = Some(now);
            }
        }
        while self.in_flight.front().is_some_and(|frame| frame.number <= number) {
            self.resends = 0;
            let behind = self.in_flight.pop_front().and_then(|frame| frame.behind);
            if let Some(behind) = behind.filter(|_| self.owed_since.is_none()) {
                self.acknowledged = behind;
                self.refusals = 0;
            }
        }
        if self.unanswered.is_some_and(|(unanswered, _)| unanswered <= number) {
            self.unanswered = self.in_flight.front().map(|frame| (frame.number, frame.sent));
        }
    }

    /// The peer has heard a frame, with or without a number, that was sent then: so what it has not
    /// acknowledged is not owed to a cut.
    pub(super) fn handle_echo(&mut self, sent: Mono) {
        if self.unanswered.is_some_and(|(_, since)| since < sent) {
            self.unanswered = None;
        }
    }

    /// When unacknowledged changes are due to be told again.
    pub(super) fn resend_at(&self, patience: Span) -> Option<Mono> {
        // A few losses in a row are bad luck; more are a cut, into which little should be sent. And what
        // could not be merged twice will not be able to be soon.
        let wait = |times: u32| patience.times(1 << times.min(5)).min(RESEND_AFTER_MAX);
        let lost = self.in_flight.front();
        let lost = lost.map(|f| f.sent + wait(self.resends.saturating_sub(PROMPT_RESENDS)));
        let owed = self.owed_since.map(|since| since + wait(self.refusals));
        match (lost, owed) {
            (Some(lost), Some(owed)) => Some(lost.min(owed)),
            (lost, owed) => lost.or(owed),
        }
    }

    /// Gives up what is under way: the cursor goes back to what is acknowledged.
    pub(super) fn rewind(&mut self) {
        self.in_flight.clear();
        self.position = self.acknowledged.clone();
        self.resends += 1;
        self.refusals += u32::from(self.owed_since.take().is_some());
        self.retold = self.last_number;
    }

    /// Up to which number everything was merged whole, or told again behind it.
    pub(super) const fn retold(&self) -> u64 {
        self.retold
    }

    /// How long the peer has shown no sign of having heard what it was told, however often it was told again.
    pub(super) fn waits(&self, now: Mono) -> Span {
        self.unanswered.map_or(Span::ZERO, |(_, since)| now.since(since))
    }

    /// Whether all that there is has been told and has come.
    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty() && self.owed_since.is_none()
    }

    /// The peer is heard again after a silence: what it has not acknowledged waits no longer than usual.
    pub(super) fn hurry(&mut self) {
        self.resends = 0;
    }

    /// As [`rewind`](Self::rewind), for a new connection: without impatience. That it stands shows that
    /// each hears the other.
    pub(super) fn resume(&mut self) {
        self.rewind();
        self.resends = 0;
        self.unanswered = None;
    }
}

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
    /// When the connection came to stand.
    pub(super) met_at: Mono,
    /// When the next frame may go.
    pub(super) next_at: Mono,
    /// When the last one went; `None` before the first of a connection.
    pub(super) last_sent: Option<Mono>,
    /// When the last reading of our clock went.
    pub(super) last_clock: Option<Mono>,
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
            met_at: Mono::default(),
            next_at: Mono::default(),
            last_sent: None,
            last_clock: None,
            ready: VecDeque::new(),
            sent: Traffic::default(),
            received: Traffic::default(),
        }
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
    use alloc::vec;

    fn position(log: u64) -> Position {
        Position { cursors: vec![Cursor { walk: None, log }], walk_ended: true }
    }

    #[test]
    fn an_acknowledgement_moves_the_told_part_and_a_loss_moves_the_cursor_back() {
        let mut out = Outgoing::new(position(0), 0);
        for n in 1..=3 {
            out.position = position(n * 10);
            assert_eq!(out.number(Mono(n), Some(position(n * 10))), (n, n));
        }
        out.handle_acknowledged(Mono(9), 2, 0);
        assert_eq!(out.acknowledged()[0].log, 20);
        out.rewind();
        assert_eq!(out.position, position(20));
        assert_eq!(out.number(Mono(9), Some(position(40))), (4, 1), "3 is no longer open");
    }

    #[test]
    fn resends_grow_rarer_and_progress_makes_them_prompt_again() {
        let mut out = Outgoing::new(position(0), 0);
        let patience = Span::millis(100);
        let mut waits = vec![];
        for _ in 0..10 {
            out.number(Mono(0), Some(position(1)));
            waits.push(out.resend_at(patience).expect("one is open").since(Mono(0)).as_millis());
            out.rewind();
        }
        assert_eq!(waits, [100, 100, 100, 100, 200, 400, 800, 1600, 3200, 3200]);
        let (number, _) = out.number(Mono(0), Some(position(1)));
        out.handle_acknowledged(Mono(9), number, 0);
        out.number(Mono(0), Some(position(2)));
        assert_eq!(out.resend_at(patience), Some(Mono(100_000)));
    }

    #[test]
    fn what_could_not_be_merged_is_owed_without_holding_up_what_is_new() {
        let mut out = Outgoing::new(position(0), 0);
        let patience = Span::millis(100);
        for n in 1..=3 {
            out.position = position(n * 10);
            out.number(Mono(0), Some(position(n * 10)));
        }
        out.handle_acknowledged(Mono(5), 1, 0);
        out.handle_acknowledged(Mono(7), 3, 2);
        assert!(out.has_window() && !out.is_quiet());
        assert_eq!(out.acknowledged()[0].log, 10, "2 is owed, and so all that came behind 1");
        assert_eq!(out.resend_at(patience), Some(Mono(100_007)));
        out.rewind();
        assert_eq!((out.position.clone(), out.retold()), (position(10), 3));
        out.number(Mono(200_000), Some(position(30)));
        // The old word comes once more; then the same part is refused again, and waits longer.
        out.handle_acknowledged(Mono(200_001), 3, 2);
        assert_eq!(out.resend_at(patience), Some(Mono(300_000)));
        out.handle_acknowledged(Mono(200_002), 4, 4);
        assert_eq!(out.resend_at(patience), Some(Mono(400_002)));
        out.rewind();
        out.number(Mono(400_002), Some(position(30)));
        out.handle_acknowledged(Mono(400_003), 5, 4);
        assert!(out.is_quiet());
        assert_eq!(out.acknowledged()[0].log, 30);
    }

    #[test]
    fn who_does_not_answer_waits_on_however_often_it_is_told_again() {
        let mut out = Outgoing::new(position(0), 0);
        for n in 0..10 {
            out.number(Mono(n * 1_000), Some(position(1)));
            out.rewind();
            assert_eq!(out.waits(Mono(n * 1_000 + 1)), Span(n * 1_000 + 1));
        }
        // An acknowledgement of what came before says nothing of what came since.
        out.handle_acknowledged(Mono(10_000), 0, 0);
        out.handle_echo(Mono(0));
        assert_eq!(out.waits(Mono(10_000)), Span(10_000));
        out.number(Mono(10_000), Some(position(1)));
        out.handle_acknowledged(Mono(11_000), 11, 0);
        assert_eq!(out.waits(Mono(20_000)), Span::ZERO);
        // Where there is nothing left to be told again, any frame that is heard ends the wait.
        out.number(Mono(20_000), Some(position(2)));
        out.rewind();
        out.handle_echo(Mono(20_001));
        assert_eq!(out.waits(Mono(30_000)), Span::ZERO);
    }

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
