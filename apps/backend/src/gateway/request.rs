//! What a client asks for, read from a message of any transport.

pub mod channels;

use super::fields::Fields;
use channels::{PresenceTarget, PresenceVerb, SayRequest};
use serde_json::value::RawValue;
use shared_types::{
    ErrorKind, EventId, Filter, Position, Problem, RawObject, ReturnMode, SubscriptionId, TopicName,
};

/// The most events that one `history` answers, and how many where the client does not say.
const HISTORY: (usize, usize) = (500, 50);
/// The longest event type, in bytes.
const MAX_TYPE_BYTES: usize = 128;

/// One request of a client.
#[derive(Debug)]
pub enum Request {
    /// Receive a topic's events.
    Subscribe(SubscribeRequest),
    /// No longer receive them.
    Unsubscribe(SubscriptionId),
    /// Publish an event.
    Publish(PublishRequest),
    /// Read a page of a topic's history.
    History(HistoryRequest),
    /// Replace the token.
    Refresh(String),
    /// Say that the server is there.
    Ping,
    /// Hear what is said in a channel, as a member.
    Join(TopicName),
    /// No longer.
    LeaveChannel(TopicName),
    /// Say something in a channel.
    Say(TopicName, SayRequest),
    /// Say something to one connection, by its socket's id.
    Direct(String, SayRequest),
    /// Be present, or see who is.
    Presence(PresenceVerb, PresenceTarget, Option<Box<RawValue>>),
}

/// `subscribe`.
#[derive(Debug)]
pub struct SubscribeRequest {
    /// The topic.
    pub topic: TopicName,
    /// Which events.
    pub filter: Filter,
    /// How much of them.
    pub mode: ReturnMode,
    /// Where to recover from.
    pub since: Option<Position>,
    /// The subscription whose recovery goes on.
    pub id: Option<SubscriptionId>,
}

/// `publish`.
#[derive(Debug)]
pub struct PublishRequest {
    /// The topic.
    pub topic: TopicName,
    /// The event's type.
    pub kind: String,
    /// What it says.
    pub payload: RawObject,
    /// The publisher's id.
    pub id: Option<EventId>,
}

/// `history`.
#[derive(Debug)]
pub struct HistoryRequest {
    /// The topic.
    pub topic: TopicName,
    /// Behind which position; the latest where absent.
    pub since: Option<Position>,
    /// How many at most.
    pub limit: usize,
}

impl Request {
    /// Reads the request `name` from `fields`. `type_field` is the name of an event's type there.
    ///
    /// # Errors
    /// Naming the field and the rule; `UNKNOWN_MESSAGE` for a name that is none of ours.
    pub fn read(name: &str, fields: Fields<'_>, type_field: &str) -> Result<Self, Problem> {
        match name {
            "subscribe" => subscribe(fields),
            "unsubscribe" => unsubscribe(fields),
            "publish" => publish(fields, type_field),
            "history" => history(fields),
            "auth:refresh" => refresh(fields),
            "channel:join" => channels::membership(fields, Self::Join),
            "channel:leave" => channels::membership(fields, Self::LeaveChannel),
            "channel:publish" => channels::publish(fields),
            "direct:message" => channels::direct(fields),
            "presence:enter" => channels::presence(fields, PresenceVerb::Enter),
            "presence:update" => channels::presence(fields, PresenceVerb::Update),
            "presence:leave" => channels::presence(fields, PresenceVerb::Leave),
            "presence:get" => channels::presence(fields, PresenceVerb::Get),
            "ping" => fields.finish().map(|()| Self::Ping),
            _ => Err(unknown(name)),
        }
    }
}

/// The failure of a message that is larger than `bytes`.
pub fn too_large(bytes: usize) -> Problem {
    Problem::new(ErrorKind::TooLarge, "LIMIT_EXCEEDED", format!("a message may have {bytes} bytes"))
}

fn unknown(name: &str) -> Problem {
    let shown: String = name.chars().take(64).collect();
    Problem::invalid("UNKNOWN_MESSAGE", format!("type: {shown:?} is no message of this protocol"))
}

fn subscribe(mut fields: Fields<'_>) -> Result<Request, Problem> {
    let topic = fields.topic()?;
    let filter = fields.value("filter")?.map_or(Ok(Filter::default()), |filter| Filter::parse(&filter))?;
    let mode = fields.text("returnMode")?.map_or(Ok(ReturnMode::default()), |mode| mode.parse())?;
    let since = fields.position("since")?;
    let id = fields.subscription()?;
    fields.finish()?;
    Ok(Request::Subscribe(SubscribeRequest { topic, filter, mode, since, id }))
}

fn unsubscribe(mut fields: Fields<'_>) -> Result<Request, Problem> {
    let id = fields.subscription()?.ok_or_else(|| Problem::field("subscriptionId", "is required"))?;
    fields.finish()?;
    Ok(Request::Unsubscribe(id))
}

fn publish(mut fields: Fields<'_>, type_field: &str) -> Result<Request, Problem> {
    let topic = fields.topic()?;
    let kind = fields.text(type_field)?.unwrap_or_else(|| "message".to_owned());
    if kind.is_empty() || kind.len() > MAX_TYPE_BYTES || kind.chars().any(char::is_control) {
        let rule = format!("must have 1 to {MAX_TYPE_BYTES} bytes and no control characters");
        return Err(Problem::field(type_field, rule));
    }
    topic_registry::check_publishable(&topic, &kind)
        .map_err(|problem| problem.renamed("type", type_field))?;
    let payload = fields.payload()?;
    let id = fields.text("id")?.map(|id| EventId::from_publisher(&id)).transpose()?;
    fields.finish()?;
    Ok(Request::Publish(PublishRequest { topic, kind, payload, id }))
}

fn history(mut fields: Fields<'_>) -> Result<Request, Problem> {
    let topic = fields.topic()?;
    let since = fields.position("since")?;
    let limit = fields.count("limit", 1..=HISTORY.0)?.unwrap_or(HISTORY.1);
    fields.finish()?;
    Ok(Request::History(HistoryRequest { topic, since, limit }))
}

fn refresh(mut fields: Fields<'_>) -> Result<Request, Problem> {
    let token = fields.required_text("token")?;
    fields.finish()?;
    Ok(Request::Refresh(token))
}
