//! What one node has heard of all regions' rights to a key in one label.
//!
//! A book decides nothing: it says what may be told to the own store, and how much each region seems to
//! hold. What it says is checked there once more.

use alloc::vec::Vec;

use super::{Receipts, Received, Row};
use crate::{
    ids::{RegionNumber, StoreEpoch},
    memory,
};

/// What a region tells everybody of its rights, in one epoch of its store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Statement {
    /// Who.
    pub from: RegionNumber,
    /// In which epoch of its store.
    pub epoch: StoreEpoch,
    /// What it has granted to each region in the label so far.
    pub given: Row,
    /// It spends no more in the label than this and one block, until somebody holds a higher one.
    pub ceiling: u64,
    /// Of a long label: what its store holds of what others have told of themselves.
    pub heard: Receipts,
}

impl Statement {
    /// Whether nobody can learn anything from it.
    pub const fn says_nothing(&self) -> bool {
        self.given.is_empty() && self.ceiling == 0 && self.heard.is_empty()
    }
}

/// The newest statements of all regions, the own one among them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Book {
    /// By region.
    statements: Vec<Statement>,
    /// Regions whose stores have forgotten the label, by region, and the epochs in which they ask for it.
    questions: Vec<(RegionNumber, StoreEpoch)>,
}

impl Book {
    /// Takes a statement. Of one epoch, the larger of each number is kept; a later epoch's replaces what
    /// was known, an older one's is not taken. Returns whether anything changed.
    pub fn merge(&mut self, told: &Statement) -> bool {
        match self.find(told.from) {
            Ok(at) => {
                let known = &mut self.statements[at];
                if told.epoch > known.epoch {
                    *known = told.clone();
                    return true;
                }
                let grew = told.ceiling > known.ceiling;
                if told.epoch < known.epoch {
                    return false;
                }
                known.ceiling = known.ceiling.max(told.ceiling);
                let heard = known.heard.merge(&told.heard);
                known.given.merge(&told.given) | heard | grew
            }
            Err(at) => {
                self.statements.insert(at, told.clone());
                true
            }
        }
    }

    /// Takes the question of a region whose store has forgotten the label, in its new epoch. Returns whether
    /// that is news; it is not if the epoch has stated something already.
    pub fn ask(&mut self, region: RegionNumber, epoch: StoreEpoch) -> bool {
        if self.of(region).is_some_and(|told| told.epoch >= epoch) {
            return false;
        }
        match self.questions.binary_search_by_key(&region, |(of, _)| *of) {
            Ok(at) if self.questions[at].1 >= epoch => false,
            Ok(at) => {
                self.questions[at].1 = epoch;
                true
            }
            Err(at) => {
                self.questions.insert(at, (region, epoch));
                true
            }
        }
    }

    /// The epoch in which a region asks, as long as it has stated nothing in it.
    pub fn question(&self, region: RegionNumber) -> Option<StoreEpoch> {
        let at = self.questions.binary_search_by_key(&region, |(of, _)| *of).ok()?;
        let asked = self.questions[at].1;
        self.of(region).is_none_or(|told| told.epoch < asked).then_some(asked)
    }

    /// The highest ceiling of region `own` in `epoch` that another one's store holds.
    pub fn acknowledged(&self, own: RegionNumber, epoch: StoreEpoch) -> u64 {
        let held = self.statements.iter().filter(|told| told.from != own);
        let held = held.filter_map(|told| told.heard.of(own)).filter(|held| held.epoch == epoch);
        held.map(|held| held.ceiling).max().unwrap_or(0)
    }

    /// Whether the store of region `own` is to hear of something that others wait for it to say that it has:
    /// a ceiling, or a question.
    pub fn is_behind(&self, own: RegionNumber) -> bool {
        let held = |region: RegionNumber| self.of(own).and_then(|told| told.heard.of(region));
        let of_ceilings = self.statements.iter().any(|told| {
            let behind = |held: Received| {
                held.epoch < told.epoch || (held.epoch == told.epoch && held.ceiling < told.ceiling)
            };
            told.from != own && told.ceiling > 0 && held(told.from).is_none_or(behind)
        });
        let of_questions = self.questions.iter().any(|(region, _)| {
            let asked = self.question(*region).filter(|_| *region != own);
            asked.is_some_and(|asked| held(*region).is_none_or(|h| h.epoch < asked))
        });
        of_ceilings || of_questions
    }

    /// Bytes held beside itself: there are as many statements as regions at most, and as much in each.
    pub(crate) fn memory_bytes(&self) -> usize {
        let of_each = self
            .statements
            .iter()
            .map(|told| told.given.memory_bytes() + told.heard.memory_bytes());
        memory::of_vec(&self.statements) + memory::of_vec(&self.questions) + of_each.sum::<usize>()
    }

    /// The newest statement of a region.
    pub fn of(&self, region: RegionNumber) -> Option<&Statement> {
        self.find(region).ok().map(|at| &self.statements[at])
    }

