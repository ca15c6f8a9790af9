//! Watches files by looking at them: this sees a write, a rename into place, and the swapped symbolic links
//! of a mounted Kubernetes ConfigMap alike, on every file system.

use std::{os::unix::fs::MetadataExt, path::Path, time::Duration};

use tokio::{
    fs,
    time::{self, Interval, MissedTickBehavior},
};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What tells one state of a file from another, behind all symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

/// The state of all files; `None` if one is not there.
async fn stamps(paths: &[&Path]) -> Option<Vec<Stamp>> {
    let mut stamps = Vec::with_capacity(paths.len());
    for path in paths {
        stamps.push(stamp(path).await?);
    }
    Some(stamps)
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

/// Files that belong together, watched.
pub(super) struct FileWatch<'a> {
    paths: &'a [&'a Path],
    look: Interval,
    /// The state that was told last; at first none, so that a change during the start is not missed.
    told: Option<Vec<Stamp>>,
}

impl<'a> FileWatch<'a> {
    pub(super) fn new(paths: &'a [&'a Path]) -> Self {
        let mut look = time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { paths, look, told: None }
    }

    /// Waits until a file is another than when this was last told, and all have been left alone since the
    /// look before: so of files that are replaced one after the other a half-done state is seldom told.
    /// A file that is not there at the moment is waited for.
    pub(super) async fn changed(&mut self) {
        let mut before = None;
        loop {
            self.look.tick().await;
            let now = stamps(self.paths).await;
            if now.is_some() && now != self.told && now == before {
                self.told = now;
                return;
            }
            before = now;
        }
    }
}
