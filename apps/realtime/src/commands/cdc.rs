//! `realtime cdc`: how change data capture stands, what keeps it from running, and sending existing rows.

use crate::api::Api;
use crate::cli::{CdcCommand, ServerArgs};
use crate::exit::{Code, Failure, Outcome};
use crate::place::Server;
use crate::terminal::{self, Paint, Tone};
use cdc::Size;
use serde_json::{Value, json};
use std::time::Duration;

/// How often a backfill is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(500);

/// Runs what is asked for.
///
/// # Errors
/// How it failed, with the exit code.
pub async fn run(command: CdcCommand, server_args: &ServerArgs) -> Outcome {
    let api = Api::new(Server::find(server_args)?)?;
    match command {
        CdcCommand::Check => check(&api, server_args.json).await,
        CdcCommand::Status => status(&api, server_args.json).await,
        CdcCommand::Backfill { mapping, wait } => backfill(&api, &mapping, wait, server_args.json).await,
    }
}

fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    value.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// A finding in lines: what was found, what mends it, and the SQL alone on its lines.
fn finding_lines(finding: &Value, paint: Paint) -> Vec<String> {
    let (mark, tone) = match text(finding, "severity") {
        "ok" => ("ok", Tone::Good),
        "warning" => ("warning", Tone::Warning),
        _ => ("error", Tone::Bad),
    };
    let mut lines = vec![format!("{} {}", paint.tone(tone, &format!("{mark:<7}")), text(finding, "message"))];
    if !text(finding, "cure").is_empty() {
        lines.push(format!("        {}", text(finding, "cure")));
    }
    lines.extend(
        text(finding, "sql").lines().map(|line| format!("        {}", paint.tone(Tone::Strong, line))),
    );
    lines
}

async fn check(api: &Api, as_json: bool) -> Outcome {
    let found = api.post("/api/database/cdc/check", &json!({})).await?;
    if as_json {
        terminal::print(&found.to_string())?;
    } else {
        for finding in found["findings"].as_array().into_iter().flatten() {
            for line in finding_lines(finding, Paint::stdout()) {
                terminal::print(&line)?;
            }
        }
    }
    if found["ok"] == json!(true) { Ok(()) } else { Err(Failure::Silent(Code::Failure)) }
}

/// The reader's status in lines.
fn status_lines(status: &Value, paint: Paint) -> Vec<String> {
    let state = text(status, "state");
    let tone = match state {
        "streaming" => Tone::Good,
        "error" => Tone::Bad,
        _ => Tone::Warning,
    };
    let mut lines = vec![format!("state     {}", paint.tone(tone, state))];
    lines.extend(trouble_lines(status, paint));
    for (label, member) in [("slot", "slot"), ("position", "lastLsn")] {
        if !text(status, member).is_empty() {
            lines.push(format!("{label:<9} {}", text(status, member)));
        }
    }
    if let (Some(bytes), Some(seconds)) = (status["lagBytes"].as_i64(), status["lagSeconds"].as_f64()) {
        lines.push(format!("lag       {seconds:.3} s, {}", Size::of(bytes)));
    }
    lines.push(format!(
        "rows      {} ({:.0} a second), {} events",
        status["rowsTotal"].as_u64().unwrap_or(0),
        status["rowsPerSecond"].as_f64().unwrap_or(0.0),
        status["eventsTotal"].as_u64().unwrap_or(0)
    ));
    if let Some(gap) = status.get("gap").filter(|gap| gap.is_object()) {
        lines.push(format!("gap       {}", paint.tone(Tone::Bad, text(gap, "reason"))));
    }
    for mapping in status["mappings"].as_array().into_iter().flatten() {
        let (id, table, state) = (text(mapping, "mappingId"), text(mapping, "table"), text(mapping, "state"));
        lines.push(format!("mapping   {} {table}: {state}", paint.tone(Tone::Name, id)));
        lines.extend(trouble_lines(mapping, paint));
    }
    lines
}

