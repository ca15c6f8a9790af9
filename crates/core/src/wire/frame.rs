//! A frame: a header that keeps the exchange going, and sections that carry what it is about.

use alloc::{boxed::Box, string::String, vec::Vec};

use bincode::{Decode, Encode};

use super::{
    calendar::Calendar,
    codec::{self, FRAME_BYTES_MAX, Malformed},
};
use crate::{
    ids::ConfigEpoch,
    memory,
    rights::{Adopted, Fingerprints, Regions},
    store::COUNT_MAX,
    time::{ClusterTime, Mono, Span, Window},
};

/// The version of this format.
const VERSION: u8 = 2;

/// Sections per frame, so that a frame of empty sections is refused.
const SECTIONS_MAX: usize = 4_096;

const KIND_SLOTS: u8 = 1;
const KIND_WALK_END: u8 = 2;
const KIND_CLOCK: u8 = 3;
const KIND_HEARSAY: u8 = 4;
const KIND_DIGESTS: u8 = 5;
const KIND_ASK: u8 = 6;
const KIND_RELAYED: u8 = 7;
const KIND_HEARD: u8 = 8;
const KIND_RELAY: u8 = 9;
const KIND_RIGHTS: u8 = 10;
const KIND_RIGHTS_PASSED_ON: u8 = 11;
const KIND_CONFIG: u8 = 12;
const KIND_CALENDAR: u8 = 13;

/// The unit of stamps.
const STAMP_UNIT: Span = Span::micros(100);

/// A monotonic instant of the sender, in units of 100 µs, modulo 2^32 (five days). Only its sender
/// reads it.
pub(crate) const fn stamp_of(now: Mono) -> u32 {
    (now.0 / STAMP_UNIT.0) as u32
}

/// Returns a stamp to its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Echo {
    /// The stamp of the newest frame from there.
    pub(crate) stamp: u32,
    /// How long ago that came, in units of 100 µs.
    pub(crate) held: u32,
}

impl Echo {
    pub(crate) fn of(stamp: u32, held: Span) -> Self {
        Self { stamp, held: u32::try_from(held.0 / STAMP_UNIT.0).unwrap_or(u32::MAX) }
    }

    /// How long the stamp was held before it went back.
    pub(crate) const fn held(self) -> Span {
        STAMP_UNIT.times(self.held as u64)
    }

    /// The round trip that this echo measured, if it is one of ours and believable (under a minute).
    pub(crate) fn round_trip(self, now: Mono) -> Option<Span> {
        let trip = stamp_of(now).wrapping_sub(self.stamp).wrapping_sub(self.held);
        (trip < 600_000).then(|| STAMP_UNIT.times(u64::from(trip)))
    }
}

/// The head of every frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Header {
    /// Counts the sender's frames to this peer that want an acknowledgement, from 1; 0 wants none.
    pub(crate) number: u64,
    /// How many numbers up to and including `number` are still open; older ones are acknowledged or
    /// were given up and told again.
    pub(crate) open: u64,
    /// All of the receiver's numbers up to this one have come.
    pub(crate) acknowledged: u64,
    /// The newest of those that could not be merged whole, and is to be told again; 0: none.
    pub(crate) unmerged: u64,
    /// When it was sent; see [`stamp_of`].
    pub(crate) sent: u32,
    /// What the receiver needs for its round trip.
    pub(crate) echo: Option<Echo>,
}

impl Header {
    /// Whether `open` numbers can be open: a numbered frame is open itself, and numbers begin at 1.
    pub(crate) const fn is_sound(&self) -> bool {
        self.open <= self.number && (self.number == 0 || self.open > 0)
    }
}

/// A session whose slots the sender tells although it is not its own: an earlier run in its own region,
/// or, to a starting node, an earlier run in the receiver's.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Speaker {
    pub(crate) region: String,
    pub(crate) node: String,
    pub(crate) boot: u64,
}

