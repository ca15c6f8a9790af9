//! The bytes of everything that travels: bincode 2, with a limit, in this one file.
//!
//! bincode is no longer developed. Whoever replaces it changes this file and the version byte.

use alloc::vec::Vec;

use bincode::{
    Decode, Encode,
    config::{Configuration, Limit, LittleEndian, Varint},
};

/// The most bytes that a frame may have.
pub const FRAME_BYTES_MAX: usize = 65_536;

/// Little-endian, varint; a reader never claims more memory than a frame has bytes.
const CONFIG: Configuration<LittleEndian, Varint, Limit<FRAME_BYTES_MAX>> =
    bincode::config::standard().with_limit::<FRAME_BYTES_MAX>();

/// Bytes that do not say what they should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Appends `value`.
pub(super) fn encode<T: Encode>(value: &T, to: &mut Vec<u8>) {
    // Our own types hold only what bincode can write; writing to a vector cannot fail.
    let bytes = bincode::encode_to_vec(value, CONFIG).expect("plain data can be encoded");
    to.extend_from_slice(&bytes);
}

/// Reads one value and returns it with the bytes behind it.
pub(super) fn decode<T: Decode<()>>(from: &[u8]) -> Result<(T, &[u8]), Malformed> {
    let (value, used) = bincode::decode_from_slice(from, CONFIG).map_err(|_| Malformed)?;
    Ok((value, from.get(used..).ok_or(Malformed)?))
}

/// Reads one value that fills `from` exactly.
pub(super) fn decode_all<T: Decode<()>>(from: &[u8]) -> Result<T, Malformed> {
    match decode(from)? {
        (value, []) => Ok(value),
        _ => Err(Malformed),
    }
}
