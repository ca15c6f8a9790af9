//! One connection to one session of a peer: its queue, what it sends and what it receives.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quinn::{Connection, ReadError, RecvStream, SendStream};
use tidegate_core::ids::Session;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{
    Event, FRAME_BYTES_MAX, Inner, STREAMS_MAX, SendError, credentials, hello,
    received::{Held, MESSAGE_BYTES_MAX, OwnRoom},
    refusal::{CODE_PROTOCOL, CODE_SUPERSEDED},
    registry::{Predecessor, Seat},
};

/// How many messages may wait for one peer.
pub(super) const QUEUE_MESSAGES_MAX: usize = 1024;
/// How many bytes may wait for one peer.
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A message that does not arrive whole in this time is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// So many messages given up in a row, none having arrived whole between them, end the connection.
const GIVEN_UP_MAX: usize = 256;
/// How long the answer to a confirmation may take.
const ACCEPTED_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a connection is looked at for silence.
const SILENCE_CHECK: Duration = Duration::from_millis(200);
/// A connection that has been silent for so long is replaced as soon as another can be made.
/// Keep-alives are answered several times in this span, unless the way is broken.
const SILENT_AFTER: Duration = Duration::from_millis(1200);

/// How long the peer may take to close a connection that is not needed.
const CLOSE_LATE: Duration = Duration::from_secs(2);

/// What a message is for; the first byte of its stream or datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Frame = 1,
    Membership = 2,
}

impl Channel {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Frame, Self::Membership].into_iter().find(|channel| *channel as u8 == byte)
    }
}

/// A connection whose peer has proved who it is.
pub(super) struct Link {
    pub(super) session: Session,
    pub(super) connection: Connection,
    /// Whether we dialled.
    pub(super) ours: bool,
    /// Where the peer says it can be dialled.
    pub(super) advertise: SocketAddr,
    /// Where it was seen.
    pub(super) remote: SocketAddr,
    queue: mpsc::Sender<(Channel, Bytes)>,
    queued_bytes: AtomicUsize,
    own_room: OwnRoom,
}

/// What the task that serves a link owns.
pub(super) struct Ends {
    queue: mpsc::Receiver<(Channel, Bytes)>,
    hello_send: SendStream,
    hello_recv: RecvStream,
}

impl Link {
    pub(super) fn new(
        session: Session,
        advertise: SocketAddr,
        connection: Connection,
        ours: bool,
        (hello_send, hello_recv): (SendStream, RecvStream),
    ) -> (Arc<Self>, Ends) {
        let (sender, queue) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let remote = connection.remote_address();
        let link = Self {
            session,
            connection,
            ours,
            advertise,
            remote,
            queue: sender,
            queued_bytes: AtomicUsize::new(0),
            own_room: OwnRoom::default(),
        };
        (Arc::new(link), Ends { queue, hello_send, hello_recv })
    }

    /// Whether both are the same connection.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.connection.stable_id() == other.connection.stable_id()
    }

    /// Bytes of messages that wait to be sent.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// Puts a message into the queue; never waits.
    pub(super) fn enqueue(&self, channel: Channel, message: Bytes) -> Result<(), SendError> {
        let length = message.len();
        if length > FRAME_BYTES_MAX {
            return Err(SendError::TooLong { length });
        }
        // Only an estimate when many send at once, which may pass the bound by a frame each.
        if self.queued_bytes() + length > QUEUE_BYTES_MAX {
            return Err(SendError::QueueFull);
        }
        self.queued_bytes.fetch_add(length, Ordering::Relaxed);
        self.queue.try_send((channel, message)).map_err(|error| {
            self.queued_bytes.fetch_sub(length, Ordering::Relaxed);
            match error {
                mpsc::error::TrySendError::Full(_) => SendError::QueueFull,
                mpsc::error::TrySendError::Closed(_) => SendError::NotConnected,
            }
        })
    }

    /// Sends a membership message: as a datagram if it fits, through the queue otherwise.
    pub(super) fn send_membership(&self, message: Bytes) -> Result<(), SendError> {
        let fits = self.connection.max_datagram_size().is_some_and(|max| message.len() < max);
        if !fits {
            return self.enqueue(Channel::Membership, message);
        }
        let mut datagram = Vec::with_capacity(1 + message.len());
        datagram.push(Channel::Membership as u8);
        datagram.extend_from_slice(&message);
        self.connection.send_datagram(datagram.into()).map_err(|_| SendError::NotConnected)
    }

    pub(super) fn close(&self, code: u32, reason: &str) {
        self.connection.close(code.into(), reason.as_bytes());
    }
}

/// Serves a connection that has been let in, until it ends.
pub(super) async fn serve(inner: Arc<Inner>, link: Arc<Link>, ends: Ends, seat: Seat) {
    let Seat { told, predecessor } = seat;
    let converse = converse(inner.clone(), link.clone(), ends, predecessor);
    see_through(&inner, &link, converse).await;
    told.send_replace(true);
}

