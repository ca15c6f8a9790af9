//! The connections of one listener: how many there may be, and how long one may keep its place without
//! asking anything.
//!
//! A client that sends a request's head byte by byte, asks nothing at all or reads no answers holds a
//! place that others need. So each connection is looked at every few seconds. That costs a request two
//! increments; a timer that is set anew for each head would cost it an allocation.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{Request, Response, Version},
};
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{self, Instant, MissedTickBehavior},
};
use tower::Service as _;

use super::{
    front::{Front, Identified},
    refuse::Refusals,
};

/// How often a connection is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// At how many looks a request's head, or the first request of a connection, may still be awaited.
const HEAD_LOOKS: u32 = 2;
/// At how many looks in a row nothing may have happened.
const IDLE_LOOKS: u32 = 15;
/// What a connection in HTTP/1 may keep of what was read and not yet taken, and of answers that wait to be
/// written, in bytes each. A request's head fits into it or is answered with 431: the longest query that a
/// check may have, each of its bytes escaped, takes 55,360.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// How many requests may be under way on a connection in HTTP/2. No fewer, says RFC 9113, 5.1.2.
const STREAMS_MAX: u32 = 100;
/// The longest head of a request in HTTP/2, in bytes, 32 more for each of its fields; beyond it, 431. It is
/// less than in HTTP/1, since each of a connection's requests has one.
const HEAD_BYTES_MAX: u32 = 16 << 10;
/// The longest frame that is taken in HTTP/2, in bytes: the shortest bound that it knows.
const FRAME_BYTES_MAX: u32 = 16 << 10;
/// How many bytes of bodies may have come by one connection in HTTP/2 and not be read yet, whatever number
/// of requests they belong to; the client waits.
const CONNECTION_WINDOW: u32 = 256 << 10;
/// How many of these may belong to one request.
const STREAM_WINDOW: u32 = 64 << 10;
/// How many bytes of one answer may be handed to a connection in HTTP/2 that its client does not take yet.
const SEND_BYTES_MAX: usize = 64 << 10;
/// The pause after the system could not accept a connection, for want of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections of one listener: their bound, and what became of them.
#[derive(Debug)]
pub struct Connections {
    places: Arc<Semaphore>,
    max: usize,
    look_every: Duration,
    refusals: Refusals,
    refused: AtomicU64,
    stalled: AtomicU64,
}

/// Numbers about a listener's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionStats {
    /// Open now.
    pub open: u64,
    /// Refused since the start, because as many as may be were open.
    pub refused: u64,
    /// Closed since the start, because a request's head did not come to its end in time.
    pub stalled: u64,
}

impl Connections {
    /// A bound of `max` connections, 1 or more.
    pub fn new(max: usize) -> Arc<Self> {
        Self::looked_at_every(LOOK_EVERY, max)
    }

    pub(crate) fn looked_at_every(look_every: Duration, max: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(max)),
            max,
            look_every,
            refusals: Refusals::new(),
            refused: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
        })
    }

    /// What became of them so far.
    pub fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            open: self.max.saturating_sub(self.places.available_permits()) as u64,
            refused: self.refused.load(Relaxed),
            stalled: self.stalled.load(Relaxed),
        }
    }
}

/// Accepts connections until `shutdown` completes, then ends once all requests are answered.
pub(crate) async fn serve(
    listener: TcpListener,
    front: Front,
    connections: Arc<Connections>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    // Every connection holds a receiver: it hears of the end, and is waited for.
    let (stopping, _) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener) => accepted,
        };
        match connections.places.clone().try_acquire_owned() {
            Ok(place) => {
                let front = front.for_peer(peer.ip());
                let connection = converse(stream, front, connections.clone(), stopping.subscribe());
                tokio::spawn(hold(place, connection));
            }
            Err(_) => {
                connections.refused.fetch_add(1, Relaxed);
                connections.refusals.refuse(stream);
            }
        }
    }
    drop(listener);
    stopping.send_replace(true);
    stopping.closed().await;
    Ok(())
}

/// The next connection. Errors are told and waited out: the listener itself does not break.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it, an answer may wait for the acknowledgement of the one before.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY on a connection");
                }
                return (stream, peer);
            }
            // One client that went away before it was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections: does `ulimit -n` allow enough?");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn hold(place: OwnedSemaphorePermit, connection: impl Future<Output = ()>) {
    connection.await;
    drop(place);
}

/// What speaks HTTP, with bounds of ours: those that it comes with change with its releases. The number of
/// fields in a head of HTTP/1 stays at its 100, which it has room for without an allocation.
fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(BUFFER_BYTES_MAX);
    builder
        .http2()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BYTES_MAX);
    builder
}

