//! chitchat's messages over our connections.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use parking_lot::Mutex;
use tidegate_core::ids::Session;

use crate::transport::{Gossiped, Inbox, Transport};

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

/// chitchat's idea of a network, over ours.
pub(super) struct OverTransport {
    pub(super) transport: Transport,
    pub(super) in_hand: InHand,
}

/// chitchat's idea of a socket. Neither method ever fails: an error would end the gossip.
struct Socket {
    transport: Transport,
    messages: Inbox<Gossiped>,
    in_hand: InHand,
}

#[async_trait]
impl chitchat::transport::Transport for OverTransport {
    async fn open(
        &self,
        _listen: SocketAddr,
    ) -> anyhow::Result<Box<dyn chitchat::transport::Socket>> {
        let Self { transport, in_hand } = self;
        let messages = transport.membership_messages();
        let (transport, in_hand) = (transport.clone(), in_hand.clone());
        Ok(Box::new(Socket { transport, messages, in_hand }))
    }
}

#[async_trait]
impl chitchat::transport::Socket for Socket {
    /// Only queues. Who is not connected does not get the message; gossip repeats itself.
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        // Whatever it had in hand it has survived: it answers.
        self.in_hand.set(None);
        let _ = self.transport.send_membership(to, message.serialize_to_vec().into());
        Ok(())
    }

    /// Losing this future loses no message that can be read: nothing is awaited once one is taken.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        // Whatever it had in hand it has survived.
        self.in_hand.set(None);
        loop {
            let Some(Gossiped { from, address, bytes }) = self.messages.recv().await else {
                // Another socket was opened instead of this one.
                anyhow::bail!("the socket was replaced");
            };
            match ChitchatMessage::deserialize(&mut &bytes[..]) {
                Ok(message) => {
                    self.in_hand.set(Some(from));
                    return Ok((address, message));
                }
                Err(error) => {
                    tracing::warn!(from = %address, %error, "a gossip message cannot be parsed");
                    self.transport.accuse(from).await;
                }
            }
        }
    }
}
