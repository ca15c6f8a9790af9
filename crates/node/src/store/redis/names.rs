//! What keys are called in Redis, and the bytes of a call: which key is which is said here only.

use redis::Cmd;
use tidegate_core::{
    ids::{Caller, Key},
    store::{CallerBucket, RequestId},
};

/// An odd number of which half the bits are set: 2^64 by the golden ratio.
const LIMIT_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// What this store's keys are called.
#[derive(Debug)]
pub(super) struct Names {
    namespace: String,
    /// Whether records lie on several servers: then those of a bucket are in one slot, with their marker.
    in_cluster: bool,
}

impl Names {
    /// On one server.
    pub(super) fn on_one(namespace: &str) -> Self {
        Self { namespace: namespace.into(), in_cluster: false }
    }

    /// In a cluster.
    pub(super) fn in_cluster(namespace: &str) -> Self {
        Self { namespace: namespace.into(), in_cluster: true }
    }

    /// The first part of every key.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The key of the secret that callers are counted under.
    pub(super) fn secret(&self) -> String {
        format!("{}:secret", self.namespace)
    }

    /// The key of a marker: which history the records of a bucket are of. All records of one server are bucket 0.
    /// In a cluster the bucket's number is the hash tag of marker and records, so that they are in one slot.
    pub(super) fn marker(&self, bucket: CallerBucket) -> String {
        format!("{}:{{{}}}epoch", self.namespace, bucket.0)
    }

    /// The key of a record: in a cluster `namespace:{bucket}callerlimit`, caller and limit in hex; on one server
    /// `namespace:` and 16 bytes, the caller's fingerprint with the limit's number mixed in: a key of 25 bytes takes the
    /// half of one in hex.
    pub(super) fn record(&self, bucket: CallerBucket, key: &Key) -> Vec<u8> {
        let Self { namespace, in_cluster } = self;
        let (caller, limit) = (key.caller, key.limit.0);
        if *in_cluster {
            return format!("{namespace}:{{{}}}{caller:?}{limit:08x}", bucket.0).into_bytes();
        }
        // Of one caller every limit has another name, since the factor is odd. That two callers' names meet by chance
        // is as likely as that their fingerprints do.
        let Caller([low, high]) = caller;
        let mixed = Caller([low ^ u64::from(limit).wrapping_mul(LIMIT_FACTOR), high]);
        let mut name = Vec::with_capacity(namespace.len() + 1 + 16);
        name.extend_from_slice(namespace.as_bytes());
        name.push(b':');
        name.extend_from_slice(&mixed.to_bytes());
        name
    }

    /// The key of what is remembered of a request: beside the records of its caller.
    pub(super) fn request(&self, bucket: CallerBucket, key: &Key, id: &RequestId) -> String {
        let Self { namespace, in_cluster } = self;
        let (caller, [low, high]) = (key.caller, id.0);
        if *in_cluster {
            format!("{namespace}:{{{}}}{caller:?}once{high:016x}{low:016x}", bucket.0)
        } else {
            format!("{namespace}:{{{caller:?}}}once{high:016x}{low:016x}")
        }
    }

    /// The beginning of a call of the script: its keys, of records and of what is remembered. What follows is said by
    /// the caller of this.
    pub(super) fn call<'a>(
        &self,
        hash: &str,
        bucket: CallerBucket,
        keys: impl ExactSizeIterator<Item = &'a Key>,
        remembered: Option<String>,
    ) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        let names = 1 + keys.len() + usize::from(remembered.is_some());
        call.arg(hash).arg(names).arg(self.marker(bucket));
        for key in keys {
            call.arg(self.record(bucket, key));
        }
        if let Some(remembered) = remembered {
            call.arg(remembered);
        }
        call
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::ids::LimitId;

    use super::*;

    #[test]
    fn in_a_cluster_marker_and_records_of_a_bucket_have_one_tag() {
        let key = Key { caller: Caller([1, 2]), limit: LimitId(3) };
        let (one, many) = (Names::on_one("a"), Names::in_cluster("a"));
        assert_eq!(one.marker(CallerBucket::ALL), "a:{0}epoch");
        let of = |limit| one.record(CallerBucket::ALL, &Key { limit: LimitId(limit), ..key });
        assert_eq!((of(0).len(), &of(0)[..3]), (18, &b"a:\x01"[..]));
        assert!(of(3) != of(0) && of(3) != of(4));
        assert_eq!(many.marker(CallerBucket(9)), "a:{9}epoch");
        let text = format!("a:{{9}}{:?}00000003", key.caller);
        assert_eq!(many.record(CallerBucket(9), &key), text.as_bytes());
        let id = RequestId([5, 6]);
        let request = "once00000000000000060000000000000005";
        let of_one = format!("a:{{{:?}}}{request}", key.caller);
        assert_eq!(one.request(CallerBucket::ALL, &key, &id), of_one);
        let of_many = format!("a:{{9}}{:?}{request}", key.caller);
        assert_eq!(many.request(CallerBucket(9), &key, &id), of_many);
    }
}
