//! `/api/admin/keys`: an application's signing keys.

use super::{
    access::keys as permits,
    body::{Params, Segments},
    grant::Grant,
    idempotency::{self, Once},
    page::PageParams,
    problem::ApiError,
    route::Route,
};
use crate::state::AppState;
use ::database::tables::signing_keys;
use auth::MadeSigningKey;
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, Method, Uri},
    response::Response,
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, "/api/admin/keys", list),
        Route::granted(Method::POST, "/api/admin/keys", create),
        Route::granted(Method::POST, "/api/admin/keys/{id}/rotate", rotate),
        Route::granted(Method::POST, "/api/admin/keys/{id}/deactivate", deactivate),
        Route::granted(Method::DELETE, "/api/admin/keys/{id}", delete),
    ]
}

/// A signing key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyResource {
    /// The `kid` of the tokens that it signs.
    key_id: String,
    /// `HS256`.
    algorithm: String,
    /// Whether it signs; an inactive one only verifies what it signed.
    active: bool,
    /// Unix milliseconds.
    created_at: i64,
    /// Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    deactivated_at: Option<i64>,
    /// Told only when the key is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl From<signing_keys::SigningKey> for KeyResource {
    fn from(row: signing_keys::SigningKey) -> Self {
        Self {
            key_id: row.key_id,
            algorithm: row.algorithm,
            active: row.active,
            created_at: row.created_at,
            deactivated_at: row.deactivated_at,
            secret: None,
        }
    }
}

impl From<MadeSigningKey> for KeyResource {
    fn from(made: MadeSigningKey) -> Self {
        Self { secret: Some(made.secret), ..made.row.into() }
    }
}

/// The application's signing keys.
#[utoipa::path(get, path = "/api/admin/keys", tag = "keys", params(PageParams),
    responses((status = 200, body = Vec<KeyResource>)))]
pub(super) async fn list(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let rows =
        signing_keys::list(&state.pool, grant.scope().application(), page.after(), page.fetch()).await?;
    Ok(page.answer(&uri, rows, |row| &row.key_id, KeyResource::from))
}

/// Makes an active signing key. Its secret is told only now.
#[utoipa::path(post, path = "/api/admin/keys", tag = "keys", responses((status = 201, body = KeyResource)))]
pub(super) async fn create(
    grant: Grant<permits::Create>,
    State(state): State<AppState>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut run = match idempotency::begin(&state, &grant, "POST /api/admin/keys", &headers, b"").await? {
        Once::Replay(response) => return Ok(response),
        Once::Run(run) => run,
    };
    let application = grant.scope().application();
    let made = state.authenticator.make_signing_key(run.connection(), application).await?;
    let response = run.created(json!(KeyResource::from(made)), &["secret"]).await?;
    state.authenticator.refresh().await?;
    Ok(response)
}

/// Makes a new key and deactivates this one, both or neither.
#[utoipa::path(post, path = "/api/admin/keys/{id}/rotate", tag = "keys", params(("id" = String, Path)),
    responses((status = 201, body = KeyResource), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn rotate(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    headers: HeaderMap,
    Segments(id): Segments<String>,
) -> Result<Response, ApiError> {
    let route = format!("POST /api/admin/keys/{id}/rotate");
    let mut run = match idempotency::begin(&state, &grant, &route, &headers, b"").await? {
        Once::Replay(response) => return Ok(response),
        Once::Run(run) => run,
    };
    let application = grant.scope().application();
    let made = state.authenticator.rotate_signing_key(run.connection(), application, &id).await?;
    let response = run.created(json!(KeyResource::from(made)), &["secret"]).await?;
    state.authenticator.refresh().await?;
    Ok(response)
}

/// Makes a key one that only verifies what it signed.
#[utoipa::path(post, path = "/api/admin/keys/{id}/deactivate", tag = "keys", params(("id" = String, Path)),
    responses((status = 200, body = KeyResource), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn deactivate(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
) -> Result<Json<KeyResource>, ApiError> {
    Ok(Json(state.authenticator.deactivate_signing_key(grant.scope().application(), &id).await?.into()))
}

/// Removes a key: what it signed is refused.
#[utoipa::path(delete, path = "/api/admin/keys/{id}", tag = "keys", params(("id" = String, Path)),
    responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn delete(
    grant: Grant<permits::Delete>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
) -> Result<Json<Value>, ApiError> {
    state.authenticator.delete_signing_key(grant.scope().application(), &id).await?;
    Ok(Json(json!({ "deleted": true })))
}
