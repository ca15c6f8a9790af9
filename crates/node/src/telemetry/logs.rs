//! Structured logs, on stderr. A caller's identity is never in them.

use std::io;

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, fmt, fmt::MakeWriter, layer::SubscriberExt as _, registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// Names the environment variable that holds the filter.
const FILTER_VARIABLE: &str = "RUST_LOG";
/// What is logged when nobody says otherwise.
const FILTER_DEFAULT: &str = "info";

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
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

/// Begins to log, for the whole process: what `RUST_LOG` lets through (`info` if unset), in this
/// format.
pub fn init_logs(format: LogFormat) -> Result<(), BadLogFilter> {
    let filter = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| FILTER_DEFAULT.to_owned());
    tracing_subscriber::registry()
        .with(parse_filter(filter)?)
        .with(lines(format, io::stderr))
        .try_init()
        .map_err(|_| BadLogFilter::Already)
}

/// Writes each event as a line of this format.
fn lines<S, W>(format: LogFormat, to: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // Colours would only stand in the way of whoever collects the lines.
    let lines = fmt::layer().with_writer(to).with_ansi(false);
    match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

fn parse_filter(filter: String) -> Result<EnvFilter, BadLogFilter> {
    match EnvFilter::builder().parse(&filter) {
        Ok(parsed) => Ok(parsed),
        Err(source) => Err(BadLogFilter::Filter { filter, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    /// What two events look like in a format.
    fn logged(format: LogFormat) -> String {
        #[derive(Clone, Default)]
        struct Buffer(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let buffer = Buffer::default();
        let to = buffer.clone();
        let subscriber = tracing_subscriber::registry()
            .with(parse_filter("info".into()).unwrap())
            .with(lines(format, move || to.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(region = "us", "a peer is gone");
            tracing::debug!("not worth a line");
        });
        String::from_utf8(buffer.0.lock().clone()).unwrap()
    }

    #[test]
    fn an_event_is_one_line_for_people_or_for_programs() {
        let text = logged(LogFormat::Text);
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with("a peer is gone region=\"us\"\n"), "{text}");

        let json = logged(LogFormat::Json);
        assert_eq!(json.lines().count(), 1);
        let event: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&event["level"], &event["region"]), (&"INFO".into(), &"us".into()));
        assert_eq!(event["message"], "a peer is gone");
    }

    #[test]
    fn a_bad_filter_is_named() {
        assert!(parse_filter("warn,tidegate_node=debug".into()).is_ok());
        let error = parse_filter("tidegate_node=loud".into()).unwrap_err().to_string();
        assert!(error.contains("tidegate_node=loud"), "{error}");
    }
}
