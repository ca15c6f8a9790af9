//! What tables hold, in bytes, so that each has a size that can be shown.
//!
//! It is what their entries take, and the places that they keep for more. What the allocator adds to each
//! piece is not in it.

use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    vec::Vec,
};

use crate::ids::Session;

/// What the tables of a node hold, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Counts: cells and their slots, what changed, what is watched, what is held of rights.
    pub counts: usize,
    /// Sessions and regions, by number; and those that speak no more and are passed on.
    pub sessions: usize,
    /// What is kept for each peer: how far it was told, what waits for it, what is held against it.
    pub peers: usize,
    /// Reservations that are looked after, and what was answered without the store to requests with a name.
    pub reserved: usize,
}

pub(crate) fn of_vec<T>(vec: &Vec<T>) -> usize {
    vec.capacity() * size_of::<T>()
}

pub(crate) fn of_queue<T>(queue: &VecDeque<T>) -> usize {
    queue.capacity() * size_of::<T>()
}

/// A tree's nodes have so many places, and do not say how many are taken: on average two thirds.
const NODE: usize = 11;

const fn of_nodes(len: usize, entry: usize) -> usize {
    match len {
        0 => 0,
        1..NODE => NODE * entry,
        _ => len * entry * 3 / 2,
    }
}

pub(crate) fn of_tree<K, V>(tree: &BTreeMap<K, V>) -> usize {
    of_nodes(tree.len(), size_of::<(K, V)>())
}

pub(crate) fn of_set<T>(set: &BTreeSet<T>) -> usize {
    of_nodes(set.len(), size_of::<T>())
}

/// The names of a session, which its copies share.
pub(crate) fn of_names(session: &Session) -> usize {
    of_shared(session.id.region.as_str()) + of_shared(session.id.node.as_str())
}

/// A text that is shared: two counts stand before it.
pub(crate) const fn of_shared(text: &str) -> usize {
    2 * size_of::<usize>() + text.len()
}
