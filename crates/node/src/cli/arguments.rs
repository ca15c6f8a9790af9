//! What may be said on the command line.

use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::join::{LogFormat, without_credentials};
use crate::{bench::Rate, dev::exec_child};

/// A multi-region, active-active rate limiter.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One thing that `tidegate` does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node.
    Serve(Serve),
    /// Run a whole local cluster, for trying and for tests.
    Dev(Dev),
    /// Ask a node whether a request may pass.
    Check(Check),
    /// Put load on nodes and measure their answers.
    Bench(Bench),
    /// Make the certificates that nodes know each other by.
    #[command(subcommand)]
    Certs(Certs),
    /// Look at a policy file.
    #[command(subcommand)]
    Policy(Policy),
    /// Become another program that dies with its parent.
    #[command(hide = true)]
    ExecChild(exec_child::ExecChild),
}

/// `tidegate serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Configuration file; without one: one region, memory store, HTTP on 127.0.0.1:8080.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Offer PUT /v1/faults, which cuts, delays and loses what goes to other regions.
    #[arg(long)]
    pub(crate) enable_faults: bool,
    /// How a line of the log is written.
    #[arg(long, value_enum, default_value_t, env = "TIDEGATE_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    /// How far other regions are.
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) wan: Option<PathBuf>,
}

/// The URL of a store as it was given: it may hold a password, and does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct GivenUrl(pub(crate) String);

impl FromStr for GivenUrl {
    type Err = Infallible;

    /// What is wrong with it, the node's configuration says.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for GivenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_credentials(&self.0))
    }
}

/// Where a region keeps its counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    /// In the node.
    Memory,
    /// In a Redis of the region.
    Redis,
}

/// How far the regions of a local cluster are from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wan {
    /// As near as this machine.
    None,
    /// As far as continents.
    Typical,
}

/// `tidegate dev`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Names of the regions, at most 10.
    #[arg(long, value_delimiter = ',', required = true, value_name = "NAME,…")]
    pub(crate) regions: Vec<String>,
    /// Policy file of all nodes.
    #[arg(long, value_name = "FILE")]
    pub(crate) policies: PathBuf,
    /// The first port; node k of region i has HTTP at base+100k+10i, and the next three.
    #[arg(long, default_value_t = 18000, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) base_port: u16,
    /// Where a region keeps its counts.
    #[arg(long, value_enum, default_value_t = Store::Memory)]
    pub(crate) store: Store,
    /// Redis to use, one per region in their order; without it, each region gets a new one.
    #[arg(long, value_name = "URL", num_args = 1..)]
    pub(crate) redis_url: Vec<GivenUrl>,
    /// Nodes in each region; more than one needs `--store redis`.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) nodes_per_region: u16,
    /// How far the regions are from each other.
    #[arg(long, value_enum, default_value_t = Wan::None)]
    pub(crate) wan: Wan,
    /// Start again what dies.
    #[arg(long)]
    pub(crate) restart: bool,
}

/// `tidegate check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The node to ask.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// What the request costs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) cost: u64,
    /// Facts about the request, such as `api_key=k route=/x`.
    #[arg(value_name = "NAME=VALUE", value_parser = attribute)]
    pub(crate) attributes: Vec<(String, String)>,
}

/// `tidegate bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Nodes to ask, in turn.
    #[arg(long, required = true, num_args = 1.., value_name = "URL")]
    pub(crate) url: Vec<String>,
    /// Requests per second, due whether or not earlier ones are answered; or `max`: as fast as
    /// answers come.
    #[arg(long, value_name = "R|max")]
    pub(crate) rate: Rate,
    /// How long, such as 10s or 500ms.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration)]
    pub(crate) duration: std::time::Duration,
    /// Connections, and so requests under way: with a rate at most so many (default 4096), with
    /// `max` exactly so many (default 64).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) connections: Option<u32>,
    /// Spread requests evenly over so many values of the attribute `api_key`: key-0, key-1, …
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: Option<u64>,
    /// An attribute of every request.
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    pub(crate) attributes: Vec<(String, String)>,
    /// Print JSON on one line instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tidegate certs`.
#[derive(Debug, Subcommand)]
pub(crate) enum Certs {
    /// Make a certificate authority: ca.pem and ca.key.
    Ca {
        /// The directory to write to.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Make the certificate of one node: node.pem and node.key.
    Node {
        /// The directory with ca.pem and ca.key.
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The node's region.
        #[arg(long)]
        region: String,
        /// The node's name.
        #[arg(long)]
        node: String,
        /// The directory to write to.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// `tidegate policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Say what is wrong in a policy file, one line per mistake.
    Check {
        /// The policy file.
        file: PathBuf,
    },
    /// Say which policies and limits a request meets (not in this version).
    Explain {
        /// The policy file.
        file: PathBuf,
        /// Facts about the request, such as `api_key=k route=/x`.
        #[arg(value_name = "NAME=VALUE", value_parser = attribute)]
        attributes: Vec<(String, String)>,
    },
}

/// Reads `name=value`; the value may hold further `=`.
fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("an attribute is written name=value, such as api_key=k".into()),
    }
}

/// Reads a length of time: a whole number and `ms`, `s`, `m` or `h`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let millis = unit_ms.zip(digits.parse::<u64>().ok()).map(|(unit, n)| n.saturating_mul(unit));
    match millis {
        Some(millis @ 1..=86_400_000) => Ok(std::time::Duration::from_millis(millis)),
        _ => Err("a time is a whole number and a unit (ms, s, m, h), from 1ms to 24h".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_attribute_has_a_name_and_a_value() {
        assert_eq!(attribute("route=/a?b=c"), Ok(("route".into(), "/a?b=c".into())));
        assert_eq!(attribute("user="), Ok(("user".into(), String::new())));
        assert!(attribute("=x").is_err());
        assert!(attribute("x").is_err());
    }

    #[test]
    fn a_duration_has_a_unit_and_bounds() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "10", "s", "0s", "1.5s", "25h", "99999999999999999h", "5 s", "1é"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn regions_are_separated_by_commas_and_redis_urls_may_repeat() {
        let text = "tidegate dev --regions eu,us --policies p.toml --store redis --redis-url a b";
        let parsed = Arguments::try_parse_from(text.split(' ')).expect("fits the tree");
        let Command::Dev(dev) = parsed.command else { panic!("not dev: {parsed:?}") };
        assert_eq!(dev.regions, ["eu", "us"]);
        assert_eq!(dev.redis_url, ["a", "b"].map(|url| GivenUrl(url.into())));
        assert_eq!(dev.base_port, 18000);
    }

    #[test]
    fn a_password_on_the_command_line_is_not_shown() {
        let words = "--regions eu --policies p --store redis --redis-url redis://me:word@host/0";
        let words = ["tidegate", "dev"].into_iter().chain(words.split(' '));
        let arguments = Arguments::try_parse_from(words).expect("right");
        let shown = format!("{arguments:?}");
        assert!(shown.contains("redis://host/0") && !shown.contains("word"), "{shown}");
    }
}
