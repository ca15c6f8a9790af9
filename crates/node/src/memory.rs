//! The memory of the process: which allocator it has, and what that says.
//!
//! jemalloc tells what is in use from what it keeps for later, so a leak can be told from pages that were not
//! given back; and a thread of its own gives back what has not been used for ten seconds.

use std::io;

use tikv_jemalloc_ctl::{epoch, stats};
#[cfg(not(feature = "fuzzing"))]
use tikv_jemallocator::Jemalloc;

// A fuzzer has an allocator of its own, which finds what is used after it was given back.
#[cfg(not(feature = "fuzzing"))]
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What the process has taken, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    /// By all that lives now.
    pub allocated: u64,
    /// In pages that are in memory for the allocator, what it keeps for later and its own books among them.
    pub resident: u64,
}

impl ProcessMemory {
    /// What it is now.
    ///
    /// # Errors
    ///
    /// If the allocator keeps no such books, as one that was built without them.
    pub fn now() -> io::Result<Self> {
        let failed = |error: tikv_jemalloc_ctl::Error| io::Error::other(error.to_string());
        // Its figures are those of the last epoch.
        epoch::advance().map_err(failed)?;
        let allocated = stats::allocated::read().map_err(failed)? as u64;
        let resident = stats::resident::read().map_err(failed)? as u64;
        Ok(Self { allocated, resident })
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn what_lives_is_counted() {
        const BYTES: u64 = 64 << 20;
        let before = ProcessMemory::now().expect("jemalloc keeps books");
        let held = black_box(vec![1_u8; BYTES as usize]);
        let with = ProcessMemory::now().expect("jemalloc keeps books");
        // Other tests run beside this one, and none takes or gives back half as much.
        assert!(with.allocated > before.allocated + BYTES / 2, "{before:?} {with:?}");
        assert!(with.resident >= BYTES, "{with:?}");
        drop(held);
        let after = ProcessMemory::now().expect("jemalloc keeps books");
        assert!(after.allocated + BYTES / 2 < with.allocated, "{with:?} {after:?}");
    }
}
