//! Following over server-sent events, resuming by `Last-Event-ID` as an `EventSource` does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tokio::time::sleep;

use super::messages::{Message, MessageDecoder};
use super::{ANSWER_LIMIT, RETRY, Shared, note};
use crate::drill::account::Position;
use crate::drill::source::Source;
use crate::link::Endpoint;

/// A live stream says something at least this often: heartbeats every 30 s or every 60 s.
const QUIET_LIMIT: Duration = Duration::from_secs(130);

/// Follows until dropped, one connection after the other.
pub async fn follow(source: Source, endpoint: Endpoint, account: Shared) {
    let mut cursor = None;
    loop {
        if let Err(error) = one_stream(source, &endpoint, &mut cursor, &account).await {
            account.borrow_mut().trouble(format!("{error:#}"));
        }
        sleep(RETRY).await;
    }
}

/// One connection, until it breaks. `cursor` is the last event id.
async fn one_stream(
    source: Source,
    endpoint: &Endpoint,
    cursor: &mut Option<String>,
    account: &Shared,
) -> Result<()> {
    let client =
        reqwest::Client::builder().connect_timeout(ANSWER_LIMIT).read_timeout(QUIET_LIMIT).build()?;
    let mut request = client.get(format!("http://{}/api/stream?topic={}", endpoint.address, source.topic()));
    request = request.bearer_auth(endpoint.token.as_deref().unwrap_or_default());
    if let Some(cursor) = cursor.as_deref() {
        request = request.header("last-event-id", cursor);
    }
    let mut response = request.send().await?;
    ensure!(response.status().is_success(), "refused: {}", response.status());
    let mut decoder = MessageDecoder::default();
    while let Some(bytes) = response.chunk().await? {
        for message in decoder.feed(&bytes) {
            take_message(source, &message, cursor.is_some(), account)?;
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

fn take_message(source: Source, message: &Message, resumed: bool, account: &Shared) -> Result<()> {
    match message.event.as_str() {
        "event" => note(source, account, serde_json::from_str(&message.data)?, Instant::now())?,
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
        "gap" => {
            let mut account = account.borrow_mut();
            account.gap();
            // Where it goes on, as far as the message says.
            if let Ok(topic) = serde_json::from_str::<Gap>(&message.data) {
                account.stands_at(Position { epoch: topic.epoch, offset: topic.offset });
            }
        }
        "error" => bail!("the server ended the stream: {}", message.data),
        _ => {}
    }
    Ok(())
}

/// What a gap says.
#[derive(Deserialize)]
struct Gap {
    epoch: String,
    offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(event: &str, data: String) -> Message {
        Message { id: None, event: event.to_owned(), data }
    }

    fn event(offset: u64) -> Message {
        let text = format!(
            r#"{{"id":"evt_{offset}","payload":{{"key":{offset}}},"metadata":{{"epoch":"e","offset":{offset}}}}}"#
        );
        message("event", text)
    }

    fn opening(recovered: bool, offset: u64) -> Message {
        let text = format!(
            r#"{{"socketId":"s","subscriptions":[{{"topic":"t","epoch":"e","offset":{offset},"recovered":{recovered}}}]}}"#
        );
        message("subscribed", text)
    }

    #[test]
    fn a_stream_s_messages_are_noted() {
        let account = Shared::default();
        let take =
            |message: &Message, resumed| take_message(Source::Outbox, message, resumed, &account).unwrap();
        take(&opening(false, 0), false);
        take(&event(1), true);
        take(&opening(true, 2), true);
        take(&event(2), true);
        assert_eq!((account.borrow().keys().count(), account.borrow().gaps()), (2, 0));
        take(&opening(false, 2), true);
        take(&message("gap", r#"{"topic":"t","epoch":"f","offset":0}"#.to_owned()), true);
        assert_eq!((account.borrow().gaps(), account.borrow().epochs().len()), (2, 2));
        let ended = message("error", r#"{"code":"REVOKED"}"#.to_owned());
        assert!(take_message(Source::Outbox, &ended, true, &account).is_err());
    }
}
