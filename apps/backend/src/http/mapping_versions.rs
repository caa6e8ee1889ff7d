//! `/api/database/mappings/{id}/versions`, `…/promote` and the grid over environments.

use super::{
    access::mappings as permits,
    body::{Body, Params, Segments},
    grant::Grant,
    idempotency::{self, Once},
    mappings::{find, no_mapping},
    page::PageParams,
    problem::{ApiError, database},
    route::Route,
};
use crate::state::AppState;
use ::database::tables::{
    mapping_versions::{self, Promoted},
    mappings,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, Method, Uri},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Value, json};
use shared_types::{Environment, ErrorKind, MappingId, Problem, Scope};
use utoipa::ToSchema;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, "/api/database/mappings/status", status),
        Route::granted(Method::GET, "/api/database/mappings/{id}/versions", list),
        Route::granted(Method::POST, "/api/database/mappings/{id}/versions", create),
        Route::granted(Method::POST, "/api/database/mappings/{id}/promote", promote),
    ]
}

/// How each mapping stands in each environment: its version, whether it is followed, and whether it says something
/// else than in the environment before (`behind`). A token or key sees its own environment.
#[utoipa::path(get, path = "/api/database/mappings/status", tag = "database", params(PageParams),
    responses((status = 200, body = Vec<Value>)))]
pub(super) async fn status(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let seen = match grant.person() {
        Some(_) => Environment::ALL.to_vec(),
        None => vec![grant.scope().environment()],
    };
    let application = grant.scope().application();
    let rows = mapping_versions::grid(&state.pool, application, &seen, page.after(), page.fetch()).await?;
    Ok(page.answer(&uri, rows, |row| &row.id, |row| row))
}

/// The versions of a mapping, the newest first.
#[utoipa::path(get, path = "/api/database/mappings/{id}/versions", tag = "database",
    params(("id" = String, Path), PageParams),
    responses((status = 200, body = Vec<Value>), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn list(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let mapping = find(&state, grant.scope(), &id).await?;
    let invalid = || Problem::field("cursor", "must be the X-Next-Cursor of the page before");
    let before = page.after().map(|text| text.parse::<i32>().map_err(|_| invalid())).transpose()?;
    let rows = mapping_versions::list(&state.pool, grant.scope(), &mapping.id, before, page.fetch()).await?;
    let keyed: Vec<_> = rows.into_iter().map(|row| (row.version.to_string(), row)).collect();
    Ok(page.answer(&uri, keyed, |(key, _)| key, |(_, row)| row))
}

/// Which environment.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InEnvironment {
    /// `development`, `staging` or `production`.
    #[schema(value_type = String, example = "development")]
    environment: Option<Environment>,
}

/// Keeps what the mapping says now as a version of its own.
#[utoipa::path(post, path = "/api/database/mappings/{id}/versions", tag = "database",
    params(("id" = String, Path)), request_body = InEnvironment,
    responses((status = 201, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn create(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
    headers: HeaderMap,
    body: Body<InEnvironment>,
) -> Result<Response, ApiError> {
    let scope = chosen(&grant, body.value.environment)?;
    let route = format!("POST /api/database/mappings/{id}/versions");
    let mut run = match idempotency::begin(&state, &grant, &route, &headers, &body.bytes).await? {
        Once::Replay(response) => return Ok(response),
        Once::Run(run) => run,
    };
    let key = MappingId::from_stored(id.as_str());
    let mapping = mappings::lock(run.connection(), &scope, &key).await?.ok_or_else(|| no_mapping(&id))?;
    mappings::update(run.connection(), &scope, &key, &mapping.definition).await?;
    let made = mapping_versions::list(run.connection(), &scope, &key, None, 1).await?;
    let made = made.first().ok_or_else(|| no_mapping(&id))?;
    run.created(serde_json::to_value(made).map_err(|_| Problem::internal())?, &[]).await
}

/// Copies what the mapping says in `environment` into the next one: development → staging → production, under the
/// same id. Only people may, whose rights hold in all environments.
#[utoipa::path(post, path = "/api/database/mappings/{id}/promote", tag = "database",
    params(("id" = String, Path)), request_body = InEnvironment,
    responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND"),
        (status = 409, description = "NOTHING_AFTER_PRODUCTION")))]
pub(super) async fn promote(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
    body: Body<InEnvironment>,
) -> Result<Json<Value>, ApiError> {
    let source = chosen(&grant, body.value.environment)?;
    let to = next(source.environment())?;
    find(&state, &source, &id).await?;
    if grant.person().is_none() {
        let message = "a token or an API key belongs to one environment; people promote";
        return Err(Problem::new(ErrorKind::Forbidden, "SCOPE_MISMATCH", message).into());
    }
    let key = MappingId::from_stored(id.as_str());
    let mut tx = state.pool.begin().await.map_err(database)?;
    let mapping = mappings::lock(&mut tx, &source, &key).await?.ok_or_else(|| no_mapping(&id))?;
    let (promoted, there) = mapping_versions::promote(&mut tx, &mapping, to).await?;
    tx.commit().await.map_err(database)?;
    Ok(Json(json!({
        "from": source.environment(),
        "to": to,
        "change": match promoted {
            Promoted::Created => "created",
            Promoted::Changed => "changed",
            Promoted::Unchanged => "unchanged",
        },
        "mapping": there.to_json(),
    })))
}

/// The environment that the body names, else that of the request. A token or key has only its own.
fn chosen<P: super::access::Permit>(grant: &Grant<P>, named: Option<Environment>) -> Result<Scope, Problem> {
    let own = grant.scope();
    match named {
        Some(environment) if environment != own.environment() && grant.person().is_none() => {
            let message = "environment differs from that of the credentials";
            Err(Problem::new(ErrorKind::Forbidden, "SCOPE_MISMATCH", message))
        }
        Some(environment) => Ok(Scope::new(own.application().clone(), environment)),
        None => Ok(own.clone()),
    }
}

fn next(environment: Environment) -> Result<Environment, Problem> {
    match environment {
        Environment::Development => Ok(Environment::Staging),
        Environment::Staging => Ok(Environment::Production),
        Environment::Production => {
            let message = "environment: nothing comes after production";
            Err(Problem::new(ErrorKind::Conflict, "NOTHING_AFTER_PRODUCTION", message))
        }
    }
}
