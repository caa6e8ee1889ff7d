//! How what is said to one connection reads on the wire.

use bytes::Bytes;
use event_router::{Control, Outgoing, Protocol, ReplyTo, Subscribed, project, text_frame};
use serde_json::{Value, json};
use shared_types::{Position, Problem, SubscriptionId, TopicName};
use std::fmt::Write as _;

/// One message as a WebSocket frame for a connection that speaks `protocol`; `None` where it is not told there.
pub fn frame(protocol: Protocol, outgoing: &Outgoing) -> Option<Bytes> {
    match outgoing {
        Outgoing::Event { event, mode, subscriptions: None } => Some(event.frame(protocol, *mode)),
        Outgoing::Message(message) => Some(message.frame(protocol)),
        Outgoing::MessageEvent { message, subscriptions: None } => Some(message.event_frame(protocol)),
        _ => message(protocol, outgoing).map(|text| text_frame(&text).into()),
    }
}

/// The text of one message for a connection that speaks `protocol` (not server-sent events, whose stream has a
/// cursor of its own); `None` where it is not told there.
pub fn message(protocol: Protocol, outgoing: &Outgoing) -> Option<Bytes> {
    match outgoing {
        Outgoing::Event { event, mode, subscriptions: None } => Some(event.encoded(protocol, *mode)),
        Outgoing::Event { event, mode, subscriptions: Some(ids) } => {
            Some(event.encoded_for(protocol, *mode, ids))
        }
        Outgoing::Message(message) => Some(message.raw(protocol)),
        Outgoing::MessageEvent { message, subscriptions: None } => Some(message.event(protocol)),
        Outgoing::MessageEvent { message, subscriptions: Some(ids) } => {
            Some(message.event_for(protocol, ids))
        }
        Outgoing::Packet(text) => Some(Bytes::from_static(text.as_bytes())),
        Outgoing::Control(to, control) => match protocol {
            Protocol::SocketIo => socketio(to, control).map(Bytes::from),
            _ => Some(websocket(to, control).into()),
        },
    }
}

/// The members of an error object, without braces.
pub fn problem_members(problem: &Problem) -> String {
    let mut members = format!(
        "\"error\":\"{}\",\"message\":{},\"code\":\"{}\"",
        problem.kind.class(),
        Value::from(problem.message.as_str()),
        problem.code
    );
    if !problem.details.is_empty() {
        let _ = write!(members, ",\"details\":{}", json!(problem.details));
    }
    members
}

/// `"epoch":…,"offset":…`.
pub fn position_members(position: &Position) -> String {
    format!("\"epoch\":{},\"offset\":{}", Value::from(&*position.epoch), position.offset)
}

/// The members of the answer to a subscribe, without braces.
pub fn subscribed_members(subscribed: &Subscribed) -> String {
    let mut out = format!(
        "\"subscriptionId\":{},\"topic\":\"{}\",{},\"recovered\":{},\"events\":[",
        Value::from(subscribed.id.as_str()),
        subscribed.topic,
        position_members(&subscribed.position),
        subscribed.recovered
    );
    for (number, event) in subscribed.events.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        event.event().write_json(&mut out, Some(&project(event.event(), subscribed.mode)));
    }
    out.push(']');
    if subscribed.more {
        out.push_str(",\"more\":true");
    }
    out
}

fn position_control(control: &Control) -> String {
    let Control::Position { id, topic, position, gap } = control else { return String::new() };
    let mut out = format!(
        "\"subscriptionId\":{},\"topic\":\"{topic}\",{}",
        Value::from(id.as_str()),
        position_members(position)
    );
    if *gap {
        out.push_str(",\"gap\":true");
    }
    out
}

/// The members of the error that tells the end of a subscription.
fn ended_members(id: &SubscriptionId, topic: &TopicName, problem: &Problem) -> String {
    let id = Value::from(id.as_str());
    format!("\"subscriptionId\":{id},\"topic\":\"{topic}\",{}", problem_members(problem))
}

/// The members of the error that tells the end of a membership or presence.
fn left_members(place: &Value, problem: &Problem) -> String {
    let place = place.to_string();
    let place = place.trim_start_matches('{').strip_suffix('}').unwrap_or_default();
    format!("{place},{}", problem_members(problem))
}

fn websocket(to: &ReplyTo, control: &Control) -> String {
    let reference = match to {
        ReplyTo::Ref(text) => format!(",\"ref\":{text}"),
        _ => String::new(),
    };
    let frame = |kind: &str, members: String| {
        let comma = if members.is_empty() { "" } else { "," };
        format!("{{\"type\":\"{kind}\"{reference}{comma}{members}}}")
    };
    match control {
        Control::Subscribed(subscribed) => frame("subscribed", subscribed_members(subscribed)),
        Control::Done(members) => frame("ok", members.clone()),
        Control::Failed(problem) | Control::Refused(problem) | Control::NoNamespace(_, problem) => {
            frame("error", problem_members(problem))
        }
        Control::Ended { id, topic, problem } => frame("error", ended_members(id, topic, problem)),
        Control::Left { place, problem } => frame("error", left_members(place, problem)),
        Control::Position { .. } => frame("position", position_control(control)),
        Control::Pong => frame("pong", String::new()),
        Control::Welcome { socket_id, client_id, expires_at_ms } => frame(
            "welcome",
            format!(
                "\"socketId\":{},\"clientId\":{},\"expiresAt\":{expires_at_ms}",
                Value::from(socket_id.as_str()),
                Value::from(client_id.as_str())
            ),
        ),
    }
}

/// `None` for an answer that nobody asked for.
fn socketio(to: &ReplyTo, control: &Control) -> Option<String> {
    let acknowledged = |ok: bool, members: String| {
        let comma = if members.is_empty() { "" } else { "," };
        match to {
            ReplyTo::Ack(number) => Some(format!("43{number}[{{\"ok\":{ok}{comma}{members}}}]")),
            _ => None,
        }
    };
    let emitted = |name: &str, members: String| Some(format!("42[\"{name}\",{{{members}}}]"));
    match control {
        Control::Subscribed(subscribed) => {
            let members = subscribed_members(subscribed);
            if *to == ReplyTo::Nothing { emitted("subscribed", members) } else { acknowledged(true, members) }
        }
        Control::Done(members) => acknowledged(true, members.clone()),
        Control::Failed(problem) => {
            let members = problem_members(problem);
            if *to == ReplyTo::Nothing {
                emitted("error", format!("\"ok\":false,{members}"))
            } else {
                acknowledged(false, members)
            }
        }
        Control::Ended { id, topic, problem } => {
            emitted("error", format!("\"ok\":false,{}", ended_members(id, topic, problem)))
        }
        Control::Left { place, problem } => {
            emitted("error", format!("\"ok\":false,{}", left_members(place, problem)))
        }
        Control::Position { .. } => emitted("position", position_control(control)),
        Control::Pong => acknowledged(true, String::new()),
        Control::Welcome { socket_id, .. } => {
            Some(format!("40{{\"sid\":{}}}", Value::from(socket_id.as_str())))
        }
        Control::Refused(problem) => Some(format!("44{}", connect_error(problem))),
        Control::NoNamespace(name, problem) => Some(format!("44/{name},{}", connect_error(problem))),
    }
}

fn connect_error(problem: &Problem) -> Value {
    json!({
        "message": format!("{}: {}", problem.code, problem.message),
        "data": { "code": problem.code, "reason": problem.message },
    })
}
