//! `/api/database/outbox`: how the outbox of the scope's target stands; and that each outbox has one owner.

use super::{access::mappings as permits, grant::Grant, problem::ApiError, route::Route};
use crate::state::AppState;
use ::database::{
    DatabaseError,
    tables::{
        applications::{self, ApplicationConfig, OpenedOutbox, open_outbox},
        outbox::{self, OutboxStatus},
    },
};
use axum::{Json, extract::State, http::Method};
use cdc::TargetUrl;
use serde::Serialize;
use shared_types::{AppId, ErrorKind, Problem, Scope, Violation};
use sqlx::PgConnection;
use utoipa::ToSchema;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::granted(Method::GET, "/api/database/outbox/status", status)]
}

/// How the outbox of the scope's target stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutboxState {
    /// Whether `config.outbox` names one.
    configured: bool,
    /// `reading`, `waiting` (no worker has looked for 30 s) or `troubled`; `stopped` where none is configured.
    state: &'static str,
    /// A stable word for what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// What helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
    /// Rows that wait, counted up to 100,000; where it cannot be read, as last counted.
    pending: i64,
    /// When the oldest of them was written, Unix milliseconds.
    oldest_at: Option<i64>,
    /// Topics that stand still because an append failed.
    halted: Vec<String>,
    /// When a worker last looked, Unix milliseconds.
    updated_at: Option<i64>,
}

impl OutboxState {
    fn new(configured: bool, found: Option<OutboxStatus>) -> Self {
        let state = match &found {
            _ if !configured => "stopped",
            None => "waiting",
            Some(status) if status.is_stale => "waiting",
            Some(status) if status.code.is_some() => "troubled",
            Some(_) => "reading",
        };
        let updated_at = found.as_ref().map(|status| status.updated_at);
        let OutboxStatus { code, message, cure, pending, oldest_at, halted, .. } = found.unwrap_or_default();
        Self { configured, state, code, message, cure, pending, oldest_at, halted, updated_at }
    }
}

/// How the outbox of the scope's target stands: what waits, which topics stand still, and what keeps it from being
/// read.
#[utoipa::path(get, path = "/api/database/outbox/status", tag = "database",
    responses((status = 200, body = OutboxState)))]
pub(super) async fn status(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
) -> Result<Json<OutboxState>, ApiError> {
    let scope = grant.scope();
    let application = state.authenticator.application(scope.application());
    let configured = application.is_some_and(|config| config.outbox.contains_key(&scope.environment()));
    let found = if configured { outbox::status(&state.pool, scope).await? } else { None };
    Ok(Json(OutboxState::new(configured, found)))
}

/// Checks that no outbox of `config` is another scope's, until the transaction ends.
///
/// Names of one server that differ (`localhost` and its address) are told apart only by the worker, which asks the
/// database who it is.
///
/// # Errors
/// `CONFLICT` naming the field; nothing of who else has it.
pub(super) async fn check_owner(
    connection: &mut PgConnection,
    state: &AppState,
    application: &AppId,
    config: &ApplicationConfig,
) -> Result<(), ApiError> {
    if config.outbox.is_empty() {
        return Ok(());
    }
    applications::lock_outboxes(connection).await?;
    let stored = applications::with_outboxes(&mut *connection, &state.sealer).await?;
    let others = stored.into_iter().filter(|other| other.scope.application() != application);
    let ours = config.outbox.iter().map(|(environment, outbox)| {
        let scope = Scope::new(application.clone(), *environment);
        let allow_private = config.allow_private(*environment);
        OpenedOutbox { url: open_outbox(&state.sealer, &scope, outbox), scope, allow_private }
    });
    let mut taken: Vec<(Scope, Place)> = others.filter_map(place).collect();
    for (scope, place) in ours.filter_map(place) {
        if taken.iter().any(|(_, other)| *other == place) {
            let path = format!("config.outbox.{}.databaseUrl", scope.environment());
            let rule = "the outbox of this database is read for another application or environment";
            let problem = Problem::new(ErrorKind::Conflict, "CONFLICT", format!("{path}: {rule}"));
            return Err(Problem { details: vec![Violation::new(path, rule)], ..problem }.into());
        }
        taken.push((scope, place));
    }
    Ok(())
}

/// A database, however its URL is written.
type Place = (String, u16, String);

fn place(outbox: OpenedOutbox) -> Option<(Scope, Place)> {
    let url: Result<String, DatabaseError> = outbox.url;
    let target: TargetUrl = url.ok()?.parse().ok()?;
    let place = (target.host().to_ascii_lowercase(), target.port(), target.database().to_owned());
    Some((outbox.scope, place))
}
