//! `/api/applications`: tenants and what is set for them.

use super::{
    access::applications as permits,
    application_config::{ConfigPatch, Setter, shown},
    body::{Body, Object, Params, check_text},
    grant::Grant,
    idempotency::{self, Once},
    outbox,
    page::PageParams,
    problem::{ApiError, database},
    route::Route,
};
use crate::state::AppState;
use ::database::tables::applications::{self, Application, ApplicationConfig};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, Method, Uri},
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared_types::{AppId, ErrorKind, Problem};
use utoipa::ToSchema;

/// What requests fall back to; it is always there.
const DEFAULT: &str = "app_default";
/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 200;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, "/api/applications", list),
        Route::granted(Method::POST, "/api/applications", create),
        Route::granted(Method::GET, "/api/applications/{id}", get),
        Route::granted(Method::PATCH, "/api/applications/{id}", update),
        Route::granted(Method::DELETE, "/api/applications/{id}", delete),
    ]
}

/// An application.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationResource {
    id: String,
    name: String,
    /// By environment; passwords of databases are masked.
    config: Value,
    /// Unix milliseconds.
    created_at: i64,
    /// Unix milliseconds.
    updated_at: i64,
}

fn resource(state: &AppState, row: Application) -> ApplicationResource {
    let config = shown(&state.sealer, &AppId::from_stored(row.id.as_str()), &row.config.0);
    let Application { id, name, created_at, updated_at, .. } = row;
    ApplicationResource { id, name, config, created_at, updated_at }
}

/// A new application.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApplication {
    name: String,
    #[serde(default)]
    #[schema(value_type = Option<ConfigPatch>)]
    config: Object<ConfigPatch>,
}

/// What to change of an application.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateApplication {
    name: Option<String>,
    /// Each environment that is named is replaced; null removes it.
    #[serde(default)]
    #[schema(value_type = Option<ConfigPatch>)]
    config: Object<ConfigPatch>,
}

/// The applications that the caller sees.
#[utoipa::path(get, path = "/api/applications", tag = "applications", params(PageParams),
    responses((status = 200, body = Vec<ApplicationResource>)))]
pub(super) async fn list(
    grant: Grant<permits::List>,
    State(state): State<AppState>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let visible = grant.visible_applications();
    let rows = applications::list(&state.pool, visible.as_deref(), page.after(), page.fetch()).await?;
    Ok(page.answer(&uri, rows, |row| &row.id, |row| resource(&state, row)))
}

/// Makes an application with its three environments.
#[utoipa::path(post, path = "/api/applications", tag = "applications", request_body = CreateApplication,
    responses((status = 201, body = ApplicationResource)))]
pub(super) async fn create(
    grant: Grant<permits::Create>,
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Body<CreateApplication>,
) -> Result<Response, ApiError> {
    check_text("name", &body.value.name, MAX_NAME_BYTES)?;
    let id = AppId::generate();
    let mut config = ApplicationConfig::default();
    body.value.config.0.apply(&state, &id, &mut config, Setter::of(grant.person()))?;
    let mut run =
        match idempotency::begin(&state, &grant, "POST /api/applications", &headers, &body.bytes).await? {
            Once::Replay(response) => return Ok(response),
            Once::Run(run) => run,
        };
    outbox::check_owner(run.connection(), &state, &id, &config).await?;
    let row = applications::insert(run.connection(), &id, body.value.name.trim(), &config).await?;
    let response = run.created(json!(resource(&state, row)), &[]).await?;
    state.authenticator.refresh().await?;
    Ok(response)
}

/// One application.
#[utoipa::path(get, path = "/api/applications/{id}", tag = "applications", params(("id" = String, Path)),
    responses((status = 200, body = ApplicationResource), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn get(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
) -> Result<Json<ApplicationResource>, ApiError> {
    let id = grant.scope().application();
    let row = applications::find(&state.pool, id).await?.ok_or_else(|| no_application(id))?;
    Ok(Json(resource(&state, row)))
}

/// Changes what is given.
#[utoipa::path(patch, path = "/api/applications/{id}", tag = "applications", params(("id" = String, Path)),
    request_body = UpdateApplication,
    responses((status = 200, body = ApplicationResource), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn update(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    body: Body<UpdateApplication>,
) -> Result<Json<ApplicationResource>, ApiError> {
    let id = grant.scope().application();
    if let Some(name) = &body.value.name {
        check_text("name", name, MAX_NAME_BYTES)?;
    }
    let mut tx = state.pool.begin().await.map_err(database)?;
    let row = applications::lock(&mut tx, id).await?.ok_or_else(|| no_application(id))?;
    let mut config = row.config.0;
    body.value.config.0.apply(&state, id, &mut config, Setter::of(grant.person()))?;
    outbox::check_owner(&mut tx, &state, id, &config).await?;
    let name = body.value.name.as_deref().map_or(row.name.as_str(), str::trim);
    let row = applications::update(&mut *tx, id, name, &config).await?.ok_or_else(|| no_application(id))?;
    tx.commit().await.map_err(database)?;
    state.authenticator.refresh().await?;
    Ok(Json(resource(&state, row)))
}

/// Removes an application and all that belongs to it.
#[utoipa::path(delete, path = "/api/applications/{id}", tag = "applications", params(("id" = String, Path)),
    responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND"),
        (status = 409, description = "CONFLICT: app_default stays")))]
pub(super) async fn delete(
    grant: Grant<permits::Delete>,
    State(state): State<AppState>,
) -> Result<Json<Value>, ApiError> {
    let id = grant.scope().application();
    if id.as_str() == DEFAULT {
        let message = "app_default stays: it is what requests without X-Application-Id mean";
        return Err(Problem::new(ErrorKind::Conflict, "CONFLICT", message).into());
    }
    if !applications::delete(&state.pool, id).await? {
        return Err(no_application(id).into());
    }
    state.authenticator.refresh().await?;
    Ok(Json(json!({ "deleted": true })))
}

fn no_application(id: &AppId) -> Problem {
    Problem::not_found("application", id.as_str())
}
