//! What a node says of itself when it meets another one.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use core::net::SocketAddr;

use bincode::{Decode, Encode};

use super::codec;
use crate::ids::{BadName, Boot, NodeId, Session};

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Which run of which node it is.
    pub session: Session,
    /// Where it can be dialled.
    pub advertise: SocketAddr,
}

/// A hello that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not the bytes of a hello.
    #[error("the hello's bytes are malformed")]
    Malformed,
    /// A region or node with an impossible name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// What should be an address is none.
    #[error("`{0}` is not an address with a port")]
    Address(String),
}

#[derive(Encode, Decode)]
struct Body {
    region: String,
    node: String,
    boot: u64,
    advertise: String,
}

impl Hello {
    /// Its bytes; at most 256, since names are at most 63 bytes long.
    pub fn encode(&self) -> Vec<u8> {
        let body = Body {
            region: self.session.id.region.to_string(),
            node: self.session.id.node.to_string(),
            boot: self.session.boot.0,
            advertise: self.advertise.to_string(),
        };
        let mut bytes = Vec::new();
        codec::encode(&body, &mut bytes);
        bytes
    }

    /// The hello that these bytes are, all of them.
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let body: Body = codec::decode_all(bytes).map_err(|_| HelloError::Malformed)?;
        let id = NodeId::new(&body.region, &body.node)?;
        let advertise = body.advertise.parse().map_err(|_| HelloError::Address(body.advertise))?;
        Ok(Self { session: Session { id, boot: Boot(body.boot) }, advertise })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn hello() -> Hello {
        let id = NodeId::new(&"r".repeat(63), &"n".repeat(63)).expect("names");
        let advertise = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().expect("one");
        Hello { session: Session { id, boot: Boot(u64::MAX) }, advertise }
    }

    #[test]
    fn a_hello_survives_its_bytes_and_is_short() {
        let bytes = hello().encode();
        assert_eq!(Hello::decode(&bytes), Ok(hello()));
        assert!(bytes.len() <= 256, "{}", bytes.len());
    }

    #[test]
    fn what_follows_a_hello_is_not_passed_over() {
        let mut bytes = hello().encode();
        bytes.push(0);
        assert_eq!(Hello::decode(&bytes), Err(HelloError::Malformed));
    }

    #[test]
    fn impossible_names_and_addresses_are_told() {
        let mut bytes = vec![];
        let body = |region: &str, advertise: &str| Body {
            region: region.into(),
            node: "n".into(),
            boot: 1,
            advertise: advertise.into(),
        };
        codec::encode(&body("r/2", "127.0.0.1:1"), &mut bytes);
        assert!(matches!(Hello::decode(&bytes), Err(HelloError::Name(_))));
        bytes.clear();
        codec::encode(&body("r", "127.0.0.1"), &mut bytes);
        assert!(matches!(Hello::decode(&bytes), Err(HelloError::Address(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Hello::decode(&bytes);
        }
    }
}
