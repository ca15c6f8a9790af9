//! What a node may admit of a key while its store cannot be asked: its share of what was left.
//!
//! Every live node of the region takes an equal share of what was left when it was first asked for the key in
//! this outage, by what it knew then. So nodes that have not heard of each other since stay within the limit
//! together, but for what they had not heard of before.

use hashbrown::HashMap;

use crate::{
    ids::Key,
    time::{ClusterTime, Label},
};

/// What was left of a key's label, and how much of its share the node has taken.
#[derive(Debug, Clone, Copy)]
struct Share {
    /// What the region was known to have used when the first was taken.
    base: u64,
    taken: u64,
    /// When the label ends.
    ends: ClusterTime,
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
}

/// The shares of one outage.
#[derive(Debug, Default)]
pub(crate) struct Degraded {
    outage: u64,
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
    pub(crate) fn take(
        &mut self,
        outage: u64,
        wanted: &Wanted,
        used: u64,
        now: ClusterTime,
    ) -> bool {
        if self.outage != outage {
            self.shares.clear();
            self.outage = outage;
        }
        let Wanted { key, label, ends, cost, ceiling, nodes } = *wanted;
        let known = self.shares.get(&(key, label)).copied();
        let share = known.unwrap_or(Share { base: used, taken: 0, ends });
        let taken = share.taken.saturating_add(cost);
        let part = ceiling.saturating_sub(share.base) / nodes.max(1);
        if taken > part || used.saturating_add(cost) > ceiling {
            return false;
        }
        if known.is_none() && self.shares.len() >= self.shares_max {
            self.shares.retain(|_, share| share.ends > now);
            if self.shares.len() >= self.shares_max {
                return false;
            }
        }
        self.shares.insert((key, label), Share { taken, ..share });
        true
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&mut self, wanted: &Wanted) {
        if let Some(share) = self.shares.get_mut(&(wanted.key, wanted.label)) {
            share.taken = share.taken.saturating_sub(wanted.cost);
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
        }
    }

    #[test]
    fn a_node_takes_its_share_of_what_was_left_and_no_more() {
        let mut degraded = Degraded::new(8);
        let mut take = |outage, used, cost, nodes| {
            degraded.take(outage, &wanted(1, cost, nodes), used, ClusterTime(0))
        };
        assert!(take(0, 2, 3, 2));
        assert!(take(0, 5, 1, 2));
        assert!(!take(0, 6, 1, 2), "4 of 8 are its share");
        // One of two has gone; what is known to be used counts all the same.
        assert!(!take(0, 9, 2, 1));
        assert!(take(0, 6, 2, 1));
        // The store was there in between: what is left is shared anew.
        assert!(take(1, 8, 1, 2));
        assert!(!take(1, 9, 1, 2));
    }

    #[test]
    fn what_was_given_back_can_be_taken_again() {
        let mut degraded = Degraded::new(8);
        assert!(degraded.take(0, &wanted(1, 5, 2), 0, ClusterTime(0)));
        assert!(!degraded.take(0, &wanted(1, 1, 2), 0, ClusterTime(0)));
        degraded.give_back(&wanted(1, 5, 2));
        assert!(degraded.take(0, &wanted(1, 1, 2), 0, ClusterTime(0)));
    }

    #[test]
    fn the_table_is_bounded_and_makes_room_of_labels_that_are_over() {
        let mut degraded = Degraded::new(2);
        let mut take = |caller, now| degraded.take(0, &wanted(caller, 1, 1), 0, ClusterTime(now));
        assert!(take(1, 0) && take(2, 0));
        assert!(!take(3, 99));
        assert!(take(3, 100));
    }
}
