//! How the parts of a node that should run for as long as it does come to an end, and what is said of it.

use std::{io, panic::AssertUnwindSafe};

use futures_util::FutureExt as _;
use tokio::task::JoinError;

use super::{ServerError, peers::Deaf};

/// Runs a part of the node. Its panic is an end like another, so that the rest can still be stopped in
/// order; whoever panics has told the log already.
pub(super) async fn unbroken<T>(part: impl Future<Output = T>) -> io::Result<T> {
    let ended = AssertUnwindSafe(part).catch_unwind().await;
    ended.map_err(|_| io::Error::other("it panicked: this is a bug"))
}

/// How a part that runs as a task of its own ended.
pub(super) fn joined(ended: Result<io::Result<()>, JoinError>) -> io::Result<()> {
    ended.unwrap_or_else(|broken| Err(io::Error::other(broken)))
}

/// How the exchange with peers ended.
pub(super) fn exchanged(ended: io::Result<Result<(), Deaf>>) -> Result<(), ServerError> {
    match ended {
        Ok(heard) => Ok(heard?),
        Err(error) => Err(too_early("the exchange with peers", Err(error))),
    }
}

/// That a part ended which should not have.
pub(super) fn too_early(what: &str, ended: io::Result<()>) -> ServerError {
    let why =
        ended.map_or_else(|error| format!("{what} broke: {error}"), |()| format!("{what} ended"));
    ServerError::Broken(io::Error::other(why))
}

impl From<Deaf> for ServerError {
    fn from(deaf: Deaf) -> Self {
        Self::Broken(io::Error::other(deaf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_a_panic_and_an_error_are_told_apart() {
        let told = |ended| too_early("the part", ended).to_string();
        assert_eq!(told(unbroken(async {}).await), "the server stopped: the part ended");
        let panicked = told(unbroken(async { panic!("for the test") }).await);
        assert!(panicked.contains("the part broke: it panicked"), "{panicked}");
        let failed = tokio::spawn(async { Err(io::Error::other("no more files")) });
        let failed = told(joined(failed.await));
        assert!(failed.contains("the part broke: no more files"), "{failed}");
        let panicked = told(joined(tokio::spawn(async { panic!("for the test") }).await));
        assert!(panicked.contains("for the test"), "{panicked}");
    }
}
