//! What a snapshot brings back, and what it refuses to.

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tempfile::TempDir;
use tidegate_core::{
    algorithm::{Bucket, LabelTime, Rule},
    ids::{Caller, Key, LimitId, StoreEpoch},
    store::{Action, Counts, Operation, StoreCommand, StoreReply},
    time::{Label, Span, StoreTime, Window},
};

use super::*;

const OURS: Secret = Secret([7; 16]);
const MAX: usize = 100_000;

struct Place {
    directory: TempDir,
    clock: Clock,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), clock: Clock::start() }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("counts")
    }

    /// A store with so many callers, of whom number `n` has used `n + 1`.
    fn store(&self, callers: u64) -> MemoryStore {
        let store = MemoryStore::new(MAX, self.clock);
        for caller in 0..callers {
            self.charge(&store, caller, caller + 1, Span::secs(60));
        }
        store
    }

    fn charge(&self, store: &MemoryStore, caller: u64, cost: u64, lives: Span) -> StoreReply {
        let key = Key { caller: Caller([caller, caller << 32]), limit: LimitId(3) };
        let operation = Operation { key, ..operation(self.clock.steady(), cost, lives) };
        store.apply(&StoreCommand::new(vec![operation])).unwrap()
    }

    fn load(&self, cluster: Option<Secret>) -> Found {
        load(&self.file(), cluster, MAX, self.clock).unwrap()
    }

    fn restored(&self, cluster: Option<Secret>) -> (MemoryStore, Option<Secret>) {
        match self.load(cluster) {
            Found::Store { store, secret } => (store, secret),
            other => panic!("{other:?}"),
        }
    }

    fn refused(&self, cluster: Option<Secret>) -> String {
        match self.load(cluster) {
            Found::Unusable { reason, kept } => {
                assert_eq!(kept, Some(beside(&self.file(), "unusable")));
                assert!(!self.file().exists());
                reason
            }
            other => panic!("{other:?}"),
        }
    }

    /// What a caller has used.
    fn used(&self, store: &MemoryStore, caller: u64) -> u64 {
        match self.charge(store, caller, 1, Span::secs(60)) {
            StoreReply::Done { operations, .. } => operations[0].counts.used - 1,
            other => panic!("{other:?}"),
        }
    }
}

fn operation(now: StoreTime, cost: u64, lives: Span) -> Operation {
    Operation {
        key: Key { caller: Caller([0, 0]), limit: LimitId(3) },
        action: Action::Charge { cost },
        label: Label(5),
        not_before: StoreTime(0),
        not_after: now + Span::secs(60),
        ceiling: u64::MAX,
        floor: Counts::default(),
        enforce: true,
        expires: now + lives,
        claim: None,
        rule: Rule::FixedWindow,
        hold: None,
    }
}

#[test]
fn every_live_record_comes_back_in_a_later_epoch() {
    let place = Place::new();
    let store = place.store(10_000);
    place.charge(&store, 77_777, 5, Span::ZERO);
    assert_eq!(save(&place.file(), Owner::Alone(OURS), &store).unwrap(), 10_000);
    let (restored, secret) = place.restored(None);
    assert!(secret == Some(OURS));
    assert!(restored.epoch() > store.epoch());
    assert_eq!(restored.records(), 10_000, "what had expired does not");
    for caller in 0..10_000 {
        assert_eq!(place.used(&restored, caller), caller + 1);
    }
}

#[test]
fn meters_come_back() {
    let place = Place::new();
    let now = place.clock.steady();
    let length = Span::secs(3_600);
    let hour = Window::new(length).unwrap();
    let label = LabelTime { starts: now, length, before: 0 };
    let bucket = Bucket::new(10, hour, 10).unwrap();
    let rules = [Rule::SlidingWindow(label), Rule::SlidingLog(label), Rule::Bucket(label, bucket)];
    let charge = |store: &MemoryStore, n: usize, cost: u64| {
        let key = Key { caller: Caller([n as u64, 0]), limit: LimitId(4) };
        let ceiling = 10;
        let operation =
            Operation { key, rule: rules[n], ceiling, ..operation(now, cost, Span::secs(60)) };
        match store.apply(&StoreCommand::new(vec![operation])).unwrap() {
            StoreReply::Done { admitted, .. } => admitted,
            other => panic!("{other:?}"),
        }
    };
    let store = MemoryStore::new(MAX, place.clock);
    assert!((0..3).all(|n| charge(&store, n, 4) && charge(&store, n, 3)));
    save(&place.file(), Owner::Alone(OURS), &store).unwrap();
    let (restored, _) = place.restored(None);
    assert!((0..3).all(|n| !charge(&restored, n, 4) && charge(&restored, n, 3)));
}

#[test]
fn a_later_epoch_is_later_whatever_the_clock_says() {
    let place = Place::new();
    let ahead = StoreEpoch(u64::MAX / 2);
    let store = MemoryStore::after(Some(ahead), MAX, place.clock);
    save(&place.file(), Owner::Alone(OURS), &store).unwrap();
    let twice = ahead.0 + 2 * StoreEpoch::APART;
    assert_eq!(place.restored(None).0.epoch(), StoreEpoch(twice));
}

