//! Events: publishers over WebSocket and REST, each of which repeats an event under its id until it is acknowledged.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{Answer, Api, Book, Going, Pace};
use crate::drill::account::Position;
use crate::drill::source::Source;
use crate::link::{Endpoint, Link, Transport};

/// So many publishers, half of them over WebSocket and half over REST.
const PUBLISHERS: u64 = 4;
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_millis(100);
/// How long an event is repeated before nobody can say what became of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// The publishers, `rate` events a second together, until told to end.
pub fn publish(
    endpoint: &Endpoint,
    rate: f64,
    book: &Book,
    going: &Going,
) -> impl Iterator<Item = impl Future<Output = Result<()>> + 'static> {
    let (endpoint, book, going) = (endpoint.clone(), book.clone(), going.clone());
    (0..PUBLISHERS).map(move |number| {
        let way = if number % 2 == 0 { Way::WebSocket(None) } else { Way::Rest };
        let publisher =
            Publisher { number, way, endpoint: endpoint.clone(), book: book.clone(), going: going.clone() };
        publisher.run(rate / PUBLISHERS as f64)
    })
}

enum Way {
    WebSocket(Option<Link>),
    Rest,
}

struct Publisher {
    number: u64,
    way: Way,
    endpoint: Endpoint,
    book: Book,
    going: Going,
}

impl Publisher {
    async fn run(mut self, rate: f64) -> Result<()> {
        let api = Api::new(&self.endpoint)?;
        let mut pace = Pace::new(rate);
        for turn in 1_u64.. {
            pace.next(1).await;
            if !self.going.is_on() {
                break;
            }
            let key = self.book.borrow_mut().issue();
            let payload = json!({ "key": key, "publisher": self.number, "turn": turn });
            self.until_acknowledged(&api, key, &payload).await?;
        }
        Ok(())
    }

    async fn until_acknowledged(&mut self, api: &Api, key: u64, payload: &Value) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = match &mut self.way {
                Way::WebSocket(link) => over_websocket(link, &self.endpoint, key, payload).await,
                Way::Rest => over_rest(api, key, payload).await,
            };
            match answer {
                Ok(position) => {
                    self.book.borrow_mut().acknowledged_at(key, position);
                    return Ok(());
                }
                Err(error) => self.book.borrow_mut().complain(format!("{error:#}")),
            }
            if Instant::now() > deadline {
                // The next ones would be out of order if it still came: this publisher has no more to say.
                self.book.borrow_mut().unknown(key);
                bail!("an event was not acknowledged within {} s", PATIENCE.as_secs());
            }
            sleep(RETRY).await;
        }
    }
}

fn id(key: u64) -> String {
    format!("drill-{key}")
}

async fn over_rest(api: &Api, key: u64, payload: &Value) -> Result<Position> {
    let body =
        json!({ "topic": Source::Socket.topic(), "type": "drilled", "payload": payload, "id": id(key) });
    match api.send(reqwest::Method::POST, "/api/events", &body, None).await {
        Answer::Done(body) => position(&body),
        Answer::Refused(said) | Answer::Unknown(said) => bail!("rest: {said}"),
    }
}

async fn over_websocket(
    link: &mut Option<Link>,
    endpoint: &Endpoint,
    key: u64,
    payload: &Value,
) -> Result<Position> {
    let mut open = match link.take() {
        Some(open) => open,
        None => Link::open(endpoint, Transport::Ws, None).await.ok().context("websocket: no connection")?,
    };
    let fields = format!(
        "\"topic\":\"{}\",\"eventType\":\"drilled\",\"id\":\"{}\",\"payload\":{payload}",
        Source::Socket.topic(),
        id(key)
    );
    open.writer().queue_request("publish", &fields, Some(key));
    let answered = timeout(ANSWER_LIMIT, answered(&mut open, key)).await;
    let body = answered.ok().context("websocket: no answer in time")?.ok();
    let body = body.context("websocket: the connection broke")?;
    // Only one that answered is used again: an answer that comes too late would be taken for the next one's.
    *link = Some(open);
    match body["type"].as_str() {
        Some("ok") => position(&body),
        _ => bail!("websocket: {}", body["code"].as_str().unwrap_or_default()),
    }
}

/// The answer with this reference.
async fn answered(link: &mut Link, reference: u64) -> Result<Value> {
    link.writer().flush().await?;
    loop {
        let body: Value = serde_json::from_slice(&link.next_text().await?)?;
        if body["ref"].as_u64() == Some(reference) {
            return Ok(body);
        }
    }
}

fn position(body: &Value) -> Result<Position> {
    let epoch = body["epoch"].as_str().context("an answer without an epoch")?.to_owned();
    Ok(Position { epoch, offset: body["offset"].as_u64().context("an answer without an offset")? })
}
