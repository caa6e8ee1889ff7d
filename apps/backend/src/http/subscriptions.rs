//! `/api/database/subscriptions`: which mappings are followed.

use super::{
    access::mappings as permits,
    body::{Body, Params, Segments},
    cdc_control,
    grant::Grant,
    mappings::{find, no_mapping},
    page::PageParams,
    problem::ApiError,
    route::Route,
};
use crate::state::AppState;
use ::database::tables::cdc::{self, CdcSubscription};
use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode, Uri},
    response::Response,
};
use serde::Deserialize;
use serde_json::Value;
use shared_types::{Problem, Scope};
use utoipa::{IntoParams, ToSchema};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, "/api/database/subscriptions", list),
        Route::granted(Method::POST, "/api/database/subscriptions", create),
        Route::granted(Method::GET, "/api/database/subscriptions/logs", logs),
        Route::granted(Method::POST, "/api/database/subscriptions/{id}/activate", activate),
        Route::granted(Method::POST, "/api/database/subscriptions/{id}/deactivate", deactivate),
    ]
}

/// The subscriptions of the scope, by id.
#[utoipa::path(get, path = "/api/database/subscriptions", tag = "database", params(PageParams),
    responses((status = 200, body = Vec<Value>)))]
pub(super) async fn list(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let rows = cdc::subscriptions(&state.pool, grant.scope(), page.after(), page.fetch()).await?;
    Ok(page.answer(&uri, rows, |row| &row.id, |row| row))
}

/// Which mapping.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewSubscription {
    /// `map_…`.
    mapping_id: String,
}

/// Subscribes to a mapping, or answers the subscription that it has: one is made with every mapping.
#[utoipa::path(post, path = "/api/database/subscriptions", tag = "database", request_body = NewSubscription,
    responses((status = 201, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn create(
    grant: Grant<permits::Create>,
    State(state): State<AppState>,
    body: Body<NewSubscription>,
) -> Result<(StatusCode, Json<CdcSubscription>), ApiError> {
    let id = body.value.mapping_id;
    super::body::check_text("mappingId", &id, 512)?;
    let mapping = find(&state, grant.scope(), &id).await?;
    match cdc::subscribe(&state.pool, grant.scope(), &mapping.id).await {
        Ok(subscription) => Ok((StatusCode::CREATED, Json(subscription))),
        // It went in between.
        Err(error) if error.violates("cdc_subscriptions_mapping") => Err(no_mapping(&id).into()),
        Err(error) => Err(error.into()),
    }
}

/// Follows the mapping from now on; what is committed once its state is `live` is never missed.
#[utoipa::path(post, path = "/api/database/subscriptions/{id}/activate", tag = "database",
    params(("id" = String, Path)),
    responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn activate(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
) -> Result<Json<CdcSubscription>, ApiError> {
    set_active(&state, grant.scope(), &id, true).await
}

/// Follows the mapping no more.
#[utoipa::path(post, path = "/api/database/subscriptions/{id}/deactivate", tag = "database",
    params(("id" = String, Path)),
    responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn deactivate(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
) -> Result<Json<CdcSubscription>, ApiError> {
    set_active(&state, grant.scope(), &id, false).await
}

async fn set_active(
    state: &AppState,
    scope: &Scope,
    id: &str,
    active: bool,
) -> Result<Json<CdcSubscription>, ApiError> {
    let changed = cdc::set_active(&state.pool, scope, id, active).await?;
    Ok(Json(changed.ok_or_else(|| Problem::not_found("subscription", id))?))
}

/// Which events.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LogParams {
    /// `database.insert`, `database.update` or `database.delete`.
    event: Option<String>,
    /// How many, 1 to 500 (default 50).
    limit: Option<u32>,
    /// Where to go on: `X-Next-Cursor` of the page before.
    cursor: Option<String>,
}

/// What became of the row changes that mappings look at, the newest first; see `/api/database/cdc/events`.
#[utoipa::path(get, path = "/api/database/subscriptions/logs", tag = "database", params(LogParams),
    responses((status = 200, body = Vec<Value>)))]
pub(super) async fn logs(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Params(params): Params<LogParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let again = params.event.as_ref().map(|event| format!("&event={event}")).unwrap_or_default();
    let operation = params.event.map(|event| {
        let rule = || Problem::field("event", "must be database.insert, database.update or database.delete");
        let name = event.strip_prefix("database.").ok_or_else(rule)?;
        serde_json::from_value(Value::from(name)).map_err(|_| rule())
    });
    let query = ::database::tables::cdc_events::CdcEventQuery {
        operation: operation.transpose()?,
        ..Default::default()
    };
    let page = PageParams::new(params.limit, params.cursor).page()?;
    cdc_control::event_page(&state, grant.scope(), query, &page, &uri, &again).await
}
