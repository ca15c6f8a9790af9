//! How far this node has told a peer.
//!
//! Telling is a cursor, not a queue. A frame remembers where the cursor stood behind it; an
//! acknowledgement moves the told part up to there, and a loss moves the cursor back. What changed twice
//! in between is told once.

use alloc::{collections::VecDeque, vec::Vec};

use crate::{
    counts::Cursor,
    memory,
    time::{Mono, Span},
};

/// Frames that may be under way to one peer.
pub(super) const IN_FLIGHT_MAX: usize = 64;
/// Resends in a row that come as promptly as the first.
const PROMPT_RESENDS: u32 = 3;
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

impl Position {
    /// Bytes held beside itself.
    pub(super) fn memory_bytes(&self) -> usize {
        memory::of_vec(&self.cursors)
    }
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

    /// Bytes held beside itself.
    pub(super) fn memory_bytes(&self) -> usize {
        let behind = self.in_flight.iter().filter_map(|frame| frame.behind.as_ref());
        let positions = behind.chain([&self.position, &self.acknowledged]);
        memory::of_queue(&self.in_flight) + positions.map(Position::memory_bytes).sum::<usize>()
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
}
