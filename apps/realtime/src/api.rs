//! The REST API of a running server, as far as the command line uses it.

use crate::exit::{Code, Failure, Outcome};
use crate::place::Server;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;
use std::time::Duration;

const REQUEST_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A server's REST API.
#[derive(Debug)]
pub struct Api {
    client: Client,
    server: Server,
}

impl Api {
    /// The API of `server`.
    ///
    /// # Errors
    /// Where the machine's certificates cannot be read.
    pub fn new(server: Server) -> Outcome<Self> {
        let client = Client::builder()
            .timeout(REQUEST_LIMIT)
            .connect_timeout(CONNECT_LIMIT)
            .user_agent(concat!("realtime-cli/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::from(anyhow::Error::new(error)))?;
        Ok(Self { client, server })
    }

    /// Posts `body` and reads the answer.
    ///
    /// # Errors
    /// No answer, or the server's refusal.
    pub async fn post(&self, path: &str, body: &Value) -> Outcome<Value> {
        self.send(self.client.post(self.server.address(path)).json(body)).await
    }

    /// Reads what is at `path`.
    ///
    /// # Errors
    /// No answer, or the server's refusal.
    pub async fn get(&self, path: &str) -> Outcome<Value> {
        self.send(self.client.get(self.server.address(path))).await
    }

    async fn send(&self, mut request: RequestBuilder) -> Outcome<Value> {
        if let Some(token) = &self.server.token {
            request = request.bearer_auth(token);
        }
        let unreachable = |error: reqwest::Error| Failure::unreachable(&self.server.url, reason(&error));
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let text = response.text().await.map_err(unreachable)?;
        if !status.is_success() {
            return Err(refusal(status, &text, self.server.token.is_some()));
        }
        serde_json::from_str(&text).map_err(|_| {
            let message = format!("{} does not answer like a realtime server", self.server.url);
            Failure::new(Code::Failure, message)
        })
    }
}

/// The innermost cause: the outer ones repeat the URL.
fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The server's refusal in its own words.
fn refusal(status: StatusCode, text: &str, had_token: bool) -> Failure {
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    let said = |member: &str| body.get(member).and_then(Value::as_str).map(str::to_owned);
    let message = match (said("message"), said("code")) {
        (Some(message), Some(code)) => format!("{message} ({code})"),
        _ => format!("the server answered {status}"),
    };
    refused(status.as_u16(), &message, had_token)
}

/// A refusal with its exit code, and what helps against a missing token.
pub fn refused(status: u16, message: &str, had_token: bool) -> Failure {
    let code = match status {
        401 | 403 => Code::NoPermission,
        503 => Code::Unavailable,
        _ => Code::Failure,
    };
    if status == 401 && !had_token {
        let cure = "give a token with --token or REALTIME_TOKEN, or work in the folder of a `realtime dev`";
        return Failure::new(code, format!("{message}\n  {cure}"));
    }
    Failure::new(code, message)
}
