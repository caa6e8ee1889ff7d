//! What transports with requests and answers have in common.

use super::{Client, End, Place, Refusal, Why, Wish};
use crate::harness::{Instance, soon};
use serde_json::{Value, json};
use std::collections::VecDeque;

/// What a server says, in the terms of the protocol's tables.
#[derive(Clone, Debug)]
pub enum Said {
    /// The answer to a request.
    Answer { to: u64, result: Result<Value, Value> },
    /// An event, and the subscriptions that the frame names.
    Event { event: Value, subscriptions: Option<Value> },
    /// A named message: `position`, `subscribed`, `error`.
    Named(String, Value),
    /// The end.
    End(End),
}

/// A connection with requests and answers.
pub trait Link: Sized + Send {
    /// Connects.
    async fn connect(instance: &Instance, token: Option<&str>) -> Result<Self, Refusal>;

    /// Sends a request that is to be answered.
    async fn ask(&mut self, number: u64, name: &str, payload: Value);

    /// What the server says next.
    async fn hear(&mut self) -> Said;

    /// The documented end.
    fn end(why: Why) -> End;

    /// The HTTP status of a refused token, where there is one.
    const HTTP_REFUSAL: Option<u16>;
}

/// A link with one subscription.
pub struct Subscriber<L> {
    pub link: L,
    recovered: bool,
    waiting: VecDeque<Value>,
    place: (String, u64),
}

/// The answer to a request. Events that come before it belong to a subscription that cannot be live yet.
pub async fn answer<L: Link>(link: &mut L, number: u64) -> Result<Value, Value> {
    match soon("an answer", link.hear()).await {
        Said::Answer { to, result } if to == number => result,
        other => panic!("nothing comes before the answer {number}: {other:?}"),
    }
}

fn position(value: &Value) -> (String, u64) {
    (value["epoch"].as_str().unwrap().to_owned(), value["offset"].as_u64().unwrap())
}

impl<L: Link> Client for Subscriber<L> {
    async fn open(instance: &Instance, token: Option<&str>, wish: Wish) -> Result<Self, Refusal> {
        let mut link = L::connect(instance, token).await?;
        let mut request = json!({ "topic": wish.topic, "filter": wish.filter });
        if let Some(Place::Position { epoch, offset }) = wish.since {
            request["since"] = json!({ "epoch": epoch, "offset": offset });
        }
        let (mut waiting, mut number) = (VecDeque::new(), 1);
        loop {
            link.ask(number, "subscribe", request.clone()).await;
            let subscribed = answer(&mut link, number).await.map_err(|error| Refusal {
                status: None,
                code: error["code"].as_str().unwrap().to_owned(),
            })?;
            let events = subscribed["events"].as_array().unwrap();
            assert!(events.len() <= 1_000 && subscribed.to_string().len() <= 2 << 20);
            waiting.extend(events.iter().cloned());
            assert_eq!(subscribed["topic"], wish.topic);
            let place = position(&subscribed);
            if subscribed["more"] != true {
                assert!(subscribed.get("more").is_none());
                assert!(subscribed["subscriptionId"].as_str().unwrap().starts_with("sub_"));
                let recovered = subscribed["recovered"].as_bool().unwrap();
                return Ok(Self { link, recovered, waiting, place });
            }
            assert_eq!(subscribed["recovered"], true);
            request["since"] = json!({ "epoch": place.0, "offset": place.1 });
            request["subscriptionId"] = subscribed["subscriptionId"].clone();
            number += 1;
        }
    }

    fn recovered(&self) -> bool {
        self.recovered
    }

    async fn next(&mut self) -> Result<Value, End> {
        if let Some(event) = self.waiting.pop_front() {
            return Ok(event);
        }
        loop {
            match soon("something more", self.link.hear()).await {
                Said::Event { event, subscriptions: None } => {
                    self.place = position(&event["metadata"]);
                    return Ok(event);
                }
                Said::Named(name, body) if name == "position" => self.place = position(&body),
                Said::Named(name, _) if name == "error" => {}
                Said::End(end) => return Err(end),
                other => panic!("an event: {other:?}"),
            }
        }
    }

    fn place(&self) -> Place {
        assert!(self.waiting.is_empty(), "the place is behind what was recovered");
        Place::Position { epoch: self.place.0.clone(), offset: self.place.1 }
    }

    fn place_of(_: &str, epoch: &str, offset: u64) -> Place {
        Place::Position { epoch: epoch.to_owned(), offset }
    }

    fn end(why: Why) -> End {
        L::end(why)
    }

    fn refused(status: u16, code: &str) -> Refusal {
        let status = if status == 401 { L::HTTP_REFUSAL } else { None };
        Refusal { status, code: code.to_owned() }
    }
}
