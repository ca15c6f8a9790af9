//! Reads the command line and hands each command to who does it.

use std::{fmt, process::ExitCode};

use clap::Parser;

use self::{
    arguments::{Arguments, Certs, Check, Command, Policy, Serve},
    exit::{Exit, Failure},
};
use crate::{bench, dev};

pub(crate) mod arguments;
pub(crate) mod exit;
pub(crate) mod files;
pub(crate) mod join;
pub(crate) mod open_files;
pub(crate) mod output;

pub(crate) mod policy;

/// Runs the command that was asked for. The result says how the process ends.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match run(arguments.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            say(&failure);
            failure.exit.into()
        }
    }
}

fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Serve(serve) => self::serve(serve),
        Command::Dev(asked) => {
            join::start_logs(join::LogFormat::Text)?;
            dev::run(&asked)
        }
        Command::Check(asked) => check(&asked),
        Command::Bench(asked) => {
            join::start_logs(join::LogFormat::Text)?;
            bench::run(&asked)
        }
        Command::Certs(asked) => certs(&asked),
        Command::Policy(Policy::Check { file }) => policy::check(&file),
        Command::Policy(Policy::Explain { .. }) => Err(Failure::usage(
            "`policy explain` is not in this version; `policy check F` says what is wrong in a file",
        )),
        Command::ExecChild(asked) => dev::exec_child::run(&asked),
    }
}

fn serve(asked: Serve) -> Result<Exit, Failure> {
    let Serve { config, enable_faults, log_format, wan } = asked;
    join::start_logs(log_format)?;
    join::serve(&join::Serve { config, enable_faults, wan })?;
    Ok(Exit::Done)
}

fn check(asked: &Check) -> Result<Exit, Failure> {
    let answer = runtime()?.block_on(join::check(&asked.url, &asked.attributes, asked.cost))?;
    output::line(&answer.body);
    Ok(if answer.allowed { Exit::Done } else { Exit::No })
}

fn certs(asked: &Certs) -> Result<Exit, Failure> {
    match asked {
        Certs::Ca { out } => join::certs_ca(out)?,
        Certs::Node { ca, region, node, out } => join::certs_node(ca, region, node, out)?,
    }
    Ok(Exit::Done)
}

/// A runtime on this thread alone: commands other than `serve` need no more, and what `dev` forks
/// must be forked by the thread that lives as long as the process.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::broken(format_args!("cannot start: {error} (too many open files?)"))
    })
}

/// Says how `tidegate` is used: help on standard output, a mistake on standard error.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to hear that help could not be printed.
    let _printed = error.print();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

/// Tells a person why a command failed, or what to think of.
fn say(what: &impl fmt::Display) {
    use std::io::Write;
    // With standard error closed, the exit code alone has to do.
    let _written = writeln!(std::io::stderr(), "tidegate: {what}");
}
