//! A row of the outbox, and what it becomes. Without I/O.

use event_log::Identity;
use event_router::Routed;
use serde_json::{Value, json};
use shared_types::{
    AppId, Draft, Environment, EventId, Operation, Problem, RawObject, Scope, Source, TopicName,
    ids::derived_id,
};
use sqlx::FromRow;
use std::sync::Arc;

/// The largest payload, as that of a REST body.
pub const MAX_PAYLOAD_BYTES: i64 = 1024 * 1024;
/// The longest type, and the longest name of a table.
const MAX_NAME_BYTES: usize = 255;

/// A row as it is claimed.
#[derive(Clone, Debug, FromRow)]
pub struct OutboxRow {
    /// Its number.
    pub id: i64,
    /// The topic.
    pub topic: String,
    /// The event's type.
    pub event_type: String,
    /// The payload as JSON, unless it is too large to be one.
    pub payload: Option<String>,
    /// How large the payload is.
    pub bytes: i64,
    /// The table of which it tells.
    pub table_name: Option<String>,
    /// `insert`, `update` or `delete`.
    pub operation: Option<String>,
    /// When its transaction began, Unix milliseconds; none where that is no time, but infinite.
    pub created_ms: Option<i64>,
    /// In the platform's own outbox, whose it is.
    pub application_id: Option<String>,
    /// In the platform's own outbox, whose it is.
    pub environment: Option<String>,
}

/// Which outbox, and whose its rows are.
#[derive(Clone, Debug)]
pub struct Outbox {
    /// What tells it from all others: part of its events' ids, and the producer of them in the log.
    pub producer: Arc<str>,
    /// The one scope that owns it; in the platform's own outbox each row names its scope.
    pub owner: Option<Scope>,
}

impl Outbox {
    /// The platform's own.
    pub fn of_platform() -> Self {
        Self { producer: "outbox:platform".into(), owner: None }
    }

    /// That of the target database `database` of the cluster `system`, owned by `scope`.
    pub fn of_target(system: &str, database: &str, scope: Scope) -> Self {
        Self { producer: format!("outbox:{system}/{database}").into(), owner: Some(scope) }
    }

    /// Whose a row is. The database sees to it that there is such an environment.
    pub fn scope(&self, row: &OutboxRow) -> Scope {
        if let Some(scope) = &self.owner {
            return scope.clone();
        }
        let application = row.application_id.as_deref().unwrap_or("app_default");
        let environment = row.environment.as_deref().and_then(|name| name.parse().ok());
        Scope::new(AppId::from_stored(application), environment.unwrap_or(Environment::Development))
    }

    /// The id of a row's event: the same whenever the row is read.
    pub fn event_id(&self, row: &OutboxRow) -> EventId {
        let parts: [&[u8]; 2] = [self.producer.as_bytes(), &row.id.to_be_bytes()];
        EventId::from_stored(derived_id(
            "evt",
            row.created_ms.map_or(0, |ms| ms.max(0).unsigned_abs()),
            &parts,
        ))
    }

    /// The event of a row.
    ///
    /// # Errors
    /// Why it can never be one.
    pub fn event(&self, row: &OutboxRow) -> Result<Routed, Problem> {
        let topic = TopicName::parse(&row.topic)?;
        check_name("event_type", &row.event_type)?;
        topic_registry::check_outbox(&topic, &row.event_type)?;
        let Some(payload) = &row.payload else {
            let rule = format!("has {} bytes; at most {MAX_PAYLOAD_BYTES}", row.bytes);
            return Err(Problem::field("payload", rule));
        };
        let Some(created_ms) = row.created_ms else {
            return Err(Problem::field("created_at", "must be a time; it is infinite"));
        };
        let draft = Draft {
            topic,
            source: Source::Database,
            kind: row.event_type.as_str().into(),
            payload: RawObject::parse(payload)?,
            id: Some(self.event_id(row)),
            timestamp_ms: Some(created_ms),
            extra_metadata: metadata(row)?,
        };
        let identity = Identity::Keyed { producer: self.producer.clone() };
        Ok(Routed { scope: self.scope(row), draft, identity })
    }
}

impl OutboxRow {
    /// The topic's name among those of all scopes of an outbox, as [`super::table`] compares it.
    pub fn place(&self) -> String {
        match (&self.application_id, &self.environment) {
            (Some(application), Some(environment)) => format!("{application}/{environment}/{}", self.topic),
            _ => self.topic.clone(),
        }
    }

