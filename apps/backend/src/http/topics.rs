//! `/api/topics`: the registry of topics, and their history.

use super::{
    access::topics as permits,
    body::{Body, Params, Segments},
    grant::Grant,
    idempotency::{self, Once},
    page::{PageParams, check_limit},
    problem::{ApiError, database},
    route::Route,
};
use crate::{gateway::Policy, state::AppState};
use ::database::tables::topics::{self, NewTopic, TopicChange};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, Method, Uri, header},
    response::{IntoResponse, Response},
};
use event_log::{HistoryQuery, PageLimit, Reach, Start, TopicKey};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use shared_types::{ErrorKind, Position, Problem, TopicName, rights::Verb};
use utoipa::{IntoParams, ToSchema};

/// Bytes of one answer's events.
const HISTORY_BYTES: usize = 4 * 1024 * 1024;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, "/api/topics", list),
        Route::granted(Method::POST, "/api/topics", create),
        Route::granted(Method::GET, "/api/topics/{name}", get),
        Route::granted(Method::PATCH, "/api/topics/{name}", update),
        Route::granted(Method::DELETE, "/api/topics/{name}", delete),
        Route::granted(Method::GET, "/api/topics/{name}/history", history),
    ]
}

/// A registered topic.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicResource {
    name: String,
    description: String,
    owner: String,
    /// The schema version that events are checked against.
    active_schema_version: Option<i32>,
    /// How long its events are kept, in seconds; null for as long as the server keeps every topic's.
    history_seconds: Option<i32>,
    application_id: String,
    environment: String,
    /// Unix milliseconds.
    created_at: i64,
    /// Unix milliseconds.
    updated_at: i64,
}

impl From<topics::Topic> for TopicResource {
    fn from(row: topics::Topic) -> Self {
        Self {
            name: row.name,
            description: row.description,
            owner: row.owner,
            active_schema_version: row.active_schema_version,
            history_seconds: row.history_seconds,
            application_id: row.application_id,
            environment: row.environment,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// A topic to register.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateTopic {
    /// Lower-case segments joined by dots: `session.status`.
    name: String,
    /// What its events say.
    description: String,
    /// The team or service that answers for it.
    owner: String,
    /// How long its events are kept, in seconds; as long as the server keeps every topic's where absent.
    #[schema(minimum = 60, maximum = 31_536_000)]
    history_seconds: Option<i64>,
}

/// What to change of a topic.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdateTopic {
    description: Option<String>,
    owner: Option<String>,
    /// A registered version of the topic's schema.
    active_schema_version: Option<i32>,
    /// How long its events are kept, in seconds; null for as long as the server keeps every topic's.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 60, maximum = 31_536_000)]
    history_seconds: Option<Option<i64>>,
}

/// Tells a null from an absent field.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The registered topics, by name.
#[utoipa::path(get, path = "/api/topics", tag = "topics", params(PageParams),
    responses((status = 200, body = Vec<TopicResource>)))]
pub(super) async fn list(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let rows = topics::list(&state.pool, grant.scope(), page.after(), page.fetch()).await?;
    Ok(page.answer(&uri, rows, |row| &row.name, TopicResource::from))
}

/// Registers a topic.
#[utoipa::path(post, path = "/api/topics", tag = "topics", request_body = CreateTopic,
    responses((status = 201, body = TopicResource), (status = 409, description = "CONFLICT: the name is taken")))]
pub(super) async fn create(
    grant: Grant<permits::Create>,
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Body<CreateTopic>,
) -> Result<Response, ApiError> {
    let CreateTopic { name, description, owner, history_seconds } = &body.value;
    let topic = topic_registry::NewTopic::check(name, description, owner, *history_seconds)?;
    let mut run = match idempotency::begin(&state, &grant, "POST /api/topics", &headers, &body.bytes).await? {
        Once::Replay(response) => return Ok(response),
        Once::Run(run) => run,
    };
    let new = NewTopic {
        name: &topic.name,
        description: &topic.description,
        owner: &topic.owner,
        history_seconds: topic.history_seconds,
    };
    let row = topics::insert(run.connection(), grant.scope(), &new).await.map_err(|error| {
        if error.violates("topics_pkey") {
            let message = format!("name: the topic {name} exists already");
            return Problem::new(ErrorKind::Conflict, "CONFLICT", message).into();
        }
        database(error)
    })?;
    run.created(json!(TopicResource::from(row)), &[]).await
}

