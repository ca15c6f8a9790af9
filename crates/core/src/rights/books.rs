//! What one node has heard of all regions' rights to a key, label by label.

use super::{Book, Statement};
use crate::{
    ids::{RegionNumber, StoreEpoch},
    memory,
    time::Label,
};

/// Labels whose books are kept: the previous, the current and the next one.
const LABELS_MAX: usize = 3;

/// The books of one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Books {
    /// By label.
    books: alloc::vec::Vec<(Label, Book)>,
}

impl Books {
    /// What was heard of a label.
    pub(crate) fn of(&self, label: Label) -> Option<&Book> {
        self.books.iter().find(|(of, _)| *of == label).map(|(_, book)| book)
    }

    /// Bytes held beside itself.
    pub(crate) fn memory_bytes(&self) -> usize {
        let books = self.books.iter().map(|(_, book)| book.memory_bytes());
        memory::of_vec(&self.books) + books.sum::<usize>()
    }

    /// Takes a statement, unless its label is older than all that there is room for. Returns whether
    /// anything changed.
    pub(crate) fn merge(&mut self, label: Label, told: &Statement) -> bool {
        self.book(label).is_some_and(|book| book.merge(told))
    }

    /// Takes a region's question for a label, in the same way.
    pub(crate) fn ask(&mut self, label: Label, region: RegionNumber, epoch: StoreEpoch) -> bool {
        self.book(label).is_some_and(|book| book.ask(region, epoch))
    }

    /// The book of a label, unless the label is older than all that there is room for.
    fn book(&mut self, label: Label) -> Option<&mut Book> {
        let at = match self.books.binary_search_by_key(&label, |(of, _)| *of) {
            Ok(at) => at,
            Err(0) if self.books.len() == LABELS_MAX => return None,
            Err(at) => {
                let full = self.books.len() == LABELS_MAX;
                let at = if full { at - 1 } else { at };
                if full {
                    self.books.remove(0);
                }
                self.books.insert(at, (label, Book::default()));
                at
            }
        };
        Some(&mut self.books[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rights::{Receipts, Row};

    #[test]
    fn labels_that_are_over_make_room() {
        let from = RegionNumber(1);
        let told = |n: u64| {
            let given = Row::from_iter([(RegionNumber(2), n)]);
            Statement { from, epoch: StoreEpoch(1), given, ceiling: 0, heard: Receipts::new() }
        };
        let mut books = Books::default();
        for label in [7, 6, 8] {
            assert!(books.merge(Label(label), &told(1)));
        }
        assert!(!books.merge(Label(7), &told(1)), "known");
        assert!(!books.merge(Label(5), &told(9)), "over");
        assert!(books.merge(Label(9), &told(2)));
        assert!(books.of(Label(6)).is_none() && books.of(Label(7)).is_some());
    }
}
