//! What has been seen of a topic, what to print of it, and what to answer to a frame.

use super::frame::{Event, Frame};
use crate::cli::{ReturnMode, TailArgs};
use crate::commands::json_object;
use crate::exit::{Code, Failure, Outcome};
use crate::terminal::{self, Paint, Tone};
use chrono::{DateTime, Local};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use shared_types::Position;

const SUBSCRIBE: u64 = 1;
const REFRESH: u64 = 2;

/// What a frame asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Wait,
    /// As many events as were wanted have been printed.
    Done,
    /// An answer.
    Send(String),
    /// A new token.
    Refresh,
}

/// Follows one topic over any number of connections.
#[derive(Debug)]
pub struct Follower {
    topic: String,
    filter: Option<Value>,
    mode: Option<&'static str>,
    position: Option<Position>,
    /// Whether the last `subscribe` asked to go on from a position.
    recovering: bool,
    subscribed: bool,
    live: bool,
    printed: u64,
    wanted: Option<u64>,
    json: bool,
    paint: Paint,
}

impl Follower {
    /// A follower of what the arguments say.
    ///
    /// # Errors
    /// A filter that is no JSON object, a position that is none.
    pub fn new(args: &TailArgs, json: bool) -> Outcome<Self> {
        let position = args.since.as_deref().map(str::parse::<Position>).transpose();
        let bad = |_| Failure::new(Code::Usage, "--since must be EPOCH:OFFSET");
        Ok(Self {
            topic: args.topic.clone(),
            filter: args.filter.as_deref().map(|filter| json_object("--filter", filter)).transpose()?,
            mode: args.return_mode.map(|mode| match mode {
                ReturnMode::Full => "full",
                ReturnMode::Diff => "diff",
                ReturnMode::Both => "both",
            }),
            position: position.map_err(bad)?,
            recovering: false,
            subscribed: false,
            live: false,
            printed: 0,
            wanted: args.count,
            json,
            paint: Paint::stdout(),
        })
    }

    /// How many events have been printed.
    pub fn printed(&self) -> u64 {
        self.printed
    }

    /// Whether it was ever subscribed.
    pub fn has_subscribed(&self) -> bool {
        self.subscribed
    }

    /// Whether it has been live since it was last asked.
    pub fn take_was_live(&mut self) -> bool {
        std::mem::take(&mut self.live)
    }

    /// The frame that subscribes, from where it is.
    pub fn subscribe(&mut self) -> String {
        self.subscribe_as(None)
    }

