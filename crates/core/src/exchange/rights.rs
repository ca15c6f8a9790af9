//! What regions tell each other of their rights: each its own grants, beside the slot of whoever tells.

use alloc::vec::Vec;

use super::{Exchange, Shards, cut::Packer, sessions::Sessions, shard_of};
use crate::{
    clock::Reading,
    counts::{Entry, Shape},
    forecast::Whose,
    ids::{Caller, Key, LimitId, RegionIndex, RegionNumber, Session, SessionIndex, StoreEpoch},
    policy::Scope,
    rights::{REGIONS_MAX, Received, Regions, Row, Statement},
    store::COUNT_MAX,
    time::{Label, Mono},
    wire::{
        Calendar, FrameError, HeardEntry, Rights, RightsEntry, Section, WRAPPING_BYTES_MAX,
        micros_of, window_of,
    },
};

/// The most bytes of a rights section without its entries, and of an entry without its row.
const SECTION_BYTES_MAX: usize = 48 + WRAPPING_BYTES_MAX;
const ENTRY_BYTES_MAX: usize = 16 + 9 + 9 + 1 + 1 + 1;
/// The most bytes of one region's amount, and of what is held of one region.
const AMOUNT_BYTES_MAX: usize = 5 + 9;
const HEARD_BYTES_MAX: usize = 5 + 3 * 9;

/// Entries of a section: with all regions in each, they fit in a frame.
const ENTRIES_MAX: usize = 32;

/// A frame's statements, checked.
pub(super) struct Stated {
    shape: Shape,
    label: Label,
    statements: Vec<(Caller, Told)>,
}

/// A region's word of its rights to a key.
enum Told {
    /// How its store stands.
    Statement(Statement),
    /// Its store has forgotten the label.
    Question(RegionNumber, StoreEpoch),
}

impl Told {
    const fn of_whom(&self) -> RegionNumber {
        match self {
            Self::Statement(told) => told.from,
            Self::Question(from, _) => *from,
        }
    }
}

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Statements that said something new.
    pub(super) news: u64,
    /// Whether a label was too far ahead.
    pub(super) ahead: bool,
    /// Whether there was no room for something.
    pub(super) refused: bool,
}

/// Appends to frames what the own region has granted of the keys whose own slots are told in `entries`, which
/// are sorted by session, limit and label; to a sibling also what other regions have, with the slots that are
/// passed on.
pub(super) fn pack<S: Shards>(
    sessions: &Sessions,
    entries: &[Entry],
    listener: RegionIndex,
    shards: &S,
    packer: &mut Packer,
) {
    let to_sibling = listener == RegionIndex::OWN;
    let of_whom = |entry: &Entry| {
        if entry.session == SessionIndex::OWN {
            return Some(sessions.own_region());
        }
        let foreign = sessions.region_of(entry.session) != RegionIndex::OWN;
        let region = &sessions.session(entry.session).id.region;
        (to_sibling && foreign).then(|| RegionNumber::of(region))
    };
    let stated = entries.iter().filter(|entry| entry.note.rights).filter_map(|entry| {
        let of = of_whom(entry)?;
        let shard = shard_of(entry.caller, shards.count());
        let told = shards.with(shard, |shard| {
            let book = shard.watched.books(&entry.key())?.of(entry.label)?;
            match book.question(of) {
                Some(epoch) => Some(Told::Question(of, epoch)),
                None => book.of(of).cloned().map(Told::Statement),
            }
        })?;
        let says_nothing = matches!(&told, Told::Statement(told) if told.says_nothing());
        (!says_nothing).then_some((entry, told))
    });
    let stated: Vec<_> = stated.collect();
    for group in stated.chunk_by(|(a, _), (b, _)| {
        (a.session, a.shape.limit, a.label) == (b.session, b.shape.limit, b.label)
    }) {
        let shape = group[0].0.shape;
        let of = group[0].1.of_whom();
        let entry = |(entry, told): &(&Entry, Told)| entry_of(entry.caller, told);
        let needs = |(_, told): &(&Entry, Told)| {
            let (given, heard) = match told {
                Told::Question(..) => (0, 0),
                Told::Statement(told) => (told.given.iter().len(), told.heard.iter().len()),
            };
            ENTRY_BYTES_MAX + AMOUNT_BYTES_MAX * given + HEARD_BYTES_MAX * heard
        };
        // So few that a section surely fits in a frame.
        for part in group.chunks(ENTRIES_MAX) {
            let needs = SECTION_BYTES_MAX + part.iter().map(needs).sum::<usize>();
            let section = Rights {
                limit: shape.limit.0,
                window: micros_of(shape.window),
                label: group[0].0.label.0,
                entries: part.iter().map(entry).collect(),
            };
            let section = if of == sessions.own_region() {
                Section::Rights(section)
            } else {
                Section::RightsPassedOn(of.0, section)
            };
            packer.push(Section::of_window(shape.window, section), needs);
        }
    }
}