/// Runs what serves a connection. If that panics, the connection ends, and that is told: nobody would read
/// what comes by it, and while it stands no other one is made.
pub(super) async fn see_through(
    inner: &Inner,
    link: &Link,
    converse: impl Future<Output = ()> + Send + 'static,
) {
    if let Err(broken) = tokio::spawn(converse).await {
        tracing::error!(peer = %link.session, %broken, "a connection broke and is made anew: this is a bug");
        link.close(CODE_PROTOCOL, "the node that serves this connection has broken it");
        inner.registry.remove(link);
        inner.tell(Event::Disconnected(link.session.clone())).await;
    }
}

/// Tells of a connection's beginning, delivers what comes, sends what is queued, tells of its end.
async fn converse(
    inner: Arc<Inner>,
    link: Arc<Link>,
    ends: Ends,
    predecessor: Option<Predecessor>,
) {
    let Ends { queue, mut hello_send, mut hello_recv } = ends;
    let mut helpers = JoinSet::new();
    let outgoing = Outgoing { inner: inner.clone(), queue, current: None };
    helpers.spawn(write_queue(outgoing, link.clone()));
    helpers.spawn(watch_silence(inner.clone(), link.clone()));
    helpers.spawn(credentials::watch(inner.clone(), link.clone()));

    if let Some(predecessor) = predecessor {
        predecessor.link.close(CODE_SUPERSEDED, "another connection takes over");
        predecessor.told().await;
    }
    let begun = finish_hello(&inner, &link, &mut hello_send, &mut hello_recv).await;
    if begun {
        tracing::debug!(peer = %link.session, address = %link.remote, dialled = link.ours, "connected");
        inner.tell(Event::Connected(link.session.clone())).await;
        receive(&inner, &link).await;
    }

    let reason = link.connection.closed().await;
    helpers.shutdown().await;
    inner.registry.remove(&link);
    if begun {
        tracing::debug!(peer = %link.session, %reason, "disconnected");
        inner.tell(Event::Disconnected(link.session.clone())).await;
    }
}

/// The last steps of the hello; returns whether both sides count on the connection.
///
/// So of two connections dialled at the same time the one that gives way never begins, and no frame
/// is lost with it.
async fn finish_hello(
    inner: &Inner,
    link: &Link,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> bool {
    let steps = async {
        if !link.ours {
            return hello::write_accepted(send).await.map(|()| true);
        }
        hello::write_confirm(send).await?;
        hello::read_accepted(recv).await?;
        Ok(inner.registry.accepted(link))
    };
    match tokio::time::timeout(ACCEPTED_TIMEOUT, steps).await {
        Ok(Ok(stands)) => stands,
        Ok(Err(failure)) => {
            link.close(CODE_PROTOCOL, &failure.to_string());
            false
        }
        Err(_) => {
            link.close(CODE_PROTOCOL, "the hello was not finished in time");
            false
        }
    }
}

/// The reading end of a link's queue. Counts what is lost with its connection, also when the task
/// that holds it is stopped.
struct Outgoing {
    inner: Arc<Inner>,
    queue: mpsc::Receiver<(Channel, Bytes)>,
    /// The message being written.
    current: Option<Channel>,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.queue.close();
        let waiting = std::iter::from_fn(|| self.queue.try_recv().ok()).map(|(channel, _)| channel);
        let lost = self.current.into_iter().chain(waiting).filter(|c| *c == Channel::Frame).count();
        self.inner.counters.dropped_disconnected.add(lost as u64);
    }
}

/// Sends queued messages, one stream each, in their order.
async fn write_queue(mut outgoing: Outgoing, link: Arc<Link>) {
    while let Some((channel, message)) = outgoing.queue.recv().await {
        outgoing.current = Some(channel);
        link.queued_bytes.fetch_sub(message.len(), Ordering::Relaxed);
        if write_message(&link.connection, channel, message).await.is_err() {
            return;
        }
        outgoing.current = None;
    }
}

async fn write_message(
    connection: &Connection,
    channel: Channel,
    message: Bytes,
) -> Result<(), quinn::WriteError> {
    let mut stream = connection.open_uni().await?;
    let first: &'static [u8] = match channel {
        Channel::Frame => &[Channel::Frame as u8],
        Channel::Membership => &[Channel::Membership as u8],
    };
    stream.write_all_chunks(&mut [Bytes::from_static(first), message]).await?;
    // Fails only if the stream was finished before.
    let _ = stream.finish();
    Ok(())
}

/// Notes when nothing has been heard for a while.
async fn watch_silence(inner: Arc<Inner>, link: Arc<Link>) {
    let heard = || link.connection.stats().udp_rx.datagrams;
    let (mut count, mut at, mut silent) = (heard(), Instant::now(), false);
    loop {
        tokio::time::sleep(SILENCE_CHECK).await;
        let (now, latest) = (Instant::now(), heard());
        if latest != count {
            (count, at) = (latest, now);
        }
        if silent != (now - at >= SILENT_AFTER) {
            silent = !silent;
            inner.registry.set_silent(&link, silent);
        }
    }
}