/// One caller's tally.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SlotEntry {
    pub(crate) caller: [u8; 16],
    pub(crate) used: u64,
    pub(crate) refunded: u64,
    /// Offered beyond used, which is less often a large number.
    pub(crate) refused: u64,
    /// Of the session's demand: four times the mean cost of a request, weighed by cost, 2 more if the limit
    /// is spent by rights, and 1 more if something was refused in the label; 0 if it does not watch the key.
    pub(crate) note: u64,
}

/// Slots of one session under one limit and label.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Slots {
    /// Whose; `None`: the sender's own.
    pub(crate) of: Option<Speaker>,
    pub(crate) limit: u32,
    /// Length of the limit's window in µs, so that a receiver without its policy can keep the counts; 0 if the
    /// section is wrapped in a calendar.
    pub(crate) window: u64,
    /// Whether the limit is global.
    pub(crate) global: bool,
    pub(crate) label: u64,
    pub(crate) entries: Vec<SlotEntry>,
}

/// What the sender's region has granted of one caller's rights in the label, by its store's word.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct RightsEntry {
    pub(crate) caller: [u8; 16],
    /// The epoch of the region's store.
    pub(crate) epoch: u64,
    /// The region spends no more than this and one block, until somebody holds a higher one; 0: not said.
    pub(crate) ceiling: u64,
    /// Number of a region, and what it was granted so far; by number.
    pub(crate) given: Vec<(u32, u64)>,
    /// Whether the store has forgotten the label, and asks what others know of it; then nothing else is said.
    pub(crate) asks: bool,
    /// What the store holds of what others have told of themselves, in long labels; by number.
    pub(crate) heard: Vec<HeardEntry>,
}

/// What a region's store holds of what another one has told of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct HeardEntry {
    /// Number of the other region.
    pub(crate) from: u32,
    /// The epoch of its store.
    pub(crate) epoch: u64,
    /// What it has granted.
    pub(crate) amount: u64,
    /// Its ceiling.
    pub(crate) ceiling: u64,
}

/// The sender's region's word of its rights under one limit and label.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Rights {
    pub(crate) limit: u32,
    /// Length of the limit's window in µs; 0 if the section is wrapped in a calendar.
    pub(crate) window: u64,
    pub(crate) label: u64,
    pub(crate) entries: Vec<RightsEntry>,
}

/// The sender's clocks when the frame was cut, in µs since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ClockReading {
    /// Cluster time.
    pub(crate) cluster: u64,
    /// Whether labels of it are in use; before, the sender may still set it back.
    pub(crate) settled: bool,
    /// The clock of the sender's store; `None` if it was not read lately.
    pub(crate) store: Option<StoreClock>,
}

/// How the sender is configured, and how far its region's store has come with configurations of regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ConfigReading {
    /// The sender's configuration.
    pub(crate) configured: Configured,
    /// Number of the one that the store has adopted, from when on, from when on it is agreed, and of which
    /// labels nothing is opened since they began before; times in µs since 1970. `None`: the store was not
    /// asked yet.
    pub(crate) adopted: Option<(u64, u64, Option<u64>, u64)>,
    /// Number of the newest that the listener's store is known to have adopted; 0: none.
    pub(crate) yours: u64,
}

/// A configuration of regions, for comparing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Configured {
    /// Its number.
    pub(crate) epoch: u64,
    /// Of its regions and weights, of those before, and of all else: equal for all who are configured alike.
    pub(crate) fingerprints: [u64; 3],
}

impl From<Fingerprints> for Configured {
    fn from(of: Fingerprints) -> Self {
        Self { epoch: of.epoch.0, fingerprints: [of.now, of.before, of.rest] }
    }
}

impl From<Configured> for Fingerprints {
    fn from(Configured { epoch, fingerprints: [now, before, rest] }: Configured) -> Self {
        Self { epoch: ConfigEpoch(epoch), now, before, rest }
    }
}

/// Nobody says further ahead what labels are split by: a fence of an hour at most, by a clock that is an hour
/// ahead at most.
const SPLIT_AHEAD_MAX: Span = Span::secs(2 * 3_600);