fn entry_of(caller: Caller, told: &Told) -> RightsEntry {
    let caller = caller.to_bytes();
    match told {
        Told::Question(_, epoch) => RightsEntry {
            caller,
            epoch: epoch.0,
            ceiling: 0,
            given: Vec::new(),
            asks: true,
            heard: Vec::new(),
        },
        Told::Statement(told) => RightsEntry {
            caller,
            epoch: told.epoch.0,
            ceiling: told.ceiling,
            given: told.given.iter().map(|(region, amount)| (region.0, amount)).collect(),
            asks: false,
            heard: told
                .heard
                .iter()
                .map(|held| HeardEntry {
                    from: held.from.0,
                    epoch: held.epoch.0,
                    amount: held.amount,
                    ceiling: held.ceiling,
                })
                .collect(),
        },
    }
}

/// What an entry says, if it may be said; it speaks for its sender's region only, whose name is not in it.
/// Of regions that share nothing nothing is kept, so that what is known of a key has a bound.
fn told_of(
    from: RegionNumber,
    regions: &Regions,
    entry: RightsEntry,
) -> Result<(Caller, Told), FrameError> {
    let RightsEntry { caller, epoch, ceiling, given, asks, heard } = entry;
    let sorted = given.windows(2).all(|pair| pair[0].0 < pair[1].0)
        && heard.windows(2).all(|pair| pair[0].from < pair[1].from);
    let most = given.iter().map(|(_, amount)| *amount).chain([epoch, ceiling]);
    let most = most.chain(heard.iter().flat_map(|h| [h.epoch, h.amount, h.ceiling])).max();
    let few = given.len() <= REGIONS_MAX && heard.len() <= REGIONS_MAX;
    if !sorted || !few || most > Some(COUNT_MAX) {
        return Err(FrameError::Unsound);
    }
    let (caller, epoch) = (Caller::from_bytes(caller), StoreEpoch(epoch));
    if asks {
        return Ok((caller, Told::Question(from, epoch)));
    }
    let given = given.into_iter().map(|(to, n)| (RegionNumber(to), n));
    let given: Row = given.filter(|(to, _)| *to != from && regions.has(*to)).collect();
    let held = |HeardEntry { from, epoch, amount, ceiling }| Received {
        from: RegionNumber(from),
        epoch: StoreEpoch(epoch),
        amount,
        ceiling,
    };
    let heard = heard.into_iter().map(held).filter(|held| regions.has(held.from)).collect();
    Ok((caller, Told::Statement(Statement { from, epoch, given, ceiling, heard })))
}

/// Checks what a region tells of its rights; or what a sibling passes on of another region's. Nothing comes of it if
/// its window is a calendar's that this release does not know.
pub(super) fn checked(
    (from, own): (&Session, &Session),
    passed_on: Option<u32>,
    regions: &Regions,
    (calendar, rights): (Option<&Calendar>, Rights),
) -> Result<Option<Stated>, FrameError> {
    let Some(window) = window_of(calendar, rights.window)? else { return Ok(None) };
    let shape = Shape { limit: LimitId(rights.limit), window, scope: Scope::Global };
    let (speaker, own_region) =
        (RegionNumber::of(&from.id.region), RegionNumber::of(&own.id.region));
    let from = match passed_on {
        None => speaker,
        // The own region's word comes from its own store alone.
        Some(of) if speaker == own_region && of != own_region.0 => RegionNumber(of),
        Some(_) => return Err(FrameError::SpeaksForAnother),
    };
    let statements = rights.entries.into_iter().map(|entry| told_of(from, regions, entry));
    let mut statements = statements.collect::<Result<Vec<_>, _>>()?;
    if !regions.has(from) {
        statements.clear();
    }
    Ok(Some(Stated { shape, label: Label(rights.label), statements }))
}

impl Exchange {
    /// Writes down what was stated. What is new and comes from a session `for_siblings` is passed on to them,
    /// with its slot.
    pub(super) fn hear_rights<S: Shards>(
        now: Mono,
        clock: Reading,
        stated: Vec<Stated>,
        for_siblings: Option<SessionIndex>,
        shards: &S,
    ) -> Heard {
        let mut heard = Heard::default();
        for Stated { shape, label, statements } in stated {
            let current = shape.window.label_at(clock.cluster);
            if label > current.next() {
                heard.ahead = true;
                continue;
            }
            if label < current.previous() {
                continue;
            }
            let elapsed = clock.cluster.since(shape.window.start(current));
            for (caller, told) in statements {
                let key = Key { caller, limit: shape.limit };
                let merged = shards.with(shard_of(caller, shards.count()), |shard| {
                    if shard.watched.get(&key).is_none() {
                        shard.watch(&key, shape.window, current, now, elapsed, Whose::Told);
                    }
                    shard.watched.touch(&key, now)?.note_rights();
                    let news = match &told {
                        Told::Statement(told) => shard.watched.merge(&key, label, told),
                        Told::Question(from, epoch) => {
                            shard.watched.ask(&key, label, *from, *epoch)
                        }
                    };
                    if let Some(session) = for_siblings.filter(|_| news) {
                        shard.tell_again(key, label, session);
                    }
                    Some(news)
                });
                // Without room it is to be told again: a grant that nobody heard of can be spent by nobody.
                heard.refused |= merged.is_none();
                heard.news += u64::from(merged == Some(true));
            }
        }
        heard
    }
}
