//! Reads a message of chitchat, unless it unpacks to more than any node has to tell.
//!
//! What is told of runs comes as a stream of blocks, each of which may be packed. chitchat bounds what one
//! block unpacks to, and not what all do: a thousandfold of what was sent. So the blocks are unpacked here
//! first, one after the other into the same place, and only counted.

use chitchat::{ChitchatId, ChitchatMessage, Deserializable};

/// How many bytes the blocks of a message may unpack to. What nodes tell of as many members as there may be,
/// all with the longest names, is half of it.
pub(super) const UNPACKED_MAX: usize = 1024 * 1024;
/// What chitchat lets one block unpack to.
const BLOCK_MAX: usize = u16::MAX as usize;
/// What chitchat says of a run beside its name: its heartbeat and two versions.
const DIGEST_BYTES: usize = 24;

/// The kinds of messages that bring blocks; the first with a digest of the sender's runs before them.
const SYN_ACK: u8 = 1;
const ACK: u8 = 2;

/// The kinds of blocks.
const NO_MORE: u8 = 0;
const PACKED: u8 = 1;
const PLAIN: u8 = 2;

/// Why a message is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it unpacks to more than {UNPACKED_MAX} bytes")]
    Large,
    #[error("{0:#}")]
    Unreadable(#[from] anyhow::Error),
}

/// The message, and how many bytes its blocks unpacked to.
pub(super) fn read(bytes: &[u8]) -> Result<(ChitchatMessage, usize), Refused> {
    let unpacked = unpacked(bytes)?;
    Ok((ChitchatMessage::deserialize(&mut &*bytes)?, unpacked))
}

/// How many bytes the blocks of a message unpack to, if that is not too many. Of messages that have none it
/// is not said whether they can be read.
pub(super) fn unpacked(mut bytes: &[u8]) -> Result<usize, Refused> {
    let rest = &mut bytes;
    // A magic number and a version.
    <[u8; 3]>::deserialize(rest)?;
    match u8::deserialize(rest)? {
        SYN_ACK => {
            for _ in 0..u16::deserialize(rest)? {
                ChitchatId::deserialize(rest)?;
                <[u8; DIGEST_BYTES]>::deserialize(rest)?;
            }
        }
        ACK => {}
        _ => return Ok(0),
    }
    of_blocks(rest)
}

fn of_blocks(rest: &mut &[u8]) -> Result<usize, Refused> {
    let mut unpacker = zstd::bulk::Decompressor::new().map_err(anyhow::Error::from)?;
    let mut place = vec![0; BLOCK_MAX];
    let mut sum = 0;
    loop {
        let kind = u8::deserialize(rest)?;
        if kind == NO_MORE {
            return Ok(sum);
        }
        let length = u16::deserialize(rest)?.into();
        let Some((block, after)) = rest.split_at_checked(length) else {
            return Err(anyhow::anyhow!("a block is cut off").into());
        };
        *rest = after;
        sum += match kind {
            PACKED => unpacker
                .decompress_to_buffer(block, &mut place[..])
                .map_err(|error| anyhow::anyhow!("a block cannot be unpacked: {error}"))?,
            PLAIN => length,
            _ => return Err(anyhow::anyhow!("{kind} is no kind of block").into()),
        };
        if sum > UNPACKED_MAX {
            return Err(Refused::Large);
        }
    }
}

