//! Buckets of callers: a store on several servers keeps all records of a bucket on one of them, with a marker of
//! their own.

use crate::{counts::place_of, ids::Caller};

/// Buckets of a store that lies on several servers.
///
/// As many as an engine may have shards, and named by the same bits: so each bucket's cells are in one shard, and
/// writing what is known of a bucket looks at one shard only. A thousand servers at most have a bucket each, as many as
/// a Redis Cluster may have; among three each has a third to within two percent; and a server that is lost takes no
/// more markers along than can be looked at in a few milliseconds.
pub const BUCKETS: usize = 1_024;

/// One of the parts that the callers of a store are divided into; all of them are bucket 0 of a store that is one
/// server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CallerBucket(pub u16);

impl CallerBucket {
    /// The only one of a store that is one server.
    pub const ALL: Self = Self(0);

    /// Which of `count` buckets a caller is in: a power of two, 1 to [`BUCKETS`].
    pub const fn of(caller: Caller, count: usize) -> Self {
        Self((place_of(caller) as usize & (count - 1)) as u16)
    }

    /// Its place in a list of all buckets.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The shards of `shards` in which its cells are, if there are `count` buckets: every so many-th one. Both are
    /// powers of two.
    pub(crate) fn shards(self, count: usize, shards: usize) -> impl Iterator<Item = usize> {
        (self.index() & (shards - 1)..shards).step_by(count)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::exchange::shard_of;

    proptest! {
        #[test]
        fn a_bucket_is_within_its_shards(caller: [u64; 2], buckets in 0_u32..=10, shards in 0_u32..=10) {
            let (caller, buckets, shards) = (Caller(caller), 1 << buckets, 1 << shards);
            let bucket = CallerBucket::of(caller, buckets);
            prop_assert!(bucket.index() < buckets);
            let within: Vec<_> = bucket.shards(buckets, shards).collect();
            prop_assert!(within.contains(&shard_of(caller, shards)));
            prop_assert_eq!(within.len(), (shards / buckets).max(1));
        }
    }

    #[test]
    fn one_bucket_is_everywhere_and_one_of_many_in_one_shard() {
        assert!(CallerBucket::ALL.shards(1, 64).eq(0..64));
        assert!(CallerBucket(65).shards(BUCKETS, 64).eq([1]));
    }
}
