//! `realtime outbox`.

use crate::cli::{OutboxCommand, ServerArgs};
use crate::exit::{Code, Failure, Outcome};
use crate::place::running_dev;
use crate::terminal;
use outbox::{OutboxError, Trouble};
use serde_json::json;

/// Does what is asked.
pub async fn run(command: &OutboxCommand, server: &ServerArgs) -> Outcome {
    match command {
        OutboxCommand::Install { print: true } => terminal::print(outbox::INSTALL_SQL.trim_end()),
        OutboxCommand::Install { print: false } => install(&database(server)?, server.json).await,
    }
}

/// The database: that of `--url`, else the one that a running `realtime dev` follows.
fn database(server: &ServerArgs) -> Outcome<String> {
    let Some(url) = &server.url else {
        let target = running_dev().and_then(|dev| dev.target_url);
        return target.ok_or_else(|| {
            Failure::new(
                Code::Usage,
                "name the database: --url postgresql://user:password@host:5432/database",
            )
        });
    };
    if !matches!(url.scheme(), "postgres" | "postgresql") || url.host().is_none() {
        let message = "--url is that of the database here: postgresql://user:password@host:5432/database";
        return Err(Failure::new(Code::Usage, message));
    }
    Ok(url.to_string())
}

async fn install(url: &str, json: bool) -> Outcome {
    let installed = outbox::install(url).await.map_err(|error| failure(&error))?;
    if json {
        let answer = json!({ "database": installed.database, "pending": installed.pending });
        return terminal::print(&answer.to_string());
    }
    terminal::print(&format!("event_outbox is in {}; {} rows wait", installed.database, installed.pending))?;
    terminal::note("have it read by config.outbox of an application: see docs/outbox.md");
    Ok(())
}

fn failure(error: &OutboxError) -> Failure {
    let trouble = Trouble::from(error);
    match trouble.code {
        "UNREACHABLE" => {
            let cure = "see that host and port of --url are right";
            Failure::new(
                Code::Unavailable,
                format!("no answer from the database: {}\n  {cure}", trouble.message),
            )
        }
        "NO_PRIVILEGE" => {
            let cure = "the user needs the right to create in this schema";
            Failure::new(Code::NoPermission, format!("{}\n  {cure}", trouble.message))
        }
        "REFUSED" => Failure::new(Code::NoPermission, trouble.message),
        "NO_TABLE" => {
            let cure = "there is another table event_outbox: rename it, or use another database or schema";
            Failure::new(Code::Failure, format!("{}\n  {cure}", trouble.message))
        }
        _ => Failure::new(Code::Failure, trouble.message),
    }
}
