//! The simulator's command line: `tidegate-sim`.
//!
//! Exit 0: every checker is content. 1: one found a violation. 2: a mistake in the scenario or the usage,
//! or a command that is not built yet.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use tidegate_sim::{run, scenario::Scenario};

/// Try limits, traffic and places before trusting them.
#[derive(Debug, Parser)]
#[command(name = "tidegate-sim", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one scenario and print what it came to.
    Run(Run),
    /// (later) Run a scenario with many seeds.
    Explore(Later),
    /// (later) Run a scenario's limits with every algorithm, side by side.
    Compare(Later),
    /// (later) Measure every target.
    Targets(Later),
}

#[derive(Debug, Args)]
struct Run {
    /// The scenario file, such as config/scenarios/three-regions.toml.
    scenario: PathBuf,
    /// Where all chance comes from, instead of the scenario's own seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Also write the report for people to this file.
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
    /// Write the result as JSON: to this file, or alone to stdout.
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

/// Arguments of a command that does not exist yet: whatever they are.
#[derive(Debug, Args)]
struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<String>,
}

const HOLDS: u8 = 0;
const VIOLATED: u8 = 1;
const MISTAKE: u8 = 2;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(arguments) => simulate(&arguments),
        Command::Explore(_) => Err(later("explore")),
        Command::Compare(_) => Err(later("compare")),
        Command::Targets(_) => Err(later("targets")),
    };
    let code = outcome.unwrap_or_else(|message| {
        // Nothing can be done about a broken stderr.
        let _ = writeln!(io::stderr(), "tidegate-sim: {message}");
        MISTAKE
    });
    ExitCode::from(code)
}

fn later(command: &str) -> String {
    format!("`{command}` is not built yet; there is `run`")
}

fn simulate(arguments: &Run) -> Result<u8, String> {
    let scenario = Scenario::load(&arguments.scenario).map_err(|error| error.to_string())?;
    let seed = arguments.seed.unwrap_or(scenario.seed);
    let report = run(&scenario, seed)
        .map_err(|error| format!("{}: {error}", arguments.scenario.display()))?;
    if let Some(path) = &arguments.report {
        write(path, &report.to_string())?;
    }
    match &arguments.json {
        Some(None) => print(&format!("{}\n", report.to_json()))?,
        Some(Some(path)) => {
            write(path, &format!("{}\n", report.to_json()))?;
            print(&report.to_string())?;
        }
        None => print(&report.to_string())?,
    }
    Ok(if report.holds() { HOLDS } else { VIOLATED })
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The one way to stdout. A reader that has gone away is no mistake.
fn print(text: &str) -> Result<(), String> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("stdout: {error}")),
        _ => Ok(()),
    }
}
