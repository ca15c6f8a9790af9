//! Datagrams that wait until their delay is over.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use quinn::udp::EcnCodepoint;
use tokio::time::Instant;

/// How many datagrams may wait.
const DATAGRAMS_MAX: usize = 16 * 1024;
/// How many bytes may wait.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// From how many destinations on the ended ones are forgotten.
const DESTINATIONS_SWEEP: usize = 1024;

/// A datagram as it will be handed to the socket.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) to: SocketAddr,
    pub(super) contents: Vec<u8>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) src_ip: Option<IpAddr>,
}

/// A bounded queue ordered by the time of release.
///
/// Jitter does not reorder: a datagram never leaves before an earlier one to the same destination.
#[derive(Debug, Default)]
pub(super) struct DelayQueue {
    waiting: BTreeMap<(Instant, u64), Datagram>,
    bytes: usize,
    /// Numbers the datagrams, so that those due at one instant keep their order.
    count: u64,
    /// When the last datagram to a destination leaves.
    last: HashMap<SocketAddr, Instant>,
}

impl DelayQueue {
    /// Lets `datagram` wait for `delay`; false, and it is dropped, if the queue is full.
    pub(super) fn push(&mut self, now: Instant, delay: Duration, datagram: Datagram) -> bool {
        let bytes = self.bytes + datagram.contents.len();
        if self.waiting.len() >= DATAGRAMS_MAX || bytes > BYTES_MAX {
            return false;
        }
        if self.last.len() >= DESTINATIONS_SWEEP {
            self.last.retain(|_, due| *due > now);
        }
        let last = self.last.entry(datagram.to).or_insert(now);
        *last = (now + delay).max(*last);
        self.count += 1;
        self.bytes = bytes;
        self.waiting.insert((*last, self.count), datagram);
        true
    }

    /// When the next datagram is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes the next datagram, if it is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Datagram> {
        if self.next_due()? > now {
            return None;
        }
        let (_, datagram) = self.waiting.pop_first()?;
        self.bytes -= datagram.contents.len();
        Some(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(port: u16, contents: &[u8]) -> Datagram {
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        Datagram { to, contents: contents.to_vec(), ecn: None, src_ip: None }
    }

    #[test]
    fn jitter_does_not_reorder_a_destination() {
        let (mut queue, start) = (DelayQueue::default(), Instant::now());
        let ms = Duration::from_millis;
        for (delay, port, byte) in [(30, 1, 0), (10, 1, 1), (20, 1, 2), (5, 2, 3)] {
            assert!(queue.push(start, ms(delay), datagram(port, &[byte])));
        }
        assert_eq!(queue.next_due(), Some(start + ms(5)));
        assert!(queue.pop_due(start + ms(4)).is_none());
        let order: Vec<u8> = std::iter::from_fn(|| queue.pop_due(start + ms(30)))
            .map(|datagram| datagram.contents[0])
            .collect();
        assert_eq!(order, [3, 0, 1, 2]);
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn it_is_bounded_in_datagrams_and_bytes() {
        let (mut queue, now) = (DelayQueue::default(), Instant::now());
        let taken = (0..DATAGRAMS_MAX + 1)
            .filter(|_| queue.push(now, Duration::ZERO, datagram(1, &[0])))
            .count();
        assert_eq!(taken, DATAGRAMS_MAX);

        let mut queue = DelayQueue::default();
        let large = vec![0; BYTES_MAX / 4];
        let taken = (0..5).filter(|_| queue.push(now, Duration::ZERO, datagram(1, &large))).count();
        assert_eq!(taken, 4);
        assert!(queue.pop_due(now).is_some());
        assert!(queue.push(now, Duration::ZERO, datagram(1, &large)), "room again");
    }
}
