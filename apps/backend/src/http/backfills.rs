//! `/api/database/mappings/{id}/backfill`: existing rows of a mapping's table as events.

use super::{
    access::mappings as permits,
    body::Segments,
    grant::Grant,
    mappings::{find, no_mapping},
    problem::ApiError,
    route::Route,
};
use crate::state::AppState;
use ::database::tables::cdc_backfills::{self, Backfill};
use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode},
};
use shared_types::{ErrorKind, MappingId, Problem, Scope};

const PATH: &str = "/api/database/mappings/{id}/backfill";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, PATH, get),
        Route::granted(Method::POST, PATH, start),
        Route::granted(Method::DELETE, PATH, cancel),
    ]
}

/// Sends the existing rows of the mapping's table as `database.snapshot` events, while its changes go on streaming.
#[utoipa::path(post, path = "/api/database/mappings/{id}/backfill", tag = "database",
    params(("id" = String, Path)),
    responses((status = 202, body = Value), (status = 404, description = "NOT_FOUND"),
        (status = 409, description = "BACKFILL_UNDER_WAY")))]
pub(super) async fn start(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
) -> Result<(StatusCode, Json<Backfill>), ApiError> {
    let mapping = find(&state, grant.scope(), &id).await?;
    if !mapping.active {
        let message = "the mapping is not followed: activate its subscription first";
        return Err(Problem::new(ErrorKind::Conflict, "MAPPING_INACTIVE", message).into());
    }
    let asked = cdc_backfills::request(&state.pool, grant.scope(), &mapping.id, grant.actor().name()).await;
    match asked {
        Ok(_) => {}
        Err(error) if error.violates("cdc_backfills_one_at_a_time") => {
            let message = "a backfill of this mapping is under way";
            return Err(Problem::new(ErrorKind::Conflict, "BACKFILL_UNDER_WAY", message).into());
        }
        // It went in between.
        Err(error) if error.violates("cdc_backfills_mapping") => return Err(no_mapping(&id).into()),
        Err(error) => return Err(error.into()),
    }
    Ok((StatusCode::ACCEPTED, Json(last(&state, grant.scope(), &id).await?)))
}

/// The mapping's last backfill with its progress.
#[utoipa::path(get, path = "/api/database/mappings/{id}/backfill", tag = "database",
    params(("id" = String, Path)),
    responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn get(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
) -> Result<Json<Backfill>, ApiError> {
    find(&state, grant.scope(), &id).await?;
    Ok(Json(last(&state, grant.scope(), &id).await?))
}

/// Ends the mapping's backfill where it is; what was sent stays sent.
#[utoipa::path(delete, path = "/api/database/mappings/{id}/backfill", tag = "database",
    params(("id" = String, Path)),
    responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn cancel(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
) -> Result<Json<Backfill>, ApiError> {
    if !cdc_backfills::cancel(&state.pool, grant.scope(), &MappingId::from_stored(id.as_str())).await? {
        let mapping = find(&state, grant.scope(), &id).await?;
        return Err(none(format!("no backfill of mapping {} is under way", mapping.id)).into());
    }
    Ok(Json(last(&state, grant.scope(), &id).await?))
}

async fn last(state: &AppState, scope: &Scope, id: &str) -> Result<Backfill, ApiError> {
    let found = cdc_backfills::last(&state.pool, scope, &MappingId::from_stored(id)).await?;
    Ok(found.ok_or_else(|| none(format!("mapping {id} has had no backfill yet: POST asks for one")))?)
}

fn none(message: String) -> Problem {
    Problem::new(ErrorKind::NotFound, "NOT_FOUND", message)
}
