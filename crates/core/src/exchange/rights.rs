//! What regions tell each other of their rights: each its own grants, beside the slot of whoever tells.

use alloc::vec::Vec;

use super::{Exchange, Shards, cut::Packer, shard_of};
use crate::{
    clock::Reading,
    counts::{Entry, Shape},
    ids::{Caller, Key, LimitId, RegionNumber, Session, SessionIndex, StoreEpoch},
    policy::Scope,
    rights::{REGIONS_MAX, Row, Statement},
    store::COUNT_MAX,
    time::{Label, Mono, Span, Window},
    wire::{FrameError, Rights, RightsEntry, Section},
};

/// The most bytes of a rights section without its entries, and of an entry without its row.
const SECTION_BYTES_MAX: usize = 48;
const ENTRY_BYTES_MAX: usize = 16 + 9 + 9 + 1;
/// The most bytes of one region's amount.
const AMOUNT_BYTES_MAX: usize = 5 + 9;

/// A frame's statements, checked.
pub(super) struct Stated {
    shape: Shape,
    label: Label,
    statements: Vec<(Caller, Statement)>,
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

/// Appends to frames what the own region has granted of the keys whose own slots are told in `entries`,
/// which are sorted by limit and label.
pub(super) fn pack<S: Shards>(
    own: RegionNumber,
    entries: &[Entry],
    shards: &S,
    packer: &mut Packer,
) {
    let own_slots = entries.iter().filter(|e| e.session == SessionIndex::OWN && e.note.rights);
    let stated = own_slots.filter_map(|entry| {
        let shard = shard_of(entry.caller, shards.count());
        let told = shards.with(shard, |shard| {
            let book = shard.watched.books(&entry.key())?.of(entry.label)?;
            book.of(own).cloned()
        })?;
        (!told.given.is_empty() || told.ceiling > 0).then_some((entry, told))
    });
    let stated: Vec<_> = stated.collect();
    for group in
        stated.chunk_by(|(a, _), (b, _)| (a.shape.limit, a.label) == (b.shape.limit, b.label))
    {
        let shape = group[0].0.shape;
        let entry = |(entry, told): &(&Entry, Statement)| RightsEntry {
            caller: entry.caller.to_bytes(),
            epoch: told.epoch.0,
            ceiling: told.ceiling,
            given: told.given.iter().map(|(region, amount)| (region.0, amount)).collect(),
        };
        let needs = |(_, told): &(&Entry, Statement)| {
            ENTRY_BYTES_MAX + AMOUNT_BYTES_MAX * told.given.iter().len()
        };
        // So few that a section surely fits in a frame.
        for part in group.chunks(64) {
            let needs = SECTION_BYTES_MAX + part.iter().map(needs).sum::<usize>();
            let section = Rights {
                limit: shape.limit.0,
                window: shape.window.length().0,
                label: group[0].0.label.0,
                entries: part.iter().map(entry).collect(),
            };
            packer.push(Section::Rights(section), needs);
        }
    }
}

/// Checks what a region tells of its rights: it speaks for itself only, since its name is not in it.
pub(super) fn checked(from: &Session, rights: Rights) -> Result<Stated, FrameError> {
    let window = Window::new(Span(rights.window)).ok_or(FrameError::Unsound)?;
    let shape = Shape { limit: LimitId(rights.limit), window, scope: Scope::Global };
    let from = RegionNumber::of(&from.id.region);
    let statement = |entry: RightsEntry| {
        let sorted = entry.given.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let counts = entry.given.iter().all(|(_, amount)| *amount <= COUNT_MAX);
        if !sorted || !counts || entry.given.len() > REGIONS_MAX || entry.ceiling > COUNT_MAX {
            return Err(FrameError::Unsound);
        }
        let given: Row = entry.given.into_iter().map(|(to, n)| (RegionNumber(to), n)).collect();
        let epoch = StoreEpoch(entry.epoch);
        let told = Statement { from, epoch, given, ceiling: entry.ceiling };
        Ok((Caller::from_bytes(entry.caller), told))
    };
    let statements = rights.entries.into_iter().map(statement).collect::<Result<_, _>>()?;
    Ok(Stated { shape, label: Label(rights.label), statements })
}

impl Exchange {
    /// Writes down what was stated.
    pub(super) fn hear_rights<S: Shards>(
        now: Mono,
        clock: Reading,
        stated: Vec<Stated>,
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
                        shard.watch(&key, shape.window, current, now, elapsed);
                    }
                    shard.watched.touch(&key, now)?.note_rights();
                    Some(shard.watched.merge(&key, label, &told))
                });
                // Without room it is to be told again: a grant that nobody heard of can be spent by nobody.
                heard.refused |= merged.is_none();
                heard.news += u64::from(merged == Some(true));
            }
        }
        heard
    }
}
