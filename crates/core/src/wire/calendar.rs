//! Windows that have no length: what a section of slots or rights is wrapped in whose labels are days, weeks or
//! months of a time zone.

use alloc::string::String;

use bincode::{Decode, Encode};

use super::frame::FrameError;
use crate::time::{Span, Unit, Window, Zone};

/// The most bytes that a section has beside what it wraps: its kind and length twice, the unit, and the longest name
/// of a zone.
pub(crate) const WRAPPING_BYTES_MAX: usize = 48;

/// A unit of the calendar in a time zone, which goes by its name: releases may number zones differently.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Calendar {
    /// 1: day, 2: week, 3: month.
    pub(crate) unit: u8,
    pub(crate) zone: String,
}

impl Calendar {
    /// What a window is told by, if it has no length.
    pub(super) fn of(window: Window) -> Option<Self> {
        let (unit, zone) = window.unit()?;
        let unit = match unit {
            Unit::Day => 1,
            Unit::Week => 2,
            Unit::Month => 3,
        };
        Some(Self { unit, zone: zone.name().into() })
    }

    /// The window; `None` if this release knows no such unit or zone.
    fn window(&self) -> Option<Window> {
        let unit = match self.unit {
            1 => Unit::Day,
            2 => Unit::Week,
            3 => Unit::Month,
            _ => return None,
        };
        Some(Window::calendar(unit, Zone::named(&self.zone)?))
    }

    /// Bytes held beside itself.
    pub(super) fn memory_bytes(&self) -> usize {
        self.zone.capacity()
    }
}

/// What a section of slots or rights says of its window: the length in µs, 0 if it is wrapped in a calendar.
pub(crate) fn micros_of(window: Window) -> u64 {
    window.length().map_or(0, |length| length.0)
}

/// The window of a section: of that many µs, or the one of the calendar that it is wrapped in. `None` if that is one
/// that this release does not know: then the section is skipped, as one of another kind is.
pub(crate) fn window_of(
    calendar: Option<&Calendar>,
    micros: u64,
) -> Result<Option<Window>, FrameError> {
    match calendar {
        None => Window::new(Span(micros)).map(Some).ok_or(FrameError::Unsound),
        Some(_) if micros != 0 => Err(FrameError::Unsound),
        Some(calendar) => Ok(calendar.window()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec;

    #[test]
    fn a_window_survives_being_told() {
        let zone = Zone::named("Asia/Kathmandu").expect("a zone");
        for unit in Unit::ALL {
            let window = Window::calendar(unit, zone);
            let told = Calendar::of(window).expect("a calendar's");
            assert_eq!(window_of(Some(&told), micros_of(window)), Ok(Some(window)));
        }
        let hour = Window::new(Span::secs(3_600)).expect("in range");
        assert_eq!(Calendar::of(hour), None);
        assert_eq!(window_of(None, micros_of(hour)), Ok(Some(hour)));
    }

    #[test]
    fn what_this_release_does_not_know_is_no_window() {
        let calendar = |unit, zone: &str| Calendar { unit, zone: zone.into() };
        for unknown in [calendar(0, "UTC"), calendar(4, "UTC"), calendar(1, "Moon/Tranquility")] {
            assert_eq!(window_of(Some(&unknown), 0), Ok(None), "{unknown:?}");
        }
    }

    #[test]
    fn a_window_that_cannot_be_is_unsound() {
        let day = Calendar { unit: 1, zone: "UTC".into() };
        assert_eq!(window_of(None, 0), Err(FrameError::Unsound));
        assert_eq!(window_of(None, u64::MAX), Err(FrameError::Unsound));
        assert_eq!(window_of(Some(&day), 1), Err(FrameError::Unsound));
    }

    #[test]
    fn every_zone_fits_where_it_is_wrapped() {
        for zone in Zone::names() {
            let window = Window::calendar(Unit::Day, Zone::named(zone).expect("a zone"));
            let mut bytes = alloc::vec::Vec::new();
            codec::encode(&Calendar::of(window), &mut bytes);
            // Both kinds, and two lengths of which a frame's is three bytes at most.
            assert!(bytes.len() + 2 + 2 * 3 <= WRAPPING_BYTES_MAX, "{zone}");
        }
    }
}
