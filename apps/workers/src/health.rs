//! What an orchestrator and Prometheus ask a worker process: `/health`, `/ready` and `/metrics`.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use database::pool;
use platform::Platform;
use serde_json::json;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(2);

/// A running health server.
pub struct HealthServer {
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// Serves health and metrics on `listener`.
pub fn serve(platform: Arc<Platform>, listener: TcpListener) -> HealthServer {
    let app = Router::new()
        .route("/health", get(async || Json(json!({ "status": "ok" }))))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(platform);
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let serving = tokio::spawn(async move {
        if let Err(error) =
            axum::serve(listener, app).with_graceful_shutdown(stopping.cancelled_owned()).await
        {
            tracing::error!(%error, "the health server ended");
        }
    });
    HealthServer { stop, serving }
}

impl HealthServer {
    /// Answers what was asked and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(TIMEOUT, self.serving).await;
    }
}

async fn ready(State(platform): State<Arc<Platform>>) -> Response {
    let mut missing = Vec::new();
    if platform.draining.load(Ordering::Acquire) {
        missing.push("stopping");
    }
    if pool::ping(&platform.pool, TIMEOUT).await.is_err() {
        missing.push("postgres");
    } else if !platform.is_migrated() {
        missing.push("migrations");
    }
    let conditions = platform.log.conditions();
    missing.extend(conditions.iter().filter(|condition| !condition.ok).map(|condition| condition.name));
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": missing.is_empty(), "missing": missing }))).into_response()
}

async fn metrics(State(platform): State<Arc<Platform>>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], platform.metrics.render()).into_response()
}
