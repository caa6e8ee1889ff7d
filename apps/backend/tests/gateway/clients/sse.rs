//! Server-sent events.

use super::{Client, End, Place, Refusal, Why, Wish, plain::refusal};
use crate::harness::{Instance, soon};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::{StreamExt as _, stream::BoxStream};
use serde_json::Value;

/// One message of a stream.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: Value,
}

/// A stream behind its `subscribed`.
pub struct Stream {
    body: BoxStream<'static, Result<bytes::Bytes, reqwest::Error>>,
    text: Vec<u8>,
    pub subscribed: Message,
    pub last_id: String,
}

impl Stream {
    /// Asks for a stream with query parameters and headers of the caller's making.
    pub async fn request(
        instance: &Instance,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Result<Self, Refusal> {
        let mut stream = Self::begin(instance, "/api/stream", query, headers).await?;
        stream.subscribed = stream.message().await.unwrap();
        assert_eq!(stream.subscribed.event.as_deref(), Some("subscribed"));
        Ok(stream)
    }

    /// Watches the traffic, behind `watching`, which goes into `subscribed`.
    pub async fn watch(instance: &Instance, token: &str) -> Result<Self, Refusal> {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let mut stream = Self::begin(instance, "/api/socket/traffic", &[], &headers).await?;
        stream.subscribed = stream.message().await.unwrap();
        assert_eq!(stream.subscribed.event.as_deref(), Some("watching"));
        Ok(stream)
    }

    async fn begin(
        instance: &Instance,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Result<Self, Refusal> {
        let mut url: url::Url = instance.url(path).parse().unwrap();
        url.query_pairs_mut().extend_pairs(query);
        let mut request = reqwest::Client::new().get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = soon("a response", request.send()).await.unwrap();
        let status = response.status().as_u16();
        if status != 200 {
            return Err(refusal(status, &response.bytes().await.unwrap()));
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let body = response.bytes_stream().boxed();
        Ok(Self { body, text: Vec::new(), subscribed: Message::default(), last_id: String::new() })
    }

    /// The next message, which ought to come soon; `None` at the end.
    pub async fn message(&mut self) -> Option<Message> {
        soon("more of the stream", self.patient_message()).await
    }

    /// The next message, however long it takes; `None` at the end.
    pub async fn patient_message(&mut self) -> Option<Message> {
        loop {
            if let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let rest = self.text.split_off(end + 2);
                let text = String::from_utf8(std::mem::replace(&mut self.text, rest)).unwrap();
                let message = parse(&text);
                if let Some(id) = &message.id {
                    self.last_id.clone_from(id);
                }
                return Some(message);
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.text.extend_from_slice(&bytes),
                Some(Err(_)) | None => return None,
            }
        }
    }
}

fn parse(text: &str) -> Message {
    let mut message = Message::default();
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.split_once(": ").unwrap() {
            ("id", id) => message.id = Some(id.to_owned()),
            ("event", name) => message.event = Some(name.to_owned()),
            ("data", data) => message.data = serde_json::from_str(data).unwrap(),
            _ => panic!("a line of a stream: {line}"),
        }
    }
    message
}

impl Client for Stream {
    async fn open(instance: &Instance, token: Option<&str>, wish: Wish) -> Result<Self, Refusal> {
        let filter = wish.filter.to_string();
        let mut query = vec![("topic", wish.topic.as_str()), ("filter", filter.as_str())];
        query.extend(token.map(|token| ("token", token)));
        let since = match &wish.since {
            Some(Place::Cursor(cursor)) => vec![("last-event-id", cursor.as_str())],
            _ => Vec::new(),
        };
        Self::request(instance, &query, &since).await
    }

    fn recovered(&self) -> bool {
        self.subscribed.data["subscriptions"][0]["recovered"].as_bool().unwrap()
    }

    async fn next(&mut self) -> Result<Value, End> {
        loop {
            let Some(message) = self.message().await else { return Err(End::Eof) };
            match message.event.as_deref() {
                Some("event") => {
                    assert!(message.id.is_some(), "every event says where it is");
                    return Ok(message.data);
                }
                None => assert_eq!(message.data["type"], "heartbeat"),
                Some("error") => {}
                Some(other) => panic!("an event: {other}"),
            }
        }
    }

    fn place(&self) -> Place {
        Place::Cursor(self.last_id.clone())
    }

    fn place_of(topic: &str, epoch: &str, offset: u64) -> Place {
        Place::Cursor(URL_SAFE_NO_PAD.encode(format!("{topic} {epoch}:{offset}\n")))
    }

    fn end(_: Why) -> End {
        End::Eof
    }

    fn refused(status: u16, code: &str) -> Refusal {
        Refusal { status: Some(status), code: code.to_owned() }
    }
}