    /// All statements, by region.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Statement> {
        self.statements.iter()
    }

    /// What others tell `own` of themselves, as its store is to hear it: of grants no more than the giver
    /// can have, that is its `base` and what others are known to have granted to it. The rest waits until
    /// that is known too. Questions come last: nothing of older epochs counts after them.
    pub fn received(&self, own: RegionNumber, base: impl Fn(RegionNumber) -> u64) -> Vec<Received> {
        let others = self.statements.iter().filter(|told| told.from != own);
        let read = |told: &Statement| {
            let amount = self.counts_for(own, told, &base);
            Received { from: told.from, epoch: told.epoch, amount, ceiling: told.ceiling }
        };
        let asked = self.questions.iter().filter(|(region, _)| *region != own);
        let asked = asked.map(|(region, epoch)| Received::nothing(*region, *epoch));
        others.map(read).chain(asked).collect()
    }

    /// What a region seems to hold: its `base` and what it was granted, as far as its givers can have it, less
    /// what it has granted.
    pub fn held(&self, region: RegionNumber, base: impl Fn(RegionNumber) -> u64) -> u64 {
        let others = self.statements.iter().filter(|told| told.from != region);
        let granted = others.map(|told| self.counts_for(region, told, &base));
        let has = granted.fold(base(region), u64::saturating_add);
        has.saturating_sub(self.of(region).map_or(0, |told| told.given.sum()))
    }

    /// What counts of what somebody has granted to a region: what he can have that he has not granted to others.
    fn counts_for(
        &self,
        to: RegionNumber,
        told: &Statement,
        base: impl Fn(RegionNumber) -> u64,
    ) -> u64 {
        let has = base(told.from).saturating_add(self.granted_to(told.from));
        told.given.of(to).min(has.saturating_sub(told.given.sum_but(to)))
    }

    /// What others say that they have granted to a region.
    fn granted_to(&self, region: RegionNumber) -> u64 {
        let others = self.statements.iter().filter(|told| told.from != region);
        others.map(|told| told.given.of(region)).fold(0, u64::saturating_add)
    }

    fn find(&self, region: RegionNumber) -> Result<usize, usize> {
        self.statements.binary_search_by_key(&region, |told| told.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::COUNT_MAX;

    const A: RegionNumber = RegionNumber(1);
    const B: RegionNumber = RegionNumber(2);
    const C: RegionNumber = RegionNumber(3);

    fn says(from: RegionNumber, epoch: u64, given: &[(RegionNumber, u64)]) -> Statement {
        let given = Row::from_iter(given.iter().copied());
        Statement { from, epoch: StoreEpoch(epoch), given, ceiling: 0, heard: Receipts::new() }
    }

    /// Each region's third of 9.
    fn third(_: RegionNumber) -> u64 {
        3
    }

    #[test]
    fn statements_of_one_epoch_are_merged_and_a_later_one_replaces_them() {
        let mut book = Book::default();
        assert!(book.merge(&says(A, 1, &[(B, 3)])));
        assert!(!book.merge(&says(A, 1, &[(B, 2)])));
        assert!(book.merge(&says(A, 1, &[(C, 1)])));
        assert_eq!(book.of(A).expect("told").given, Row::from_iter([(B, 3), (C, 1)]));
        assert!(book.merge(&says(A, 2, &[(B, 1)])));
        assert!(!book.merge(&says(A, 1, &[(B, 9)])));
        assert_eq!(book.of(A).expect("told").given, Row::from_iter([(B, 1)]));
    }

    /// INV-14, where a giver claims more than it can have given.
    #[test]
    fn a_grant_counts_as_far_as_its_giver_can_have_it() {
        let mut book = Book::default();
        book.merge(&says(A, 1, &[(B, 5), (C, 4)]));
        // A has 3 of 9, and gave 4 to C: nothing is left for B until it is known from whom A had more.
        assert_eq!(book.received(B, third)[0].amount, 0);
        book.merge(&says(C, 1, &[(A, 4)]));
        let received = book.received(B, third);
        assert_eq!((received[0].from, received[0].amount), (A, 3));
        book.merge(&says(C, 1, &[(A, 9)]));
        assert_eq!(book.received(B, third)[0].amount, 5);
    }

    /// INV-14, where a sum is more than can be told.
    #[test]
    fn who_claims_to_have_granted_everything_to_everybody_has_granted_nothing() {
        let mut book = Book::default();
        // Not even if it says to have granted as much to itself.
        book.merge(&says(A, 1, &[(A, COUNT_MAX), (B, COUNT_MAX), (C, COUNT_MAX)]));
        for region in [B, C] {
            assert_eq!(book.received(region, third)[0].amount, 0);
            assert_eq!(book.held(region, third), 3);
        }
    }

    #[test]
    fn what_a_region_holds_is_its_base_and_what_it_was_granted_less_what_it_gave() {
        let mut book = Book::default();
        book.merge(&says(A, 1, &[(B, 2)]));
        book.merge(&says(B, 1, &[(C, 1)]));
        let held = [A, B, C].map(|region| book.held(region, third));
        assert_eq!(held, [1, 4, 4]);
        assert_eq!(held.iter().sum::<u64>(), 9);
    }
}
