//! One snapshot belongs to one process: a second one would replace what the first has written.
//!
//! The lock is on a file of its own beside the snapshot, which is itself replaced with each writing. The
//! system gives the lock back when the process ends, however it ends; the file stays, and is empty.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use super::beside;

/// The right to read and write the snapshot at one path, for as long as this lives.
#[derive(Debug)]
pub struct Lock {
    /// Holds the lock until it is closed.
    _file: File,
}

/// Why a snapshot is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another process uses this snapshot: give each node a file of its own")]
    Taken,
    /// It cannot be known, since the file beside the snapshot cannot be made or locked.
    #[error("its lock, the file `….lock` beside it, cannot be had: {0}")]
    Io(#[from] io::Error),
}

impl Lock {
    /// Takes the snapshot at a path for this process; never waits.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(beside(path, "lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Taken),
            Err(error) => Err(LockError::Io(error.into())),
        }
    }
}
