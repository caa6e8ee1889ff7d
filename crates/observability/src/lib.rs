//! Logging set-up for every program of the platform.
//!
//! Owns the process-wide `tracing` subscriber: which events are written, in which form and where.
//! It must not know the configuration's source: level and environment come in as the caller's words.
//! Events enter through the `tracing` (and `log`) macros anywhere in the process and leave as lines
//! on standard error, so that standard output stays free for a program's data.

mod format;

use std::io::IsTerminal;
use std::sync::Mutex;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

pub use format::LogFormat;

/// What can go wrong while logging is set up.
#[derive(Debug, thiserror::Error)]
pub enum ObservabilityError {
    /// The level is none of the documented ones.
    #[error("log level `{0}` is unknown; it is one of debug, info, warn, error")]
    UnknownLevel(String),
    /// Somebody else installed a subscriber first; log lines go there.
    #[error("another tracing subscriber is already installed")]
    SubscriberInstalled,
}

/// The documented values of `LOG_LEVEL`.
const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

/// Libraries whose own debug output would bury ours: they stay at `warn` (or above) whatever the level.
const CHATTY: [&str; 9] =
    ["h2", "hyper", "hyper_util", "reqwest", "rustls", "pg_walstream", "sqlx", "tower", "tungstenite"];
/// Libraries that warn of each broken connection in terms of their own; whoever uses them says what it comes to.
const INWARD: [&str; 1] = ["fred"];

/// Installs the process-wide subscriber: JSON lines under `production` and `staging`, readable lines
/// otherwise, always on standard error.
///
/// `service_name` is written into every JSON line. A second call does nothing and succeeds, so that
/// parts which run alone or together in one process may all call it.
///
/// # Errors
///
/// [`ObservabilityError::UnknownLevel`] for a level that is not documented,
/// [`ObservabilityError::SubscriberInstalled`] if code outside this crate installed a subscriber.
pub fn init(service_name: &str, level: &str, environment: &str) -> Result<(), ObservabilityError> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);

    let filter = level_filter(level)?;
    let mut installed = INSTALLED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if *installed {
        return Ok(());
    }
    subscriber(service_name, LogFormat::for_environment(environment), filter, std::io::stderr)
        .try_init()
        .map_err(|_| ObservabilityError::SubscriberInstalled)?;
    *installed = true;
    Ok(())
}

/// The filter of a documented level, with chatty libraries held at `warn` and inward ones at `error`.
fn level_filter(level: &str) -> Result<EnvFilter, ObservabilityError> {
    if !LEVELS.contains(&level) {
        return Err(ObservabilityError::UnknownLevel(level.to_owned()));
    }
    let library_level = if level == "error" { level } else { "warn" };
    let directives = CHATTY.iter().fold(level.to_owned(), |mut all, library| {
        all.push_str(&format!(",{library}={library_level}"));
        all
    });
    let directives = INWARD.iter().fold(directives, |all, library| format!("{all},{library}=error"));
    Ok(EnvFilter::new(directives))
}

/// What writes the lines that `filter` lets through.
///
/// The filter holds for the whole subscriber and not for the layer alone: a filter of a layer keeps its last answer for
/// the thread's next event, so that asking whether something would be written (as the `log` facade does, for each notice
/// of PostgreSQL) would swallow a line.
fn subscriber<W>(
    service_name: &str,
    format: LogFormat,
    filter: EnvFilter,
    writer: W,
) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'writer> fmt::MakeWriter<'writer> + Send + Sync + 'static,
{
    tracing_subscriber::registry().with(filter).with(line_layer(service_name, format, writer))
}

/// The layer that turns events into lines of `format`, written to `writer`.
fn line_layer<S, W>(service_name: &str, format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span> + Send + Sync,
    W: for<'writer> fmt::MakeWriter<'writer> + Send + Sync + 'static,
{
    match format {
        LogFormat::Json => fmt::layer()
            .fmt_fields(fmt::format::JsonFields::new())
            .event_format(format::JsonLine::new(service_name))
            .with_ansi(false)
            .with_writer(writer)
            .boxed(),
        LogFormat::Pretty => {
            fmt::layer().compact().with_ansi(std::io::stderr().is_terminal()).with_writer(writer).boxed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;

    /// A writer that keeps what was written, so that a test can read the lines.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(level: &str, format: LogFormat, work: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let filter = level_filter(level).unwrap();
        let subscriber = subscriber("backend", format, filter, move || writer.clone());
        tracing::subscriber::with_default(subscriber, work);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_object_a_line_with_service_and_dotted_fields() {
        let text = lines_of("info", LogFormat::Json, || {
            let span = tracing::info_span!("request", request.id = "r1");
            let _inside = span.enter();
            tracing::info!(topic.name = "orders.created", "topic \"created\"\nnow");
            tracing::warn!("second");
        });
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["service"], "backend");
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["topic.name"], "orders.created");
        assert_eq!(lines[0]["message"], "topic \"created\"\nnow");
        assert_eq!(lines[0]["spans"][0]["request.id"], "r1");
        assert_eq!(lines[1]["message"], "second");
    }

    #[test]
    fn level_holds_and_libraries_stay_quiet() {
        let text = lines_of("debug", LogFormat::Json, || {
            tracing::debug!("ours");
            tracing::debug!(target: "sqlx::query", "theirs");
            tracing::warn!(target: "fred::router::responses", "inward");
            tracing::trace!("too fine");
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("ours"));
        let text = lines_of("error", LogFormat::Json, || {
            tracing::info!(target: "hyper", "library");
            tracing::warn!("ours");
        });
        assert_eq!(text, "");
    }

    #[test]
    fn a_record_that_is_held_back_swallows_no_other() {
        let text = lines_of("info", LogFormat::Json, || {
            let notice =
                log::Metadata::builder().target("sqlx::postgres::notice").level(log::Level::Info).build();
            assert!(!log::Log::enabled(&tracing_log::LogTracer::new(), &notice));
            tracing::error!("first");
            tracing::error!("second");
        });
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn pretty_lines_carry_no_colour_codes_away_from_a_terminal() {
        let text = lines_of("info", LogFormat::Pretty, || tracing::info!(port = 3000, "listening"));
        assert!(text.contains("listening") && text.contains("port"));
        // Under a terminal the codes are wanted; test runs capture standard error only in part.
        if !std::io::stderr().is_terminal() {
            assert!(!text.contains('\u{1b}'));
        }
    }

    #[test]
    fn init_twice_is_fine_and_an_unknown_level_is_refused() {
        let error = init("backend", "loud", "production").unwrap_err();
        assert!(error.to_string().contains("`loud`"));
        init("backend", "info", "test").unwrap();
        init("workers", "debug", "production").unwrap();
    }
}
