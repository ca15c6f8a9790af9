//! How far limits over all regions are from one limiter for all: measured on real clusters beside what the
//! simulator says of the same distances; and whether `strict` holds while everything breaks.
//! `scripts/accuracy` runs it.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use clap::Parser;
use serde_json::Value;
use tidegate_tests::{
    dev::Dev,
    ensure, eventually,
    labels::{Accuracy, Books, Flow, Labels},
    soak::strict::StrictSoak,
};

type Failed = Box<dyn Error>;

const TOPOLOGIES: [&[&str]; 2] =
    [&["eu", "us", "ap"], &["us-east", "us-west", "eu-west", "ap-south", "ap-northeast"]];
/// Route and what the limit says of itself.
const MODES: [(&str, &str); 3] = [
    ("eventual", "consistency = \"eventual\""),
    ("bounded 2 %", "consistency = \"bounded\"\noverdraft = \"2%\""),
    ("strict", "consistency = \"strict\""),
];
const MULTIPLES: [f64; 2] = [1.0, 3.0];
/// How requests are spread over the regions, as the simulator names it.
const SPREADS: [&str; 2] = ["uniform", "80/20"];
/// Windows at the start that are not measured, as in the simulator.
const WARM_UP: usize = 2;
/// Windows that are simulated.
const SIMULATED: usize = 100;
const SEED: u64 = 1;

