//! `realtime publish`.

use super::json_object;
use crate::api::Api;
use crate::cli::{PublishArgs, ServerArgs};
use crate::exit::Outcome;
use crate::place::Server;
use crate::terminal;
use anyhow::Context;
use serde_json::{Value, json};
use std::io::Read;

/// What is read from standard input at most; the server's own limit is below it.
const INPUT_LIMIT: u64 = 16 * 1024 * 1024;

/// Publishes an event and prints `id epoch:offset`.
pub async fn run(args: PublishArgs, server_args: &ServerArgs) -> Outcome {
    let payload = match args.payload.as_str() {
        "-" => json_object("standard input", &standard_input()?)?,
        text => json_object("the payload", text)?,
    };
    let mut body = json!({ "topic": args.topic, "payload": payload });
    for (name, value) in [("type", args.kind), ("id", args.id)] {
        if let Some(value) = value {
            body[name] = value.into();
        }
    }
    let answer = Api::new(Server::find(server_args)?)?.post("/api/events", &body).await?;
    if server_args.json {
        return terminal::print(&answer.to_string());
    }
    let text = |member: &str| answer.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
    match answer.get("offset").and_then(Value::as_u64) {
        Some(offset) => terminal::print(&format!("{} {}:{offset}", text("id"), text("epoch"))),
        None => terminal::print(&text("id")),
    }
}

fn standard_input() -> Outcome<String> {
    let mut text = String::new();
    std::io::stdin().take(INPUT_LIMIT).read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}
