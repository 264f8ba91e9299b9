//! The operational log: lines on stderr, for a collector or for eyes.
//!
//! Stdout belongs to the protocol, so nothing here writes to it. A line is one line whatever is in
//! it, and a terminal is never told anything by it. Who calls what is the audit log's business.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::{MakeWriter, format};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

mod line;
mod sink;

use line::Lines;
pub use sink::LogGuard;
use sink::Sink;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For eyes on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object per line.
    Json,
    /// For eyes; colours only on a terminal, and not where `NO_COLOR` is set.
    Human,
}

/// Why there can be no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is misspelled.
    #[error("`{filter}` is no log filter: {cause}; write \"info\" or \"chillgate=debug,warn\"")]
    Filter {
        /// As written.
        filter: String,
        /// What is wrong with it.
        cause: String,
    },
    /// There is a log already, or no thread to write it with.
    #[error("the log cannot be started: {0}")]
    Start(String),
}

/// Starts the log. `RUST_LOG`, where set, replaces `filter`. Keep the guard until the end: what is
/// logged after it is dropped is lost. `dropped` hears of lines that were lost because nobody read
/// stderr.
pub fn start(
    format: Format,
    filter: &str,
    dropped: impl Fn(u64) + Send + 'static,
) -> Result<LogGuard, LogError> {
    let chosen = std::env::var("RUST_LOG")
        .ok()
        .filter(|own| !own.trim().is_empty());
    let filter = parse(chosen.as_deref().unwrap_or(filter))?;
    let is_terminal = io::stderr().is_terminal();
    let look = match format {
        Format::Auto if is_terminal => Look::human(),
        Format::Auto | Format::Json => Look::Json,
        Format::Human => Look::human(),
    };
    let (sink, guard) =
        Sink::start(io::stderr(), dropped).map_err(|e| LogError::Start(e.to_string()))?;
    let lines = Lines::new(sink, look);
    let log = tracing_subscriber::registry()
        .with(layer(look, lines))
        .with(filter);
    log.try_init()
        .map_err(|error| LogError::Start(error.to_string()))?;
    Ok(guard)
}

/// How lines look, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Json,
    Human { colours: bool },
}

impl Look {
    fn human() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
        Self::Human {
            colours: io::stderr().is_terminal() && !unwanted,
        }
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| LogError::Filter {
            filter: filter.to_owned(),
            cause: error.to_string(),
        })
}

fn layer<S, W>(look: Look, lines: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let base = tracing_subscriber::fmt::layer().with_writer(lines);
    match look {
        Look::Json => base
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
        Look::Human { colours } => {
            // The formatter's own fields would let a value's colours and cursor moves through.
            let fields = format::debug_fn(|to, field, value| {
                let text = format!("{value:?}");
                let text = line::spelled(&text);
                match field.name() {
                    "message" => to.write_str(&text),
                    name => write!(to, "{name}={text}"),
                }
            });
            base.with_ansi(colours)
                .fmt_fields(fields.delimited(" "))
                .boxed()
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Json => "json",
            Self::Human => "human",
        })
    }
}

/// A log for one test or one thread: the same lines, to somewhere else.
#[cfg(test)]
fn to<W>(look: Look, filter: &str, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::registry()
        .with(layer(look, Lines::new(writer, look)))
        .with(parse(filter).expect("a filter"))
}

#[cfg(test)]
mod tests;