impl ConfigReading {
    /// How a node is configured with `regions`, and what is known of its own store and of the listener's.
    pub(crate) fn of(
        regions: &Regions,
        adopted: Option<&Adopted>,
        yours: Option<&Adopted>,
    ) -> Self {
        let numbers = |a: &Adopted| (a.epoch.0, a.from.0, a.agreed.map(|at| at.0), a.since.0);
        Self {
            configured: regions.fingerprints().into(),
            adopted: adopted.map(numbers),
            yours: yours.map_or(0, |yours| yours.epoch.0),
        }
    }

    /// How far the listener's store is known to have come.
    pub(crate) fn yours(&self) -> ConfigEpoch {
        ConfigEpoch(self.yours.min(COUNT_MAX))
    }

    /// What the store has adopted, if it can be, when cluster time is `cluster`: what is kept in stores does not
    /// go away with a peer that lied.
    pub(crate) fn adopted(&self, cluster: ClusterTime) -> Option<Adopted> {
        let (epoch, from, agreed, since) = self.adopted?;
        let latest = from.max(agreed.unwrap_or(0)).max(since);
        let adopted = Adopted {
            epoch: ConfigEpoch(epoch),
            from: ClusterTime(from),
            agreed: agreed.map(ClusterTime),
            since: ClusterTime(since),
        };
        let can_be = epoch <= COUNT_MAX && latest <= (cluster + SPLIT_AHEAD_MAX).0;
        can_be.then_some(adopted)
    }
}

/// What a store's clock is believed to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct StoreClock {
    /// µs since 1970.
    pub(crate) shows: u64,
    /// How wrong that may be, in µs.
    pub(crate) error: u64,
}

/// Sums over the counts of some ranges of callers; see `exchange::repair`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Digests {
    /// Bits of a caller's place that name a range: 10 or 16.
    pub(crate) bits: u8,
    /// The first range.
    pub(crate) first: u32,
    /// From one range to the next.
    pub(crate) step: u32,
    pub(crate) sums: Vec<u64>,
}

/// Asks for all slots in some ranges of 16 bits.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Ask {
    pub(crate) ranges: Vec<u32>,
}

/// To a sibling: how long ago those whose changes the sender passes on had told it the newest, in µs, the way
/// included.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Heard {
    pub(crate) ages: Vec<(Speaker, u64)>,
}

/// The receiver has been told all that the sender knew when the two met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct WalkEnd {
    /// What the receiver could not merge whole has been told again up to this number.
    pub(crate) retold: u64,
}

/// What a frame is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Section {
    Slots(Slots),
    WalkEnd(WalkEnd),
    Clock(ClockReading),
    /// Slots of any session, told because two nodes found that they differ.
    Hearsay(Slots),
    Digests(Digests),
    Ask(Ask),
    /// What the sender's changes are, the receiver hears from a sibling.
    Relayed,
    Heard(Heard),
    /// What the sender's changes are, the receiver's siblings hear from it alone.
    Relay,
    Rights(Rights),
    /// The number of another region, and its word, told by a sibling that was told it for the whole region.
    RightsPassedOn(u32, Rights),
    Config(ConfigReading),
    /// Slots, hearsay or rights of a limit whose windows are a calendar's.
    Calendar(Calendar, Box<Self>),
}

impl Section {
    /// A section of slots, hearsay or rights, wrapped if its window has no length.
    pub(crate) fn of_window(window: Window, section: Self) -> Self {
        match Calendar::of(window) {
            Some(calendar) => Self::Calendar(calendar, Box::new(section)),
            None => section,
        }
    }

