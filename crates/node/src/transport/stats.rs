//! Counters of the transport, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::refusal::Refusal;

/// What the transport has done since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Refused peers: (reason, how many), for every reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Frames taken for sending.
    pub frames_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Frames delivered.
    pub frames_received: u64,
    /// Their bytes.
    pub bytes_received: u64,
    /// Frames dropped because the queue to their peer was full.
    pub dropped_queue_full: u64,
    /// Frames dropped because their connection ended before they were sent.
    pub dropped_disconnected: u64,
    /// Incoming messages dropped because they were too long, cut short, or of an unknown channel.
    pub dropped_malformed: u64,
    /// Membership messages dropped: no connection, or a full queue on either side. Gossip repeats
    /// what they said.
    pub dropped_membership: u64,
    /// Bytes of messages that wait to be sent.
    pub queued_bytes: u64,
    /// Bytes of messages that were received: that are being read, or wait to be taken.
    pub received_bytes: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    refused: [AtomicU64; Refusal::ALL.len()],
    pub(super) frames_sent: Counter,
    pub(super) bytes_sent: Counter,
    pub(super) frames_received: Counter,
    pub(super) bytes_received: Counter,
    pub(super) dropped_queue_full: Counter,
    pub(super) dropped_disconnected: Counter,
    pub(super) dropped_malformed: Counter,
    pub(super) dropped_membership: Counter,
}

#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(super) fn refuse(&self, reason: Refusal) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self, queued_bytes: u64, received_bytes: u64) -> TransportStats {
        let refused = |r: Refusal| (r.name(), self.refused[r as usize].load(Ordering::Relaxed));
        TransportStats {
            refused: Refusal::ALL.map(refused).to_vec(),
            frames_sent: self.frames_sent.get(),
            bytes_sent: self.bytes_sent.get(),
            frames_received: self.frames_received.get(),
            bytes_received: self.bytes_received.get(),
            dropped_queue_full: self.dropped_queue_full.get(),
            dropped_disconnected: self.dropped_disconnected.get(),
            dropped_malformed: self.dropped_malformed.get(),
            dropped_membership: self.dropped_membership.get(),
            queued_bytes,
            received_bytes,
        }
    }
}
