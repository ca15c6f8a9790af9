//! What nodes say to each other: frames, and the one place that knows their bytes.
//!
//! ```text
//! frame    = version (1 byte) · header · section*
//! section  = kind (1 byte) · length (varint) · payload
//! ```
//!
//! A reader skips sections of a kind it does not know, so that a later version can add some. Every
//! length is limited, and reading arbitrary bytes gives an error at worst.

pub(crate) use calendar::{Calendar, WRAPPING_BYTES_MAX, micros_of, window_of};
pub use codec::FRAME_BYTES_MAX;
pub use frame::FrameError;
pub(crate) use frame::{
    Ask, ClockReading, ConfigReading, Digests, Echo, Frame, Header, Heard, HeardEntry, Rights,
    RightsEntry, Section, SlotEntry, Slots, Speaker, StoreClock, WalkEnd, stamp_of,
};
pub use hello::{Hello, HelloError};

mod calendar;
mod codec;
mod frame;
mod hello;
#[cfg(test)]
mod tests;
