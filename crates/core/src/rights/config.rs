//! Configurations of regions and weights, and how all regions go from one to the next while they run.
//!
//! Each has a number, the *config epoch*, and knows the one before. A region's store *adopts* the next one when
//! a node first says it, and from a label on (`from`) takes no base of an older one any more. When all regions
//! are known to have done so it is *agreed*: labels that begin later are split by it. In between a region has
//! the smaller of its two bases, so that the bases of a label never add up to more than the quantity (INV-12):
//! either nobody has more than by the old configuration, or nobody has more than by the new one.
//!
//! Only the store decides, so that nodes of one region may be reconfigured one after the other.

use alloc::{collections::BTreeMap, vec::Vec};

use super::Split;
use crate::{
    ids::{ConfigEpoch, RegionNumber},
    time::{ClusterTime, StoreTime},
};

/// The regions that share limits under rights, as a node is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regions {
    epoch: ConfigEpoch,
    now: Split,
    /// Those of the epoch before; `now` itself in the first.
    before: Split,
    /// Regions of the epoch before that are no more, and of which nobody waits to hear.
    gone: Vec<RegionNumber>,
    /// Until then the epoch before is in force.
    effective: ClusterTime,
}

impl Regions {
    /// The regions of a cluster that has never been reconfigured.
    pub fn first(split: Split) -> Self {
        Self {
            epoch: ConfigEpoch(0),
            before: split.clone(),
            now: split,
            gone: Vec::new(),
            effective: ClusterTime(0),
        }
    }

    /// The configuration with this number, 1 or more, that takes the place of another at `effective`.
    pub fn next(
        epoch: ConfigEpoch,
        before: Split,
        now: Split,
        gone: &[RegionNumber],
        effective: ClusterTime,
    ) -> Self {
        Self { epoch, now, before, gone: gone.into(), effective }
    }

    /// Its number.
    pub const fn epoch(&self) -> ConfigEpoch {
        self.epoch
    }

    /// The number of the configuration that is in force at a cluster time.
    pub fn acting(&self, at: ClusterTime) -> ConfigEpoch {
        if at < self.effective { self.epoch.previous() } else { self.epoch }
    }

    /// All regions of this configuration and the one before that still are, by number.
    pub fn iter(&self) -> impl Iterator<Item = RegionNumber> {
        let left = self.before.regions().filter(|region| !self.now.has(*region));
        let mut all: Vec<_> = self.now.regions().chain(left).collect();
        all.retain(|region| !self.gone.contains(region));
        all.sort_unstable();
        all.into_iter()
    }

    /// Whether a region is one of them, or was.
    pub fn has(&self, region: RegionNumber) -> bool {
        self.now.has(region) || self.before.has(region)
    }

    /// The weight of a region; 0 if it has none.
    pub fn weight(&self, region: RegionNumber) -> u32 {
        self.now.weight(region)
    }

    /// The part of a region in the whole by its weight in the configuration that is `acting`, 0 to 1.
    pub fn share(&self, region: RegionNumber, acting: ConfigEpoch) -> f64 {
        if acting == self.epoch { self.now.share(region) } else { self.before.share(region) }
    }

    /// Whether there is no other region.
    pub fn is_one(&self) -> bool {
        self.iter().count() == 1
    }

    /// The bases that a region has of a quantity, as far as a node knows.
    pub fn bases(&self, quantity: u64, region: RegionNumber, acting: ConfigEpoch) -> Bases {
        let (now, before) = (self.now.base(quantity, region), self.before.base(quantity, region));
        if acting == self.epoch {
            Bases { now, before: Some(before) }
        } else {
            Bases { now: before, before: None }
        }
    }

    /// The most that a region can have of a quantity by itself, in any label.
    pub fn most(&self, quantity: u64, region: RegionNumber) -> u64 {
        self.now.base(quantity, region).max(self.before.base(quantity, region))
    }

