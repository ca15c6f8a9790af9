//! Stands between a node and its Redis: the same address leads to another server, or becomes a far one.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::{self, Instant},
};

/// Chunks of answers that are on their way at a time; a connection that has more waits.
const CHUNKS_MAX: usize = 4_096;

/// An address that leads elsewhere; it leads nowhere once this is dropped.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    /// The port that it leads to.
    to: watch::Sender<u16>,
    delay_ms: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Forwarder {
    /// An address that leads to this port of the loopback.
    pub async fn start(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (to, target) = watch::channel(port);
        let delay_ms = Arc::new(AtomicU64::new(0));
        let delay = Arc::clone(&delay_ms);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, target.clone(), Arc::clone(&delay)));
            }
        });
        Ok(Self { address, to, delay_ms, task })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Leads to another port from now on; connections end.
    pub fn lead_to(&self, port: u16) {
        self.to.send_replace(port);
    }

    /// Delivers answers so much later from now on.
    pub fn delay(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).expect("a short time");
        self.delay_ms.store(ms, Ordering::Relaxed);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(client: TcpStream, mut target: watch::Receiver<u16>, delay_ms: Arc<AtomicU64>) {
    let port = *target.borrow_and_update();
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let at_once = AtomicU64::new(0);
    tokio::select! {
        () = copy(from_client, to_server, &at_once) => {}
        () = copy(from_server, to_client, &delay_ms) => {}
        _ = target.changed() => {}
    }
}

/// Each chunk comes out as much later as the delay was when it came in, and in order.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay_ms: &AtomicU64) {
    let (sender, mut chunks) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let read = async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let delay = Duration::from_millis(delay_ms.load(Ordering::Relaxed));
            let chunk = (Instant::now() + delay, buffer[..length].to_vec());
            if sender.send(chunk).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = chunks.recv().await {
            time::sleep_until(due).await;
            if to.write_all(&chunk).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(read, write);
}
