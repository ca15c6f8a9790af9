//! The simulator's command line: `tidegate-sim`.
//!
//! Exit 0: every checker is content, every target met. 1: one found a violation, or a target was missed.
//! 2: a mistake in the scenario or the usage.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    ops::Range,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use clap::{Args, Parser, Subcommand};
use tidegate_sim::{
    compare::compare,
    explore::explore,
    run,
    scenario::{Source, Variants},
    targets::{self, Missed},
};

/// Try limits, traffic and places before trusting them.
#[derive(Debug, Parser)]
#[command(name = "tidegate-sim", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one scenario, or one world of a swarm, and print what it came to.
    Run(Run),
    /// Run a scenario or a swarm with many seeds.
    Explore(Explore),
    /// Run the variants of a scenario on the same requests, side by side.
    Compare(Compare),
    /// Measure every target.
    Targets(Targets),
}

#[derive(Debug, Args)]
struct Run {
    /// The scenario or swarm file, such as config/scenarios/three-regions.toml.
    scenario: PathBuf,
    /// Where all chance comes from, instead of the file's own seed.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    out: Out,
    /// Also write the scenario that a swarm draws for the seed to this file.
    #[arg(long, value_name = "PATH")]
    drawn: Option<PathBuf>,
}

/// Where a result goes.
#[derive(Debug, Args)]
struct Out {
    /// Also write the report for people to this file.
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
    /// Write the result as JSON: to this file, or alone to stdout.
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
}

#[derive(Debug, Args)]
struct Compare {
    /// The scenario file with variants, such as config/scenarios/compare.toml.
    scenario: PathBuf,
    /// Where all chance comes from, instead of the file's own seed.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    out: Out,
}

#[derive(Debug, Args)]
struct Explore {
    /// The scenario or swarm file, such as config/scenarios/swarm.toml.
    scenario: PathBuf,
    /// The seeds, from the first to just before the last, such as 0..200.
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    seeds: Range<u64>,
    /// How many seeds run at a time; as many as there are cores if left out.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Print the result as one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Targets {
    /// The folder of target files.
    #[arg(default_value = "config/scenarios/targets")]
    folder: PathBuf,
    /// Fewer seeds and windows, for a first look.
    #[arg(long)]
    short: bool,
    /// Only these targets, such as T1,T6b.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// How many runs go on at a time; as many as there are cores if left out.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Print the result as one line of JSON.
    #[arg(long)]
    json: bool,
    /// Write the worst cell of whatever is missed to this folder, as scenarios for `run`.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

const HOLDS: u8 = 0;
const VIOLATED: u8 = 1;
const MISTAKE: u8 = 2;
/// How often progress is told, in seeds.
const PROGRESS: u64 = 100;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(arguments) => simulate(&arguments),
        Command::Explore(arguments) => explore_seeds(&arguments),
        Command::Compare(arguments) => compare_variants(&arguments),
        Command::Targets(arguments) => measure_targets(&arguments),
    };
    let code = outcome.unwrap_or_else(|message| {
        tell(&format!("tidegate-sim: {message}\n"));
        MISTAKE
    });
    ExitCode::from(code)
}

/// How many threads: as asked for, else one for each core.
fn threads(jobs: Option<u16>) -> usize {
    jobs.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from)
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wanted = "write the first and the one after the last, such as 0..200";
    let (first, end) = text.split_once("..").ok_or(wanted)?;
    let number = |part: &str| part.parse::<u64>().map_err(|_| wanted);
    let range = number(first)?..number(end)?;
    if range.is_empty() { Err("there is no seed in it".into()) } else { Ok(range) }
}

