//! `/api/database/mappings`: which row changes become which events.

use super::{
    access::mappings as permits,
    body::{Body, Params, Segments},
    grant::Grant,
    idempotency::{self, Once},
    page::PageParams,
    preview,
    problem::{ApiError, database},
    route::Route,
};
use crate::state::AppState;
use ::database::tables::mappings::{self, Mapping};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, Method, Uri},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use shared_types::{MappingId, Operation, Problem, Scope, TopicName, mapping::MappingDefinition};
use utoipa::ToSchema;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, "/api/database/mappings", list),
        Route::granted(Method::POST, "/api/database/mappings", create),
        Route::granted(Method::POST, "/api/database/mappings/preview", preview),
        Route::granted(Method::GET, "/api/database/mappings/topic/{topic}", by_topic),
        Route::granted(Method::GET, "/api/database/mappings/{id}", get),
        Route::granted(Method::PATCH, "/api/database/mappings/{id}", update),
        Route::granted(Method::DELETE, "/api/database/mappings/{id}", delete),
    ]
}

/// The scope's mappings, by id.
#[utoipa::path(get, path = "/api/database/mappings", tag = "database", params(PageParams),
    responses((status = 200, body = Vec<Value>)))]
pub(super) async fn list(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let rows = mappings::list(&state.pool, grant.scope(), page.after(), page.fetch()).await?;
    Ok(page.answer(&uri, rows, |row| row.id.as_str(), |row| row.to_json()))
}

/// Makes a mapping, which is followed from then on.
#[utoipa::path(post, path = "/api/database/mappings", tag = "database", request_body = Value,
    responses((status = 201, body = Value), (status = 400, description = "VALIDATION_FAILED with every broken rule")))]
pub(super) async fn create(
    grant: Grant<permits::Create>,
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Body<Value>,
) -> Result<Response, ApiError> {
    if body.value.get("id").is_some() {
        return Err(Problem::field("id", "is given by the server").into());
    }
    let (said, resync) = admitted(body.value, grant.scope())?;
    let definition = MappingDefinition::parse(&said)?;
    let route = "POST /api/database/mappings";
    let mut run = match idempotency::begin(&state, &grant, route, &headers, &body.bytes).await? {
        Once::Replay(response) => return Ok(response),
        Once::Run(run) => run,
    };
    let id = MappingId::generate();
    let mut row = mappings::create(run.connection(), grant.scope(), &id, &definition).await?;
    if let Some(resync) = resync {
        mappings::set_resync(run.connection(), grant.scope(), &id, resync).await?;
        row.resync = resync;
    }
    run.created(row.to_json(), &[]).await
}

/// One mapping.
#[utoipa::path(get, path = "/api/database/mappings/{id}", tag = "database", params(("id" = String, Path)),
    responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn get(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(find(&state, grant.scope(), &id).await?.to_json()))
}

/// Changes what is given, as the mapping's next version; null removes an optional member.
#[utoipa::path(patch, path = "/api/database/mappings/{id}", tag = "database", params(("id" = String, Path)),
    request_body = Value, responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn update(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
    body: Body<Value>,
) -> Result<Json<Value>, ApiError> {
    if body.value.get("id").is_some_and(|given| given.as_str() != Some(id.as_str())) {
        return Err(Problem::field("id", "cannot be changed").into());
    }
    let (said, resync) = admitted(body.value, grant.scope())?;
    let key = MappingId::from_stored(id.as_str());
    let mut tx = state.pool.begin().await.map_err(database)?;
    let old = mappings::lock(&mut tx, grant.scope(), &key).await?.ok_or_else(|| no_mapping(&id))?;
    let definition = old.definition.patched(&said)?;
    let mut row = if definition == old.definition {
        old
    } else {
        mappings::update(&mut tx, grant.scope(), &key, &definition).await?.ok_or_else(|| no_mapping(&id))?
    };
    if let Some(resync) = resync {
        mappings::set_resync(&mut *tx, grant.scope(), &key, resync).await?;
        row.resync = resync;
    }
    tx.commit().await.map_err(database)?;
    Ok(Json(row.to_json()))
}

