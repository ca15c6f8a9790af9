//! What a quantity is counted in: aligned stretches of time, called by integers.

use alloc::{format, string::String};

use super::{ClusterTime, Label, Span, Unit, Zone, calendar::LABEL_MAX};

/// How time is cut into labels: by a length, or by a unit of the calendar in a time zone.
///
/// Labels cover time without gap or overlap. Of a length, label *n* is the time from `n * length` to
/// `(n + 1) * length` since 1970. Of a unit, it is the *n*th day, week or month of local dates, and begins with the
/// first instant whose date is in it; label 0 begins with 1970, wherever that falls. Where a zone has left out a
/// date, the label of that day is empty: it begins when the next one does, and is no instant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window(Cut);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Cut {
    /// Never zero.
    Length(Span),
    Calendar(Unit, Zone),
}

impl Window {
    /// The shortest window that may be configured.
    pub const MIN: Span = Span::millis(1);
    /// The longest window that may be configured: 400 days.
    pub const MAX: Span = Span::secs(400 * 86_400);

    /// A window of this length, if it is within [`MIN`](Self::MIN) and [`MAX`](Self::MAX).
    pub fn new(length: Span) -> Option<Self> {
        (Self::MIN..=Self::MAX).contains(&length).then_some(Self(Cut::Length(length)))
    }

    /// A window that is a unit of the calendar, by the dates of a zone.
    pub const fn calendar(unit: Unit, zone: Zone) -> Self {
        Self(Cut::Calendar(unit, zone))
    }

    /// How long all its labels are; `None` for calendars', which differ.
    pub const fn length(self) -> Option<Span> {
        match self.0 {
            Cut::Length(length) => Some(length),
            Cut::Calendar(..) => None,
        }
    }

    /// The unit and the zone, if it is a calendar's.
    pub const fn unit(self) -> Option<(Unit, Zone)> {
        match self.0 {
            Cut::Length(_) => None,
            Cut::Calendar(unit, zone) => Some((unit, zone)),
        }
    }

    /// About how long its labels are, never zero: what is reckoned with where an hour more or less is all the same.
    pub const fn usual_length(self) -> Span {
        match self.0 {
            Cut::Length(length) => length,
            Cut::Calendar(unit, _) => unit.usual_length(),
        }
    }

    /// How long a label is. Zero only for that of a date which its zone has left out.
    pub fn length_of(self, label: Label) -> Span {
        match self.0 {
            Cut::Length(length) => length,
            Cut::Calendar(..) => self.end(label).since(self.start(label)),
        }
    }

    /// The label of the window that holds `now`.
    pub fn label_at(self, now: ClusterTime) -> Label {
        match self.0 {
            Cut::Length(length) => Label(now.0 / length.0),
            Cut::Calendar(unit, zone) => Label(unit.number_of(zone.day_at(now))),
        }
    }

    /// The first instant of a label.
    pub fn start(self, label: Label) -> ClusterTime {
        match self.0 {
            Cut::Length(length) => ClusterTime(label.0.saturating_mul(length.0)),
            Cut::Calendar(..) if label.0 == 0 => ClusterTime(0),
            Cut::Calendar(..) if label.0 > LABEL_MAX => ClusterTime(u64::MAX),
            Cut::Calendar(unit, zone) => zone.day_start(unit.first_day(label.0)),
        }
    }

    /// The first instant after a label.
    pub fn end(self, label: Label) -> ClusterTime {
        self.start(label.next())
    }

    /// Until when what was counted in the label that ends at `end` is kept: as long as the label that begins there.
    pub fn kept_until(self, end: ClusterTime) -> ClusterTime {
        match self.0 {
            Cut::Length(length) => end + length,
            Cut::Calendar(..) => self.end(self.label_at(end)),
        }
    }

    /// Its part in the number of a limit's shape: a length in µs, or unit and zone.
    pub(crate) fn shape(self) -> String {
        match self.0 {
            Cut::Length(length) => format!("{}", length.0),
            Cut::Calendar(unit, zone) => format!("{} {}", unit.as_str(), zone.name()),
        }
    }
}

#[cfg(test)]
mod tests;