    /// The overdraft that a region may use in a label, by the configuration that is `acting`: the smaller one
    /// until that is `agreed` for the label; nothing, where the smaller one is not known.
    pub fn overdraft(
        &self,
        quantity: u64,
        per_million: u32,
        region: RegionNumber,
        (acting, agreed): (ConfigEpoch, bool),
    ) -> u64 {
        let now = self.now.overdraft(quantity, per_million, region);
        let before = self.before.overdraft(quantity, per_million, region);
        match (acting == self.epoch, agreed) {
            (true, true) => now,
            (true, false) => now.min(before),
            (false, true) => before,
            (false, false) => 0,
        }
    }

    /// The most that all regions together may overdraw, by either configuration.
    pub fn overdrafts(&self, quantity: u64, per_million: u32) -> u64 {
        let all = |split: &Split| {
            split
                .regions()
                .map(|region| split.overdraft(quantity, per_million, region))
                .sum::<u64>()
        };
        all(&self.now).max(all(&self.before))
    }

    /// Whether a region can be granted anything by who goes by the configuration that is `acting`. What a region
    /// was granted that is left out by it would be forgotten where the label is recovered: it is not asked.
    pub fn grants_to(&self, region: RegionNumber, acting: ConfigEpoch) -> bool {
        if acting == self.epoch { self.now.has(region) } else { self.before.has(region) }
    }

    /// All regions that must answer for a label that is to be recovered: where the newest configuration is
    /// agreed for it, those that it has; else also those that are gone, so that it is not recovered.
    pub fn answering(&self, agreed: bool) -> Vec<RegionNumber> {
        if agreed {
            return self.now.regions().collect();
        }
        let left = self.before.regions().filter(|region| !self.now.has(*region));
        self.now.regions().chain(left).collect()
    }

    /// Numbers by which others see whether they are configured alike.
    pub fn fingerprints(&self) -> Fingerprints {
        let gone = self.gone.iter().map(|region| u64::from(region.0));
        Fingerprints {
            epoch: self.epoch,
            now: fingerprint(self.now.numbers()),
            before: fingerprint(self.before.numbers()),
            rest: fingerprint(gone.chain([self.effective.0])),
        }
    }
}

fn fingerprint(parts: impl Iterator<Item = u64>) -> u64 {
    parts.fold(0, |sum: u64, part| (sum ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
}

/// What a configuration is, for comparing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprints {
    /// Its number.
    pub epoch: ConfigEpoch,
    /// Of its regions and weights.
    pub now: u64,
    /// Of those that it takes the place of.
    pub before: u64,
    /// Of all else.
    pub rest: u64,
}

impl Fingerprints {
    /// Whether the same number has two meanings: with two nodes of one number, or where one takes the place of
    /// what the other has.
    pub fn contradicts(&self, other: &Self) -> bool {
        if self.epoch == other.epoch {
            self != other
        } else if self.epoch.next() == other.epoch {
            self.now != other.before
        } else {
            other.epoch.next() == self.epoch && other.now != self.before
        }
    }
}

/// What a region may have of a quantity by itself: by a configuration, and by the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Bases {
    /// By a configuration.
    pub now: u64,
    /// By the one before; `None`: not known.
    pub before: Option<u64>,
}

impl Bases {
    /// The smaller one; `None`: not known.
    pub fn least(self) -> Option<u64> {
        self.before.map(|before| before.min(self.now))
    }
}

impl From<u64> for Bases {
    fn from(base: u64) -> Self {
        Self { now: base, before: Some(base) }
    }
}

/// How far a region's store has come with configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Adopted {
    /// The newest that it has been told.
    pub epoch: ConfigEpoch,
    /// In labels that begin from then on it takes no base of an older one.
    pub from: ClusterTime,
    /// Labels that begin from then on are split by it everywhere; `None` until that is known.
    pub agreed: Option<ClusterTime>,
    /// Of labels that began earlier nobody knows any more how they are split: no account is opened in them.
    pub since: ClusterTime,
}

impl Default for Adopted {
    /// Nobody has told it anything, or it has forgotten.
    fn default() -> Self {
        let start = ClusterTime(0);
        Self { epoch: ConfigEpoch(0), from: start, agreed: None, since: start }
    }
}

