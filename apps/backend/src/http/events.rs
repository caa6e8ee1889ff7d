//! `POST /api/events`: publishing to topics.

use super::{
    access::events as permits,
    body::{JsonText, Object, check_text, parse},
    grant::Grant,
    idempotency::{body_hash, key, other_body, refused},
    problem::{ApiError, database},
    route::Route,
};
use crate::{gateway::Policy, state::AppState};
use ::database::tables::idempotency::{self, Claim, RecordKey};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use event_log::Identity;
use event_router::{RouteReport, Routed};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared_types::{
    Draft, ErrorKind, EventId, Problem, RawObject, Source, TopicName, ids::derived_id, rights::Verb,
};
use std::collections::HashSet;
use utoipa::ToSchema;

const ROUTE: &str = "POST /api/events";
/// The most events of a batch.
const MAX_BATCH: usize = 1_000;
/// The longest event type, in bytes.
const MAX_TYPE_BYTES: usize = 128;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::granted(Method::POST, "/api/events", publish)]
}

/// An event to publish.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishEvent {
    /// Where to.
    topic: String,
    /// Its type; `message` where absent.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// What it says: a JSON object.
    #[schema(value_type = Object)]
    payload: Box<RawValue>,
    /// Its id; the same id is published once a topic.
    id: Option<String>,
}

/// Where an event stands.
#[derive(Serialize, ToSchema)]
pub struct Published {
    /// Its id.
    id: String,
    /// The epoch of its position.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    /// Its offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

impl From<RouteReport> for Published {
    fn from(report: RouteReport) -> Self {
        let position = report.position;
        Self {
            id: report.id.to_string(),
            epoch: position.as_ref().map(|position| position.epoch.to_string()),
            offset: position.map(|position| position.offset),
        }
    }
}

/// Publishes an event, or all of an array of events or none, answered by an array.
#[utoipa::path(post, path = "/api/events", tag = "events", request_body = PublishEvent,
    responses((status = 201, body = Published), (status = 409, description = "ID_CONFLICT"),
        (status = 503, description = "BACKLOG_FULL")))]
pub(super) async fn publish(
    grant: Grant<permits::Publish>,
    State(state): State<AppState>,
    headers: HeaderMap,
    JsonText(bytes): JsonText,
) -> Result<Response, ApiError> {
    let batch = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let events = if batch { parse(&bytes)? } else { vec![parse::<Object<PublishEvent>>(&bytes)?] };
    check_batch(&events)?;
    let mut routed = Vec::with_capacity(events.len());
    for (index, Object(event)) in events.into_iter().enumerate() {
        let at = if batch { format!("[{index}].") } else { String::new() };
        routed.push(route(&grant, event).map_err(|problem| within(&at, problem))?);
    }
    check_policy(&state, &grant, &routed).await?;
    let key = key(&headers)?;
    if let Some(key) = &key {
        repeatable(&state, &grant, key, &bytes, &mut routed).await?;
    }
    let reports = match state.router.route(routed).await {
        Ok(reports) => reports,
        Err(error) => {
            let problem = Problem::from(error);
            if let Some(key) = &key {
                let record = record(&grant, key);
                refused(&state, record, &problem).await?;
            }
            return Err(problem.into());
        }
    };
    let reports: Vec<Published> = reports.into_iter().map(Published::from).collect();
    if batch {
        return Ok((StatusCode::CREATED, Json(reports)).into_response());
    }
    let one = reports.into_iter().next().ok_or_else(Problem::internal)?;
    Ok((StatusCode::CREATED, Json(one)).into_response())
}

fn check_batch(events: &[Object<PublishEvent>]) -> Result<(), Problem> {
    if events.is_empty() {
        return Err(Problem::field("", "a batch must hold at least one event"));
    }
    if events.len() > MAX_BATCH {
        let message = format!("a batch holds at most {MAX_BATCH} events");
        return Err(Problem::new(ErrorKind::TooLarge, "LIMIT_EXCEEDED", message));
    }
    Ok(())
}

fn route(grant: &Grant<permits::Publish>, event: PublishEvent) -> Result<Routed, Problem> {
    let topic = TopicName::parse(&event.topic)?;
    let kind = event.kind.as_deref().unwrap_or("message");
    check_text("type", kind, MAX_TYPE_BYTES)?;
    topic_registry::check_publishable(&topic, kind)?;
    grant.demand(Verb::Publish, topic.as_str())?;
    let id = event.id.as_deref().map(EventId::from_publisher).transpose()?;
    let identity = match id {
        Some(_) => Identity::Keyed { producer: grant.actor().name().into() },
        None => Identity::Unique,
    };
    let draft = Draft {
        topic,
        source: Source::Socket,
        kind: kind.into(),
        payload: RawObject::from_raw(&event.payload)?,
        id,
        timestamp_ms: None,
        extra_metadata: String::new(),
    };
    Ok(Routed { scope: grant.scope().clone(), draft, identity })
}

/// Puts the place within a batch before the fields of a problem.
fn within(at: &str, mut problem: Problem) -> Problem {
    for detail in &mut problem.details {
        detail.path = format!("{at}{}", detail.path);
    }
    problem.message = format!("{at}{}", problem.message);
    problem
}

async fn check_policy(
    state: &AppState,
    grant: &Grant<permits::Publish>,
    routed: &[Routed],
) -> Result<(), Problem> {
    let policy = Policy::new(state.authenticator.clone(), state.pool.clone());
    let mut seen = HashSet::new();
    for routed in routed {
        if seen.insert(&routed.draft.topic) {
            policy.check(grant.scope(), &routed.draft.topic).await?;
        }
    }
    Ok(())
}

fn record<'r>(grant: &'r Grant<permits::Publish>, key: &'r str) -> RecordKey<'r> {
    RecordKey { scope: grant.scope(), caller: grant.actor().name(), route: ROUTE, key }
}

/// Gives the events of a request with an `Idempotency-Key` ids that a repeat of the request gets too: the log
/// then answers the first result and appends nothing.
async fn repeatable(
    state: &AppState,
    grant: &Grant<permits::Publish>,
    key: &str,
    body: &[u8],
    routed: &mut [Routed],
) -> Result<(), ApiError> {
    let (caller, record) = (grant.actor().name(), record(grant, key));
    let mut connection = state.pool.acquire().await.map_err(database)?;
    let created_at = match idempotency::claim(&mut connection, record, &body_hash(state, body)).await? {
        Claim::New { created_at } | Claim::Repeated { created_at, .. } => created_at,
        Claim::OtherBody => return Err(other_body().into()),
    };
    let created_at = u64::try_from(created_at).unwrap_or(0);
    for (index, routed) in routed.iter_mut().enumerate() {
        if routed.draft.id.is_none() {
            let parts: [&[u8]; 3] = [caller.as_bytes(), key.as_bytes(), &index.to_be_bytes()];
            routed.draft.id = Some(EventId::from_stored(derived_id("evt", created_at, &parts)));
            routed.identity = Identity::Keyed { producer: caller.into() };
        }
    }
    Ok(())
}
