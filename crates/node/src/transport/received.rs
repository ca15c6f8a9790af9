//! What was received and waits to be taken: how much it is, and the room for it.
//!
//! A stream is read only once there is room for the longest message, and a message keeps the room that it
//! needs until its reader takes it. Nobody who has room waits for more of it, and what waits for its reader
//! needs none, so whoever waits for room gets it in the end: a stream ends, well or not, in the time that it
//! has, and readers take what waits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::FRAME_BYTES_MAX;

/// The longest message with the byte that says what it is for.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 + FRAME_BYTES_MAX;
/// How many bytes may be read or wait among the events, of all peers together. Each peer has room for one
/// message besides, so that some that send slowly cannot keep the others from being heard.
pub(super) const RECEIVED_BYTES_MAX: usize = 64 << 20;
/// How many bytes of membership messages may wait for their reader. They have room of their own: if gossip
/// stands still, frames go on.
pub(super) const MEMBERSHIP_BYTES_MAX: usize = 8 << 20;

/// The bytes that were received and wait, and the room for them.
pub(super) struct Received {
    bytes: Arc<AtomicUsize>,
    shared: Arc<Semaphore>,
    membership: Arc<Semaphore>,
}

impl Default for Received {
    fn default() -> Self {
        Self::with_room(RECEIVED_BYTES_MAX)
    }
}

impl Received {
    fn with_room(bytes: usize) -> Self {
        Self {
            bytes: Arc::default(),
            shared: Arc::new(Semaphore::new(bytes)),
            membership: Arc::new(Semaphore::new(MEMBERSHIP_BYTES_MAX)),
        }
    }

    /// How many bytes were received and wait now: of streams that are being read too.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Waits for room for a message.
    pub(super) async fn room(&self, own: &OwnRoom) -> Held {
        let room = tokio::select! {
            biased;
            room = longest(&self.shared) => room,
            room = longest(&own.0) => room,
        };
        Held { all: self.bytes.clone(), bytes: 0, room }
    }

    /// Room for a membership message of so many bytes, which were received; none if too much waits.
    pub(super) fn membership(&self, bytes: usize) -> Option<Held> {
        let permits = u32::try_from(bytes).ok()?;
        let room = self.membership.clone().try_acquire_many_owned(permits).ok()?;
        let mut held = Held { all: self.bytes.clone(), bytes: 0, room };
        held.add(bytes);
        Some(held)
    }
}

async fn longest(room: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let permits = room.clone().acquire_many_owned(MESSAGE_BYTES_MAX as u32).await;
    permits.expect("this semaphore is never closed")
}

/// The room that a peer has to itself, for one message at a time.
pub(super) struct OwnRoom(Arc<Semaphore>);

impl Default for OwnRoom {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MESSAGE_BYTES_MAX)))
    }
}

/// Bytes that were received, and their room; gives both back on drop.
pub(super) struct Held {
    all: Arc<AtomicUsize>,
    bytes: usize,
    room: OwnedSemaphorePermit,
}

impl Held {
    /// So many more have come.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.all.fetch_add(bytes, Relaxed);
    }

    /// No more will come: what room they would have needed is for others.
    pub(super) fn settle(&mut self) {
        let spare = self.room.num_permits().saturating_sub(self.bytes);
        drop(self.room.split(spare));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
    }
}

/// Something that waits for its reader, and the bytes in it, where it has any.
struct Waiting<T> {
    what: T,
    _held: Option<Held>,
}

/// A bounded queue; its two ends.
pub(super) fn inbox<T>(items_max: usize) -> (Sender<T>, Inbox<T>) {
    let (sender, waiting) = mpsc::channel(items_max);
    (Sender(sender), Inbox { waiting, taken: Vec::new() })
}

/// Where what was received is put.
pub(super) struct Sender<T>(mpsc::Sender<Waiting<T>>);

impl<T> Sender<T> {
    /// Waits while the queue is full; false if nobody reads it any more.
    pub(super) async fn send(&self, what: T, held: Option<Held>) -> bool {
        self.0.send(Waiting { what, _held: held }).await.is_ok()
    }

    /// False if the queue is full, or nobody reads it any more.
    pub(super) fn try_send(&self, what: T, held: Option<Held>) -> bool {
        self.0.try_send(Waiting { what, _held: held }).is_ok()
    }
}