    /// Bytes held beside itself.
    pub(crate) fn memory_bytes(&self) -> usize {
        let of_speaker = |speaker: &Speaker| speaker.region.capacity() + speaker.node.capacity();
        match self {
            Self::Slots(slots) | Self::Hearsay(slots) => {
                memory::of_vec(&slots.entries) + slots.of.as_ref().map_or(0, of_speaker)
            }
            Self::Digests(digests) => memory::of_vec(&digests.sums),
            Self::Ask(ask) => memory::of_vec(&ask.ranges),
            Self::Heard(heard) => {
                let names = heard.ages.iter().map(|(speaker, _)| of_speaker(speaker));
                memory::of_vec(&heard.ages) + names.sum::<usize>()
            }
            Self::Rights(rights) | Self::RightsPassedOn(_, rights) => {
                let rows = rights
                    .entries
                    .iter()
                    .map(|entry| memory::of_vec(&entry.given) + memory::of_vec(&entry.heard));
                memory::of_vec(&rights.entries) + rows.sum::<usize>()
            }
            Self::Calendar(calendar, section) => {
                calendar.memory_bytes() + size_of::<Self>() + section.memory_bytes()
            }
            Self::WalkEnd(_) | Self::Clock(_) | Self::Relayed | Self::Relay | Self::Config(_) => 0,
        }
    }
}

/// A frame, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) sections: Vec<Section>,
}

/// Why a frame was not taken. Nothing of it was merged, unless the variant says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum FrameError {
    /// Larger than [`FRAME_BYTES_MAX`].
    #[error("the frame is larger than 64 KiB")]
    TooLarge,
    /// Empty, cut short, or not what its lengths say.
    #[error("the frame's bytes are malformed")]
    Malformed,
    /// Another version of the format: upgrade the older node.
    #[error("the frame has a version that this node does not speak: upgrade the older of the two")]
    Version,
    /// The sender is not connected, or this is not the session that is.
    #[error("the frame comes from a session that is not connected")]
    UnknownSender,
    /// Slots of a session, or of a regional limit, that the sender may not speak for.
    #[error("the frame speaks for a session or a regional limit of another region")]
    SpeaksForAnother,
    /// Numbers that no session can have, such as more refunded than used.
    #[error("the frame claims counts that contradict each other")]
    Unsound,
    /// A label further ahead than the next one; or, before this node knows the time, one long over. The
    /// rest of the frame was merged, and the sender is asked to tell it again.
    #[error(
        "the frame names a label that is further ahead than the next: compare the nodes' clocks"
    )]
    LabelAhead,
    /// A table is full. What fitted was merged; the rest is left to the comparison of counts, which goes on
    /// for as long as the label lives.
    #[error(
        "no room for the frame's counts: a node holds no more than 4 M keys at a time, they are told again when labels are over"
    )]
    Full,
    /// The sender has claimed what cannot be too often, and is not listened to for a while.
    #[error("the sender is quarantined: it claimed what cannot be, several times")]
    Quarantined,
}

impl FrameError {
    /// Whether no working node of this version sends such a frame, however late, full or far it is.
    pub(crate) const fn is_impossible(self) -> bool {
        match self {
            Self::TooLarge | Self::Malformed | Self::SpeaksForAnother | Self::Unsound => true,
            Self::Version
            | Self::UnknownSender
            | Self::LabelAhead
            | Self::Full
            | Self::Quarantined => false,
        }
    }

    /// A short name, for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::UnknownSender => "unknown_sender",
            Self::SpeaksForAnother => "speaks_for_another",
            Self::Unsound => "unsound",
            Self::LabelAhead => "label_ahead",
            Self::Full => "full",
            Self::Quarantined => "quarantined",
        }
    }
}

