//! The only way to standard output. Results go here, logs go to standard error.

use std::io::{self, Write};

use serde::Serialize;

/// Writes `text` and a line end, at once and flushed, so that a reader sees whole lines.
///
/// A reader that went away is no error: the work goes on, and nobody is left to be told.
pub(crate) fn line(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        tracing::debug!(%error, "standard output is closed");
    }
}

/// Writes `value` as JSON on one line.
pub(crate) fn json(value: &impl Serialize) {
    line(&serde_json::to_string(value).expect("plain structures with text keys become JSON"));
}