/// What a node tells its store of configurations, beside claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Proposed {
    /// By which its claims are made.
    pub epoch: ConfigEpoch,
    /// From when on labels may be begun that nobody has used yet; `None` as long as the node cannot say.
    pub from: Option<ClusterTime>,
    /// When it is agreed, as far as the node has heard.
    pub agreed: Option<ClusterTime>,
    /// Of labels that began earlier nothing may be opened by it; `None` as long as the node has not heard that
    /// the one before was ever agreed.
    pub since: Option<ClusterTime>,
    /// From then on `from` says nothing any more: labels that nobody had used then may be in use.
    pub until: StoreTime,
}

impl Proposed {
    /// From when on labels may be begun that nobody has used yet, if that is still true.
    fn unused_at(&self, now: StoreTime) -> Option<ClusterTime> {
        self.from.filter(|_| now < self.until)
    }
}

impl Adopted {
    /// The first configuration, by which all labels are split.
    pub const fn first() -> Self {
        let start = ClusterTime(0);
        Self { epoch: ConfigEpoch(0), from: start, agreed: Some(start), since: start }
    }

    /// Whether nobody has told it anything.
    pub fn is_untold(&self) -> bool {
        self.epoch == ConfigEpoch(0) && self.agreed.is_none()
    }

    /// What a store that has forgotten everything makes of the first word that comes at `now`; `None`: that says
    /// too little.
    pub fn anew(word: &Proposed, now: StoreTime) -> Option<Self> {
        if word.epoch == ConfigEpoch(0) {
            return Some(Self::first());
        }
        let (from, since) = word.unused_at(now).zip(word.since)?;
        Some(Self { epoch: word.epoch, from, agreed: word.agreed, since })
    }

    /// Takes a node's word that comes at `now`. A later configuration is adopted when the one before that is
    /// known to have been agreed; an older one is not. Returns whether anything changed.
    pub fn take(&mut self, word: &Proposed, now: StoreTime) -> bool {
        let before = *self;
        if word.epoch == self.epoch {
            self.agreed = self.agreed.or(word.agreed);
        } else if word.epoch > self.epoch {
            let is_next = word.epoch.previous() == self.epoch;
            let since = self.agreed.filter(|_| is_next).or(word.since);
            if let Some((from, since)) = word.unused_at(now).zip(since) {
                *self = Self { epoch: word.epoch, from, agreed: None, since };
            }
        }
        *self != before
    }

    /// Whether claims by a configuration are served in a label that begins then. By an older one they are in
    /// labels that nobody splits by this one yet.
    pub fn serves(&self, claimed: ConfigEpoch, label_start: ClusterTime) -> bool {
        let is_older = claimed == self.epoch.previous();
        claimed == self.epoch
            || (is_older && label_start < self.from && !self.is_agreed(label_start))
    }

    /// Whether how a label that begins then is split can be known.
    pub fn knows(&self, label_start: ClusterTime) -> bool {
        label_start >= self.since
    }

    /// The base of an account that was forgotten and is made good: by which configuration it was opened nobody
    /// knows. `None`: it is not.
    pub fn least_base(&self, bases: Bases, label_start: ClusterTime) -> Option<u64> {
        if self.is_agreed(label_start) {
            Some(bases.now)
        } else {
            bases.least().filter(|_| self.knows(label_start))
        }
    }

    /// What an account is opened with by such a claim; `None`: it is not.
    pub fn base(
        &self,
        claimed: ConfigEpoch,
        bases: Bases,
        label_start: ClusterTime,
    ) -> Option<u64> {
        if !self.serves(claimed, label_start) || !self.knows(label_start) {
            return None;
        }
        if claimed != self.epoch || self.is_agreed(label_start) {
            Some(bases.now)
        } else if label_start < self.from {
            bases.before
        } else {
            bases.least()
        }
    }

    /// Whether labels that begin then are split by the newest configuration everywhere.
    pub fn is_agreed(&self, label_start: ClusterTime) -> bool {
        self.agreed.is_some_and(|agreed| label_start >= agreed)
    }

