//! Telemetry: what chillgate tells operators about itself.
//!
//! Metrics to be scraped, the audit log to be kept, the operational log to be read. It hears of
//! everything and knows nobody: no module of the proxy but the clock is named below here.

use std::any::Any;
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;

use tracing::error;

pub mod audit;
pub mod logs;
pub mod metrics;

use logs::{Format, LogError, LogGuard};
use metrics::Metrics;

/// Starts the operational log and takes panics into it and into the count of panics; whoever
/// catches one need not count it. Keep the guard until the end.
pub fn init(format: Format, filter: &str, metrics: &Arc<Metrics>) -> Result<LogGuard, LogError> {
    let counting = Arc::clone(metrics);
    let guard = logs::start(format, filter, move |lost| {
        counting.telemetry_dropped("logs", lost);
    })?;
    let counting = Arc::clone(metrics);
    panic::set_hook(Box::new(move |info| report(info, &counting)));
    Ok(guard)
}

fn report(info: &PanicHookInfo<'_>, metrics: &Metrics) {
    metrics.panicked();
    let at = info.location().map(ToString::to_string).unwrap_or_default();
    error!(
        at,
        cause = words(info.payload()),
        "Panicked; this is a mistake in chillgate."
    );
}

fn words(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_panic_are_found() {
        assert_eq!(words(&"plain"), "plain");
        assert_eq!(words(&"made".to_owned()), "made");
        assert_eq!(words(&7), "no words");
    }
}
