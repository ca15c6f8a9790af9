//! Becomes another program that dies with its parent, however the parent dies.
//!
//! A program of its own stands between `dev` and its children, since the request "kill me when my
//! parent dies" must be made in the child: after the fork, before the exec.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use clap::Args;

use crate::cli::exit::{Exit, Failure};

/// `tidegate exec-child --parent PID -- COMMAND ARGUMENTS…`.
#[derive(Debug, Args)]
pub(crate) struct ExecChild {
    /// Process id of who starts this.
    #[arg(long, value_name = "PID")]
    parent: i32,
    /// The program to become, and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl ExecChild {
    /// The arguments for which the executable of this very program becomes `command`.
    pub(super) fn arguments(parent: u32, command: Vec<OsString>) -> Vec<OsString> {
        let mut all: Vec<OsString> =
            ["exec-child", "--parent", &parent.to_string(), "--"].map(OsString::from).into();
        all.extend(command);
        all
    }
}

/// Becomes the program. Comes back only if it cannot.
///
/// The kernel sends the signal when the *thread* that forked ends, so that must be one which lives
/// as long as its process.
pub(crate) fn run(asked: &ExecChild) -> Result<Exit, Failure> {
    die_with_parent(asked.parent)?;
    let (program, arguments) = asked.command.split_first().expect("clap asks for one at least");
    let error = Command::new(program).args(arguments).exec();
    Err(Failure::usage(format_args!("cannot start {}: {error}", program.display())))
}

#[cfg(target_os = "linux")]
fn die_with_parent(parent: i32) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::broken(format_args!("cannot be bound to a parent: {error}")))?;
    // A parent that died before the line above sends no signal any more.
    match getppid() {
        Some(pid) if pid.as_raw_nonzero().get() == parent => Ok(()),
        _ => Err(Failure::broken(format_args!("the parent, process {parent}, is gone"))),
    }
}

/// Other systems have no such signal: a `dev` that is killed leaves its children behind there.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_parent: i32) -> Result<(), Failure> {
    Ok(())
}
