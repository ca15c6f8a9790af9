//! chitchat's messages over our connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use chitchat::{ChitchatMessage, Serializable};
use parking_lot::Mutex;
use tidegate_core::ids::Session;
use tokio::sync::Notify;

use super::message::{self, Refused, UNPACKED_MAX};
use crate::transport::{Gossiped, Inbox, Transport};

/// How many bytes of messages, unpacked, are taken between two looks at what chitchat holds of them. That is
/// twenty times what comes of a thousand members; more waits where it came in.
pub(super) const TAKEN_MAX: usize = 4 * UNPACKED_MAX;

/// Whose message chitchat has in hand. It takes one after the other: if it dies, that one has killed it.
#[derive(Clone, Default)]
pub(super) struct InHand(Arc<Mutex<Option<Session>>>);

impl InHand {
    fn set(&self, whose: Option<Session>) {
        *self.0.lock() = whose;
    }

    /// Who killed it, if a message did.
    pub(super) fn take(&self) -> Option<Session> {
        self.0.lock().take()
    }
}

/// How much was taken since what chitchat holds was looked at last: it must not grow far beyond its bound
/// before that is seen.
#[derive(Clone, Default)]
pub(super) struct Taken(Arc<(AtomicUsize, Notify)>);

impl Taken {
    pub(super) fn add(&self, bytes: usize) {
        self.0.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It was looked at: more may be taken.
    pub(super) fn reset(&self) {
        let (bytes, room) = &*self.0;
        bytes.store(0, Ordering::Relaxed);
        room.notify_one();
    }

    async fn until_there_is_room(&self) {
        let (bytes, room) = &*self.0;
        while bytes.load(Ordering::Relaxed) >= TAKEN_MAX {
            room.notified().await;
        }
    }
}

/// chitchat's idea of a network, over ours.
pub(super) struct OverTransport {
    pub(super) transport: Transport,
    pub(super) in_hand: InHand,
    pub(super) taken: Taken,
}

/// chitchat's idea of a socket. Neither method ever fails: an error would end the gossip.
struct Socket {
    transport: Transport,
    messages: Inbox<Gossiped>,
    in_hand: InHand,
    taken: Taken,
}

#[async_trait]
impl chitchat::transport::Transport for OverTransport {
    async fn open(
        &self,
        _listen: SocketAddr,
    ) -> anyhow::Result<Box<dyn chitchat::transport::Socket>> {
        let messages = self.transport.membership_messages();
        let (transport, in_hand) = (self.transport.clone(), self.in_hand.clone());
        Ok(Box::new(Socket { transport, messages, in_hand, taken: self.taken.clone() }))
    }
}

#[async_trait]
impl chitchat::transport::Socket for Socket {
    /// Only queues. Who is not connected does not get the message; gossip repeats itself.
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        // Whatever it had in hand it has survived: it answers.
        self.in_hand.set(None);
        let bytes = message.serialize_to_vec();
        // Who was just told too much must not be accused for passing it on.
        if let Err(Refused::Large) = message::unpacked(&bytes) {
            tracing::warn!(%to, "a gossip message is not sent: it unpacks to more than {UNPACKED_MAX} bytes");
            return Ok(());
        }
        let _ = self.transport.send_membership(to, bytes.into());
        Ok(())
    }

    /// Losing this future loses no message that can be read: nothing is awaited once one is taken.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        // Whatever it had in hand it has survived.
        self.in_hand.set(None);
        loop {
            self.taken.until_there_is_room().await;
            let Some(Gossiped { from, address, bytes }) = self.messages.recv().await else {
                // Another socket was opened instead of this one.
                anyhow::bail!("the socket was replaced");
            };
            match message::read(&bytes) {
                Ok((message, unpacked)) => {
                    self.taken.add(bytes.len() + unpacked);
                    self.in_hand.set(Some(from));
                    return Ok((address, message));
                }
                Err(error) => {
                    tracing::warn!(from = %address, %error, "a gossip message is not read");
                    self.transport.accuse(from).await;
                }
            }
        }
    }
}