/// Delivers messages until the connection ends. Each stream has its own task, so that one that
/// stalls holds up no other. QUIC lets a peer open the next stream as soon as one was read, also while its
/// message still waits for the engine: so no more are accepted while so many are held, and those after
/// them wait within QUIC's windows. A slow way may have some given up; a peer of which nothing else comes
/// only holds our memory.
async fn receive(inner: &Arc<Inner>, link: &Arc<Link>) {
    let mut streams = JoinSet::new();
    let mut given_up = 0;
    loop {
        tokio::select! {
            stream = link.connection.accept_uni(), if streams.len() < STREAMS_MAX as usize => match stream {
                Ok(stream) => {
                    streams.spawn(read_stream(inner.clone(), link.clone(), stream));
                }
                Err(_) => break,
            },
            datagram = link.connection.read_datagram() => match datagram {
                Ok(datagram) => deliver_datagram(inner, link, &datagram),
                Err(_) => break,
            },
            Some(read) = streams.join_next() => match read {
                Ok(Read::Whole) => given_up = 0,
                Ok(Read::GivenUp) => given_up += 1,
                Err(_) => {}
            },
        }
        if given_up >= GIVEN_UP_MAX {
            link.close(CODE_PROTOCOL, "too many messages that do not end");
            break;
        }
    }
    // What has arrived whole is not delivered any more: after `Disconnected` nothing may follow.
    streams.shutdown().await;
}

/// What became of a stream.
enum Read {
    /// It came to its end: well, too long, or broken off by its sender.
    Whole,
    /// It took too long.
    GivenUp,
}

async fn read_stream(inner: Arc<Inner>, link: Arc<Link>, mut stream: RecvStream) -> Read {
    // Its time begins when it is read: that others take the room is no fault of this peer's.
    let mut held = inner.received.room(&link.own_room).await;
    let read = tokio::time::timeout(READ_TIMEOUT, read_whole(&mut stream, &mut held)).await;
    // Dropping the stream tells the peer to stop.
    match read {
        Ok(Ok(Some(message))) => {
            held.settle();
            deliver(&inner, &link, &message, held).await;
        }
        Ok(Ok(None)) => {
            drop(held);
            unreadable(&inner, &link).await;
        }
        // Broken off, with its connection mostly.
        Ok(Err(_)) => inner.counters.dropped_malformed.add(1),
        Err(_) => {
            inner.counters.dropped_malformed.add(1);
            return Read::GivenUp;
        }
    }
    Read::Whole
}

/// A message to its end; `None` if it is too long.
///
/// What comes is copied, since a piece of a datagram keeps all that came with it: so what is counted is what
/// is kept, or at least half of it while a message comes in several pieces.
async fn read_whole(stream: &mut RecvStream, held: &mut Held) -> Result<Option<Bytes>, ReadError> {
    let mut message = Vec::new();
    while let Some(chunk) = stream.read_chunk(MESSAGE_BYTES_MAX, true).await? {
        if message.len() + chunk.bytes.len() > MESSAGE_BYTES_MAX {
            return Ok(None);
        }
        held.add(chunk.bytes.len());
        message.extend_from_slice(&chunk.bytes);
    }
    message.shrink_to_fit();
    Ok(Some(message.into()))
}

async fn deliver(inner: &Inner, link: &Link, message: &Bytes, held: Held) {
    match message.first().copied().and_then(Channel::from_byte) {
        Some(Channel::Frame) => {
            let bytes = message.slice(1..);
            inner.counters.frames_received.add(1);
            inner.counters.bytes_received.add(bytes.len() as u64);
            let frame = Event::Frame { from: link.session.clone(), bytes };
            inner.tell_holding(frame, Some(held)).await;
        }
        Some(Channel::Membership) => {
            // It has room of its own.
            drop(held);
            inner.deliver_membership(link, &message[1..]);
        }
        None => {
            drop(held);
            unreadable(inner, link).await;
        }
    }
}

/// A message that no node of ours sends.
async fn unreadable(inner: &Inner, link: &Link) {
    inner.counters.dropped_malformed.add(1);
    inner.tell(Event::Unreadable(link.session.clone())).await;
}

fn deliver_datagram(inner: &Inner, link: &Link, datagram: &Bytes) {
    if datagram.first().copied() == Some(Channel::Membership as u8) {
        inner.deliver_membership(link, &datagram[1..]);
    } else {
        inner.counters.dropped_malformed.add(1);
    }
}

/// Closes a connection that is not needed, but leaves the first word to the peer, which will find
/// out by itself: so the peer never sees itself without a connection.
pub(super) async fn close_late(link: Arc<Link>) {
    let _ = tokio::time::timeout(CLOSE_LATE, link.connection.closed()).await;
    link.close(CODE_SUPERSEDED, "there is another connection");
}
