//! The work that the drill does at the platform: rows, documents, events, messages of a channel.
//!
//! Owns the pace, and telling an answer that says "done" from one that says nothing. Each kind of work notes in its
//! source's ledger what it was told.

mod channel;
mod documents;
mod events;
mod rows;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

pub use channel::{Channel, ChannelOutcome};
pub use documents::{Documents, DocumentsOutcome, Held};
pub use events::publish;
pub use rows::{TABLE, install, write};

use super::account::Ledger;
use crate::link::Endpoint;

/// How long a request may take before its outcome counts as unknown.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// Where the ledger of a source is kept.
pub type Book = Rc<RefCell<Ledger>>;

/// Whether the work is to go on.
#[derive(Debug, Clone, Default)]
pub struct Going(Rc<Cell<bool>>);

impl Going {
    /// It is.
    pub fn on() -> Self {
        Self(Rc::new(Cell::new(true)))
    }

    /// No more of it, from the next piece on.
    pub fn end(&self) {
        self.0.set(false);
    }

    /// Whether it is to go on.
    pub fn is_on(&self) -> bool {
        self.0.get()
    }
}

/// So many pieces a second. What was missed while the platform was away is not made up for at once.
#[derive(Debug)]
pub struct Pace {
    due: Instant,
    every: Duration,
}

impl Pace {
    /// A pace, beginning now.
    pub fn new(a_second: f64) -> Self {
        Self { due: Instant::now(), every: Duration::from_secs_f64(1.0 / a_second.max(0.01)) }
    }

    /// Waits until the next `pieces` are due.
    pub async fn next(&mut self, pieces: u64) {
        sleep_until(self.due).await;
        let every = self.every * u32::try_from(pieces).unwrap_or(u32::MAX);
        self.due = (self.due + every).max(Instant::now());
    }
}

/// What a request came to.
#[derive(Debug)]
pub enum Answer {
    /// It is done; the body.
    Done(Value),
    /// It is certainly not done: the platform refused it.
    Refused(String),
    /// Nobody can say.
    Unknown(String),
}

/// REST, told apart by what an answer means.
#[derive(Debug, Clone)]
pub struct Api {
    client: reqwest::Client,
    base: String,
    token: String,
}

impl Api {
    /// A client for this place.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        let client = reqwest::Client::builder().timeout(REQUEST_LIMIT).build()?;
        let base = format!("http://{}", endpoint.address);
        Ok(Self { client, base, token: endpoint.token.clone().unwrap_or_default() })
    }

    /// Sends a request with a body, and `durability` where one is asked for.
    pub async fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        body: &Value,
        durability: Option<&str>,
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(durability) = durability {
            request = request.header("x-durability", durability);
        }
        let sent = request.bearer_auth(&self.token).json(body).send().await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => return Answer::Unknown(reason(&error)),
        };
        let status = response.status();
        let text = match response.text().await {
            Ok(text) => text,
            Err(error) => return Answer::Unknown(reason(&error)),
        };
        let body = serde_json::from_str::<Value>(&text).unwrap_or_default();
        if status.is_success() {
            return Answer::Done(body);
        }
        let said = format!("{status} {}", body["code"].as_str().unwrap_or_default());
        if status.is_client_error() { Answer::Refused(said) } else { Answer::Unknown(said) }
    }
}

/// Without what differs each time.
fn reason(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() { "no answer in time" } else { "the connection broke" };
    kind.to_owned()
}
