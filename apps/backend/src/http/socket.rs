//! `/api/socket`: the connections of this server.

use super::{access::socket as permits, grant::Grant, route::Route};
use crate::state::AppState;
use axum::{Json, extract::State, http::Method};
use serde::Serialize;
use std::sync::atomic::Ordering;
use utoipa::ToSchema;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::granted(Method::GET, "/api/socket/connections", connections)]
}

/// How many connections there are.
#[derive(Serialize, ToSchema)]
pub struct ConnectionCount {
    /// The connections of this process.
    count: usize,
}

/// How many connections this process has.
#[utoipa::path(get, path = "/api/socket/connections", tag = "socket",
    responses((status = 200, body = ConnectionCount)))]
pub(super) async fn connections(
    _grant: Grant<permits::Read>,
    State(state): State<AppState>,
) -> Json<ConnectionCount> {
    Json(ConnectionCount { count: state.connections.load(Ordering::Relaxed) })
}
