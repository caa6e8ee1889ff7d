//! Bare clients that follow the topic and come back by position: plain WebSocket, server-sent events, and
//! the whole history over REST.
//!
//! They do what the protocol asks of any client and nothing more. What they see goes into an account.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::account::{Account, Position};
use super::stream::{Message, MessageDecoder};
use crate::link::{Endpoint, Link, Transport};
use crate::rows::Rest;

/// How long to wait before a connection is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// A live connection says something at least this often: pings every 25 s, heartbeats every 30 s.
const QUIET_LIMIT: Duration = Duration::from_secs(60);
/// The most events of a page.
const PAGE: usize = 500;

/// Where a reader's account is kept.
pub type Shared = Rc<RefCell<Account>>;

/// An event of the drill's mapping.
#[derive(Deserialize)]
struct Event {
    payload: Payload,
    metadata: Place,
}

#[derive(Deserialize)]
struct Payload {
    id: u64,
}

#[derive(Deserialize)]
struct Place {
    epoch: String,
    offset: u64,
}

/// A frame of the plain WebSocket, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Frame {
    #[serde(rename = "type")]
    kind: String,
    data: Option<Event>,
    subscription_id: Option<String>,
    epoch: Option<String>,
    offset: Option<u64>,
    #[serde(default)]
    recovered: bool,
    #[serde(default)]
    gap: bool,
    #[serde(default)]
    events: Vec<Event>,
    #[serde(default)]
    more: bool,
}

impl Frame {
    fn position(&self) -> Option<Position> {
        Some(Position { epoch: self.epoch.clone()?, offset: self.offset? })
    }
}

fn note(account: &Shared, event: Event, now: Instant) {
    let Place { epoch, offset } = event.metadata;
    account.borrow_mut().event(Position { epoch, offset }, event.payload.id, now);
}

/// Follows over plain WebSocket until dropped, one connection after the other.
pub async fn follow_websocket(endpoint: Endpoint, topic: String, account: Shared) {
    loop {
        if let Err(error) = one_websocket(&endpoint, &topic, &account).await {
            account.borrow_mut().trouble(format!("{error:#}"));
        }
        sleep(RETRY).await;
    }
}

/// One connection, until it breaks.
async fn one_websocket(endpoint: &Endpoint, topic: &str, account: &Shared) -> Result<()> {
    let mut link = Link::open(endpoint, Transport::Ws, None).await?;
    let mut fields = format!("\"topic\":\"{topic}\"");
    let mut since = account.borrow().position().cloned();
    loop {
        if let Some(Position { epoch, offset }) = &since {
            fields.push_str(&format!(",\"since\":{{\"epoch\":\"{epoch}\",\"offset\":{offset}}}"));
        }
        link.writer().queue_request("subscribe", &fields, Some(1));
        link.writer().flush().await?;
        let answer =
            timeout(ANSWER_LIMIT, subscribed(&mut link)).await.context("no answer to `subscribe`")??;
        let (more, id) = (answer.more, answer.subscription_id.clone());
        since = Some(take_answer(answer, since.is_some(), account)?);
        if !more {
            break;
        }
        let id = id.context("an answer without a subscription's id")?;
        fields = format!("\"topic\":\"{topic}\",\"subscriptionId\":\"{id}\"");
    }
    account.borrow_mut().connected();
    loop {
        let text = timeout(QUIET_LIMIT, link.next_text()).await;
        let Ok(text) = text else { continue };
        take_frame(serde_json::from_slice(&text?)?, account)?;
    }
}

async fn subscribed(link: &mut Link) -> Result<Frame> {
    loop {
        let text = link.next_text().await?;
        let frame: Frame = serde_json::from_slice(&text)?;
        match frame.kind.as_str() {
            "subscribed" => return Ok(frame),
            "error" => bail!("refused: {}", String::from_utf8_lossy(&text)),
            "event" => bail!("an event came before the answer to `subscribe`"),
            _ => {}
        }
    }
}