impl From<Malformed> for FrameError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Section {
    /// Appends the payload, and returns its kind.
    fn encode(&self, to: &mut Vec<u8>) -> u8 {
        match self {
            Self::Slots(slots) => {
                codec::encode(slots, to);
                KIND_SLOTS
            }
            Self::WalkEnd(end) => {
                codec::encode(end, to);
                KIND_WALK_END
            }
            Self::Clock(reading) => {
                codec::encode(reading, to);
                KIND_CLOCK
            }
            Self::Hearsay(slots) => {
                codec::encode(slots, to);
                KIND_HEARSAY
            }
            Self::Digests(digests) => {
                codec::encode(digests, to);
                KIND_DIGESTS
            }
            Self::Ask(ask) => {
                codec::encode(ask, to);
                KIND_ASK
            }
            Self::Relayed => KIND_RELAYED,
            Self::Heard(heard) => {
                codec::encode(heard, to);
                KIND_HEARD
            }
            Self::Relay => KIND_RELAY,
            Self::Rights(rights) => {
                codec::encode(rights, to);
                KIND_RIGHTS
            }
            Self::RightsPassedOn(of, rights) => {
                codec::encode(of, to);
                codec::encode(rights, to);
                KIND_RIGHTS_PASSED_ON
            }
            Self::Config(reading) => {
                codec::encode(reading, to);
                KIND_CONFIG
            }
            Self::Calendar(calendar, section) => {
                codec::encode(calendar, to);
                let at = to.len();
                to.push(0);
                to[at] = section.encode(to);
                KIND_CALENDAR
            }
        }
    }
}

impl Section {
    /// Reads a section; nothing if it is of a later version.
    fn decode(kind: u8, payload: &[u8]) -> Result<Option<Self>, Malformed> {
        Ok(Some(match kind {
            KIND_SLOTS => Self::Slots(codec::decode_all(payload)?),
            KIND_WALK_END => Self::WalkEnd(codec::decode_all(payload)?),
            KIND_CLOCK => Self::Clock(codec::decode_all(payload)?),
            KIND_HEARSAY => Self::Hearsay(codec::decode_all(payload)?),
            KIND_DIGESTS => Self::Digests(codec::decode_all(payload)?),
            KIND_ASK => Self::Ask(codec::decode_all(payload)?),
            KIND_RELAYED => Self::Relayed,
            KIND_HEARD => Self::Heard(codec::decode_all(payload)?),
            KIND_RELAY => Self::Relay,
            KIND_RIGHTS => Self::Rights(codec::decode_all(payload)?),
            KIND_CONFIG => Self::Config(codec::decode_all(payload)?),
            KIND_RIGHTS_PASSED_ON => {
                let (of, rights) = codec::decode_all(payload)?;
                Self::RightsPassedOn(of, rights)
            }
            KIND_CALENDAR => {
                let (calendar, rest) = codec::decode(payload)?;
                let (kind, payload) = rest.split_first().ok_or(Malformed)?;
                let wraps = [KIND_SLOTS, KIND_HEARSAY, KIND_RIGHTS, KIND_RIGHTS_PASSED_ON];
                let section =
                    if wraps.contains(kind) { Self::decode(*kind, payload)? } else { None };
                return Ok(section.map(|section| Self::Calendar(calendar, Box::new(section))));
            }
            _ => return Ok(None),
        }))
    }
}

impl Frame {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(VERSION);
        codec::encode(&self.header, &mut bytes);
        let mut payload = Vec::new();
        for section in &self.sections {
            payload.clear();
            bytes.push(section.encode(&mut payload));
            codec::encode(&(payload.len() as u64), &mut bytes);
            bytes.extend_from_slice(&payload);
        }
        debug_assert!(bytes.len() <= FRAME_BYTES_MAX, "frames are cut by number of entries");
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge);
        }
        let (version, rest) = bytes.split_first().ok_or(FrameError::Malformed)?;
        if *version != VERSION {
            return Err(FrameError::Version);
        }
        let (header, mut rest) = codec::decode::<Header>(rest)?;
        let mut sections = Vec::new();
        while let Some((kind, behind_kind)) = rest.split_first() {
            if sections.len() == SECTIONS_MAX {
                return Err(FrameError::Malformed);
            }
            let (length, behind_length) = codec::decode::<u64>(behind_kind)?;
            let length = usize::try_from(length).map_err(|_| FrameError::Malformed)?;
            let (payload, behind) =
                behind_length.split_at_checked(length).ok_or(FrameError::Malformed)?;
            rest = behind;
            sections.extend(Section::decode(*kind, payload)?);
        }
        Ok(Self { header, sections })
    }
}
