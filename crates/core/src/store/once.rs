//! Steps that are carried out once, however often they are asked for: the store remembers what it answered.

use alloc::{collections::BTreeSet, vec::Vec};

use hashbrown::HashMap;

use super::{HoldId, OperationReply};
use crate::{
    ids::Caller,
    memory,
    time::{Label, Span, StoreTime},
};

/// Names a request: a keyed fingerprint of who asks and of the name that they gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub [u64; 2]);

/// What makes a command one that is carried out once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Once {
    /// Which request it is.
    pub id: RequestId,
    /// What it asks for, as a number up to [`COUNT_MAX`](super::COUNT_MAX): under one name only the same is answered.
    pub of: u64,
    /// A number that is told to who asks again.
    pub says: u64,
    /// How long it is remembered; not at all if that is no time: then it is only not carried out where it was before.
    pub kept: Span,
    /// Whether a refusal is remembered as well.
    pub refusals: bool,
}

/// An odd number of which half the bits are set: 2^64 by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Once {
    /// The name of what operation `at` holds by itself, of the command that said so: who asks again knows it.
    pub(crate) const fn hold(says: u64, at: usize) -> HoldId {
        let mixed = says.wrapping_add(1 + at as u64).wrapping_mul(FACTOR) >> 11;
        HoldId(if mixed == 0 { 1 } else { mixed })
    }

    /// The same request as its other places remember it, once the command that said so has been decided on. When its
    /// home has forgotten the name, and decides anew, that is another one.
    pub(super) const fn elsewhere(self, says: u64) -> Self {
        let [low, high] = self.id.0;
        Self { id: RequestId([low ^ says.wrapping_mul(FACTOR), high]), ..self }
    }
}

/// What a store remembers of such a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// What was asked for.
    pub of: u64,
    /// The number that came with it.
    pub says: u64,
    /// When it was carried out, by the store's clock.
    pub at: StoreTime,
    /// What it was answered.
    pub answer: Answer,
}

/// What became of a command, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether it was admitted.
    pub admitted: bool,
    /// In order: each operation's label, and what it was answered; without how accounts stood.
    pub operations: Vec<(Label, OperationReply)>,
}

impl Remembered {
    fn memory_bytes(&self) -> usize {
        memory::of_vec(&self.answer.operations)
    }
}

/// Beside whose records a request is remembered, and which it is.
type Place = (Caller, RequestId);

/// What a table remembers, by request.
#[derive(Debug, Clone, Default)]
pub(super) struct Memories {
    by_id: HashMap<Place, (StoreTime, Remembered)>,
    by_end: BTreeSet<(StoreTime, Place)>,
    /// Bytes that they hold beside themselves.
    beside: usize,
}

impl Memories {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.by_id.allocation_size() + memory::of_set(&self.by_end) + self.beside
    }

    pub(super) fn get(&self, id: &Place, now: StoreTime) -> Option<&Remembered> {
        self.by_id.get(id).filter(|(until, _)| *until > now).map(|(_, remembered)| remembered)
    }

    pub(super) fn put(&mut self, id: Place, until: StoreTime, remembered: Remembered) {
        self.forget(&id);
        self.beside += remembered.memory_bytes();
        self.by_end.insert((until, id));
        self.by_id.insert(id, (until, remembered));
    }

    /// Forgets up to `budget` of those whose time is over.
    pub(super) fn sweep(&mut self, now: StoreTime, budget: usize) {
        for _ in 0..budget {
            match self.by_end.first() {
                Some((until, id)) if *until <= now => self.forget(&id.clone()),
                _ => break,
            }
        }
    }

    fn forget(&mut self, id: &Place) {
        if let Some((until, remembered)) = self.by_id.remove(id) {
            self.beside -= remembered.memory_bytes();
            self.by_end.remove(&(until, *id));
        }
    }
}
