//! How a command ends: the exit codes that scripts rely on.

use std::{fmt, process::ExitCode};

/// The four exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Yes, or done.
    Done = 0,
    /// The answer is no: refused, or a promise broken.
    No = 1,
    /// Wrong usage, configuration or policies, or an address in use.
    Usage = 2,
    /// The node cannot be reached.
    Unreachable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do its work: an exit code, and a message for a person.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the process ends.
    pub(crate) exit: Exit,
    message: String,
}

impl Failure {
    /// Something did not go as it must; exit 1.
    pub(crate) fn broken(message: impl fmt::Display) -> Self {
        Self { exit: Exit::No, message: message.to_string() }
    }

    /// What was asked for, or what a file says, is wrong; exit 2.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Usage, message: message.to_string() }
    }

    /// The node cannot be reached; exit 3.
    pub(crate) fn unreachable(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Unreachable, message: message.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
