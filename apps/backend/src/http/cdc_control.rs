//! `/api/database/cdc`: how change data capture stands, and whether it is to run.

use super::{access::mappings as permits, grant::Grant, problem::ApiError, route::Route};
use crate::state::AppState;
use ::database::tables::cdc;
use axum::{Json, extract::State, http::Method};
use serde_json::{Value, json};
use shared_types::{Problem, Scope};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, "/api/database/cdc/status", status),
        Route::granted(Method::POST, "/api/database/cdc/start", start),
        Route::granted(Method::POST, "/api/database/cdc/stop", stop),
    ]
}

/// How the reader of the scope's target stands: slot, lag, position, rate, and each mapping.
#[utoipa::path(get, path = "/api/database/cdc/status", tag = "database", responses((status = 200, body = Value)))]
pub(super) async fn status(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
) -> Result<Json<Value>, ApiError> {
    answer(&state, grant.scope()).await
}

/// Says that the scope's target is to be read.
#[utoipa::path(post, path = "/api/database/cdc/start", tag = "database", responses((status = 200, body = Value)))]
pub(super) async fn start(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
) -> Result<Json<Value>, ApiError> {
    set_desired(&state, grant.scope(), true).await
}

/// Says that the scope's target is not to be read; its slot keeps the position.
#[utoipa::path(post, path = "/api/database/cdc/stop", tag = "database", responses((status = 200, body = Value)))]
pub(super) async fn stop(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
) -> Result<Json<Value>, ApiError> {
    set_desired(&state, grant.scope(), false).await
}

async fn set_desired(state: &AppState, scope: &Scope, running: bool) -> Result<Json<Value>, ApiError> {
    cdc::set_desired(&state.pool, scope, running).await?;
    answer(state, scope).await
}

async fn answer(state: &AppState, scope: &Scope) -> Result<Json<Value>, ApiError> {
    let desired = cdc::desired(&state.pool, scope).await?;
    let configured = state
        .authenticator
        .application(scope.application())
        .is_some_and(|config| config.cdc.contains_key(&scope.environment()));
    let reader = cdc::status(&state.pool, scope).await?;
    let mut body = match &reader {
        Some(reader) => serde_json::to_value(reader).map_err(|_| Problem::internal())?,
        None => json!({}),
    };
    body["desired"] = json!(if desired { "running" } else { "stopped" });
    body["configured"] = json!(configured);
    if reader.is_none() || !desired {
        body["state"] = json!("stopped");
    }
    Ok(Json(body))
}
