//! Files that tests write.

use std::{fs, path::PathBuf};

/// A folder of this test's own.
pub(crate) fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    fs::create_dir_all(&folder).expect("a writable folder");
    folder
}
