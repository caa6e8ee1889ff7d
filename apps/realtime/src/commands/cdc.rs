//! `realtime cdc`: how change data capture stands, what keeps it from running, and sending existing rows.

use crate::api::Api;
use crate::cli::{CdcCommand, ServerArgs};
use crate::exit::{Code, Failure, Outcome};
use crate::place::Server;
use crate::terminal::{self, Paint, Tone};
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
    for (label, member) in
        [("message", "message"), ("cure", "cure"), ("slot", "slot"), ("position", "lastLsn")]
    {
        if !text(status, member).is_empty() {
            lines.push(format!("{label:<9} {}", text(status, member)));
        }
    }
    if let (Some(bytes), Some(seconds)) = (status["lagBytes"].as_u64(), status["lagSeconds"].as_f64()) {
        lines.push(format!("lag       {seconds:.3} s, {bytes} bytes"));
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
        let said = text(mapping, "message");
        lines.push(
            format!("mapping   {} {table}: {state} {said}", paint.tone(Tone::Name, id)).trim_end().to_owned(),
        );
    }
    lines
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
        for part in ["streaming", "0/1", "0.250 s, 7 bytes", "it was dropped", "map_1", "orders: live"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
