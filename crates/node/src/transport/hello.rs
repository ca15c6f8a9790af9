//! How two nodes introduce themselves, on the one bidirectional stream of a connection.
//!
//! ```text
//! dialler                         acceptor
//!    ── hello ───────────────────────▶     checks it
//!    ◀────────────────────── hello ──      (or closes with the reason)
//!    ── confirm ─────────────────────▶     the dialler holds no other connection with this peer,
//!    ◀─────────────────── accepted ──      nor does the acceptor: it begins
//! ```
//!
//! A hello is: length (u16, little-endian) of what follows, protocol (u16, little-endian), body.
//! The body is the core's [`Hello`]; its layout belongs to the protocol's version.

use quinn::{ReadExactError, RecvStream, SendStream};
use tidegate_core::{Hello, HelloError};

use super::refusal::{Failure, Refusal};

/// The version of the protocol between nodes.
pub(super) const PROTOCOL: u16 = 1;
/// The longest hello in bytes: two names of 63, numbers, an address, and room to grow.
const HELLO_MAX: usize = 512;

const CONFIRM: u8 = 1;
const ACCEPTED: u8 = 2;

/// A hello with its length and protocol, ready to be written.
pub(super) fn packed(hello: &Hello) -> Vec<u8> {
    let mut bytes = vec![0; 2];
    bytes.extend(PROTOCOL.to_le_bytes());
    bytes.extend(hello.encode());
    let length = u16::try_from(bytes.len() - 2).expect("a hello has at most 256 bytes");
    bytes[..2].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// Reads what follows the length.
pub(super) fn unpacked(bytes: &[u8]) -> Result<Hello, Failure> {
    let refused = |what: String| Failure::refused(Refusal::Version, format!("its hello {what}"));
    let (protocol, body) =
        bytes.split_first_chunk().ok_or_else(|| refused("is too short".into()))?;
    let protocol = u16::from_le_bytes(*protocol);
    if protocol != PROTOCOL {
        return Err(refused(format!("is of protocol {protocol}, ours is {PROTOCOL}")));
    }
    Hello::decode(body).map_err(|error| match error {
        HelloError::Name(name) => Failure::refused(Refusal::IdentityMismatch, name.to_string()),
        other => refused(format!("cannot be read: {other}")),
    })
}

pub(super) async fn write_hello(stream: &mut SendStream, hello: &Hello) -> Result<(), Failure> {
    write(stream, &packed(hello)).await
}

pub(super) async fn read_hello(stream: &mut RecvStream) -> Result<Hello, Failure> {
    let mut length = [0; 2];
    read(stream, &mut length).await?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > HELLO_MAX {
        let detail = format!("its hello has {length} bytes, more than {HELLO_MAX}");
        return Err(Failure::refused(Refusal::Version, detail));
    }
    let mut bytes = vec![0; length];
    read(stream, &mut bytes).await?;
    unpacked(&bytes)
}

pub(super) async fn write_confirm(stream: &mut SendStream) -> Result<(), Failure> {
    write(stream, &[CONFIRM]).await
}

pub(super) async fn read_confirm(stream: &mut RecvStream) -> Result<(), Failure> {
    read_step(stream, CONFIRM).await
}

pub(super) async fn write_accepted(stream: &mut SendStream) -> Result<(), Failure> {
    write(stream, &[ACCEPTED]).await
}

pub(super) async fn read_accepted(stream: &mut RecvStream) -> Result<(), Failure> {
    read_step(stream, ACCEPTED).await
}

async fn write(stream: &mut SendStream, bytes: &[u8]) -> Result<(), Failure> {
    stream.write_all(bytes).await.map_err(|error| match error {
        quinn::WriteError::ConnectionLost(error) => error.into(),
        other => Failure::Unreachable(other.to_string()),
    })
}

async fn read(stream: &mut RecvStream, bytes: &mut [u8]) -> Result<(), Failure> {
    stream.read_exact(bytes).await.map_err(|error| match error {
        ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error)) => error.into(),
        other => Failure::refused(Refusal::Version, format!("it broke off its hello: {other}")),
    })
}

async fn read_step(stream: &mut RecvStream, expected: u8) -> Result<(), Failure> {
    let mut step = [0];
    read(stream, &mut step).await?;
    if step[0] == expected {
        Ok(())
    } else {
        let detail = format!("it sent step {} of the hello instead of {expected}", step[0]);
        Err(Failure::refused(Refusal::Version, detail))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_core::ids::{Boot, NodeId, Session};

    use super::*;

    fn hello(region: &str, node: &str) -> Hello {
        let session = Session { id: NodeId::new(region, node).unwrap(), boot: Boot(u64::MAX) };
        Hello { session, advertise: "[2001:db8::1]:65535".parse().unwrap() }
    }

    #[test]
    fn a_hello_survives_its_bytes_and_the_longest_fits() {
        let name = "x".repeat(63);
        for hello in [hello("eu", "eu-0"), hello(&name, &name)] {
            let bytes = packed(&hello);
            let (length, rest) = bytes.split_at(2);
            assert_eq!(usize::from(u16::from_le_bytes(length.try_into().unwrap())), rest.len());
            assert!(rest.len() <= HELLO_MAX);
            assert_eq!(unpacked(rest).unwrap(), hello);
        }
    }

    #[test]
    fn another_protocol_is_told_as_such_whatever_its_body() {
        let mut bytes = packed(&hello("eu", "eu-0"))[2..].to_vec();
        bytes[0] = 9;
        let error = unpacked(&bytes).unwrap_err();
        assert!(error.to_string().contains("protocol 9, ours is 1"), "{error}");
    }

    #[test]
    fn bytes_behind_the_body_are_refused() {
        let mut bytes = packed(&hello("eu", "eu-0"))[2..].to_vec();
        bytes.push(0);
        assert!(unpacked(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(
            tail in proptest::collection::vec(any::<u8>(), 0..HELLO_MAX),
        ) {
            let mut bytes = PROTOCOL.to_le_bytes().to_vec();
            bytes.extend(tail);
            let _ = unpacked(&bytes);
        }
    }
}
