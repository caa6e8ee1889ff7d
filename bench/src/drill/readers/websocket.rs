//! Following over WebSocket, plain or under Socket.IO: subscribe, resume by `since` page after page, live events.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{ANSWER_LIMIT, RETRY, Shared, note};
use crate::drill::account::Position;
use crate::drill::outcome::Kind;
use crate::drill::source::{Event, Source};
use crate::link::{Endpoint, Link, Transport};

/// A live connection says something at least this often: pings every 25 s.
const QUIET_LIMIT: Duration = Duration::from_secs(60);

/// What the server sends, as far as it matters here, whichever of the two protocols wraps it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Frame {
    #[serde(rename = "type", default)]
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

    /// Reads a text; `None` where it is of no interest.
    fn read(transport: Transport, text: &[u8]) -> Result<Option<Self>> {
        match transport {
            Transport::SocketIo => Self::read_packet(std::str::from_utf8(text)?),
            Transport::Ws | Transport::Sse => match serde_json::from_slice::<Kinded>(text)?.kind.as_str() {
                "subscribed" | "event" | "position" | "error" => Ok(Some(serde_json::from_slice(text)?)),
                _ => Ok(None),
            },
        }
    }

    /// An Engine.IO message with a Socket.IO packet: `42["event",{…},[…]]`, or `431[{…}]`, an acknowledgement.
    fn read_packet(text: &str) -> Result<Option<Self>> {
        let of_kind = |kind: &str, body: Value| {
            let frame: Self = serde_json::from_value(body)?;
            Ok(Some(Self { kind: kind.to_owned(), ..frame }))
        };
        if let Some(acknowledgement) = text.strip_prefix("43") {
            let start = acknowledgement.find('[').context("an acknowledgement without arguments")?;
            let [body]: [Value; 1] = serde_json::from_str(&acknowledgement[start..])?;
            let kind = if body["ok"] == true { "subscribed" } else { "error" };
            return of_kind(kind, body);
        }
        let Some(packet) = text.strip_prefix("42") else { return Ok(None) };
        let mut arguments: Vec<Value> = serde_json::from_str(packet)?;
        anyhow::ensure!(arguments.len() >= 2, "an event without arguments: {text}");
        let body = arguments.swap_remove(1);
        match arguments[0].as_str() {
            Some("event") => {
                let event: Event = serde_json::from_value(body)?;
                let frame: Self = serde_json::from_str("{}")?;
                Ok(Some(Self { kind: "event".to_owned(), data: Some(event), ..frame }))
            }
            Some(kind @ ("position" | "error")) => of_kind(kind, body),
            _ => Ok(None),
        }
    }
}

/// Only the type, before anything else is read: other frames hold other things under the same names.
#[derive(Deserialize)]
struct Kinded {
    #[serde(rename = "type")]
    kind: String,
}

/// One client.
pub struct Follower {
    /// Of which source it follows the topic.
    pub source: Source,
    /// How it is connected.
    pub transport: Transport,
    /// Whether it resumes.
    pub kind: Kind,
    /// Where.
    pub endpoint: Endpoint,
    /// What it has seen.
    pub account: Shared,
}

impl Follower {
    /// Follows until dropped, one connection after the other.
    pub async fn follow(self) {
        loop {
            if let Err(error) = self.one_connection().await {
                self.account.borrow_mut().trouble(format!("{error:#}"));
            }
            sleep(RETRY).await;
        }
    }

    /// One connection, until it breaks.
    async fn one_connection(&self) -> Result<()> {
        let mut link = Link::open(&self.endpoint, self.transport, None).await?;
        let mut fields = format!("\"topic\":\"{}\"", self.source.topic());
        let mut since = match self.kind {
            Kind::Resilient => self.account.borrow().position().cloned(),
            Kind::Bare => None,
        };
        loop {
            if let Some(Position { epoch, offset }) = &since {
                fields.push_str(&format!(",\"since\":{{\"epoch\":\"{epoch}\",\"offset\":{offset}}}"));
            }
            link.writer().queue_request("subscribe", &fields, Some(1));
            link.writer().flush().await?;
            let answer = timeout(ANSWER_LIMIT, self.subscribed(&mut link)).await;
            let answer = answer.context("no answer to `subscribe`")??;
            let (more, id) = (answer.more, answer.subscription_id.clone());
            since = Some(self.take_answer(answer, since.is_some())?);
            if !more {
                break;
            }
            let id = id.context("an answer without a subscription's id")?;
            fields = format!("\"topic\":\"{}\",\"subscriptionId\":\"{id}\"", self.source.topic());
        }
        self.account.borrow_mut().connected();
        loop {
            let Ok(text) = timeout(QUIET_LIMIT, link.next_text()).await else { continue };
            if let Some(frame) = Frame::read(self.transport, &text?)? {
                self.take_frame(frame)?;
            }
        }
    }

    async fn subscribed(&self, link: &mut Link) -> Result<Frame> {
        loop {
            let text = link.next_text().await?;
            let Some(frame) = Frame::read(self.transport, &text)? else { continue };
            match frame.kind.as_str() {
                "subscribed" => return Ok(frame),
                "error" => bail!("refused: {}", String::from_utf8_lossy(&text)),
                "event" => bail!("an event came before the answer to `subscribe`"),
                _ => {}
            }
        }
    }

