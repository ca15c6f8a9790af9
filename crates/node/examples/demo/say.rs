//! The only way to standard output.

use std::io::{self, Write};

/// Says one line, or several.
pub(crate) fn line(text: &str) {
    let mut out = io::stdout().lock();
    // A reader that went away does not change what is found out.
    let _written = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Opens an act.
pub(crate) fn act(number: usize, title: &str) {
    line(&format!("\n{number}. {title}"));
}
