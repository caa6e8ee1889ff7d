//! What holds for every request: its id, its time, panics, and the one shape of failures.

use super::{
    peer::ClientAddress,
    problem::{ApiError, of_status},
};
use crate::state::{AppState, HttpSettings};
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures::FutureExt as _;
use shared_types::{Problem, ids::new_id};
use std::{panic::AssertUnwindSafe, time::Instant};
use tower::ServiceBuilder;
use tower_http::cors::{AllowOrigin, CorsLayer};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Puts the layers around `router`. All at once: each time costs every request a copy of what it goes around.
pub(super) fn around(router: Router, state: &AppState) -> Router {
    let layers = ServiceBuilder::new()
        .layer(middleware::from_fn_with_state(state.clone(), outermost))
        .layer(cors(&state.http))
        .layer(DefaultBodyLimit::max(state.http.body_bytes));
    router.layer(layers)
}

/// The answer where no route matches.
pub(super) async fn no_route() -> Response {
    StatusCode::NOT_FOUND.into_response()
}

/// The first to see a request and the last to see its answer.
async fn outermost(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let settings = &state.http;
    let id = request_id(&request);
    let header = HeaderValue::from_str(&id).expect("checked or made of letters and digits");
    request.headers_mut().insert(REQUEST_ID, header.clone());
    if let Some(client) =
        ClientAddress::find(request.extensions(), request.headers(), &settings.trusted_proxies)
    {
        request.extensions_mut().insert(client);
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let begun = Instant::now();
    let answered =
        AssertUnwindSafe(tokio::time::timeout(settings.timeout, next.run(request))).catch_unwind().await;
    let response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            let problem =
                Problem::new(shared_types::ErrorKind::Unavailable, "TIMEOUT", "the request took too long");
            ApiError::from(problem).into_response()
        }
        Err(_) => {
            tracing::error!(request.id = %id, http.method = %method, http.path = %path, "handler panicked");
            ApiError::from(Problem::internal()).into_response()
        }
    };
    let mut response = shaped(response, &id, settings.body_bytes);
    response.headers_mut().insert(REQUEST_ID, header);
    tracing::debug!(
        request.id = %id, http.method = %method, http.path = %path, http.status = response.status().as_u16(),
        duration_ms = begun.elapsed().as_millis() as u64, "answered request"
    );
    response
}

/// The caller's own id where it is one, so that logs of both sides meet.
fn request_id(request: &Request) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let fits = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    given.filter(fits).map_or_else(|| new_id("req"), str::to_owned)
}

/// Writes a failure in the one shape; also one that the framework answered with a bare status, where a body may have
/// `body_bytes`.
fn shaped(mut response: Response, id: &str, body_bytes: usize) -> Response {
    let failure = response.extensions_mut().remove::<ApiError>().or_else(|| {
        let json =
            response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes() == b"application/json");
        if json { None } else { of_status(response.status(), body_bytes) }
    });
    let Some(failure) = failure else { return response };
    if response.status().is_server_error() {
        tracing::warn!(request.id = %id, code = failure.problem().code, "request failed");
    }
    let allow = response.headers().get(header::ALLOW).cloned();
    let cors: Vec<_> = response
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("access-control-") || *name == header::VARY)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut shaped = failure.render(Some(id));
    shaped.headers_mut().extend(cors);
    if let Some(allow) = allow {
        shaped.headers_mut().insert(header::ALLOW, allow);
    }
    shaped
}

fn cors(settings: &HttpSettings) -> CorsLayer {
    let allowed = settings.cors.clone();
    let origin =
        AllowOrigin::predicate(move |origin, _| origin.to_str().is_ok_and(|origin| allowed.allows(origin)));
    let own = |name| HeaderName::from_static(name);
    CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            own("x-session-token"),
            own("x-application-id"),
            own("x-environment"),
            own("x-csrf-token"),
            own("x-durability"),
            own("x-request-id"),
            own("idempotency-key"),
            own("last-event-id"),
        ])
        .expose_headers([
            REQUEST_ID,
            own("x-next-cursor"),
            header::LINK,
            header::RETRY_AFTER,
            own("idempotency-replayed"),
        ])
        .max_age(std::time::Duration::from_secs(600))
}
