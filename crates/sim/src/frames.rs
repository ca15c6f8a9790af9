//! Reads the slots out of a frame, for the checkers; and adds lies to one, for nodes that lie.
//!
//! This is a second reading of the wire format, on purpose: what the engine encodes and parses is what
//! the checkers judge, so they look at the bytes with eyes of their own. It reads only what they need
//! and skips the rest by its length, as any reader of the format may.

use tidegate_core::{
    counts::Tally,
    ids::{Boot, Caller, Key, LimitId, NodeId, RegionNumber, Session, StoreEpoch},
    store::Counts,
    time::{Label, Unit, Window},
};

/// The version of the format that is understood.
const VERSION: u8 = 2;
/// The kinds of sections of slots: told of oneself and of those one may speak for, and by hearsay.
const KIND_SLOTS: u8 = 1;
const KIND_HEARSAY: u8 = 4;
/// The kind of a section of what a region has granted.
const KIND_RIGHTS: u8 = 10;
/// The kind of the section that says: a sibling of yours tells you what changes here.
const KIND_RELAYED: u8 = 7;
/// The kind of the section that says: you tell your siblings what changes here.
const KIND_RELAY: u8 = 9;

/// The kind of a section of slots or rights whose windows are a calendar's: unit and zone stand before it.
const KIND_CALENDAR: u8 = 13;

/// One session's slot, as a frame tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldSlot {
    /// Whose slot; `None`: the sender's own.
    pub of: Option<Session>,
    /// Of which key.
    pub key: Key,
    /// In which window.
    pub label: Label,
    /// How much.
    pub tally: Tally,
    /// Whether it is told by hearsay.
    pub hearsay: bool,
}

/// The slots of a frame, in its order; `None` if its bytes are no frame.
pub fn slots_of(bytes: &[u8]) -> Option<Vec<ToldSlot>> {
    let mut told = Vec::new();
    for (mut kind, mut section) in sections(bytes)? {
        if kind == KIND_CALENDAR {
            section.byte()?; // which unit
            section.text()?; // in which zone
            kind = section.byte()?;
        }
        if [KIND_SLOTS, KIND_HEARSAY].contains(&kind) {
            section.slots(kind == KIND_HEARSAY, &mut told)?;
        }
    }
    Some(told)
}

/// Whether a frame makes its receiver the sender's relay, or says that another is; `None` if it says
/// neither.
pub fn makes_relay(bytes: &[u8]) -> Option<bool> {
    let kinds = sections(bytes)?.into_iter().map(|(kind, _)| kind);
    kinds.filter(|kind| [KIND_RELAYED, KIND_RELAY].contains(kind)).map(|k| k == KIND_RELAY).next()
}

/// The kinds and contents of a frame's sections, in its order; `None` if its bytes are no frame.
fn sections(bytes: &[u8]) -> Option<Vec<(u8, Reader<'_>)>> {
    let mut frame = Reader(bytes);
    if frame.byte()? != VERSION {
        return None;
    }
    frame.header()?;
    let mut sections = Vec::new();
    while !frame.0.is_empty() {
        let kind = frame.byte()?;
        let length = usize::try_from(frame.number()?).ok()?;
        sections.push((kind, Reader(frame.take(length)?)));
    }
    Some(sections)
}

/// Appends to a frame that its sender has used so much of a global limit.
pub fn claim_used(frame: &mut Vec<u8>, key: &Key, window: Window, label: Label, used: u64) {
    let mut section = vec![0]; // the sender's own slot
    limit(&mut section, key, window);
    section.push(1); // of all regions
    number(&mut section, label.0);
    section.push(1); // entry
    section.extend(key.caller.to_bytes());
    for part in [used, 0, 0, 0] {
        number(&mut section, part); // used, refunded, refused, and nothing of demand
    }
    append(frame, KIND_SLOTS, window, &section);
}

/// Appends to a frame that the sender's region, in this epoch of its store, has granted so much of a limit to
/// each of these regions; these are sorted.
pub fn claim_granted(
    frame: &mut Vec<u8>,
    key: &Key,
    window: Window,
    label: Label,
    epoch: StoreEpoch,
    (regions, amount): (&[RegionNumber], u64),
) {
    let mut section = Vec::new();
    limit(&mut section, key, window);
    number(&mut section, label.0);
    section.push(1); // entry
    section.extend(key.caller.to_bytes());
    number(&mut section, epoch.0);
    section.push(0); // no ceiling
    number(&mut section, regions.len() as u64);
    for region in regions {
        number(&mut section, u64::from(region.0));
        number(&mut section, amount);
    }
    section.extend([0, 0]); // asks nothing, has heard nothing
    append(frame, KIND_RIGHTS, window, &section);
}

fn limit(section: &mut Vec<u8>, key: &Key, window: Window) {
    number(section, u64::from(key.limit.0));
    number(section, window.length().map_or(0, |length| length.0));
}

fn append(frame: &mut Vec<u8>, mut kind: u8, window: Window, section: &[u8]) {
    let mut calendar = Vec::new();
    if let Some((unit, zone)) = window.unit() {
        let unit = match unit {
            Unit::Day => 1,
            Unit::Week => 2,
            Unit::Month => 3,
        };
        calendar.push(unit);
        number(&mut calendar, zone.name().len() as u64);
        calendar.extend(zone.name().bytes());
        calendar.push(kind);
        kind = KIND_CALENDAR;
    }
    frame.push(kind);
    number(frame, (calendar.len() + section.len()) as u64);
    frame.extend(calendar);
    frame.extend(section);
}