    /// The row as a dead letter keeps it; a payload that is too large stays in its row.
    pub fn content(&self) -> Value {
        let payload: Value =
            self.payload.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
        json!({
            "outboxId": self.id,
            "topic": self.topic,
            "type": self.event_type,
            "payload": payload,
            "table": self.table_name,
            "operation": self.operation,
            "timestamp": self.created_ms,
        })
    }
}

fn check_name(column: &str, name: &str) -> Result<(), Problem> {
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
    let rule = format!("must be 1 to {MAX_NAME_BYTES} bytes without control characters");
    if fits { Ok(()) } else { Err(Problem::field(column, rule)) }
}

fn metadata(row: &OutboxRow) -> Result<String, Problem> {
    let mut members = Vec::new();
    if let Some(table) = &row.table_name {
        check_name("table_name", table)?;
        members.push(format!("\"table\":{}", json!(table)));
    }
    if let Some(operation) = &row.operation {
        let known = [Operation::Insert, Operation::Update, Operation::Delete];
        let operation = known.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(operation));
        let operation =
            operation.ok_or_else(|| Problem::field("operation", "must be insert, update or delete"))?;
        members.push(format!("\"operation\":\"{operation}\""));
    }
    Ok(members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> OutboxRow {
        OutboxRow {
            id: 7,
            topic: "order.created".to_owned(),
            event_type: "database.insert".to_owned(),
            payload: Some("{\"total\": 1.50}".to_owned()),
            bytes: 15,
            table_name: Some("orders".to_owned()),
            operation: Some("INSERT".to_owned()),
            created_ms: Some(1_700_000_000_000),
            application_id: Some("app_1".to_owned()),
            environment: Some("staging".to_owned()),
        }
    }

    #[test]
    fn a_row_becomes_an_event_of_its_scope() {
        let routed = Outbox::of_platform().event(&row()).expect("fits");
        assert_eq!(
            (routed.scope.application().as_str(), routed.scope.environment()),
            ("app_1", Environment::Staging)
        );
        assert_eq!(routed.draft.payload.as_str(), "{\"total\":1.50}");
        assert_eq!(routed.draft.extra_metadata, "\"table\":\"orders\",\"operation\":\"insert\"");
        assert_eq!(routed.draft.timestamp_ms, Some(1_700_000_000_000));
        assert_eq!(routed.draft.source, Source::Database);
        let owner = Scope::new(AppId::from_stored("app_2"), Environment::Production);
        let routed = Outbox::of_target("1", "shop", owner.clone()).event(&row()).expect("fits");
        assert_eq!(routed.scope, owner, "a target's rows are its owner's, whatever they say");
    }

    #[test]
    fn ids_are_of_the_row() {
        let id = |outbox: &Outbox, row: &OutboxRow| outbox.event_id(row).to_string();
        let (platform, other) =
            (Outbox::of_platform(), Outbox::of_target("1", "shop", Outbox::of_platform().scope(&row())));
        assert_eq!(id(&platform, &row()), id(&platform, &row()));
        assert_ne!(id(&platform, &row()), id(&other, &row()));
        assert_ne!(id(&platform, &row()), id(&platform, &OutboxRow { id: 8, ..row() }));
        let later = OutboxRow { created_ms: Some(1_700_000_000_001), ..row() };
        assert_ne!(id(&platform, &row()), id(&platform, &later), "a number that is given out again");
    }

    #[test]
    fn what_can_never_be_an_event_says_why() {
        for (bad, path) in [
            (OutboxRow { topic: "a b".to_owned(), ..row() }, "topic"),
            (OutboxRow { topic: "sync.notes.updated".to_owned(), ..row() }, "topic"),
            (OutboxRow { event_type: String::new(), ..row() }, "event_type"),
            (OutboxRow { event_type: "sync.updated".to_owned(), ..row() }, "type"),
            (OutboxRow { payload: Some("[1]".to_owned()), ..row() }, "payload"),
            (OutboxRow { payload: None, bytes: MAX_PAYLOAD_BYTES + 1, ..row() }, "payload"),
            (OutboxRow { payload: Some("{\"a\":1e999}".to_owned()), ..row() }, ""),
            (OutboxRow { operation: Some("upsert".to_owned()), ..row() }, "operation"),
            (OutboxRow { table_name: Some("t".repeat(256)), ..row() }, "table_name"),
            (OutboxRow { created_ms: None, ..row() }, "created_at"),
        ] {
            let problem = Outbox::of_platform().event(&bad).expect_err("refused");
            assert!(problem.message.contains(path), "{path}: {}", problem.message);
        }
        assert!(
            Outbox::of_platform().event(&OutboxRow { operation: None, table_name: None, ..row() }).is_ok()
        );
    }
}