    /// Notes a page of recovered events; returns where the reader then stands.
    fn take_answer(&self, answer: Frame, resumed: bool) -> Result<Position> {
        let position = answer.position().context("an answer without a position")?;
        let now = Instant::now();
        if resumed && !answer.recovered {
            self.account.borrow_mut().gap();
        }
        for event in answer.events {
            note(self.source, &self.account, event, now)?;
        }
        self.account.borrow_mut().stands_at(position.clone());
        Ok(position)
    }

    fn take_frame(&self, frame: Frame) -> Result<()> {
        match frame.kind.as_str() {
            "event" => {
                let event = frame.data.context("an event without data")?;
                note(self.source, &self.account, event, Instant::now())?;
            }
            "position" => {
                let position = frame.position().context("a position frame without a position")?;
                if frame.gap {
                    self.account.borrow_mut().gap();
                }
                self.account.borrow_mut().stands_at(position);
            }
            "error" => bail!("the server ended the subscription"),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(transport: Transport) -> Follower {
        let endpoint = Endpoint { address: "127.0.0.1:1".to_owned(), token: None };
        let account = Shared::default();
        Follower { source: Source::Database, transport, kind: Kind::Resilient, endpoint, account }
    }

    fn event(offset: u64, key: u64) -> String {
        format!(
            r#"{{"id":"evt_{offset}","payload":{{"key":{key},"note":"x"}},"metadata":{{"timestamp":1,"epoch":"e","offset":{offset}}}}}"#
        )
    }

    fn frame(transport: Transport, text: &str) -> Frame {
        Frame::read(transport, text.as_bytes()).unwrap().unwrap()
    }

    fn counts(follower: &Follower) -> (usize, u64, u64) {
        let account = follower.account.borrow();
        (account.keys().count(), account.gaps(), account.out_of_order())
    }

    #[test]
    fn pages_and_live_frames_make_one_sequence() {
        let reader = follower(Transport::Ws);
        let first = r#"{"type":"subscribed","ref":1,"subscriptionId":"sub_1","topic":"t","epoch":"e","offset":0,"recovered":false,"events":[]}"#;
        reader.take_answer(frame(Transport::Ws, first), false).unwrap();
        let live = format!(r#"{{"type":"event","topic":"t","data":{}}}"#, event(1, 1));
        reader.take_frame(frame(Transport::Ws, &live)).unwrap();
        let page = format!(
            r#"{{"type":"subscribed","subscriptionId":"sub_2","topic":"t","epoch":"e","offset":3,"recovered":true,"events":[{},{}],"more":true}}"#,
            event(2, 2),
            event(3, 3)
        );
        let position = reader.take_answer(frame(Transport::Ws, &page), true).unwrap();
        assert_eq!(position, Position { epoch: "e".to_owned(), offset: 3 });
        assert_eq!(counts(&reader), (3, 0, 0));
    }

    #[test]
    fn socket_io_says_the_same() {
        let reader = follower(Transport::SocketIo);
        let read = |text: &str| frame(Transport::SocketIo, text);
        let first = r#"431[{"ok":true,"subscriptionId":"sub_1","topic":"t","epoch":"e","offset":0,"recovered":false,"events":[]}]"#;
        reader.take_answer(read(first), false).unwrap();
        let live = format!(r#"42["event",{},["sub_1"]]"#, event(1, 1));
        reader.take_frame(read(&live)).unwrap();
        let gap =
            r#"42["position",{"subscriptionId":"sub_1","topic":"t","epoch":"e","offset":9,"gap":true}]"#;
        reader.take_frame(read(gap)).unwrap();
        assert_eq!(counts(&reader), (1, 1, 0));
        assert_eq!(reader.account.borrow().position().unwrap().offset, 9);
        assert_eq!(read(r#"431[{"ok":false,"code":"FORBIDDEN"}]"#).kind, "error");
        for other in ["2", "40{\"sid\":\"x\"}", r#"42["presence",{"channel":"c"}]"#] {
            assert!(Frame::read(Transport::SocketIo, other.as_bytes()).unwrap().is_none(), "{other}");
        }
    }

    #[test]
    fn a_recovery_that_was_not_possible_is_a_gap() {
        let reader = follower(Transport::Ws);
        let answer = r#"{"type":"subscribed","subscriptionId":"sub_1","topic":"t","epoch":"e","offset":9,"recovered":false,"events":[]}"#;
        reader.take_answer(frame(Transport::Ws, answer), true).unwrap();
        assert_eq!(counts(&reader).1, 1);
        let position = r#"{"type":"position","epoch":"e","offset":12,"gap":true}"#;
        reader.take_frame(frame(Transport::Ws, position)).unwrap();
        assert_eq!(counts(&reader).1, 2);
        let error = frame(Transport::Ws, r#"{"type":"error","code":"REVOKED"}"#);
        assert!(reader.take_frame(error).is_err());
        let message = br#"{"type":"message","event":"x","data":{"id":1},"from":"y"}"#;
        assert!(
            Frame::read(Transport::Ws, message).unwrap().is_none(),
            "a channel's message is none of ours"
        );
    }
}