/// What is wrong with the row above, and what helps; nothing where nothing is.
fn trouble_lines(row: &Value, paint: Paint) -> Vec<String> {
    let (code, message) = (text(row, "code"), text(row, "message"));
    let what = match (code.is_empty(), message.is_empty()) {
        (false, false) => format!("{}: {message}", paint.tone(Tone::Strong, code)),
        (false, true) => paint.tone(Tone::Strong, code),
        (true, _) => message.to_owned(),
    };
    let cure = text(row, "cure").lines().enumerate();
    let cure = cure.map(|(line, text)| format!("{} {text}", if line == 0 { "cure:" } else { "     " }));
    what.lines().map(str::to_owned).chain(cure).map(|line| format!("          {line}")).collect()
}

async fn status(api: &Api, as_json: bool) -> Outcome {
    let status = api.get("/api/database/cdc/status").await?;
    if as_json {
        return terminal::print(&status.to_string());
    }
    status_lines(&status, Paint::stdout()).iter().try_for_each(|line| terminal::print(line))
}

async fn backfill(api: &Api, mapping: &str, wait: bool, as_json: bool) -> Outcome {
    let path = format!("/api/database/mappings/{mapping}/backfill");
    let mut backfill = api.post(&path, &json!({})).await?;
    let mut said = Value::Null;
    while wait && matches!(text(&backfill, "state"), "pending" | "running") {
        tokio::time::sleep(LOOK).await;
        backfill = api.get(&path).await?;
        if !as_json && said != backfill["rowsSent"] {
            said = backfill["rowsSent"].clone();
            // Unknown for a table that was never analyzed.
            let of =
                backfill["rowsExpected"].as_u64().map_or(String::new(), |rows| format!(" of about {rows}"));
            terminal::note(&format!("{said} rows{of}"));
        }
    }
    if as_json {
        terminal::print(&backfill.to_string())?;
    } else {
        terminal::print(&format!("{} {}", text(&backfill, "id"), text(&backfill, "state")))?;
    }
    match text(&backfill, "state") {
        "failed" | "cancelled" => Err(Failure::new(
            Code::Failure,
            format!("{}\n  {}", text(&backfill, "message"), text(&backfill, "cure")),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line without its colours.
    fn plain(line: &str) -> String {
        let mut parts = line.split('\x1b');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
    }

    #[test]
    fn findings_show_what_mends_them() {
        let finding = json!({ "code": "WAL_LEVEL", "severity": "error", "message": "wal_level is not logical",
            "cure": "restart", "sql": "alter system set wal_level = 'logical';" });
        let lines = finding_lines(&finding, Paint::stdout());
        assert_eq!(lines.len(), 3);
        assert!(lines[0].contains("error") && lines[2].contains("alter system"));
    }

    #[test]
    fn a_status_shows_lag_gap_and_mappings() {
        let status = json!({ "state": "streaming", "lastLsn": "0/1", "lagBytes": 7, "lagSeconds": 0.25,
            "rowsTotal": 3, "rowsPerSecond": 1.0, "eventsTotal": 2, "gap": { "reason": "it was dropped" },
            "mappings": [{ "mappingId": "map_1", "table": "orders", "state": "live" }] });
        let text = status_lines(&status, Paint::stdout()).join("\n");
        assert!(!text.contains("cure"), "{text}");
        for part in ["streaming", "0/1", "0.250 s, 7 B", "it was dropped", "map_1", "orders: live"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_trouble_is_shown_with_code_and_cure_below_its_row() {
        let status = json!({ "state": "error", "code": "PUBLICATION_MISSING", "message": "there is none",
            "cure": "create publication p;", "lagBytes": 20 << 20, "lagSeconds": 0.0, "mappings": [
                { "mappingId": "map_1", "table": "orders", "state": "error", "code": "NOT_PUBLISHED",
                    "message": "orders is not in it", "cure": "alter table orders replica identity full;\nalter publication p add table orders;" },
                { "mappingId": "map_2", "table": "carts", "state": "live" }] });
        let lines: Vec<_> = status_lines(&status, Paint::stdout()).iter().map(|line| plain(line)).collect();
        let expected = [
            "state     error",
            "          PUBLICATION_MISSING: there is none",
            "          cure: create publication p;",
            "lag       0.000 s, 20 MiB",
            "rows      0 (0 a second), 0 events",
            "mapping   map_1 orders: error",
            "          NOT_PUBLISHED: orders is not in it",
            "          cure: alter table orders replica identity full;",
            "                alter publication p add table orders;",
            "mapping   map_2 carts: live",
        ];
        assert_eq!(lines, expected);
    }
}
