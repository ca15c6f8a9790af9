//! What a node may admit of a key while its store cannot be asked: its share of what was left.
//!
//! Every live node of the region takes an equal share of what was left when it was first asked for the key, by
//! what it knew then. So nodes that have not heard of each other since stay within the limit together, but for
//! what they had not heard of before.
//!
//! Of a bucket the share is a bucket too: it begins with what is known to be used, as if none of that had drained,
//! and each admission counts once for every node.
//!
//! A share ends when the store has answered for the key and the nodes have had the time to hear what the others
//! took of theirs: a store that answers now and then must not give everybody a new share each time.

use hashbrown::HashMap;

use crate::{
    algorithm::{Bucket, Level},
    ids::Key,
    time::{ClusterTime, Label, Mono, Span, StoreTime},
};

/// What was left of a key's label, and how much of its share the node has taken.
#[derive(Debug, Clone, Copy)]
struct Share {
    /// What the region was known to have used when the first was taken.
    base: u64,
    taken: u64,
    /// When it was last taken from.
    at: Mono,
    /// When the label ends.
    ends: ClusterTime,
    /// Of a bucket: how full it is, counted as if every node of the region admitted as much; as of `at`.
    level: Option<Level>,
}

/// What is asked for without the store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) key: Key,
    pub(crate) label: Label,
    pub(crate) ends: ClusterTime,
    pub(crate) cost: u64,
    /// What the region may have used.
    pub(crate) ceiling: u64,
    /// Nodes of the region that share it.
    pub(crate) nodes: u64,
    /// If it is counted by a bucket: that, and what the region is known to have used in the label before.
    pub(crate) bucket: Option<(Bucket, u64)>,
}

impl Wanted {
    /// What its share is found by: a bucket has one for all labels.
    fn place(&self) -> (Key, Label) {
        place(self.key, self.label, self.bucket.is_some())
    }
}

fn place(key: Key, label: Label, has_bucket: bool) -> (Key, Label) {
    (key, if has_bucket { Label(0) } else { label })
}

/// The shares of keys that the store did not answer for.
#[derive(Debug, Default)]
pub(crate) struct Degraded {
    shares: HashMap<(Key, Label), Share>,
    shares_max: usize,
}

impl Degraded {
    /// For up to so many keys and labels at a time; of others nothing is admitted.
    pub(crate) fn new(shares_max: usize) -> Self {
        Self { shares_max, ..Self::default() }
    }

    /// Takes what is wanted of the node's share, if it is there; `used` is what the region is known to have
    /// used by now. What was taken and is not admitted after all is to be given back.
    pub(crate) fn take(&mut self, at: Mono, now: ClusterTime, wanted: &Wanted, used: u64) -> bool {
        let Wanted { ends, cost, ceiling, nodes, bucket, .. } = *wanted;
        let known = self.shares.get(&wanted.place()).copied();
        let mut share = known.unwrap_or(Share { base: used, taken: 0, at, ends, level: None });
        let taken = share.taken.saturating_add(cost);
        if let Some((bucket, before)) = bucket {
            let time = |at: Mono| StoreTime(at.0);
            let mut level = share.level.unwrap_or_else(|| {
                // All that is known to be used and may not have drained yet.
                let mut level = Level::empty(&bucket);
                level.lift(&bucket, used.saturating_add(before), time(at), time(at));
                level
            });
            level.drain(&bucket, time(share.at), time(at));
            let cost = cost.saturating_mul(nodes.max(1));
            if !level.has_room(&bucket, cost) {
                return false;
            }
            level.charge(&bucket, cost);
            (share.level, share.ends) = (Some(level), ends);
        } else {
            let part = ceiling.saturating_sub(share.base) / nodes.max(1);
            if taken > part || used.saturating_add(cost) > ceiling {
                return false;
            }
        }
        if known.is_none() && self.shares.len() >= self.shares_max {
            self.shares.retain(|_, share| share.ends > now);
            if self.shares.len() >= self.shares_max {
                return false;
            }
        }
        self.shares.insert(wanted.place(), Share { taken, at, ..share });
        true
    }