    /// Takes what is told of the same region elsewhere: later numbers count, and of one epoch the later begin.
    pub fn merge(&mut self, told: &Self) -> bool {
        let before = *self;
        if told.epoch > self.epoch {
            *self = *told;
        } else if told.epoch == self.epoch {
            self.from = self.from.max(told.from);
            self.since = self.since.max(told.since);
            self.agreed = match (self.agreed, told.agreed) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        *self != before
    }
}

/// What one node has heard of how far each region's store has come.
#[derive(Debug, Clone, Default)]
pub struct Adoptions {
    regions: BTreeMap<RegionNumber, Adopted>,
    /// The newest that others say the own region has adopted, perhaps before it forgot all.
    was: ConfigEpoch,
}

impl Adoptions {
    /// Takes note of one region's. Returns whether that is news.
    pub fn note(&mut self, region: RegionNumber, told: &Adopted) -> bool {
        match self.regions.get_mut(&region) {
            Some(known) => known.merge(told),
            None => self.regions.insert(region, *told).is_none(),
        }
    }

    /// Takes note of what another region knows of how far the own one was.
    pub fn note_was(&mut self, epoch: ConfigEpoch) {
        self.was = self.was.max(epoch);
    }

    /// What is known of a region.
    pub fn of(&self, region: RegionNumber) -> Option<Adopted> {
        self.regions.get(&region).copied()
    }

    /// The newest configuration that any region is known to have adopted.
    pub fn newest(&self) -> ConfigEpoch {
        self.regions.values().map(|adopted| adopted.epoch).fold(self.was, ConfigEpoch::max)
    }

    /// From which labels on a configuration is in force everywhere: when all regions have adopted it, the
    /// last of their beginnings. One that says so itself is believed, and who is further has agreed before.
    pub fn agreed(&self, regions: &Regions) -> Option<ClusterTime> {
        let epoch = regions.epoch();
        let said = |adopted: &Adopted| {
            if adopted.epoch == epoch {
                adopted.agreed
            } else {
                (adopted.epoch == epoch.next()).then_some(adopted.since)
            }
        };
        let from =
            |region: RegionNumber| self.of(region).filter(|a| a.epoch == epoch).map(|a| a.from);
        if let Some(agreed) = self.regions.values().filter_map(said).max() {
            let last = regions.iter().filter_map(from).max();
            return Some(last.map_or(agreed, |last| last.max(agreed)));
        }
        regions.iter().map(from).try_fold(ClusterTime(0), |last, from| Some(last.max(from?)))
    }

    /// Before when labels began that are too old to be opened by a configuration: when the one before it was
    /// agreed; `None` if nobody has said that it was.
    pub fn since(&self, epoch: ConfigEpoch) -> Option<ClusterTime> {
        if epoch.previous() == ConfigEpoch(0) {
            return Some(ClusterTime(0));
        }
        let said = |adopted: &Adopted| {
            if adopted.epoch == epoch {
                Some(adopted.since)
            } else {
                adopted.agreed.filter(|_| adopted.epoch == epoch.previous())
            }
        };
        self.regions.values().filter_map(said).max()
    }

