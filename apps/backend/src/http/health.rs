//! Liveness, readiness and metrics.

use super::{problem::ApiError, route::Route};
use crate::state::AppState;
use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use database::{migrate, pool};
use event_log::{ALERT_SHARE, Condition};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// How long one part may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn routes() -> Vec<Route> {
    let probe = "probes have no credentials";
    vec![
        Route::open(Method::GET, "/health", probe, health),
        Route::open(Method::GET, "/ready", probe, ready),
        Route::open(Method::GET, "/metrics", "documented so: scrapers have no credentials", metrics),
        Route::open(
            Method::GET,
            "/api/metrics/prometheus",
            "documented so: scrapers have no credentials",
            metrics_documented,
        ),
    ]
}

/// That the process lives.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    status: &'static str,
}

/// Whether the process lives.
#[utoipa::path(get, path = "/health", tag = "operation", responses((status = 200, body = Health)))]
pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether requests can be served, and what is missing.
#[derive(Serialize, ToSchema)]
pub struct Readiness {
    /// `ready` or `not_ready`.
    status: &'static str,
    /// Each part.
    parts: Vec<Part>,
}

/// One part that is needed.
#[derive(Serialize, ToSchema)]
pub struct Part {
    /// `postgres`, `migrations`, `keys`, `server`, `event_log`, `redis` where it is used, and `documents` where they
    /// wait for PostgreSQL for long.
    name: &'static str,
    /// Whether it is there.
    ok: bool,
    /// What is missing, or will be, and the cure.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Whether requests can be served.
#[utoipa::path(get, path = "/ready", tag = "operation",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness, description = "what is missing")))]
pub(super) async fn ready(State(state): State<AppState>) -> Response {
    let mut parts = vec![
        postgres(&state).await,
        migrations(&state).await,
        keys(&state),
        server(&state),
        event_log(&state),
    ];
    parts.extend(log_servers(&state));
    let ok = parts.iter().all(|part| part.ok);
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { status: if ok { "ready" } else { "not_ready" }, parts })).into_response()
}

async fn postgres(state: &AppState) -> Part {
    let missing = match pool::ping(&state.pool, PATIENCE).await {
        Ok(()) => None,
        Err(_) => Some("the database does not answer; it is tried again".to_owned()),
    };
    Part { name: "postgres", ok: missing.is_none(), message: missing }
}

async fn migrations(state: &AppState) -> Part {
    let missing = match tokio::time::timeout(PATIENCE, migrate::pending(&state.pool)).await {
        Ok(Ok(0)) => None,
        Ok(Ok(pending)) => Some(format!("{pending} migrations are pending; run: realtime migrate latest")),
        Ok(Err(_)) | Err(_) => {
            Some("the migrations' state is not known while the database does not answer".to_owned())
        }
    };
    Part { name: "migrations", ok: missing.is_none(), message: missing }
}

fn keys(state: &AppState) -> Part {
    let missing = (!state.authenticator.is_fresh()).then(|| {
        "keys and revocations were not looked up for 10 s; nobody is let in until they are".to_owned()
    });
    Part { name: "keys", ok: missing.is_none(), message: missing }
}

fn server(state: &AppState) -> Part {
    let missing = state.is_draining().then(|| "the server is stopping".to_owned());
    Part { name: "server", ok: missing.is_none(), message: missing }
}

/// The servers that hold the event log, where that is not the database. Settings that can lose data are a warning.
fn log_servers(state: &AppState) -> Vec<Part> {
    let conditions = state.router.log().conditions();
    conditions.into_iter().map(|Condition { name, ok, message }| Part { name, ok, message }).collect()
}

/// Events can be read whatever the backlog, so that a full one does not take this instance out of service.
fn event_log(state: &AppState) -> Part {
    let share = state.metrics.log_backlog_ratio.get();
    let message = (share >= ALERT_SHARE).then(|| {
        let percent = (share * 100.0).round();
        format!(
            "side-effect readers are behind: {percent} % of the limit, at which appends are refused; see that workers \
             run, or raise LOG_BACKLOG_BYTES"
        )
    });
    Part { name: "event_log", ok: true, message }
}

/// All metrics, in Prometheus's text format.
#[utoipa::path(get, path = "/metrics", tag = "operation",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(state): State<AppState>) -> Result<Response, ApiError> {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((content_type, state.metrics.render()).into_response())
}

/// All metrics, on the documented path.
#[utoipa::path(get, path = "/api/metrics/prometheus", tag = "operation",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics_documented(state: State<AppState>) -> Result<Response, ApiError> {
    metrics(state).await
}