/// Reads a message, and holds what is found here to what chitchat finds.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(bytes: &[u8]) {
    match unpacked(bytes) {
        Ok(unpacked) => {
            assert!(unpacked <= UNPACKED_MAX);
            let _ = read(bytes);
        }
        Err(Refused::Unreadable(why)) => {
            let read = ChitchatMessage::deserialize(&mut &*bytes);
            assert!(read.is_err(), "chitchat reads what was refused: {why}");
        }
        Err(Refused::Large) => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use chitchat::Serializable as _;

    use super::*;

    /// An `Ack` of these blocks.
    pub(in super::super) fn ack(blocks: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut message = vec![0x53, 0xB0, 0, ACK];
        for (kind, block) in blocks {
            message.push(*kind);
            u16::try_from(block.len()).unwrap().serialize(&mut message);
            message.extend(block);
        }
        message.push(NO_MORE);
        message
    }

    /// A packed block of so many zeros.
    pub(in super::super) fn zeros(many: usize) -> (u8, Vec<u8>) {
        (PACKED, zstd::bulk::compress(&vec![0; many], 0).unwrap())
    }

    /// What is told of a run with one key.
    fn told() -> Vec<u8> {
        let mut told = vec![0];
        ChitchatId::new("eu/eu-0", 1 << 10, ([127, 0, 0, 1], 7946).into()).serialize(&mut told);
        [0_u64, 0].iter().for_each(|version| version.serialize(&mut told));
        told.push(1);
        ["region", "eu"].iter().for_each(|text| text.serialize(&mut told));
        1_u64.serialize(&mut told);
        told.push(0);
        told
    }

    fn is_large(message: &[u8]) -> bool {
        matches!(read(message), Err(Refused::Large))
    }

    #[test]
    fn what_nodes_send_is_read_whether_it_is_packed_or_not() {
        let told = told();
        let packed = zstd::bulk::compress(&told, 0).unwrap();
        let (begin, end) = told.split_at(20);
        let cut = [(PLAIN, begin.to_vec()), (PLAIN, end.to_vec())];
        for blocks in [vec![], vec![(PLAIN, told.clone())], vec![(PACKED, packed)], cut.to_vec()] {
            let message = ack(&blocks);
            assert_eq!(unpacked(&message).unwrap(), if blocks.is_empty() { 0 } else { told.len() });
            assert!(matches!(read(&message), Ok((ChitchatMessage::Ack { .. }, _))));
        }
        // The same behind a digest of one run.
        let mut message = vec![0x53, 0xB0, 0, SYN_ACK, 1, 0];
        ChitchatId::new("us/us-0", 1, "[::1]:7946".parse().unwrap()).serialize(&mut message);
        message.extend([0; DIGEST_BYTES]);
        message.extend(&ack(&[(PLAIN, told.clone())])[4..]);
        assert_eq!(unpacked(&message).unwrap(), told.len());
        assert!(matches!(read(&message), Ok((ChitchatMessage::SynAck { .. }, _))));
        let message = ChitchatMessage::BadCluster.serialize_to_vec();
        assert!(matches!(read(&message), Ok((ChitchatMessage::BadCluster, 0))));
    }

    #[test]
    fn what_unpacks_to_too_much_is_not_read() {
        let full = UNPACKED_MAX / BLOCK_MAX;
        let mut blocks = vec![zeros(BLOCK_MAX); full];
        blocks.push(zeros(UNPACKED_MAX - full * BLOCK_MAX));
        let message = ack(&blocks);
        assert!(message.len() < 1_000, "{}", message.len());
        assert_eq!(unpacked(&message).unwrap(), UNPACKED_MAX);
        blocks.push((PLAIN, vec![0]));
        assert!(is_large(&ack(&blocks)));
        // Neither by many packed pieces in one block, of which only the first says how long it is.
        let piece = zeros(BLOCK_MAX / 4).1;
        assert!(is_large(&ack(&vec![(PACKED, piece.repeat(4)); full + 2])));
        // Where it would be cut off is too late.
        let message = ack(&vec![zeros(BLOCK_MAX); full + 1]);
        assert!(is_large(&message[..message.len() - 1]));
    }

    #[test]
    fn what_cannot_be_read_is_found_here_as_chitchat_finds_it() {
        let told = told();
        let packed = zstd::bulk::compress(&told, 0).unwrap();
        let message = ack(&[(PLAIN, told), (PACKED, packed), zeros(BLOCK_MAX)]);
        for length in 0..message.len() {
            assert!(
                matches!(unpacked(&message[..length]), Err(Refused::Unreadable(_))),
                "{length}"
            );
            fuzz(&message[..length]);
        }
        for at in 0..message.len() {
            for bit in 0..8 {
                let mut other = message.clone();
                other[at] ^= 1 << bit;
                fuzz(&other);
            }
        }
        // A block that unpacks to more than chitchat has room for.
        assert!(matches!(read(&ack(&[zeros(BLOCK_MAX + 1)])), Err(Refused::Unreadable(_))));
    }
}
