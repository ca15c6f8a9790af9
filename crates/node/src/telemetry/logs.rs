//! Structured logs, on stderr. A caller's identity is never in them.

use std::io;

use tracing_subscriber::{
    EnvFilter, Layer as _, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Names the environment variable that holds the filter.
const FILTER_VARIABLE: &str = "TIDEGATE_LOG";
/// What is logged when nobody says otherwise.
const FILTER_DEFAULT: &str = "info";

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// Logs cannot be begun.
#[derive(Debug, thiserror::Error)]
pub enum BadLogFilter {
    /// The filter is not one.
    #[error(
        "`{filter}` (from {FILTER_VARIABLE}) is no log filter: {source}; try `info` or `tidegate_node=debug`"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// They have begun already, in this process.
    #[error("logs have been set up already")]
    Already,
}

/// Begins to log, for the whole process: what `TIDEGATE_LOG` lets through (`info` if unset), in this
/// format.
pub fn init_logs(format: LogFormat) -> Result<(), BadLogFilter> {
    let filter = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| FILTER_DEFAULT.to_owned());
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(parse_filter(filter)?)
        .with(lines)
        .try_init()
        .map_err(|_| BadLogFilter::Already)
}

fn parse_filter(filter: String) -> Result<EnvFilter, BadLogFilter> {
    match EnvFilter::builder().parse(&filter) {
        Ok(parsed) => Ok(parsed),
        Err(source) => Err(BadLogFilter::Filter { filter, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        assert!(parse_filter("warn,tidegate_node=debug".into()).is_ok());
        let error = parse_filter("tidegate_node=loud".into()).unwrap_err().to_string();
        assert!(error.contains("tidegate_node=loud"), "{error}");
    }
}