    /// The store has answered for a key: its share ends, unless it was taken from less than `settle` ago.
    pub(crate) fn handle_answer(
        &mut self,
        now: Mono,
        (key, label): (Key, Label),
        has_bucket: bool,
        settle: Span,
    ) {
        if self.shares.is_empty() {
            return;
        }
        let (place, is_over) =
            (place(key, label, has_bucket), |share: &Share| now.since(share.at) >= settle);
        if self.shares.get(&place).is_some_and(is_over) {
            self.shares.remove(&place);
        }
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&mut self, wanted: &Wanted) {
        if let Some(share) = self.shares.get_mut(&wanted.place()) {
            share.taken = share.taken.saturating_sub(wanted.cost);
            if let (Some(level), Some((bucket, _))) = (&mut share.level, &wanted.bucket) {
                let cost = wanted.cost.saturating_mul(wanted.nodes.max(1));
                let at = StoreTime(share.at.0);
                level.refund(bucket, cost, at, at);
            }
        }
    }

    /// Bytes held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.shares.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Caller, LimitId};

    fn wanted(caller: u64, cost: u64, nodes: u64) -> Wanted {
        Wanted {
            key: Key { caller: Caller([caller, 0]), limit: LimitId(1) },
            label: Label(7),
            ends: ClusterTime(100),
            cost,
            ceiling: 10,
            nodes,
            bucket: None,
        }
    }

    const KEY: u64 = 1;

    /// Takes of the one key, in seconds of both clocks.
    fn take(degraded: &mut Degraded, at: u64, used: u64, cost: u64, nodes: u64) -> bool {
        let at = at * 1_000_000;
        degraded.take(Mono(at), ClusterTime(0), &wanted(KEY, cost, nodes), used)
    }

    fn answer(degraded: &mut Degraded, at: u64) {
        let key = wanted(KEY, 1, 1).key;
        degraded.handle_answer(Mono(at * 1_000_000), (key, Label(7)), false, Span::secs(2));
    }

    #[test]
    fn a_node_takes_its_share_of_what_was_left_and_no_more() {
        let mut degraded = Degraded::new(8);
        assert!(take(&mut degraded, 0, 2, 3, 2));
        assert!(take(&mut degraded, 0, 5, 1, 2));
        assert!(!take(&mut degraded, 0, 6, 1, 2), "4 of 8 are its share");
        // One of two has gone; what is known to be used counts all the same.
        assert!(!take(&mut degraded, 0, 9, 2, 1));
        assert!(take(&mut degraded, 0, 6, 2, 1));
    }

    #[test]
    fn a_share_ends_when_the_store_answers_and_the_others_have_been_heard() {
        let mut degraded = Degraded::new(8);
        assert!(take(&mut degraded, 0, 2, 4, 2));
        for at in [0, 1] {
            answer(&mut degraded, at);
            assert!(!take(&mut degraded, at, 6, 1, 2), "after {at} s");
        }
        answer(&mut degraded, 2);
        assert!(take(&mut degraded, 2, 6, 2, 2), "what is left is shared anew");
        assert!(!take(&mut degraded, 2, 8, 1, 2));
    }

    #[test]
    fn a_bucket_is_shared_as_a_bucket() {
        let window = crate::time::Window::new(Span::secs(1)).expect("in range");
        let bucket = Bucket::new(10, window, 10).expect("it fits");
        let mut degraded = Degraded::new(8);
        let mut take = |millis: u64, used| {
            let wanted = Wanted { bucket: Some((bucket, 2)), ..wanted(KEY, 1, 2) };
            let label = Label(millis / 1_000);
            degraded.take(Mono(millis * 1_000), ClusterTime(0), &Wanted { label, ..wanted }, used)
        };
        // Six of ten are known to be used: two are left to each of two nodes.
        assert!(take(0, 4) && take(0, 5));
        assert!(!take(0, 6));
        // Ten a second come back, five for each; whatever the label, and whatever was used in it.
        assert!(!take(199, 6) && take(200, 6) && !take(201, 7));
        assert!((0..5).all(|_| take(1_200, 0)) && !take(1_200, 0));
    }

    #[test]
    fn what_was_given_back_can_be_taken_again() {
        let mut degraded = Degraded::new(8);
        assert!(take(&mut degraded, 0, 0, 5, 2));
        assert!(!take(&mut degraded, 0, 0, 1, 2));
        degraded.give_back(&wanted(KEY, 5, 2));
        assert!(take(&mut degraded, 0, 0, 1, 2));
    }

    #[test]
    fn the_table_is_bounded_and_makes_room_of_labels_that_are_over() {
        let mut degraded = Degraded::new(2);
        let mut take =
            |caller, now| degraded.take(Mono(0), ClusterTime(now), &wanted(caller, 1, 1), 0);
        assert!(take(1, 0) && take(2, 0));
        assert!(!take(3, 99));
        assert!(take(3, 100));
    }
}
