//! Engine.IO 4 and Socket.IO 5 packets, as far as a server of one namespace with text payloads meets them.

use serde_json::value::RawValue;

/// What separates packets in one long-polling body.
pub const SEPARATOR: char = '\u{1e}';

/// An Engine.IO packet of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Engine<'a> {
    /// `1`: the client ends the connection.
    Close,
    /// `2`: a ping, which only the probe of an upgrade sends.
    Ping(&'a str),
    /// `3`: the answer to our ping.
    Pong,
    /// `4`: a Socket.IO packet.
    Message(&'a str),
    /// `5`: the upgrade to WebSocket is done.
    Upgrade,
    /// `6`: nothing.
    Noop,
    /// `b`: an attachment in base64, as long-polling carries it. Over a WebSocket it is a binary frame.
    Attachment,
}

impl<'a> Engine<'a> {
    /// Reads a packet; `None` where it is none.
    pub fn parse(text: &'a str) -> Option<Self> {
        let rest = text.get(1..)?;
        Some(match text.as_bytes()[0] {
            b'1' => Self::Close,
            b'2' => Self::Ping(rest),
            b'3' => Self::Pong,
            b'4' => Self::Message(rest),
            b'5' => Self::Upgrade,
            b'6' => Self::Noop,
            b'b' => Self::Attachment,
            _ => return None,
        })
    }
}

/// A Socket.IO packet of a client.
#[derive(Debug)]
pub enum Packet<'a> {
    /// `0`: the client connects to the namespace, with what it calls `auth`.
    Connect(&'a str),
    /// `1`: it leaves the namespace.
    Disconnect,
    /// `2`: an event, with the number under which it wants to be answered.
    Event {
        /// The number of the acknowledgement.
        ack: Option<u64>,
        /// The event's name.
        name: String,
        /// Its arguments.
        arguments: Vec<&'a RawValue>,
    },
    /// `3`: an answer to something that we never ask.
    Ack,
    /// For a namespace that does not exist.
    OtherNamespace(&'a str),
    /// `5`, `6`: with binary attachments, which follow in frames of their own.
    Binary {
        /// The number of the acknowledgement, where an event asks for one.
        ack: Option<u64>,
        /// How many attachments follow.
        attachments: u64,
    },
}

impl<'a> Packet<'a> {
    /// Reads a packet; `None` where it is none.
    pub fn parse(text: &'a str) -> Option<Self> {
        let kind = *text.as_bytes().first()?;
        let rest = text.get(1..)?;
        let (attachments, rest) = match kind {
            b'5' | b'6' => {
                let (count, rest) = rest.split_once('-')?;
                (count.parse().ok()?, rest)
            }
            _ => (0, rest),
        };
        let rest = match rest.strip_prefix('/') {
            None => rest,
            Some(namespaced) => {
                let (name, rest) = namespaced.split_once(',').unwrap_or((namespaced, ""));
                if !name.is_empty() {
                    return (kind == b'0').then_some(Self::OtherNamespace(name));
                }
                rest
            }
        };
        match kind {
            b'0' => Some(Self::Connect(rest)),
            b'1' => Some(Self::Disconnect),
            b'2' => event(rest),
            b'3' => Some(Self::Ack),
            b'5' => match event(rest)? {
                Self::Event { ack, .. } => Some(Self::Binary { ack, attachments }),
                _ => None,
            },
            b'6' => Some(Self::Binary { ack: None, attachments }),
            _ => None,
        }
    }
}

fn event(rest: &str) -> Option<Packet<'_>> {
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let ack = if digits == 0 { None } else { Some(rest[..digits].parse().ok()?) };
    let mut arguments: Vec<&RawValue> = serde_json::from_str(&rest[digits..]).ok()?;
    if arguments.is_empty() {
        return None;
    }
    let name = serde_json::from_str(arguments.remove(0).get()).ok()?;
    Some(Packet::Event { ack, name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_events_with_and_without_acknowledgement() {
        let Some(Packet::Event { ack, name, arguments }) =
            Packet::parse("212[\"subscribe\",{\"topic\":\"a.b\"}]")
        else {
            panic!("an event");
        };
        assert_eq!((ack, name.as_str(), arguments.len()), (Some(12), "subscribe", 1));
        assert!(matches!(Packet::parse("2[\"ping\"]"), Some(Packet::Event { ack: None, .. })));
        assert!(matches!(Packet::parse("0{\"token\":\"x\"}"), Some(Packet::Connect("{\"token\":\"x\"}"))));
        assert!(matches!(Packet::parse("0/admin,{}"), Some(Packet::OtherNamespace("admin"))));
    }

    #[test]
    fn reads_how_many_attachments_follow() {
        let one = Packet::parse("51-7[\"a\",{\"_placeholder\":true,\"num\":0}]");
        assert!(matches!(one, Some(Packet::Binary { ack: Some(7), attachments: 1 })), "{one:?}");
        let two = Packet::parse("52-/,[\"a-b\"]");
        assert!(matches!(two, Some(Packet::Binary { ack: None, attachments: 2 })), "{two:?}");
        let answer = Packet::parse("61-3[]");
        assert!(matches!(answer, Some(Packet::Binary { ack: None, attachments: 1 })), "{answer:?}");
        for text in ["5", "5-[\"a\"]", "5[\"a-b\"]", "51-", "51-{}", "5x-[\"a\"]", "51-/other,[\"a\"]"] {
            assert!(Packet::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_packet() {
        for text in ["", "9", "2", "2[]", "2[5]", "2{}", "299999999999999999999[\"a\"]", "2[\"a\"", "ä"] {
            assert!(Packet::parse(text).is_none(), "{text}");
        }
        assert_eq!(Engine::parse("2probe"), Some(Engine::Ping("probe")));
        assert_eq!(Engine::parse("ä"), None);
        assert_eq!(Engine::parse(""), None);
    }
}
