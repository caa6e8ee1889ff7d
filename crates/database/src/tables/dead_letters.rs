//! `dead_letters`: what could never be delivered or appended.

use crate::DatabaseError;
use serde_json::Value;
use shared_types::{Scope, ids::new_id};
use sqlx::{PgExecutor, types::Json};

/// What a dead letter was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A delivery to an endpoint.
    Webhook,
    /// An event that a mapping made.
    Cdc,
    /// A row of an outbox.
    Outbox,
}

impl Kind {
    /// Its name as it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Cdc => "cdc",
            Self::Outbox => "outbox",
        }
    }
}

/// A letter to keep.
#[derive(Clone, Copy, Debug)]
pub struct NewDeadLetter<'a> {
    /// What it was.
    pub kind: Kind,
    /// The endpoint of a delivery.
    pub webhook_id: Option<&'a str>,
    /// The event.
    pub event_id: &'a str,
    /// Why it is dead.
    pub reason: &'a str,
    /// How often it was tried.
    pub attempts: i32,
    /// What trying it again takes.
    pub content: &'a Value,
}

/// Keeps a letter; `false` where it is kept already.
///
/// # Errors
/// Violates `dead_letters_scope` where the application is gone.
pub async fn insert(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    letter: &NewDeadLetter<'_>,
) -> Result<bool, DatabaseError> {
    let sql = "
        insert into dead_letters
            (id, application_id, environment, kind, webhook_id, event_id, reason, attempts, content)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing";
    let done = sqlx::query(sql)
        .bind(new_id("dl"))
        .bind(scope.application().as_str())
        .bind(scope.environment().as_str())
        .bind(letter.kind.as_str())
        .bind(letter.webhook_id)
        .bind(letter.event_id)
        .bind(letter.reason)
        .bind(letter.attempts)
        .bind(Json(letter.content))
        .execute(executor)
        .await?;
    Ok(done.rows_affected() > 0)
}