/// Writes a variable-length number, as [`Reader::number`] reads it.
fn number(to: &mut Vec<u8>, number: u64) {
    let bytes = number.to_le_bytes();
    let (marker, width) = match number {
        0..=250 => return to.push(bytes[0]),
        251..=0xffff => (251, 2),
        0x1_0000..=0xffff_ffff => (252, 4),
        _ => (253, 8),
    };
    to.push(marker);
    to.extend(&bytes[..width]);
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A variable-length number: one byte up to 250, else a marker and 2, 4 or 8 bytes, little-endian.
    fn number(&mut self) -> Option<u64> {
        let width = match self.byte()? {
            small @ 0..=250 => return Some(u64::from(small)),
            251 => 2,
            252 => 4,
            253 => 8,
            _ => return None,
        };
        let bytes = self.take(width)?;
        Some(bytes.iter().rev().fold(0, |n, byte| (n << 8) | u64::from(*byte)))
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        str::from_utf8(self.take(length)?).ok()
    }

    /// Number, open, acknowledged, unmerged, sent; then perhaps an echo of two numbers.
    fn header(&mut self) -> Option<()> {
        for _ in 0..5 {
            self.number()?;
        }
        if self.flag()? {
            self.number()?;
            self.number()?;
        }
        Some(())
    }

    fn session(&mut self) -> Option<Session> {
        let (region, node) = (self.text()?, self.text()?);
        Some(Session { id: NodeId::new(region, node).ok()?, boot: Boot(self.number()?) })
    }

    fn slots(&mut self, hearsay: bool, told: &mut Vec<ToldSlot>) -> Option<()> {
        let of = if self.flag()? { Some(self.session()?) } else { None };
        let limit = LimitId(u32::try_from(self.number()?).ok()?);
        self.number()?; // the window's length
        self.flag()?; // whether the limit is global
        let label = Label(self.number()?);
        for _ in 0..self.number()? {
            let caller = Caller::from_bytes(self.take(16)?.try_into().ok()?);
            let (used, refunded) = (self.number()?, self.number()?);
            let offered = used.checked_add(self.number()?)?;
            self.number()?; // what is told of demand
            told.push(ToldSlot {
                of: of.clone(),
                key: Key { caller, limit },
                label,
                tally: Tally { counts: Counts { used, refunded }, offered },
                hearsay,
            });
        }
        self.0.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::time::{Span, Zone};

    use super::*;

    /// Version 2; header 7, 1, 5, 0, 300 and no echo; an unknown section; slots of an earlier session.
    fn frame() -> Vec<u8> {
        let mut bytes = vec![2, 7, 1, 5, 0, 251, 44, 1, 0, 99, 2, 0xff, 0xff];
        let mut slots = vec![1, 2, b'e', b'u', 4, b'e', b'u', b'-', b'0', 9];
        slots.extend([252, 1, 0, 0, 128, 252, 64, 66, 15, 0, 1, 3]);
        slots.push(2);
        for (id, used) in [(1_u8, 40), (2, 50)] {
            slots.extend([id; 16]);
            slots.extend([used, 4, 60, 3]);
        }
        bytes.extend([1, slots.len() as u8]);
        bytes.extend(slots);
        bytes
    }

    #[test]
    fn slots_are_read_and_other_sections_skipped() {
        let told = slots_of(&frame()).expect("a frame");
        assert_eq!(told.len(), 2);
        let slot = &told[1];
        assert_eq!(slot.of.as_ref().map(ToString::to_string).as_deref(), Some("eu/eu-0@9"));
        assert_eq!(slot.key.limit, LimitId(0x8000_0001));
        assert_eq!(slot.key.caller, Caller::from_bytes([2; 16]));
        assert_eq!(slot.label, Label(3));
        assert_eq!(slot.tally.counts, Counts { used: 50, refunded: 4 });
        assert_eq!(slot.tally.offered, 110);
    }

    #[test]
    fn a_frame_says_who_its_receivers_relay_is() {
        let with = |section: &[u8]| [frame().as_slice(), section].concat();
        assert_eq!(makes_relay(&frame()), None);
        assert_eq!(makes_relay(&with(&[KIND_RELAYED, 0])), Some(false));
        assert_eq!(makes_relay(&with(&[KIND_RELAY, 0])), Some(true));
        assert_eq!(makes_relay(&with(&[KIND_RELAY])), None);
    }

    #[test]
    fn a_lie_is_read_like_the_truth() {
        let second = Window::new(Span::secs(1)).expect("in range");
        let month = Window::calendar(Unit::Month, Zone::named("Asia/Tokyo").expect("a zone"));
        let key = Key { caller: Caller::from_bytes([7; 16]), limit: LimitId(300) };
        let lies = [0, 250, 251, 70_000, 1 << 40].map(|used| [(second, used), (month, used)]);
        for (window, used) in lies.into_iter().flatten() {
            let mut bytes = frame();
            claim_used(&mut bytes, &key, window, Label(1 << 33), used);
            let told = slots_of(&bytes).expect("a frame");
            let [.., lie] = &told[..] else { panic!("no slots") };
            assert_eq!((lie.of.clone(), lie.key, lie.label), (None, key, Label(1 << 33)));
            assert_eq!(lie.tally, Tally { counts: Counts { used, refunded: 0 }, offered: used });
        }
    }

    #[test]
    fn a_frame_cut_short_is_none() {
        let whole = frame();
        let ends_of_sections = [8 + 1, 8 + 1 + 4];
        for length in 0..whole.len() {
            let read = slots_of(&whole[..length]);
            assert_eq!(read.is_some(), ends_of_sections.contains(&length), "{length}");
        }
        assert_eq!(slots_of(&[1]), None);
    }
}