/// Removes a mapping.
#[utoipa::path(delete, path = "/api/database/mappings/{id}", tag = "database", params(("id" = String, Path)),
    responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn delete(
    grant: Grant<permits::Delete>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
) -> Result<Json<Value>, ApiError> {
    match mappings::delete(&state.pool, grant.scope(), &MappingId::from_stored(id.as_str())).await? {
        true => Ok(Json(json!({ "deleted": true }))),
        false => Err(no_mapping(&id).into()),
    }
}

/// The mappings that send to a topic, by id.
#[utoipa::path(get, path = "/api/database/mappings/topic/{topic}", tag = "database",
    params(("topic" = String, Path), PageParams), responses((status = 200, body = Vec<Value>)))]
pub(super) async fn by_topic(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Segments(topic): Segments<String>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let (page, topic) = (params.page()?, TopicName::parse(&topic)?);
    let rows = mappings::by_topic(&state.pool, grant.scope(), &topic, page.after(), page.fetch()).await?;
    Ok(page.answer(&uri, rows, |row| row.id.as_str(), |row| row.to_json()))
}

/// A row change to try a mapping on: exactly one of `mapping` and `mappingId`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preview {
    mapping: Option<Value>,
    mapping_id: Option<String>,
    #[schema(value_type = String, example = "update")]
    operation: Operation,
    /// The row: afterwards, or before a delete.
    #[schema(value_type = Object)]
    row: Map<String, Value>,
    /// The row before an update.
    #[schema(value_type = Option<Object>)]
    old: Option<Map<String, Value>>,
}

/// What a mapping would make of a row change: `{ fires, event, reason }`. Nothing is published.
#[utoipa::path(post, path = "/api/database/mappings/preview", tag = "database", request_body = Preview,
    responses((status = 200, body = Value)))]
pub(super) async fn preview(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    body: Body<Preview>,
) -> Result<Json<Value>, ApiError> {
    let Preview { mapping, mapping_id, operation, row, old } = body.value;
    let definition = match (mapping, mapping_id) {
        (Some(mapping), None) => MappingDefinition::parse(&mapping)?,
        (None, Some(id)) => {
            super::body::check_text("mappingId", &id, 512)?;
            find(&state, grant.scope(), &id).await?.definition
        }
        _ => return Err(Problem::field("mapping", "exactly one of mapping and mappingId is required").into()),
    };
    Ok(Json(preview::preview(&definition, operation, &row, old.as_ref())?))
}

pub(super) async fn find(state: &AppState, scope: &Scope, id: &str) -> Result<Mapping, ApiError> {
    let found = mappings::get(&state.pool, scope, &MappingId::from_stored(id)).await?;
    Ok(found.ok_or_else(|| no_mapping(id))?)
}

/// What a body says of a mapping's definition, and of `resync`, which is not part of it: whether its table is sent
/// anew after changes were lost.
fn admitted(mut body: Value, scope: &Scope) -> Result<(Value, Option<bool>), Problem> {
    check_environment(&body, scope)?;
    let resync = match body.as_object_mut().and_then(|members| members.shift_remove("resync")) {
        None => None,
        Some(Value::Bool(resync)) => Some(resync),
        Some(_) => return Err(Problem::field("resync", "must be true or false")),
    };
    Ok((body, resync))
}

/// The body may repeat the environment of the request, but not name another.
fn check_environment(body: &Value, scope: &Scope) -> Result<(), Problem> {
    match body.get("environment") {
        None => Ok(()),
        Some(given) if given.as_str() == Some(scope.environment().as_str()) => Ok(()),
        Some(_) => {
            let rule =
                format!("must be that of the request ({}); X-Environment chooses it", scope.environment());
            Err(Problem::field("environment", rule))
        }
    }
}

pub(super) fn no_mapping(id: &str) -> Problem {
    Problem::not_found("mapping", id)
}
