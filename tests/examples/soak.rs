//! A whole cluster under load and random faults for as long as you like; `scripts/soak` runs it.

use std::{io::Write as _, process::ExitCode, time::Duration};

use clap::Parser;
use tidegate_tests::soak::Soak;

/// Soaks a cluster, and prints one line of JSON about it.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long faults happen, in seconds.
    #[arg(default_value_t = 600)]
    seconds: u64,
    /// Decides which faults happen when.
    #[arg(default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let Arguments { seconds, seed } = Arguments::parse();
    let report = Soak { duration: Duration::from_secs(seconds), seed }.run().await;
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