/// Measures accuracy.
#[derive(Debug, Parser)]
struct Arguments {
    /// What limits allow in a window of a second.
    #[arg(long, default_value_t = 1_000)]
    quantity: u64,
    /// Windows that are measured, of each mode and load.
    #[arg(long, default_value_t = 20)]
    labels: u64,
    /// Instead: so many seconds of faults, during which no `strict` limit may admit more than it allows.
    #[arg(long, value_name = "SECONDS")]
    faults: Option<u64>,
    /// Decides which faults happen when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The simulator.
    #[arg(long, value_name = "PATH")]
    sim: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failed> {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout();
    if let Some(seconds) = arguments.faults {
        let (duration, seed) = (Duration::from_secs(seconds), arguments.seed);
        let per_second = arguments.quantity.min(100);
        let report = Box::pin(StrictSoak { duration, per_second, seed }.run()).await;
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }

    let sim = match arguments.sim {
        Some(path) => path,
        // target/release/examples/accuracy
        None => env::current_exe()?.ancestors().nth(2).ok_or("no target")?.join("tidegate-sim"),
    };
    writeln!(
        out,
        "| regions | mode | spread | load | offered | over, mean | worst | simulated | under, mean | worst | simulated | windows | sent late, p99 | answered, p99 |\n\
         |--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    let mut over = 0;
    for regions in TOPOLOGIES {
        let cluster = Dev::new(regions, &policies(arguments.quantity));
        let cluster = cluster.with(&["--wan", "typical"]).start().await;
        for (mode, consistency) in MODES {
            for (spread, multiple) in
                SPREADS.into_iter().flat_map(|spread| MULTIPLES.map(|multiple| (spread, multiple)))
            {
                let per_second = multiple * arguments.quantity as f64;
                let (route, api_key) = (route(mode), format!("{spread} at {multiple}"));
                let flow = Flow { route, api_key, per_second };
                let nodes = regions.iter().map(|region| cluster.node(&format!("{region}-0")));
                let nodes = nodes.zip(parts(spread, regions.len()));
                let load = Labels::start_spread(nodes, &[flow], SEED);
                let windows = arguments.labels as usize + WARM_UP + 2;
                let within = Duration::from_secs(3 * windows as u64);
                eventually(within, "all windows are over", async || {
                    let found = load.windows();
                    ensure(found >= windows, || format!("{found} of {windows}"))
                })
                .await;
                let books = load.stop().await;
                let asked = (spread, multiple);
                let predicted = simulated(&sim, regions, arguments.quantity, consistency, asked)?;
                let row = row(regions.len(), mode, asked, &books, predicted);
                writeln!(out, "{row}")?;
                if books.errors + books.unsent + books.interrupted + books.unreachable > 0 {
                    writeln!(out, "not answered: {:?}", (books.unsent, &books.first_error))?;
                }
                over += match mode {
                    "eventual" => 0,
                    "strict" => books.over(0).len(),
                    // Each region rounds its part down; all together no more than this.
                    _ => books.over(arguments.quantity / 50).len(),
                };
            }
        }
        cluster.stop().await;
    }
    writeln!(out, "load average: {}", fs::read_to_string("/proc/loadavg")?.trim())?;
    writeln!(out, "windows beyond what strict and bounded promise: {over}")?;
    Ok(if over == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The part of each region.
fn parts(spread: &str, regions: usize) -> Vec<f64> {
    let mut parts = vec![1.0 / regions as f64; regions];
    if spread == "80/20" {
        parts.fill(0.2 / (regions - 1) as f64);
        parts[0] = 0.8;
    }
    parts
}

fn route(mode: &str) -> String {
    let word = mode.split(' ').next().unwrap_or(mode);
    format!("/{word}")
}

fn policies(quantity: u64) -> String {
    MODES.iter().map(|(mode, consistency)| policy(&route(mode), quantity, consistency)).collect()
}

fn policy(route: &str, quantity: u64, consistency: &str) -> String {
    format!(
        r#"
[[policy]]
name = "{}"
match = {{ route = "{route}" }}
key = ["api_key"]
[[policy.limit]]
name = "second"
quantity = {quantity}
window = "1s"
scope = "global"
{consistency}
"#,
        &route[1..]
    )
}

/// What the simulator says: over and under, mean and worst.
fn simulated(
    sim: &Path,
    regions: &[&str],
    quantity: u64,
    consistency: &str,
    (spread, multiple): (&str, f64),
) -> Result<[(f64, f64); 2], Failed> {
    let mut text = String::new();
    // The usual distances are those of `--wan typical`, as is jitter of a fifth; loopback adds no tail.
    write!(
        text,
        r#"name = "as measured"
windows = {}
warm_up = {WARM_UP}
policies = '''{}'''
[topology]
regions = {regions:?}
jitter = 0.2
jitter_tail = "0ms"
[[load]]
attributes = {{ route = "/r" }}
caller = "api_key"
callers = 1
multiple = {multiple:?}
split = {spread:?}
"#,
        SIMULATED + WARM_UP,
        policy("/r", quantity, consistency)
    )?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("scenario.toml");
    fs::write(&file, text)?;
    let output = Command::new(sim).arg("run").arg(&file).arg("--json").output()?;
    ensure(output.status.success(), || String::from_utf8_lossy(&output.stderr).into_owned())?;
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let of = |what: &str, which: &str| said[what][which].as_f64().ok_or("no such field");
    Ok([
        (of("over", "mean_pct")?, of("over", "worst_pct")?),
        (of("under", "mean_pct")?, of("under", "worst_pct")?),
    ])
}

fn row(
    regions: usize,
    mode: &str,
    (spread, multiple): (&str, f64),
    books: &Books,
    [sim_over, sim_under]: [(f64, f64); 2],
) -> String {
    let Accuracy { windows, over, under } = books.accuracy(WARM_UP);
    let sums = books.windows.values();
    let offered = sums.map(|sum| sum.offered).sum::<u64>() / books.windows.len().max(1) as u64;
    let (late, took) = books.percentile(0.99);
    let both = |(mean, worst): (f64, f64)| format!("{mean:.2}, {worst:.2} %");
    format!(
        "| {regions} | {mode} | {spread} | {multiple}x | {offered}/s | {:.2} % | {:.2} % | {} | {:.2} % | {:.2} % | {} | {windows} | {} ms | {} ms |",
        over.0,
        over.1,
        both(sim_over),
        under.0,
        under.1,
        both(sim_under),
        late.as_millis(),
        took.as_millis(),
    )
}
