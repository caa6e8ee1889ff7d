//! What a client asks of channels and presence.

use super::Request;
use crate::gateway::fields::Fields;
use document_store::{DocumentId, ServiceName};
use serde_json::value::RawValue;
use shared_types::{Problem, TopicName};

/// The longest name of a message, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// The longest id of a connection, in bytes.
const MAX_SOCKET_BYTES: usize = 128;
/// Names that the protocol, or Socket.IO, keeps for itself.
const RESERVED: [&str; 26] = [
    "subscribe",
    "unsubscribe",
    "subscribed",
    "publish",
    "channel:join",
    "channel:leave",
    "channel:publish",
    "direct:message",
    "presence:enter",
    "presence:update",
    "presence:leave",
    "presence:get",
    "history",
    "auth:refresh",
    "ping",
    "pong",
    "event",
    "presence",
    "position",
    "error",
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// `channel:publish` and `direct:message`.
#[derive(Debug)]
pub struct SayRequest {
    /// The message's name.
    pub event: String,
    /// What it says.
    pub data: Box<RawValue>,
    /// Whether the sender hears it too.
    pub echo: bool,
}

/// What a presence request is about.
#[derive(Clone, Debug)]
pub enum PresenceTarget {
    /// A channel.
    Channel(TopicName),
    /// A document.
    Document {
        /// Its service.
        service: ServiceName,
        /// Its id.
        id: DocumentId,
    },
}

/// What is asked of presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceVerb {
    /// Be there.
    Enter,
    /// Say something else of oneself.
    Update,
    /// Be gone.
    Leave,
    /// Who is there.
    Get,
}

/// The name of a message: 1 to 128 bytes without control characters, and none of the protocol's own.
///
/// # Errors
/// Naming `event`.
pub fn check_event(event: &str) -> Result<(), Problem> {
    if event.is_empty() || event.len() > MAX_NAME_BYTES || event.chars().any(char::is_control) {
        let rule = format!("must have 1 to {MAX_NAME_BYTES} bytes and no control characters");
        return Err(Problem::field("event", rule));
    }
    if RESERVED.contains(&event) {
        return Err(Problem::field("event", format!("{event} is a name of the protocol itself")));
    }
    Ok(())
}

fn channel(fields: &mut Fields<'_>) -> Result<TopicName, Problem> {
    channel_name(&fields.required_text("channel")?)
}

/// A channel's name as a client gives it.
///
/// # Errors
/// As [`TopicName::parse`], naming `channel`.
pub fn channel_name(text: &str) -> Result<TopicName, Problem> {
    TopicName::parse(text).map_err(|problem| problem.renamed("topic", "channel"))
}

/// Whether clients may say something in `channel`, as far as its name goes.
///
/// # Errors
/// `FORBIDDEN` for the platform's own.
pub fn check_speakable(channel: &TopicName) -> Result<(), Problem> {
    topic_registry::check_publishable(channel, "message")
        .map_err(|problem| problem.renamed("topic", "channel"))
}

/// `channel:join` or `channel:leave`.
pub fn membership(
    mut fields: Fields<'_>,
    request: impl FnOnce(TopicName) -> Request,
) -> Result<Request, Problem> {
    let channel = channel(&mut fields)?;
    fields.finish()?;
    Ok(request(channel))
}

/// `channel:publish`.
pub fn publish(mut fields: Fields<'_>) -> Result<Request, Problem> {
    let channel = channel(&mut fields)?;
    let echo = match fields.value("echo")? {
        None => false,
        Some(serde_json::Value::Bool(echo)) => echo,
        Some(_) => return Err(Problem::field("echo", "must be true or false")),
    };
    let request = say(&mut fields, echo)?;
    fields.finish()?;
    Ok(Request::Say(channel, request))
}

/// `direct:message`.
pub fn direct(mut fields: Fields<'_>) -> Result<Request, Problem> {
    let to = fields.required_text("targetSocketId")?;
    if to.is_empty() || to.len() > MAX_SOCKET_BYTES {
        return Err(Problem::field("targetSocketId", format!("must have 1 to {MAX_SOCKET_BYTES} bytes")));
    }
    let request = say(&mut fields, false)?;
    fields.finish()?;
    Ok(Request::Direct(to, request))
}

fn say(fields: &mut Fields<'_>, echo: bool) -> Result<SayRequest, Problem> {
    let event = fields.required_text("event")?;
    check_event(&event)?;
    let data = data(fields)?.map_or_else(|| carried(RawValue::NULL), Ok)?;
    Ok(SayRequest { event, data, echo })
}

/// `data`, any JSON value that can be carried.
fn data(fields: &mut Fields<'_>) -> Result<Option<Box<RawValue>>, Problem> {
    let Some(raw) = fields.take("data") else { return Ok(None) };
    carried(raw).map(Some)
}

/// A value as it is carried: without white space, and with nothing that cannot be.
///
/// # Errors
/// Naming `data`.
pub fn carried(raw: &RawValue) -> Result<Box<RawValue>, Problem> {
    let text = shared_types::json::compact(raw.get(), "data")?;
    RawValue::from_string(text).map_err(|_| Problem::field("data", "cannot be read"))
}

/// `presence:*`.
pub fn presence(mut fields: Fields<'_>, verb: PresenceVerb) -> Result<Request, Problem> {
    let channel = fields.text("channel")?.map(|name| channel_name(&name)).transpose()?;
    let document = fields.take("document").map(|raw| document(raw.get())).transpose()?;
    let target = match (channel, document) {
        (Some(channel), None) => PresenceTarget::Channel(channel),
        (None, Some(document)) => document,
        _ => return Err(Problem::field("channel", "exactly one of channel and document is required")),
    };
    let data = match verb {
        PresenceVerb::Enter | PresenceVerb::Update => data(&mut fields)?,
        PresenceVerb::Leave | PresenceVerb::Get => None,
    };
    fields.finish()?;
    Ok(Request::Presence(verb, target, data))
}

/// `{ service, id }`.
fn document(text: &str) -> Result<PresenceTarget, Problem> {
    let mut fields =
        Fields::parse(text).map_err(|_| Problem::field("document", "must be { service, id }"))?;
    let mut read = || {
        let (service, id) = (fields.required_text("service")?, fields.required_text("id")?);
        let (service, id) = (ServiceName::parse("service", &service)?, DocumentId::parse(&id)?);
        std::mem::take(&mut fields).finish()?;
        Ok(PresenceTarget::Document { service, id })
    };
    read().map_err(|problem: Problem| problem.within("document"))
}