    /// Whether nobody is left who could say that the configuration before `epoch` was agreed, and nobody who is
    /// further behind: of every region it is known that it came so far, or that its store was told nothing.
    /// Whoever configures `epoch` has seen that the one before was agreed.
    pub fn are_lost(&self, regions: &Regions, epoch: ConfigEpoch) -> bool {
        regions.iter().all(|region| {
            self.of(region).is_some_and(|a| a.is_untold() || a.epoch >= epoch.previous())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: RegionNumber = RegionNumber(1);
    const B: RegionNumber = RegionNumber(2);
    const C: RegionNumber = RegionNumber(3);

    fn split(weights: &[(RegionNumber, u32)]) -> Split {
        Split::new(weights).expect("a split")
    }

    /// Of two regions with the same weight; then the first has nine tenths, and the second is gone.
    fn change(gone: &[RegionNumber]) -> Regions {
        let (before, now) = (split(&[(A, 1), (B, 1)]), split(&[(A, 9), (C, 1)]));
        Regions::next(ConfigEpoch(1), before, now, gone, ClusterTime(100))
    }

    fn adopted(epoch: u64, from: u64, agreed: Option<u64>) -> Adopted {
        let agreed = agreed.map(ClusterTime);
        let (epoch, from) = (ConfigEpoch(epoch), ClusterTime(from));
        Adopted { epoch, from, agreed, since: ClusterTime(0) }
    }

    #[test]
    fn until_it_takes_hold_a_node_goes_by_the_one_before() {
        let regions = change(&[]);
        assert_eq!([99, 100].map(|at| regions.acting(ClusterTime(at)).0), [0, 1]);
        let bases = |acting| regions.bases(100, A, ConfigEpoch(acting));
        assert_eq!(bases(0), Bases { now: 50, before: None });
        assert_eq!(bases(1), Bases { now: 90, before: Some(50) });
        let overdraft =
            |acting, agreed| regions.overdraft(100, 100_000, A, (ConfigEpoch(acting), agreed));
        assert_eq!([overdraft(0, false), overdraft(0, true)], [0, 5]);
        assert_eq!([overdraft(1, false), overdraft(1, true)], [5, 9]);
    }

    #[test]
    fn an_account_begins_with_the_base_of_its_time() {
        let store = adopted(1, 10, Some(20));
        let bases = Bases { now: 9, before: Some(5) };
        let base = |claimed, start| store.base(ConfigEpoch(claimed), bases, ClusterTime(start));
        assert_eq!([9, 10, 19, 20].map(|start| base(1, start)), [5, 5, 5, 9].map(Some));
        // Of an older one, as long as labels begin that it may serve.
        assert_eq!([base(0, 9), base(0, 10)], [Some(9), None]);
        assert_eq!(base(2, 20), None, "it has not been adopted");
        let unknown = Bases { before: None, ..bases };
        let base = |start| store.base(ConfigEpoch(1), unknown, ClusterTime(start));
        assert_eq!([base(9), base(10), base(20)], [None, None, Some(9)]);
    }

    #[test]
    fn what_is_older_than_any_change_that_is_known_is_left_alone() {
        let store = Adopted { since: ClusterTime(5), ..adopted(2, 10, None) };
        let bases = Bases { now: 9, before: Some(5) };
        let least = |start| store.least_base(bases, ClusterTime(start));
        assert_eq!([4, 5, 20].map(least), [None, Some(5), Some(5)]);
        assert_eq!(store.base(ConfigEpoch(2), bases, ClusterTime(4)), None);
        let agreed = Adopted { agreed: Some(ClusterTime(20)), ..store };
        let least = |start| agreed.least_base(bases, ClusterTime(start));
        assert_eq!([4, 19, 20].map(least), [None, Some(5), Some(9)]);
        // A store that forgot adopts later than what is agreed: an older claim has no place in between.
        let anew = Adopted { from: ClusterTime(30), ..agreed };
        let serves = |start| anew.serves(ConfigEpoch(1), ClusterTime(start));
        assert_eq!([19, 20, 29, 30].map(serves), [true, false, false, false]);
    }

    fn word(epoch: u64, from: u64, agreed: Option<u64>, since: Option<u64>) -> Proposed {
        Proposed {
            epoch: ConfigEpoch(epoch),
            from: Some(ClusterTime(from)),
            agreed: agreed.map(ClusterTime),
            since: since.map(ClusterTime),
            until: StoreTime(100),
        }
    }

    #[test]
    fn a_later_one_is_adopted_once_the_one_before_it_is_known_to_be_agreed() {
        let told = |store: Adopted, word: &Proposed, now| {
            let mut store = store;
            store.take(word, StoreTime(now)).then_some(store)
        };
        let [waits, agreed] = [adopted(1, 10, None), adopted(1, 10, Some(20))];
        assert_eq!(told(waits, &word(2, 50, None, None), 0), None);
        let second = |since| Adopted { since: ClusterTime(since), ..adopted(2, 50, None) };
        assert_eq!(told(agreed, &word(2, 50, None, None), 0), Some(second(20)));
        // Who missed it hears of it with the next one; so does who missed a whole one.
        assert_eq!(told(waits, &word(2, 50, None, Some(21)), 0), Some(second(21)));
        assert_eq!(told(adopted(0, 0, Some(0)), &word(2, 50, None, Some(21)), 0), Some(second(21)));
        assert_eq!(told(adopted(0, 0, Some(0)), &word(2, 50, None, None), 0), None);
        assert_eq!(told(second(20), &word(1, 60, Some(20), Some(0)), 0), None, "an older one");
        // What comes late says nothing of unused labels, but still what is agreed.
        assert_eq!(told(agreed, &word(2, 50, None, None), 100), None);
        assert_eq!(Adopted::anew(&word(2, 50, None, Some(20)), StoreTime(100)), None);
        assert_eq!(told(waits, &word(1, 50, Some(20), None), 100), Some(agreed));
    }

    #[test]
    fn where_all_have_forgotten_nobody_is_waited_for() {
        let regions = change(&[B]);
        let lost = |a: Adopted, c: Option<Adopted>, epoch| {
            let mut adoptions = Adoptions::default();
            adoptions.note(A, &a);
            c.iter().for_each(|c| {
                adoptions.note(C, c);
            });
            adoptions.are_lost(&regions, ConfigEpoch(epoch))
        };
        let untold = Adopted::default();
        assert!(untold.is_untold() && !Adopted::first().is_untold());
        assert!(lost(untold, Some(untold), 2) && lost(untold, Some(adopted(1, 0, None)), 2));
        assert!(!lost(untold, None, 2), "nobody has heard of C");
        assert!(!lost(untold, Some(Adopted::first()), 2), "C is further behind");
    }

    #[test]
    fn how_far_the_own_region_was_others_may_know_better() {
        let mut adoptions = Adoptions::default();
        adoptions.note(A, &adopted(1, 10, None));
        assert_eq!(adoptions.newest(), ConfigEpoch(1));
        adoptions.note_was(ConfigEpoch(2));
        adoptions.note_was(ConfigEpoch(1));
        assert_eq!(adoptions.newest(), ConfigEpoch(2));
    }

    #[test]
    fn one_is_agreed_when_all_that_are_left_have_adopted_it() {
        let told = |regions: &Regions, all: &[(RegionNumber, Adopted)]| {
            let mut adoptions = Adoptions::default();
            all.iter().for_each(|(region, adopted)| {
                adoptions.note(*region, adopted);
            });
            adoptions.agreed(regions)
        };
        let [a, c] = [adopted(1, 10, None), adopted(1, 30, None)];
        assert_eq!(told(&change(&[]), &[(A, a), (C, c)]), None, "nobody has heard of B");
        assert_eq!(told(&change(&[B]), &[(A, a), (C, c)]), Some(ClusterTime(30)));
        assert_eq!(told(&change(&[B]), &[(A, a), (C, adopted(0, 0, Some(0)))]), None);
        // Who says so is believed, but not against what is known.
        let says = |at| told(&change(&[]), &[(A, adopted(1, 10, Some(at))), (C, c)]);
        assert_eq!([20, 40].map(says), [30, 40].map(|at| Some(ClusterTime(at))));
    }

    #[test]
    fn all_who_are_configured_alike_have_one_number() {
        assert_eq!(change(&[]).fingerprints(), change(&[]).fingerprints());
        let other = Regions::first(split(&[(A, 9), (C, 1)]));
        for different in [change(&[B]), other] {
            assert_ne!(change(&[]).fingerprints(), different.fingerprints());
        }
        let contradicts = |a: &Regions, b: &Regions| {
            let [a, b] = [a, b].map(Regions::fingerprints);
            assert_eq!(a.contradicts(&b), b.contradicts(&a));
            a.contradicts(&b)
        };
        let [even, uneven] = [split(&[(A, 1), (B, 1)]), split(&[(A, 9), (C, 1)])];
        let second = |before: &Split| {
            Regions::next(ConfigEpoch(2), before.clone(), even.clone(), &[], ClusterTime(0))
        };
        assert!(contradicts(&change(&[]), &change(&[B])));
        assert!(!contradicts(&Regions::first(even.clone()), &change(&[])));
        assert!(contradicts(&Regions::first(uneven.clone()), &change(&[])), "another one before");
        assert!(!contradicts(&change(&[]), &second(&uneven)));
        assert!(contradicts(&change(&[]), &second(&even)), "it was another one");
        assert!(!contradicts(&Regions::first(uneven), &second(&even)), "who is further tells");
    }
}
