//! A story in five acts: three regions keep one global limit, are cut off from each other, heal, lose
//! a store, and still give nothing out twice.
//!
//! `./scripts/demo` builds and runs this. It speaks to real nodes over HTTP, as any user would.

#![allow(clippy::disallowed_methods, reason = "a load generator reads the clock")]

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use self::{cluster::Cluster, story::Story};

mod cluster;
mod http;
mod load;
mod say;
mod story;
mod table;

/// Shows what Tidegate promises, and checks that it holds.
#[derive(Debug, Parser)]
struct Arguments {
    /// The executable `tidegate`.
    #[arg(long)]
    tidegate: PathBuf,
    /// The policy file with the limits that the story is about.
    #[arg(long)]
    policies: PathBuf,
    /// Where the regions keep their counts.
    #[arg(long, value_enum, default_value_t = Store::Redis)]
    store: Store,
    /// Half a minute instead of a whole one.
    #[arg(long)]
    short: bool,
    /// Leave the cluster up.
    #[arg(long)]
    keep: bool,
}

/// Where the regions keep their counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Store {
    Redis,
    Memory,
}

/// The main thread forks the cluster and must live as long as it: no other runtime will do.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match demo(&arguments).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say::line(&format!("\nThe demo broke off: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Plays the whole story; whether all promises held.
async fn demo(arguments: &Arguments) -> Result<bool, String> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut cluster = tokio::select! {
        cluster = Cluster::start(arguments) => cluster?,
        _ = interrupt.recv() => return Err("interrupted".into()),
        _ = terminate.recv() => return Err("told to stop".into()),
    };
    let played = tokio::select! {
        played = Story::new(arguments.short).play(&mut cluster) => played,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("told to stop".into()),
    };
    if arguments.keep && played.is_ok() {
        cluster.leave()?;
    } else {
        cluster.stop(played.is_err()).await?;
    }
    played
}
