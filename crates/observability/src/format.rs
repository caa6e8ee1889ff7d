//! The forms of a log line.
//!
//! Owns what a line looks like; knows neither where it goes nor which events are written.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The form in which log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, for log collectors.
    Json,
    /// Lines for people, coloured on a terminal.
    Pretty,
}

impl LogFormat {
    /// The form for a value of `NODE_ENV`: machines read production and staging, people the rest.
    pub fn for_environment(environment: &str) -> Self {
        match environment {
            "production" | "staging" => Self::Json,
            _ => Self::Pretty,
        }
    }
}

/// JSON lines that carry the service's name beside the event's own fields.
pub(crate) struct JsonLine {
    /// `{"service":"<name>",`, ready to stand in for the opening brace of each line.
    opening: String,
    json: Format<Json>,
}

impl JsonLine {
    pub(crate) fn new(service_name: &str) -> Self {
        let escaped = service_name.replace('\\', "\\\\").replace('"', "\\\"");
        let json = Format::default().json().flatten_event(true).with_current_span(false).with_span_list(true);
        Self { opening: format!("{{\"service\":\"{escaped}\","), json }
    }
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::with_capacity(256);
        self.json.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(&self.opening)?;
        writer.write_str(line.strip_prefix('{').unwrap_or(&line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_read_production_and_staging() {
        assert_eq!(LogFormat::for_environment("production"), LogFormat::Json);
        assert_eq!(LogFormat::for_environment("staging"), LogFormat::Json);
        assert_eq!(LogFormat::for_environment("development"), LogFormat::Pretty);
        assert_eq!(LogFormat::for_environment("test"), LogFormat::Pretty);
    }
}