/// Notes a page of recovered events; returns where the reader then stands.
fn take_answer(answer: Frame, resumed: bool, account: &Shared) -> Result<Position> {
    let position = answer.position().context("an answer without a position")?;
    let now = Instant::now();
    if resumed && !answer.recovered {
        account.borrow_mut().gap();
    }
    for event in answer.events {
        note(account, event, now);
    }
    account.borrow_mut().stands_at(position.clone());
    Ok(position)
}

fn take_frame(frame: Frame, account: &Shared) -> Result<()> {
    match frame.kind.as_str() {
        "event" => note(account, frame.data.context("an event without data")?, Instant::now()),
        "position" => {
            let position = frame.position().context("a position frame without a position")?;
            if frame.gap {
                account.borrow_mut().gap();
            }
            account.borrow_mut().stands_at(position);
        }
        "error" => bail!("the server ended the subscription"),
        _ => {}
    }
    Ok(())
}

/// Follows over server-sent events until dropped, one connection after the other.
pub async fn follow_stream(endpoint: Endpoint, topic: String, account: Shared) {
    let mut cursor = None;
    loop {
        if let Err(error) = one_stream(&endpoint, &topic, &mut cursor, &account).await {
            account.borrow_mut().trouble(format!("{error:#}"));
        }
        sleep(RETRY).await;
    }
}

/// One connection, until it breaks. `cursor` is the last event id, as an `EventSource` keeps it.
async fn one_stream(
    endpoint: &Endpoint,
    topic: &str,
    cursor: &mut Option<String>,
    account: &Shared,
) -> Result<()> {
    let client =
        reqwest::Client::builder().connect_timeout(ANSWER_LIMIT).read_timeout(QUIET_LIMIT).build()?;
    let mut request = client.get(format!("http://{}/api/stream?topic={topic}", endpoint.address));
    request = request.bearer_auth(endpoint.token.as_deref().unwrap_or_default());
    if let Some(cursor) = cursor.as_deref() {
        request = request.header("last-event-id", cursor);
    }
    let mut response = request.send().await?;
    ensure!(response.status().is_success(), "refused: {}", response.status());
    let mut decoder = MessageDecoder::default();
    while let Some(bytes) = response.chunk().await? {
        for message in decoder.feed(&bytes) {
            take_message(&message, cursor.is_some(), account)?;
            if message.id.is_some() {
                *cursor = message.id;
            }
        }
    }
    bail!("the server ended the stream")
}

/// The first message of a stream.
#[derive(Deserialize)]
struct Opening {
    subscriptions: Vec<OpeningTopic>,
}

#[derive(Deserialize)]
struct OpeningTopic {
    epoch: String,
    offset: u64,
    recovered: bool,
}

fn take_message(message: &Message, resumed: bool, account: &Shared) -> Result<()> {
    match message.event.as_str() {
        "event" => note(account, serde_json::from_str(&message.data)?, Instant::now()),
        "subscribed" => {
            let opening: Opening = serde_json::from_str(&message.data)?;
            let topic = opening.subscriptions.into_iter().next().context("a stream without its topic")?;
            let mut account = account.borrow_mut();
            account.connected();
            // Recovered, its events follow one by one, and `offset` is where they end.
            if !topic.recovered {
                account.stands_at(Position { epoch: topic.epoch, offset: topic.offset });
                if resumed {
                    account.gap();
                }
            }
        }
        "gap" => account.borrow_mut().gap(),
        "error" => bail!("the server ended the stream: {}", message.data),
        _ => {}
    }
    Ok(())
}

/// The position of the last event, or of the head.
#[derive(Deserialize)]
struct HistoryPage {
    events: Vec<Event>,
    epoch: String,
    offset: u64,
}