    fn subscribe_as(&mut self, subscription: Option<&str>) -> String {
        let mut frame = json!({ "type": "subscribe", "topic": self.topic, "ref": SUBSCRIBE });
        let optional = [
            ("filter", self.filter.clone()),
            ("returnMode", self.mode.map(Value::from)),
            ("since", self.position.as_ref().map(|position| json!(position))),
            ("subscriptionId", subscription.map(Value::from)),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                frame[name] = value;
            }
        }
        self.recovering = self.position.is_some();
        frame.to_string()
    }

    /// The frame that brings a new token.
    pub fn refresh(&self, token: &str) -> String {
        json!({ "type": "auth:refresh", "token": token, "ref": REFRESH }).to_string()
    }

    /// Takes a frame in.
    ///
    /// # Errors
    /// What the server refused, and an output that cannot be written.
    pub fn frame(&mut self, text: &str) -> Outcome<Next> {
        let Ok(frame) = serde_json::from_str::<Frame>(text) else {
            return Err(Failure::new(Code::Failure, "the server said something that is not in the protocol"));
        };
        match frame.kind.as_str() {
            "event" => match &frame.data {
                Some(event) => self.event(event),
                None => Ok(Next::Wait),
            },
            "subscribed" => self.subscribed(&frame),
            "position" => {
                self.moved(&frame);
                Ok(Next::Wait)
            }
            "error" => Self::refused(&frame),
            _ => Ok(Next::Wait),
        }
    }

    fn subscribed(&mut self, frame: &Frame) -> Outcome<Next> {
        if self.recovering && !frame.recovered {
            self.tell_gap(frame);
            self.position = None;
        }
        for event in &frame.events {
            if self.event(event)? == Next::Done {
                return Ok(Next::Done);
            }
        }
        self.position = frame.position().or(self.position.take());
        if frame.more {
            return Ok(Next::Send(self.subscribe_as(frame.subscription_id.as_deref())));
        }
        if !self.live {
            let again = if self.subscribed { "following again" } else { "following" };
            terminal::note(&Paint::stderr().tone(Tone::Faint, &format!("{again} {}", self.topic)));
        }
        (self.subscribed, self.live) = (true, true);
        Ok(Next::Wait)
    }

    fn moved(&mut self, frame: &Frame) {
        if frame.gap {
            self.tell_gap(frame);
        }
        self.position = frame.position().or(self.position.take());
    }

    fn tell_gap(&self, frame: &Frame) {
        let place = |position: Option<&Position>| position.map_or("?".to_owned(), Position::to_string);
        let text = format!(
            "gap in {}: events after {} are lost; going on at {}",
            self.topic,
            place(self.position.as_ref()),
            place(frame.position().as_ref())
        );
        terminal::note(&Paint::stderr().tone(Tone::Warning, &text));
    }

    fn refused(frame: &Frame) -> Outcome<Next> {
        let code = frame.code.as_deref().unwrap_or("UNKNOWN");
        if code == "TOKEN_EXPIRED" {
            return Ok(Next::Refresh);
        }
        let message = format!("{} ({code})", frame.message.as_deref().unwrap_or("the server refused"));
        let exit = match frame.error.as_deref() {
            Some("UnauthorizedError" | "ForbiddenError") => Code::NoPermission,
            Some("UnavailableError") => Code::Unavailable,
            _ => Code::Failure,
        };
        Err(Failure::new(exit, message))
    }

    /// Prints an event, unless it was printed before the connection was lost.
    fn event(&mut self, raw: &RawValue) -> Outcome<Next> {
        let Ok(event) = serde_json::from_str::<Event<'_>>(raw.get()) else {
            return Err(Failure::new(Code::Failure, "the server sent an event that is not in the protocol"));
        };
        let position = event.position();
        if self.has_seen(position.as_ref()) {
            return Ok(Next::Wait);
        }
        terminal::print(&if self.json { raw.get().to_owned() } else { self.line(&event) })?;
        self.position = position.or(self.position.take());
        self.printed += 1;
        Ok(if self.wanted == Some(self.printed) { Next::Done } else { Next::Wait })
    }

    fn has_seen(&self, position: Option<&Position>) -> bool {
        match (position, &self.position) {
            (Some(new), Some(seen)) => new.epoch == seen.epoch && new.offset <= seen.offset,
            _ => false,
        }
    }

    fn line(&self, event: &Event<'_>) -> String {
        let at = DateTime::from_timestamp_millis(event.metadata.timestamp).unwrap_or_default();
        let time = at.with_timezone(&Local).format("%H:%M:%S%.3f").to_string();
        let paint = self.paint;
        format!(
            "{}  {}  {}  {}",
            paint.tone(Tone::Faint, &time),
            paint.tone(Tone::Name, &event.topic),
            paint.tone(Tone::Strong, &event.kind),
            event.payload.get()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(since: Option<&str>, count: Option<u64>) -> Follower {
        let args = TailArgs {
            topic: "order.updated".to_owned(),
            filter: Some(r#"{"status":"paid"}"#.to_owned()),
            since: since.map(str::to_owned),
            return_mode: Some(ReturnMode::Diff),
            count,
            timeout: None,
        };
        Follower::new(&args, true).unwrap()
    }

    fn event(offset: u64) -> String {
        json!({
            "id": "evt_1", "topic": "order.updated", "source": "database", "type": "database.update",
            "payload": {}, "metadata": { "timestamp": 0, "epoch": "e", "offset": offset },
        })
        .to_string()
    }

    fn live(offset: u64) -> String {
        format!(r#"{{"type":"event","topic":"order.updated","data":{}}}"#, event(offset))
    }

    fn subscribed(offset: u64, recovered: bool, more: bool, events: &[u64]) -> String {
        let events: Vec<String> = events.iter().map(|offset| event(*offset)).collect();
        format!(
            r#"{{"type":"subscribed","subscriptionId":"sub_1","epoch":"e","offset":{offset},"recovered":{recovered},"more":{more},"events":[{}]}}"#,
            events.join(",")
        )
    }

    #[test]
    fn it_subscribes_with_all_that_was_asked_for() {
        let frame: Value = serde_json::from_str(&follower(Some("e:4"), None).subscribe()).unwrap();
        assert_eq!(
            frame,
            json!({
                "type": "subscribe", "topic": "order.updated", "ref": 1, "filter": { "status": "paid" },
                "returnMode": "diff", "since": { "epoch": "e", "offset": 4 },
            })
        );
    }

    #[test]
    fn a_lost_connection_is_taken_up_at_the_last_event() {
        let mut follower = follower(None, None);
        let first: Value = serde_json::from_str(&follower.subscribe()).unwrap();
        assert!(first.get("since").is_none());
        follower.frame(&subscribed(3, false, false, &[])).unwrap();
        follower.frame(&live(4)).unwrap();
        follower.frame(r#"{"type":"position","epoch":"e","offset":9}"#).unwrap();
        let again: Value = serde_json::from_str(&follower.subscribe()).unwrap();
        assert_eq!(again["since"], json!({ "epoch": "e", "offset": 9 }));
    }

    #[test]
    fn recovery_goes_on_page_by_page_and_repeats_are_not_printed() {
        let mut follower = follower(Some("e:1"), None);
        follower.subscribe();
        let next = follower.frame(&subscribed(3, true, true, &[2, 3])).unwrap();
        let Next::Send(text) = next else { panic!("{next:?}") };
        let page: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(page["subscriptionId"], "sub_1");
        assert_eq!(page["since"]["offset"], 3);
        assert_eq!(follower.frame(&subscribed(4, true, false, &[4])).unwrap(), Next::Wait);
        follower.frame(&live(4)).unwrap();
        assert_eq!(follower.printed(), 3);
    }

    #[test]
    fn it_ends_at_the_wanted_number() {
        let mut follower = follower(Some("e:1"), Some(2));
        follower.subscribe();
        assert_eq!(follower.frame(&subscribed(4, true, false, &[2, 3, 4])).unwrap(), Next::Done);
        assert_eq!(follower.printed(), 2);
    }

    #[test]
    fn an_event_behind_a_gap_is_printed_whatever_its_offset() {
        let mut follower = follower(Some("old:90"), None);
        follower.subscribe();
        follower.frame(&subscribed(3, false, false, &[])).unwrap();
        follower.frame(&live(4)).unwrap();
        assert_eq!(follower.printed(), 1);
    }

    #[test]
    fn refusals_have_the_exit_code_of_their_class() {
        let cases = [("ForbiddenError", Code::NoPermission), ("UnavailableError", Code::Unavailable)];
        for (class, expected) in cases {
            let text = format!(r#"{{"type":"error","ref":1,"error":"{class}","message":"m","code":"C"}}"#);
            let failure = follower(None, None).frame(&text).unwrap_err();
            assert!(matches!(failure, Failure::Said(code, _) if code == expected), "{class}");
        }
        let expired = r#"{"type":"error","error":"UnauthorizedError","message":"m","code":"TOKEN_EXPIRED"}"#;
        assert_eq!(follower(None, None).frame(expired).unwrap(), Next::Refresh);
    }
}
