//! `realtime token`.

use super::json_object;
use crate::api::Api;
use crate::cli::{ServerArgs, TokenArgs};
use crate::exit::{Code, Failure, Outcome};
use crate::place::Server;
use crate::terminal;
use serde_json::{Map, Value, json};

/// Asks for a token and prints it alone, so that `$(realtime token)` is one.
pub async fn run(args: TokenArgs, server_args: &ServerArgs) -> Outcome {
    let mut server = Server::find(server_args)?;
    if let Some(key) = args.api_key.as_ref().filter(|key| !key.is_empty()) {
        server.token = Some(key.clone());
    }
    let body = request(&args)?;
    let answer = Api::new(server)?.post("/auth/token", &body).await?;
    if server_args.json {
        return terminal::print(&answer.to_string());
    }
    match answer.get("token").and_then(Value::as_str) {
        Some(token) => terminal::print(token),
        None => Err(Failure::new(Code::Failure, "the server's answer holds no token")),
    }
}

fn request(args: &TokenArgs) -> Outcome<Value> {
    let mut body = Map::new();
    body.insert("applicationId".to_owned(), args.app.as_str().into());
    let optional = [
        ("environment", args.env.as_deref().map(Value::from)),
        ("sub", args.sub.as_deref().map(Value::from)),
        ("permissions", (!args.permissions.is_empty()).then(|| json!(args.permissions))),
        ("ttlSeconds", args.ttl.map(Value::from)),
        ("capabilities", args.capabilities.as_deref().map(|c| json_object("--capabilities", c)).transpose()?),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    }
    Ok(Value::Object(body))
}
