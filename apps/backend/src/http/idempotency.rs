//! `Idempotency-Key`: a creating request is carried out once, and answered the same for 24 hours.

use super::{
    access::Permit,
    grant::Grant,
    problem::{ApiError, database},
};
use crate::state::AppState;
use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use database::tables::idempotency::{self, Claim, RecordKey};
use serde_json::Value;
use shared_types::{ErrorKind, Problem, Scope};
use sqlx::{PgConnection, Postgres, Transaction};

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What is to be done about a creating request.
pub enum Once {
    /// Carry it out.
    Run(Run),
    /// It was carried out before: this is its answer.
    Replay(Response),
}

/// A creating request in its transaction.
pub struct Run {
    tx: Transaction<'static, Postgres>,
    record: Option<Record>,
}

struct Record {
    scope: Scope,
    caller: String,
    route: String,
    key: String,
}

impl Record {
    fn key(&self) -> RecordKey<'_> {
        RecordKey { scope: &self.scope, caller: &self.caller, route: &self.route, key: &self.key }
    }
}

/// The request's `Idempotency-Key`.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| (1..=255).contains(&text.len()));
    let rule = || Problem::field("Idempotency-Key", "must have 1 to 255 visible ASCII characters");
    text.map(|text| Some(text.to_owned())).ok_or_else(rule)
}

/// The same key with another body.
pub(super) fn other_body() -> Problem {
    let message = "Idempotency-Key: was used before with another body";
    Problem::new(ErrorKind::Conflict, "IDEMPOTENCY_KEY_REUSED", message)
}

/// What is kept of a body: enough to tell another one, and nothing of what it says.
pub(super) fn body_hash(state: &AppState, body: &[u8]) -> [u8; 32] {
    state.sealer.fingerprint("idempotency body", body)
}

/// Frees the key of a request that was refused, unless it is not known whether it came to something.
pub(super) async fn refused(
    state: &AppState,
    record: RecordKey<'_>,
    problem: &Problem,
) -> Result<(), ApiError> {
    if matches!(problem.kind, ErrorKind::Unavailable | ErrorKind::Internal) {
        return Ok(());
    }
    let mut connection = state.pool.acquire().await.map_err(database)?;
    idempotency::give_up(&mut connection, record).await.map_err(database)
}

/// Begins a creating request: in a transaction, and once for each key.
pub(super) async fn begin<P: Permit>(
    state: &AppState,
    grant: &Grant<P>,
    route: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Once, ApiError> {
    let key = key(headers)?;
    let mut tx = state.pool.begin().await.map_err(database)?;
    let Some(key) = key else { return Ok(Once::Run(Run { tx, record: None })) };
    let caller = grant.actor().name().to_owned();
    let record = Record { scope: grant.scope().clone(), caller, route: route.to_owned(), key };
    match idempotency::claim(&mut tx, record.key(), &body_hash(state, body)).await.map_err(database)? {
        Claim::New { .. } => Ok(Once::Run(Run { tx, record: Some(record) })),
        Claim::OtherBody => Err(other_body().into()),
        Claim::Repeated { answer: Some((status, body)), .. } => Ok(Once::Replay(replay(status, body))),
        Claim::Repeated { answer: None, .. } => Err(Problem::internal().into()),
    }
}

/// The answer that was kept.
pub(super) fn replay(status: i16, body: String) -> Response {
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let json = HeaderValue::from_static("application/json");
    let headers = [(header::CONTENT_TYPE, json), (REPLAYED, HeaderValue::from_static("true"))];
    (status.unwrap_or(StatusCode::CREATED), headers, body).into_response()
}

impl Run {
    /// The transaction in which it is to happen.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    /// Commits and answers 201 with `body`. A repeat is answered without its members `secrets`.
    pub(super) async fn created(mut self, body: Value, secrets: &[&str]) -> Result<Response, ApiError> {
        if let Some(record) = &self.record {
            let mut kept = body.clone();
            if let Value::Object(members) = &mut kept {
                members.retain(|name, _| !secrets.contains(&name.as_str()));
            }
            let status = StatusCode::CREATED.as_u16() as i16;
            let kept = kept.to_string();
            idempotency::keep_answer(&mut self.tx, record.key(), status, &kept).await.map_err(database)?;
        }
        self.tx.commit().await.map_err(database)?;
        Ok((StatusCode::CREATED, axum::Json(body)).into_response())
    }
}