/// Where what was received is taken; its room is for others from then on.
pub struct Inbox<T> {
    waiting: mpsc::Receiver<Waiting<T>>,
    /// Empty but while it is moved.
    taken: Vec<Waiting<T>>,
}

impl<T> Inbox<T> {
    /// The next; `None` if none will come any more. If the future is dropped, nothing is lost.
    pub async fn recv(&mut self) -> Option<T> {
        self.waiting.recv().await.map(|waiting| waiting.what)
    }

    /// Appends the next, up to `at_most`, and says how many; 0 if none will come any more. If the future is
    /// dropped, nothing is lost.
    pub async fn recv_many(&mut self, to: &mut Vec<T>, at_most: usize) -> usize {
        let came = self.waiting.recv_many(&mut self.taken, at_most).await;
        to.extend(self.taken.drain(..).map(|waiting| waiting.what));
        came
    }

    /// The next, if it is there.
    #[cfg(test)]
    pub(crate) fn try_recv(&mut self) -> Result<T, mpsc::error::TryRecvError> {
        self.waiting.try_recv().map(|waiting| waiting.what)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn come(received: &Received, own: &OwnRoom, bytes: usize) -> Option<Held> {
        let mut held = received.room(own).now_or_never()?;
        held.add(bytes);
        held.settle();
        Some(held)
    }

    #[tokio::test]
    async fn what_waits_is_counted_until_it_is_taken() {
        let received = Received::default();
        let own = OwnRoom::default();
        let (sender, mut inbox) = inbox(4);
        let mut reading = received.room(&own).await;
        reading.add(100);
        assert_eq!(received.bytes(), 100);
        reading.add(20);
        reading.settle();
        assert!(sender.send("a", Some(reading)).await);
        assert!(sender.send("b", None).await);
        assert!(sender.send("c", come(&received, &own, 7)).await);
        assert!(sender.try_send("d", received.membership(1_000)));
        assert!(!sender.try_send("e", received.membership(1_000)), "it is full");
        assert_eq!(received.bytes(), 1_127);
        assert_eq!(inbox.recv().await, Some("a"));
        assert_eq!(received.bytes(), 1_007);
        let mut batch = vec!["z"];
        assert_eq!(inbox.recv_many(&mut batch, 2).await, 2);
        assert_eq!((&batch[..], received.bytes()), (&["z", "b", "c"][..], 1_000));
        drop(inbox);
        assert_eq!(received.bytes(), 0);
        let room = [received.shared.available_permits(), received.membership.available_permits()];
        assert_eq!(room, [RECEIVED_BYTES_MAX, MEMBERSHIP_BYTES_MAX]);
    }

    #[tokio::test]
    async fn without_room_reading_waits_but_each_peer_has_room_for_one_message() {
        let received = Received::with_room(2 * MESSAGE_BYTES_MAX);
        let (greedy, other) = (OwnRoom::default(), OwnRoom::default());
        let long = |own| come(&received, own, MESSAGE_BYTES_MAX);
        let held: Vec<_> = std::iter::from_fn(|| long(&greedy)).collect();
        assert_eq!(held.len(), 3, "two, and its own");
        // One that has nothing to do with that is heard all the same.
        let heard = come(&received, &other, 10).expect("its own room");
        assert!(long(&other).is_none(), "the longest may not fit beside it");
        drop(heard);
        assert!(long(&other).is_some());

        let mut waiting = Box::pin(received.room(&greedy));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        assert!(waiting.as_mut().now_or_never().is_some(), "room again");
    }

    #[test]
    fn short_messages_keep_only_what_they_need() {
        let received = Received::with_room(2 * MESSAGE_BYTES_MAX);
        let own = OwnRoom::default();
        let held: Vec<_> = (0..1_000).filter_map(|_| come(&received, &own, 10)).collect();
        assert_eq!((held.len(), received.bytes()), (1_000, 10_000));
    }

    #[test]
    fn gossip_has_room_of_its_own() {
        let received = Received::with_room(MESSAGE_BYTES_MAX);
        let full: Vec<_> =
            std::iter::from_fn(|| received.membership(MEMBERSHIP_BYTES_MAX / 4)).collect();
        assert_eq!(full.len(), 4);
        assert!(received.membership(1).is_none());
        assert!(come(&received, &OwnRoom::default(), 10).is_some());
        drop(full);
        assert!(received.membership(1).is_some());
        assert_eq!(received.bytes(), 0);
    }
}