/// Reads the topic's whole history over REST, page by page.
///
/// # Errors
/// The platform refuses or does not answer.
pub async fn read_history(rest: &Rest, topic: &str) -> Result<Account> {
    let path = format!("/api/topics/{topic}/history");
    let head: HistoryPage = serde_json::from_value(rest.get(&format!("{path}?limit=1")).await?)?;
    let account = Shared::default();
    account.borrow_mut().connected();
    account.borrow_mut().stands_at(Position { epoch: head.epoch.clone(), offset: 0 });
    let mut since = format!("{}:0", head.epoch);
    loop {
        let answer = rest.get(&format!("{path}?since={since}&limit={PAGE}")).await?;
        let page: HistoryPage = serde_json::from_value(answer)?;
        if page.events.is_empty() {
            return Ok(account.take());
        }
        let now = Instant::now();
        page.events.into_iter().for_each(|event| note(&account, event, now));
        since = format!("{}:{}", page.epoch, page.offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::account::{Ledger, Outcome};

    fn event(offset: u64, key: u64) -> String {
        format!(
            r#"{{"id":"evt_{offset}","payload":{{"id":{key},"note":"x"}},"metadata":{{"timestamp":1,"epoch":"e","offset":{offset}}}}}"#
        )
    }

    fn frame(text: &str) -> Frame {
        serde_json::from_str(text).unwrap()
    }

    fn outcome(account: &Shared, rows: u64) -> Outcome {
        let mut ledger = Ledger::default();
        ledger.committed(1..=rows);
        Outcome::new(&ledger, 1, &[("websocket", &account.borrow())])
    }

    #[test]
    fn pages_and_live_frames_make_one_sequence() {
        let account = Shared::default();
        let first = r#"{"type":"subscribed","ref":1,"subscriptionId":"sub_1","topic":"t","epoch":"e","offset":0,"recovered":false,"events":[]}"#;
        take_answer(frame(first), false, &account).unwrap();
        take_frame(frame(&format!(r#"{{"type":"event","topic":"t","data":{}}}"#, event(1, 1))), &account)
            .unwrap();
        let page = format!(
            r#"{{"type":"subscribed","subscriptionId":"sub_2","topic":"t","epoch":"e","offset":3,"recovered":true,"events":[{},{}],"more":true}}"#,
            event(2, 2),
            event(3, 3)
        );
        let position = take_answer(frame(&page), true, &account).unwrap();
        assert_eq!(position, Position { epoch: "e".to_owned(), offset: 3 });
        assert!(outcome(&account, 3).holds(), "{}", outcome(&account, 3));
    }

    #[test]
    fn a_recovery_that_was_not_possible_is_a_gap() {
        let account = Shared::default();
        let answer = r#"{"type":"subscribed","subscriptionId":"sub_1","topic":"t","epoch":"e","offset":9,"recovered":false,"events":[]}"#;
        take_answer(frame(answer), true, &account).unwrap();
        assert_eq!(outcome(&account, 1).gaps, 1);
        assert!(
            take_frame(frame(r#"{"type":"position","epoch":"e","offset":12,"gap":true}"#), &account).is_ok()
        );
        assert_eq!(outcome(&account, 1).gaps, 2);
        assert!(take_frame(frame(r#"{"type":"error","code":"REVOKED"}"#), &account).is_err());
    }

    #[test]
    fn a_stream_s_messages_are_noted() {
        let account = Shared::default();
        let message = |event: &str, data: String| Message { id: None, event: event.to_owned(), data };
        let opening = |recovered, offset| {
            message(
                "subscribed",
                format!(
                    r#"{{"socketId":"s","subscriptions":[{{"topic":"t","epoch":"e","offset":{offset},"recovered":{recovered}}}]}}"#
                ),
            )
        };
        take_message(&opening(false, 0), false, &account).unwrap();
        take_message(&message("event", event(1, 1)), true, &account).unwrap();
        take_message(&opening(true, 2), true, &account).unwrap();
        take_message(&message("event", event(2, 2)), true, &account).unwrap();
        assert!(outcome(&account, 2).holds(), "{}", outcome(&account, 2));
        take_message(&opening(false, 2), true, &account).unwrap();
        take_message(&message("gap", String::new()), true, &account).unwrap();
        assert_eq!(outcome(&account, 2).gaps, 2);
    }
}