/// One topic.
#[utoipa::path(get, path = "/api/topics/{name}", tag = "topics", params(("name" = String, Path)),
    responses((status = 200, body = TopicResource), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn get(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Segments(name): Segments<String>,
) -> Result<Json<TopicResource>, ApiError> {
    let row = topics::find(&state.pool, grant.scope(), &name).await?;
    Ok(Json(row.ok_or_else(|| no_topic(&name))?.into()))
}

/// Changes what is given.
#[utoipa::path(patch, path = "/api/topics/{name}", tag = "topics", params(("name" = String, Path)),
    request_body = UpdateTopic, responses((status = 200, body = TopicResource), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn update(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments(name): Segments<String>,
    body: Body<UpdateTopic>,
) -> Result<Json<TopicResource>, ApiError> {
    let change = body.value;
    let (description, owner) = (change.description.as_deref(), change.owner.as_deref());
    let seconds = topic_registry::check_change(description, owner, change.history_seconds.flatten())?;
    if let Some(version) = change.active_schema_version {
        let rule = format!("the topic has no schema version {version}");
        return Err(Problem::field("activeSchemaVersion", rule).into());
    }
    let change = TopicChange { description, owner, history_seconds: change.history_seconds.map(|_| seconds) };
    let row = topics::update(&state.pool, grant.scope(), &name, &change).await?;
    Ok(Json(row.ok_or_else(|| no_topic(&name))?.into()))
}

/// Removes a topic from the registry.
#[utoipa::path(delete, path = "/api/topics/{name}", tag = "topics", params(("name" = String, Path)),
    responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn delete(
    grant: Grant<permits::Delete>,
    State(state): State<AppState>,
    Segments(name): Segments<String>,
) -> Result<Json<Value>, ApiError> {
    match topics::delete(&state.pool, grant.scope(), &name).await? {
        true => Ok(Json(json!({ "deleted": true }))),
        false => Err(no_topic(&name).into()),
    }
}

/// Which part of a history.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct HistoryParams {
    /// `<epoch>:<offset>`: the events behind it; the latest ones where absent.
    since: Option<String>,
    /// How many, 1 to 500 (default 50).
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// A page of a topic's history: `{ events, epoch, offset }`, the position of the last event or of the head.
#[utoipa::path(get, path = "/api/topics/{name}/history", tag = "topics",
    params(("name" = String, Path), HistoryParams), responses((status = 200, body = Value)))]
pub(super) async fn history(
    grant: Grant<permits::History>,
    State(state): State<AppState>,
    Segments(name): Segments<String>,
    Params(params): Params<HistoryParams>,
) -> Result<Response, ApiError> {
    let topic = TopicName::parse(&name)?;
    grant.demand(Verb::History, &name)?;
    if name.starts_with("sync.") {
        grant.demand(Verb::DocumentsRead, &name)?;
    }
    let since = params.since.as_deref().map(str::parse::<Position>).transpose()?;
    let limit = PageLimit { events: check_limit(params.limit)? as usize, bytes: HISTORY_BYTES };
    Policy::new(state.authenticator.clone(), state.pool.clone()).check(grant.scope(), &topic).await?;
    let start = since.map_or(Start::Latest, Start::After);
    let query = HistoryQuery { start, until: None, limit };
    let page = state.router.log().history(&TopicKey::new(grant.scope(), &topic), query).await?;
    let at = page.events.last().map_or(&page.head, |event| &event.position);
    let mut json = String::from("{\"events\":[");
    for (index, event) in page.events.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        event.write_json(&mut json, None);
    }
    json.push_str(&format!("],\"epoch\":{},\"offset\":{}", json!(at.epoch), at.offset));
    // The same as over a connection: said only where the events do not connect to the position.
    json.push_str(if page.reach == Reach::Connected { "}" } else { ",\"recovered\":false}" });
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

fn no_topic(name: &str) -> Problem {
    Problem::not_found("topic", name)
}
