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
    time::ClusterTime,
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

    /// All regions that must answer for a label that is to be recovered: where the newest configuration is
    /// agreed for it, those that it has; else also those that are gone, so that it is not recovered.
    pub fn answering(&self, agreed: bool) -> Vec<RegionNumber> {
        if agreed {
            return self.now.regions().collect();
        }
        let left = self.before.regions().filter(|region| !self.now.has(*region));
        self.now.regions().chain(left).collect()
    }

    /// A number that all have who are configured alike.
    pub fn fingerprint(&self) -> u64 {
        let parts = [&self.now, &self.before].into_iter().flat_map(Split::numbers);
        let parts = parts.chain(self.gone.iter().map(|region| u64::from(region.0)));
        parts.chain([self.effective.0]).fold(self.epoch.0, |sum, part| {
            (sum ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        })
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
    /// The first configuration, by which all labels are split.
    fn default() -> Self {
        let start = ClusterTime(0);
        Self { epoch: ConfigEpoch(0), from: start, agreed: Some(start), since: start }
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
}

impl Adopted {
    /// What a store that has forgotten everything makes of the first word; `None`: that says too little.
    pub fn anew(word: &Proposed) -> Option<Self> {
        let Proposed { epoch, from, agreed, since } = *word;
        if epoch == ConfigEpoch(0) {
            return Some(Self::default());
        }
        Some(Self { epoch, from: from?, agreed, since: since? })
    }

    /// Takes a node's word. The next configuration is adopted when this one is agreed; an older or a later
    /// one is not. Returns whether anything changed.
    pub fn take(&mut self, word: &Proposed) -> bool {
        let before = *self;
        if word.epoch == self.epoch {
            self.agreed = self.agreed.or(word.agreed);
        } else if word.epoch.previous() == self.epoch
            && let Some((from, since)) = word.from.zip(self.agreed)
        {
            *self = Self { epoch: word.epoch, from, agreed: None, since };
        }
        *self != before
    }

    /// Whether claims by a configuration are served in a label that begins then.
    pub fn serves(&self, claimed: ConfigEpoch, label_start: ClusterTime) -> bool {
        let older = claimed == self.epoch.previous() && label_start < self.from;
        claimed == self.epoch || older
    }

    /// What an account is opened with by such a claim; `None`: it is not.
    pub fn base(
        &self,
        claimed: ConfigEpoch,
        bases: Bases,
        label_start: ClusterTime,
    ) -> Option<u64> {
        if !self.serves(claimed, label_start) || label_start < self.since {
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
pub struct Adoptions(BTreeMap<RegionNumber, Adopted>);

impl Adoptions {
    /// Takes note of one region's. Returns whether that is news.
    pub fn note(&mut self, region: RegionNumber, told: &Adopted) -> bool {
        match self.0.get_mut(&region) {
            Some(known) => known.merge(told),
            None => self.0.insert(region, *told).is_none(),
        }
    }

    /// What is known of a region.
    pub fn of(&self, region: RegionNumber) -> Option<Adopted> {
        self.0.get(&region).copied()
    }

    /// The newest configuration that any region is known to have adopted.
    pub fn newest(&self) -> ConfigEpoch {
        self.0.values().map(|adopted| adopted.epoch).max().unwrap_or_default()
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
        if let Some(agreed) = self.0.values().filter_map(said).max() {
            return Some(agreed);
        }
        let from =
            |region: RegionNumber| self.of(region).filter(|a| a.epoch == epoch).map(|a| a.from);
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
        self.0.values().filter_map(said).max()
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
        // Who says so is believed.
        assert_eq!(told(&change(&[]), &[(A, adopted(1, 10, Some(40)))]), Some(ClusterTime(40)));
    }

    #[test]
    fn all_who_are_configured_alike_have_one_number() {
        assert_eq!(change(&[]).fingerprint(), change(&[]).fingerprint());
        let other = Regions::first(split(&[(A, 9), (C, 1)]));
        for different in [change(&[B]), other] {
            assert_ne!(change(&[]).fingerprint(), different.fingerprint());
        }
    }
}
