//! `/api/applications/{id}/api-keys`: by which a customer's servers speak.

use super::{
    access::applications as permits,
    body::{Body, Params, Segments, check_text},
    grant::Grant,
    idempotency::{self, Once},
    page::PageParams,
    problem::ApiError,
    route::Route,
};
use crate::state::AppState;
use ::database::tables::api_keys::{self, ApiKey};
use auth::{MadeApiKey, NewApiKey};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, Method, Uri},
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared_types::{Environment, Scope};
use utoipa::ToSchema;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, "/api/applications/{id}/api-keys", list),
        Route::granted(Method::POST, "/api/applications/{id}/api-keys", create),
        Route::granted(Method::POST, "/api/applications/{id}/api-keys/{keyId}/revoke", revoke),
    ]
}

/// An API key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyResource {
    id: String,
    application_id: String,
    environment: String,
    name: String,
    /// Roles and verbs.
    permissions: Vec<String>,
    /// Unix milliseconds.
    created_at: i64,
    /// Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<i64>,
    /// `rk_<env>_<id>_<secret>`; told only when the key is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl From<ApiKey> for ApiKeyResource {
    fn from(row: ApiKey) -> Self {
        Self {
            id: row.id,
            application_id: row.application_id,
            environment: row.environment,
            name: row.name,
            permissions: row.permissions,
            created_at: row.created_at,
            revoked_at: row.revoked_at,
            key: None,
        }
    }
}

impl From<MadeApiKey> for ApiKeyResource {
    fn from(made: MadeApiKey) -> Self {
        Self { key: Some(made.key), ..made.row.into() }
    }
}

/// A new API key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    #[schema(value_type = String, example = "development")]
    environment: Environment,
    name: String,
    /// Roles and verbs; `service` where absent.
    permissions: Option<Vec<String>>,
}

/// The application's API keys, revoked ones included.
#[utoipa::path(get, path = "/api/applications/{id}/api-keys", tag = "applications",
    params(("id" = String, Path), PageParams), responses((status = 200, body = Vec<ApiKeyResource>)))]
pub(super) async fn list(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let rows = api_keys::list(&state.pool, grant.scope().application(), page.after(), page.fetch()).await?;
    Ok(page.answer(&uri, rows, |row| &row.id, ApiKeyResource::from))
}

/// Makes an API key. Its text is told only now.
#[utoipa::path(post, path = "/api/applications/{id}/api-keys", tag = "applications", params(("id" = String, Path)),
    request_body = CreateApiKey, responses((status = 201, body = ApiKeyResource)))]
pub(super) async fn create(
    grant: Grant<permits::CreateKey>,
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Body<CreateApiKey>,
) -> Result<Response, ApiError> {
    check_text("name", &body.value.name, 200)?;
    let application = grant.scope().application();
    let route = format!("POST /api/applications/{application}/api-keys");
    let mut run = match idempotency::begin(&state, &grant, &route, &headers, &body.bytes).await? {
        Once::Replay(response) => return Ok(response),
        Once::Run(run) => run,
    };
    let scope = Scope::new(application.clone(), body.value.environment);
    let new = NewApiKey { name: body.value.name.trim().to_owned(), permissions: body.value.permissions };
    let made = state.authenticator.make_api_key(run.connection(), &scope, &new).await?;
    let response = run.created(json!(ApiKeyResource::from(made)), &["key"]).await?;
    state.authenticator.refresh().await?;
    Ok(response)
}

/// Revokes an API key and the tokens that come from it.
#[utoipa::path(post, path = "/api/applications/{id}/api-keys/{keyId}/revoke", tag = "applications",
    params(("id" = String, Path), ("keyId" = String, Path)),
    responses((status = 200, body = ApiKeyResource), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn revoke(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    segments: Segments<(String, String)>,
) -> Result<Json<ApiKeyResource>, ApiError> {
    let Segments((_, key_id)) = segments;
    Ok(Json(state.authenticator.revoke_api_key(grant.scope().application(), &key_id).await?.into()))
}
