//! Snapshots of the memory store: what a node that is alone finds again when it starts.
//!
//! A snapshot is one file, replaced as a whole. Checks go on while it is written; each record in it is as
//! it was at some instant of the writing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use tidegate_core::ids::Secret;

use super::MemoryStore;
use crate::clock::Clock;
use format::{Header, Reader, SecretNote, Unusable, Writer};

pub use format::Owner;
pub use lock::{Lock, LockError};

mod format;
mod lock;
#[cfg(test)]
mod tests;

/// What was found in the place of a snapshot.
#[derive(Debug)]
pub enum Found {
    /// No file.
    Nothing,
    /// A whole snapshot: a store with its live records, in an epoch of its own.
    Store {
        /// The store.
        store: MemoryStore,
        /// The secret of its records, if the snapshot kept it.
        secret: Option<Secret>,
    },
    /// A whole snapshot with more live records than the store may hold. It is left where it is.
    TooLarge {
        /// How many live records it has.
        records: u64,
    },
    /// A file that is none of ours, is damaged, or was written under another secret: nothing of it was
    /// taken.
    Unusable {
        /// What is wrong with it.
        reason: String,
        /// Where it was put, so that the next snapshot does not replace it; `None` if that was not
        /// possible.
        kept: Option<PathBuf>,
    },
}

/// Reads a snapshot. `cluster` is the secret that is configured, if one is.
///
/// # Errors
///
/// If the file is there and cannot be read.
pub fn load(
    path: &Path,
    cluster: Option<Secret>,
    records_max: usize,
    clock: Clock,
) -> io::Result<Found> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let reason = match read(&file, cluster, records_max, clock) {
        Ok(Whole::Fits(store, secret)) => return Ok(Found::Store { store, secret }),
        Ok(Whole::TooLarge { records }) => return Ok(Found::TooLarge { records }),
        Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Unusable::Damaged("it ends too early").to_string()
        }
        Err(Unusable::Io(error)) => return Err(error),
        Err(unusable) => unusable.to_string(),
    };
    Ok(Found::Unusable { reason, kept: put_aside(path) })
}

/// Puts a file that cannot be used where the next snapshot does not replace it, and says where. The one
/// that was put there before is kept too; what was there before that one is not.
fn put_aside(path: &Path) -> Option<PathBuf> {
    let aside = beside(path, "unusable");
    if aside.exists() {
        fs::rename(&aside, beside(path, "unusable.1")).ok()?;
    }
    fs::rename(path, &aside).is_ok().then_some(aside)
}

/// What a snapshot holds, once all of it was read and found sound.
enum Whole {
    Fits(MemoryStore, Option<Secret>),
    TooLarge { records: u64 },
}

/// Reads into a store that nobody else sees yet: if anything is wrong, it is dropped as a whole.
fn read(
    file: &File,
    cluster: Option<Secret>,
    records_max: usize,
    clock: Clock,
) -> Result<Whole, Unusable> {
    let (mut reader, Header { epoch, secret }) = Reader::new(BufReader::new(file))?;
    let secret = match (secret, cluster) {
        (SecretNote::Own(secret), None) => Some(secret),
        (note, Some(secret)) if note == Owner::Cluster(secret).note() => None,
        _ => return Err(Unusable::AnotherSecret),
    };
    let store = MemoryStore::after(Some(epoch), records_max, clock);
    let (mut live, mut left_out) = (0, 0_u64);
    while let Some((key, record)) = reader.record()? {
        live += u64::from(record.expires > clock.steady());
        left_out += u64::from(!store.restore(&key, record));
    }
    reader.finish()?;
    Ok(if left_out > 0 { Whole::TooLarge { records: live } } else { Whole::Fits(store, secret) })
}

/// Writes a snapshot in the place of the one that is there, if any, and returns how many records it has.
/// Until it is whole and on the disk, the old one stays. Only its owner may read the file.
///
/// # Errors
///
/// If the file cannot be written; the old one is still there then.
pub fn save(path: &Path, owner: Owner, store: &MemoryStore) -> io::Result<u64> {
    let temporary = beside(path, "new");
    // One that a killed node has left may be readable for others.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = write(file, owner, store).and_then(|records| {
        fs::rename(&temporary, path)?;
        // The new name must survive a loss of power too.
        File::open(directory_of(path))?.sync_all()?;
        Ok(records)
    });
    if written.is_err() {
        // Whatever is wrong, it has been told already.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write(file: File, owner: Owner, store: &MemoryStore) -> io::Result<u64> {
    let header = Header { epoch: store.epoch(), secret: owner.note() };
    let mut writer = Writer::new(BufWriter::new(file), &header)?;
    let mut records = 0;
    store.copy(|key, record| {
        records += 1;
        writer.record(key, record)
    })?;
    let file = writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(records)
}

/// A path with something behind its name.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// The directory that a file is in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}