/// Answers one connection's requests until it ends, stalls or is told to stop.
async fn converse(
    stream: TcpStream,
    front: Front,
    connections: Arc<Connections>,
    mut stopping: watch::Receiver<bool>,
) {
    let progress = Arc::new(Progress::default());
    let io = Counted { io: TokioIo::new(stream), progress: progress.clone() };
    let service = Counting { front, progress: progress.clone() };
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(io, service));
    let stop = async {
        // Without a sender there is nobody left to serve for.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let mut stop = pin!(stop);
    let every = connections.look_every;
    let mut look = time::interval_at(Instant::now() + every, every);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ending = false;
    let mut watched = Watched::default();
    loop {
        tokio::select! {
            biased;
            // How it ended, only the client could tell.
            _ = connection.as_mut() => return,
            () = &mut stop, if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = look.tick() => match watched.look(&progress) {
                Finding::Alive => {}
                Finding::Stalled => {
                    connections.stalled.fetch_add(1, Relaxed);
                    return;
                }
                Finding::Idle if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                // It was asked to end, and then nothing happened for as long again.
                Finding::Idle => return,
            }
        }
    }
}

/// What has happened on a connection since its beginning.
#[derive(Debug, Default)]
struct Progress {
    /// Times that bytes came.
    reads: AtomicU32,
    /// How many of these had been when the newest answer was ready.
    reads_answered: AtomicU32,
    /// Requests whose head came.
    asked: AtomicU32,
    /// Requests that were answered or given up.
    answered: AtomicU32,
    /// The client speaks HTTP/2, where bytes come between requests too.
    multiplexed: AtomicBool,
}

/// What one look at a connection finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    Alive,
    /// A request's head has begun and does not come to its end, or none came at all.
    Stalled,
    /// Nothing has happened for long.
    Idle,
}

/// What the last look saw, and since how many looks nothing is done.
#[derive(Debug, Default)]
struct Watched {
    asked: u32,
    answered: u32,
    idle: u32,
    stalled: u32,
}

impl Watched {
    fn look(&mut self, progress: &Progress) -> Finding {
        let load = |counter: &AtomicU32| counter.load(Relaxed);
        let (asked, answered) = (load(&progress.asked), load(&progress.answered));
        if (asked, answered) != (self.asked, self.answered) {
            *self = Self { asked, answered, idle: 0, stalled: 0 };
            return Finding::Alive;
        }
        self.idle += 1;
        let waits_for_us = asked != answered;
        let came = load(&progress.reads) != load(&progress.reads_answered);
        let begun = came && !progress.multiplexed.load(Relaxed);
        if !waits_for_us && (asked == 0 || begun) {
            self.stalled += 1;
        }
        if self.stalled >= HEAD_LOOKS {
            Finding::Stalled
        } else if self.idle >= IDLE_LOOKS {
            self.idle = 0;
            Finding::Idle
        } else {
            Finding::Alive
        }
    }
}

/// A connection's service, which counts its requests.
struct Counting {
    front: Front,
    progress: Arc<Progress>,
}

impl hyper::service::Service<Request<Incoming>> for Counting {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = UnderWay;

    fn call(&self, request: Request<Incoming>) -> UnderWay {
        if self.progress.asked.fetch_add(1, Relaxed) == 0 && request.version() == Version::HTTP_2 {
            self.progress.multiplexed.store(true, Relaxed);
        }
        let response = self.front.clone().call(request.map(Body::new));
        UnderWay { response, progress: self.progress.clone() }
    }
}

/// A request under way.
struct UnderWay {
    response: Identified,
    progress: Arc<Progress>,
}

impl Future for UnderWay {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.response).poll(cx)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.progress.reads_answered.store(self.progress.reads.load(Relaxed), Relaxed);
        self.progress.answered.fetch_add(1, Relaxed);
    }
}

/// A stream that counts how often something came.
struct Counted {
    io: TokioIo<TcpStream>,
    progress: Arc<Progress>,
}

impl Read for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if read.is_ready() {
            self.progress.reads.fetch_add(1, Relaxed);
        }
        read
    }
}

impl Write for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_does_not_end_is_told_from_silence_and_from_work() {
        let progress = Progress::default();
        let looks = |watched: &mut Watched, n: u32| {
            (0..n).map(|_| watched.look(&progress)).find(|finding| *finding != Finding::Alive)
        };
        // Nothing was ever asked.
        assert_eq!(looks(&mut Watched::default(), HEAD_LOOKS), Some(Finding::Stalled));

        let mut watched = Watched::default();
        progress.asked.store(1, Relaxed);
        assert_eq!(looks(&mut watched, IDLE_LOOKS), None, "we owe an answer");
        progress.answered.store(1, Relaxed);
        assert_eq!(looks(&mut watched, IDLE_LOOKS), None);
        assert_eq!(looks(&mut watched, 1), Some(Finding::Idle));

        progress.reads.store(7, Relaxed);
        assert_eq!(looks(&mut watched, HEAD_LOOKS), Some(Finding::Stalled));
        progress.multiplexed.store(true, Relaxed);
        let mut watched = Watched { asked: 1, answered: 1, ..Watched::default() };
        assert_eq!(looks(&mut watched, HEAD_LOOKS), None, "HTTP/2 speaks between requests");
    }
}
