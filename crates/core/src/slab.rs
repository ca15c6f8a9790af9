//! A slab: values at stable 32-bit places, in chunks, so that growing moves nothing and wastes little.

use alloc::{boxed::Box, vec::Vec};
use core::mem;

/// Entries per chunk. Growth is by whole chunks: at most this many entries are spare per slab.
const CHUNK: usize = 64;

#[derive(Debug, Clone)]
enum Place<T> {
    Full(T),
    /// Free; holds the next free place, if any.
    Free(Option<u32>),
}

/// Values at stable places.
#[derive(Debug, Clone)]
pub(crate) struct Slab<T> {
    chunks: Vec<Box<[Place<T>]>>,
    free: Option<u32>,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), free: None, len: 0 }
    }

    /// How many values there are.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// One past the last place ever used: walks go from 0 to here.
    pub(crate) fn places(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    fn place(&self, at: u32) -> Option<&Place<T>> {
        self.chunks.get(at as usize / CHUNK)?.get(at as usize % CHUNK)
    }

    fn place_mut(&mut self, at: u32) -> Option<&mut Place<T>> {
        self.chunks.get_mut(at as usize / CHUNK)?.get_mut(at as usize % CHUNK)
    }

    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        match self.place(at)? {
            Place::Full(value) => Some(value),
            Place::Free(_) => None,
        }
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        match self.place_mut(at)? {
            Place::Full(value) => Some(value),
            Place::Free(_) => None,
        }
    }

    /// Puts `value` in a free place and says which.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if self.free.is_none() {
            self.grow();
        }
        let at = self.free.expect("grow leaves a free place");
        let place = self.place_mut(at).expect("the free list names places that exist");
        let Place::Free(next) = mem::replace(place, Place::Full(value)) else {
            unreachable!("the free list names free places only")
        };
        self.free = next;
        self.len += 1;
        at
    }

    pub(crate) fn remove(&mut self, at: u32) -> Option<T> {
        let free = self.free;
        let place = self.place_mut(at)?;
        match mem::replace(place, Place::Free(free)) {
            Place::Full(value) => {
                self.free = Some(at);
                self.len -= 1;
                Some(value)
            }
            already @ Place::Free(_) => {
                *place = already;
                None
            }
        }
    }

    fn grow(&mut self) {
        let first = self.places();
        let chunk = (1..=CHUNK as u32)
            .map(|i| Place::Free((i < CHUNK as u32).then_some(first + i)))
            .collect();
        self.chunks.push(chunk);
        self.free = Some(first);
    }

    /// Bytes held by the slab itself, without what its values own.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Place<T>>()
            + self.chunks.capacity() * size_of::<Box<[Place<T>]>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((any::<bool>(), 0_u32..200), 1..600)) {
            let (mut slab, mut map) = (Slab::new(), BTreeMap::new());
            for (insert, n) in steps {
                if insert {
                    let at = slab.insert(n);
                    prop_assert_eq!(map.insert(at, n), None);
                } else {
                    prop_assert_eq!(slab.remove(n), map.remove(&n));
                }
                prop_assert_eq!(slab.len(), map.len());
            }
            for at in 0..slab.places() {
                prop_assert_eq!(slab.get(at), map.get(&at));
            }
        }
    }
}
