//! The REST API: one file a resource, thin over the rules of `auth`, `topic-registry` and `database`.
//!
//! Owns routes, extractors, the shape of answers and failures. Requests enter by [`api`]; a handler gets its scope
//! and actor only from [`grant::Grant`], whose construction is the authorization.

pub mod access;
mod account;
mod api_keys;
mod application_config;
mod applications;
mod backfills;
mod body;
mod cdc_control;
pub mod credentials;
mod documentation;
mod documents;
mod events;
pub mod grant;
mod health;
mod idempotency;
mod keys;
mod layers;
mod mapping_versions;
mod mappings;
mod outbox;
mod page;
mod peer;
mod preview;
mod problem;
pub mod route;
pub mod security;
mod services;
mod socket;
mod subscriptions;
mod tokens;
mod topics;

pub use documentation::openapi;
pub use peer::ClientAddress;
pub use problem::{ApiError, ApiProblem};

use crate::state::AppState;
use axum::Router;
use route::Route;
use utoipa_swagger_ui::{Config, SwaggerUi};

/// Every route of the REST API with what it asks for.
pub fn routes() -> Vec<Route> {
    [
        health::routes(),
        documentation::routes(),
        tokens::routes(),
        account::routes(),
        applications::routes(),
        api_keys::routes(),
        keys::routes(),
        topics::routes(),
        events::routes(),
        documents::routes(),
        services::routes(),
        mappings::routes(),
        mapping_versions::routes(),
        subscriptions::routes(),
        backfills::routes(),
        cdc_control::routes(),
        outbox::routes(),
        socket::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The REST API as a router, with everything that holds for all routes.
pub fn api(state: AppState) -> Router {
    app(state, Router::new())
}

/// The REST API together with `others` (gateways, pages), under the same layers.
pub fn app(state: AppState, others: Router) -> Router {
    let docs = SwaggerUi::new("/api/docs").config(Config::from("/api/openapi.json"));
    let router = Route::router(routes())
        .merge(docs)
        .with_state(state.clone())
        .merge(others)
        .fallback(layers::no_route);
    layers::around(router, &state)
}