fn simulate(arguments: &Run) -> Result<u8, String> {
    let source = Source::load(&arguments.scenario).map_err(|error| error.to_string())?;
    let seed = arguments.seed.unwrap_or(source.seed());
    if let Some(path) = &arguments.drawn {
        let Source::Swarm(swarm) = &source else {
            return Err("`--drawn` is for swarms: a scenario is what it is".into());
        };
        write(path, &swarm.draw(seed).text)?;
    }
    let scenario = source.scenario(seed).map_err(|error| error.to_string())?;
    let report = run(&scenario, seed)
        .map_err(|error| format!("{}: {error}", arguments.scenario.display()))?;
    hand_out(&arguments.out, &report.to_string(), &report.to_json())?;
    Ok(if report.holds() { HOLDS } else { VIOLATED })
}

fn compare_variants(arguments: &Compare) -> Result<u8, String> {
    let variants = Variants::load(&arguments.scenario).map_err(|error| error.to_string())?;
    let comparison = compare(&variants, arguments.seed.unwrap_or(variants.seed))
        .map_err(|error| format!("{}: {error}", arguments.scenario.display()))?;
    hand_out(&arguments.out, &comparison.to_string(), &comparison.to_json())?;
    Ok(if comparison.holds() { HOLDS } else { VIOLATED })
}

/// Prints and writes a result where it is wanted.
fn hand_out(out: &Out, report: &str, json: &str) -> Result<(), String> {
    if let Some(path) = &out.report {
        write(path, report)?;
    }
    match &out.json {
        Some(None) => return print(&format!("{json}\n")),
        Some(Some(path)) => write(path, &format!("{json}\n"))?,
        None => {}
    }
    print(report)
}

fn explore_seeds(arguments: &Explore) -> Result<u8, String> {
    let source = Source::load(&arguments.scenario).map_err(|error| error.to_string())?;
    // Whatever is wrong with one seed's scenario is a mistake, not a violation.
    source.scenario(arguments.seeds.start).map_err(|error| error.to_string())?;
    let jobs = threads(arguments.jobs);
    let path = arguments.scenario.display().to_string();
    let replay = |seed: u64| format!("tidegate-sim run {} --seed {seed}", quoted(&path));
    let total = arguments.seeds.end - arguments.seeds.start;
    let watched = io::stderr().is_terminal();
    let result = explore(&source, arguments.seeds.clone(), jobs, &replay, |done, failed| {
        if done % PROGRESS == 0 || done == total {
            let end = if watched && done < total { '\r' } else { '\n' };
            tell(&format!("{done} of {total} seeds, {failed} failed{end}"));
        }
    });
    print(&if arguments.json { format!("{}\n", result.to_json()) } else { result.to_string() })?;
    Ok(if result.holds() { HOLDS } else { VIOLATED })
}

fn measure_targets(arguments: &Targets) -> Result<u8, String> {
    let Targets { folder, short, only, jobs, json, keep } = arguments;
    let all = targets::load(folder, only, *short).map_err(|error| error.to_string())?;
    let watched = io::stderr().is_terminal();
    let results = targets::measure_all(&all, folder, threads(*jobs), |done, total| {
        if done % PROGRESS as usize == 0 || done == total {
            let end = if watched && done < total { '\r' } else { '\n' };
            tell(&format!("{done} of {total} runs{end}"));
        }
    });
    if let Some(folder) = keep {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for missed in &results.missed {
            let path = folder.join(missed.file_name());
            write(&path, &missed.scenario)?;
            let path = quoted(&path.display().to_string());
            let Missed { id, mode, measure, seed, .. } = missed;
            tell(&format!("{id}, {mode}, {measure}: tidegate-sim run {path} --seed {seed}\n"));
        }
    }
    print(&if *json { format!("{}\n", results.to_json()) } else { results.to_string() })?;
    Ok(if results.holds() { HOLDS } else { VIOLATED })
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !path.is_empty() && path.chars().all(plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', "'\\''"))
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// To stderr; nothing can be done if that is broken.
fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The one way to stdout. A reader that has gone away is no mistake.
fn print(text: &str) -> Result<(), String> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("stdout: {error}")),
        _ => Ok(()),
    }
}