#[test]
fn no_file_is_nothing() {
    assert!(matches!(Place::new().load(None), Found::Nothing));
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_and_stays() {
    let place = Place::new();
    fs::create_dir(place.file()).unwrap();
    assert!(load(&place.file(), None, MAX, place.clock).is_err());
    assert!(place.file().exists());
}

#[test]
fn only_its_owner_may_read_it_and_nothing_is_left_beside_it() {
    let place = Place::new();
    fs::write(beside(&place.file(), "new"), "left by a killed node").unwrap();
    for _ in 0..2 {
        save(&place.file(), Owner::Alone(OURS), &place.store(3)).unwrap();
    }
    let mode = fs::metadata(place.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 1);
}

#[test]
fn a_snapshot_that_cannot_be_written_leaves_the_old_one() {
    let place = Place::new();
    save(&place.file(), Owner::Alone(OURS), &place.store(3)).unwrap();
    fs::create_dir(beside(&place.file(), "new")).unwrap();
    assert!(save(&place.file(), Owner::Alone(OURS), &place.store(4)).is_err());
    assert_eq!(place.restored(None).0.records(), 3);
}

#[test]
fn a_configured_secret_is_recognized_and_not_kept() {
    let place = Place::new();
    save(&place.file(), Owner::Cluster(OURS), &place.store(3)).unwrap();
    let bytes = fs::read(place.file()).unwrap();
    assert!(!bytes.windows(16).any(|window| window == OURS.0));
    let (restored, secret) = place.restored(Some(OURS));
    assert!(secret.is_none());
    assert_eq!(restored.records(), 3);
}

#[test]
fn records_of_another_secret_are_refused() {
    let place = Place::new();
    for (owner, cluster) in [
        (Owner::Cluster(OURS), Some(Secret([8; 16]))),
        (Owner::Cluster(OURS), None),
        (Owner::Alone(OURS), Some(OURS)),
    ] {
        save(&place.file(), owner, &place.store(3)).unwrap();
        assert_eq!(place.refused(cluster), "it was written under another secret");
    }
}

#[test]
fn more_live_records_than_fit_are_counted_and_left_where_they_are() {
    let place = Place::new();
    let store = place.store(1_000);
    place.charge(&store, 77_777, 5, Span::ZERO);
    save(&place.file(), Owner::Alone(OURS), &store).unwrap();
    let found = load(&place.file(), None, 64, place.clock).unwrap();
    assert!(matches!(found, Found::TooLarge { records: 1_000 }), "{found:?}");
    assert_eq!(place.restored(None).0.records(), 1_000, "it is still there");

    // A damaged one is damaged, however large it is.
    let mut bytes = fs::read(place.file()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(place.file(), bytes).unwrap();
    let found = load(&place.file(), None, 64, place.clock).unwrap();
    assert!(matches!(found, Found::Unusable { ref reason, .. } if reason.contains("checksum")));
}

#[test]
fn what_was_put_aside_last_and_before_is_kept() {
    let place = Place::new();
    for text in ["first", "second", "third"] {
        fs::write(place.file(), text).unwrap();
        place.refused(None);
    }
    let kept = |extension| fs::read_to_string(beside(&place.file(), extension)).unwrap();
    assert_eq!((&*kept("unusable"), &*kept("unusable.1")), ("third", "second"));
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 2);
}

#[test]
fn one_snapshot_belongs_to_one_holder_at_a_time() {
    let place = Place::new();
    let held = Lock::take(&place.file()).unwrap();
    // The lock outlasts that the snapshot is replaced.
    save(&place.file(), Owner::Alone(OURS), &place.store(3)).unwrap();
    assert!(matches!(Lock::take(&place.file()), Err(LockError::Taken)));
    drop(held);
    Lock::take(&place.file()).unwrap();
    let nowhere = place.directory.path().join("nowhere/counts");
    assert!(matches!(Lock::take(&nowhere), Err(LockError::Io(_))));
}

#[test]
fn what_is_not_a_snapshot_says_so() {
    let place = Place::new();
    let whole = {
        save(&place.file(), Owner::Alone(OURS), &place.store(3)).unwrap();
        fs::read(place.file()).unwrap()
    };
    let mut newer = whole.clone();
    newer[8] = 9;
    let longer = [&whole[..], &[0]].concat();
    for (bytes, expected) in [
        (&b"[store]\nkind = \"memory\"\n"[..], "not a snapshot"),
        (b"", "ends too early"),
        (&whole[..20], "ends too early"),
        (&whole[..whole.len() - 1], "ends too early"),
        (&whole[..whole.len() - 80], "ends too early"),
        (&longer, "behind its end"),
        (&newer, "version 9"),
    ] {
        fs::write(place.file(), bytes).unwrap();
        let reason = place.refused(None);
        assert!(reason.contains(expected), "{reason}, expected {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is changed in a snapshot, nothing of it is taken.
    #[test]
    fn one_changed_bit_is_enough(place_of_bit in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let place = Place::new();
        save(&place.file(), Owner::Alone(OURS), &place.store(20)).unwrap();
        let mut bytes = fs::read(place.file()).unwrap();
        let at = place_of_bit.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(place.file(), bytes).unwrap();
        let found = place.load(None);
        prop_assert!(matches!(found, Found::Unusable { .. }), "byte {at}: {found:?}");
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), whole: bool) {
        let place = Place::new();
        let mut text = if whole { b"TGSNAP\r\n\x01\0\0\0".to_vec() } else { Vec::new() };
        text.extend(bytes);
        fs::write(place.file(), text).unwrap();
        let taken = matches!(place.load(None), Found::Store { .. });
        prop_assert!(!taken);
    }
}
