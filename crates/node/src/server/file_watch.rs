//! Watches a file by looking at it: this sees a write, a rename into place, and the swapped symbolic links
//! of a mounted Kubernetes ConfigMap alike, on every file system.

use std::{os::unix::fs::MetadataExt, path::Path, time::Duration};

use tokio::{
    fs,
    time::{self, Interval, MissedTickBehavior},
};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What tells one state of a file from another, behind all symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

async fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).await.ok()?;
    Some(Stamp {
        device: file.dev(),
        inode: file.ino(),
        length: file.len(),
        modified: (file.mtime(), file.mtime_nsec()),
    })
}

/// One file, watched.
pub(super) struct FileWatch<'a> {
    path: &'a Path,
    look: Interval,
    /// The state that was told last; at first none, so that a change during the start is not missed.
    told: Option<Stamp>,
}

impl<'a> FileWatch<'a> {
    pub(super) fn new(path: &'a Path) -> Self {
        let mut look = time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { path, look, told: None }
    }

    /// Waits until the file is another than when this was last told, and has been left alone since the
    /// look before. A file that is not there at the moment is waited for.
    pub(super) async fn changed(&mut self) {
        let mut before = None;
        loop {
            self.look.tick().await;
            let now = stamp(self.path).await;
            if now.is_some() && now != self.told && now == before {
                self.told = now;
                return;
            }
            before = now;
        }
    }
}
