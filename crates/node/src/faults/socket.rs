//! A UDP socket for QUIC that obeys the table of faults.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use parking_lot::Mutex;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::{sync::Notify, time::Instant};

use super::{
    Fate, Faults,
    queue::{Datagram, DelayQueue},
};

/// Wraps QUIC's socket; only what is sent is touched.
///
/// One datagram per transmit: the default of `max_transmit_segments` is kept, so nothing has to be
/// taken apart here.
pub(crate) struct FaultySocket {
    inner: Arc<dyn AsyncUdpSocket>,
    faults: Arc<Faults>,
    delayed: Arc<Delayed>,
}

/// What the socket shares with the task that releases datagrams.
#[derive(Default)]
struct Delayed {
    queue: Mutex<DelayQueue>,
    /// The next due time moved forward, or the socket was closed.
    changed: Notify,
    closed: AtomicBool,
}

impl FaultySocket {
    /// Wraps `inner` and starts the task that releases what is delayed; it ends when the socket is
    /// dropped and all is released. Must be called within a runtime.
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, faults: Arc<Faults>) -> Self {
        let delayed = Arc::new(Delayed::default());
        tokio::spawn(release(inner.clone(), faults.clone(), delayed.clone()));
        Self { inner, faults, delayed }
    }

    fn delay(&self, delay: std::time::Duration, transmit: &Transmit<'_>) {
        let datagram = Datagram {
            to: transmit.destination,
            contents: transmit.contents.to_vec(),
            ecn: transmit.ecn,
            src_ip: transmit.src_ip,
        };
        let bytes = datagram.contents.len();
        let mut queue = self.delayed.queue.lock();
        let before = queue.next_due();
        if !queue.push(Instant::now(), delay, datagram) {
            self.faults.count_full();
            return;
        }
        // While the queue is locked: nobody can have taken it out before it is counted.
        self.faults.delayed_bytes.fetch_add(bytes, Ordering::Relaxed);
        if queue.next_due() != before {
            self.delayed.changed.notify_one();
        }
    }
}

impl Drop for FaultySocket {
    fn drop(&mut self) {
        self.delayed.closed.store(true, Ordering::Release);
        self.delayed.changed.notify_one();
    }
}

impl fmt::Debug for FaultySocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultySocket").field(&self.inner).finish()
    }
}

impl AsyncUdpSocket for FaultySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.faults.fate(transmit.destination) {
            Fate::Send => return self.inner.try_send(transmit),
            Fate::Delay(delay) => self.delay(delay, transmit),
            Fate::Drop => {}
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Sends datagrams when they are due, in their order.
async fn release(inner: Arc<dyn AsyncUdpSocket>, faults: Arc<Faults>, delayed: Arc<Delayed>) {
    let mut poller = inner.clone().create_io_poller();
    loop {
        let due = delayed.queue.lock().next_due();
        match due {
            Some(due) => tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = delayed.changed.notified() => continue,
            },
            None if delayed.closed.load(Ordering::Acquire) => return,
            None => {
                delayed.changed.notified().await;
                continue;
            }
        }
        loop {
            let next = delayed.queue.lock().pop_due(Instant::now());
            let Some(datagram) = next else { break };
            if faults.may_leave(datagram.to) {
                send(&inner, &mut poller, &datagram).await;
            }
            faults.delayed_bytes.fetch_sub(datagram.contents.len(), Ordering::Relaxed);
        }
    }
}

/// Sends one datagram, waiting while the socket's buffer is full. Other errors lose the datagram,
/// as a network may.
async fn send(
    inner: &Arc<dyn AsyncUdpSocket>,
    poller: &mut Pin<Box<dyn UdpPoller>>,
    datagram: &Datagram,
) {
    let transmit = Transmit {
        destination: datagram.to,
        ecn: datagram.ecn,
        contents: &datagram.contents,
        segment_size: None,
        src_ip: datagram.src_ip,
    };
    while let Err(error) = inner.try_send(&transmit) {
        if error.kind() != io::ErrorKind::WouldBlock {
            tracing::debug!(to = %datagram.to, %error, "a delayed datagram could not be sent");
            return;
        }
        if std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.is_err() {
            return;
        }
    }
}
