//! How a connection is written down, and how what becomes of connections and members reads as events.

use super::super::channels::place_members;
use event_log::Identity;
use event_router::{CloseReason, PresenceAction, Routed, now_ms, own};
use presence::{Member, Place};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared_types::{
    AppId, Draft, Environment, EventId, RawObject, Scope, Source, TopicName, ids::derived_id,
};

/// Why the connections of an instance that died have ended.
pub const SERVER_LOST: &str = "server_lost";

/// A connection, as it is written down for those who find its instance dead.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRecord {
    /// Whose it is.
    pub application: AppId,
    /// In which environment.
    pub environment: Environment,
    /// Its id.
    pub socket_id: String,
    /// As whom others see it.
    pub client_id: String,
    /// `socketio`, `websocket` or `sse`.
    pub transport: String,
    /// Where it comes from.
    pub address: Option<String>,
    /// What the client says it is.
    pub user_agent: Option<String>,
    /// Since when, in Unix milliseconds.
    pub connected_at: i64,
    /// When it was written down, in Unix milliseconds: later than `connected_at` where its instance had been taken for
    /// dead.
    pub noted_at: i64,
}

impl ConnectionRecord {
    /// What it is found and removed by.
    pub fn key(&self) -> String {
        format!("{}/{}", self.socket_id, self.noted_at)
    }

    /// As it is written down.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("a record is always JSON")
    }

    /// Reads what [`ConnectionRecord::text`] wrote.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Whose it is.
    pub fn scope(&self) -> Scope {
        Scope::new(self.application.clone(), self.environment)
    }

    /// Who it is, as events say it.
    pub fn members(&self) -> Value {
        json!({
            "clientId": self.client_id,
            "socketId": self.socket_id,
            "transport": self.transport,
            "address": self.address,
            "userAgent": self.user_agent,
            "connectedAt": self.connected_at,
        })
    }

    /// The same for every telling of the same thing.
    fn event_id(&self, what: &str) -> EventId {
        let at = u64::try_from(self.noted_at).unwrap_or(0);
        EventId::from_stored(derived_id("evt", at, &[what.as_bytes(), self.socket_id.as_bytes()]))
    }
}

/// `socket.connect`.
pub fn connected(record: &ConnectionRecord) -> Routed {
    let kind = "socket.connect";
    event(&record.scope(), own::CONNECTIONS, kind, &record.members(), record.event_id(kind))
}

/// `socket.disconnect`.
pub fn disconnected(record: &ConnectionRecord, reason: &str) -> Routed {
    let kind = "socket.disconnect";
    let mut members = record.members();
    members["reason"] = reason.into();
    members["durationMs"] = (now_ms() - record.connected_at).max(0).into();
    event(&record.scope(), own::CONNECTIONS, kind, &members, record.event_id(kind))
}

/// `presence.updated`.
pub fn presence(scope: &Scope, place: &Place, action: PresenceAction, member: &Member) -> Routed {
    let mut members = place_members(place);
    members["action"] = json!(action);
    members["clientId"] = member.client_id.as_str().into();
    members["socketId"] = member.socket_id.as_str().into();
    members["data"] = member.data.clone();
    members["joinedAt"] = member.joined_at.into();
    event(scope, own::PRESENCE, "presence.updated", &members, EventId::generate())
}

fn event(scope: &Scope, topic: &str, kind: &str, payload: &Value, id: EventId) -> Routed {
    let draft = Draft {
        topic: TopicName::from_stored(topic),
        source: Source::Socket,
        kind: kind.into(),
        payload: RawObject::from_trusted(payload.to_string()),
        id: Some(id),
        timestamp_ms: None,
        extra_metadata: String::new(),
    };
    Routed { scope: scope.clone(), draft, identity: Identity::Unique }
}

/// Why a connection has ended, in the word that events use.
pub fn reason_of(reason: &CloseReason) -> &'static str {
    match reason {
        CloseReason::Gone => "client_gone",
        CloseReason::SlowConsumer => "slow_consumer",
        CloseReason::GoingAway => "server_stopping",
        CloseReason::TokenExpired => "token_expired",
        CloseReason::Revoked => "token_revoked",
        CloseReason::Policy(_) => "protocol_violation",
        CloseReason::TooManyMessages => "too_many_messages",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ConnectionRecord {
        ConnectionRecord {
            application: AppId::from_stored("app_a"),
            environment: Environment::Staging,
            socket_id: "sock_1-i".to_owned(),
            client_id: "alice".to_owned(),
            transport: "sse".to_owned(),
            address: None,
            user_agent: Some("a \"browser\"".to_owned()),
            connected_at: 5,
            noted_at: 7,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let read = ConnectionRecord::read(&record().text()).expect("a record");
        assert_eq!((read.text(), read.key()), (record().text(), "sock_1-i/7".to_owned()));
        assert!(ConnectionRecord::read("{}").is_none());
    }

    #[test]
    fn an_end_has_one_id_whoever_tells_it_and_another_than_the_beginning() {
        let (once, again) = (disconnected(&record(), SERVER_LOST), disconnected(&record(), "client_gone"));
        assert_eq!(once.draft.id, again.draft.id);
        assert_ne!(once.draft.id, connected(&record()).draft.id);
        let anew = ConnectionRecord { noted_at: 8, ..record() };
        assert_ne!(once.draft.id, disconnected(&anew, SERVER_LOST).draft.id);
    }
}
