//! chitchat's messages over our connections.

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use tokio::sync::mpsc;

use crate::transport::Transport;

/// chitchat's idea of a network, over ours.
pub(super) struct OverTransport(pub(super) Transport);

/// chitchat's idea of a socket. Neither method ever fails: an error would end the gossip.
struct Socket {
    transport: Transport,
    messages: mpsc::Receiver<(SocketAddr, Bytes)>,
}

#[async_trait]
impl chitchat::transport::Transport for OverTransport {
    async fn open(
        &self,
        _listen: SocketAddr,
    ) -> anyhow::Result<Box<dyn chitchat::transport::Socket>> {
        let messages = self.0.membership_messages();
        Ok(Box::new(Socket { transport: self.0.clone(), messages }))
    }
}

#[async_trait]
impl chitchat::transport::Socket for Socket {
    /// Only queues. Who is not connected does not get the message; gossip repeats itself.
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let _ = self.transport.send_membership(to, message.serialize_to_vec().into());
        Ok(())
    }

    /// Losing this future loses no message: nothing is awaited once one is taken.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let Some((from, bytes)) = self.messages.recv().await else {
                // Another socket was opened instead of this one.
                anyhow::bail!("the socket was replaced");
            };
            match ChitchatMessage::deserialize(&mut &bytes[..]) {
                Ok(message) => return Ok((from, message)),
                Err(error) => tracing::warn!(%from, %error, "a gossip message cannot be parsed"),
            }
        }
    }
}
