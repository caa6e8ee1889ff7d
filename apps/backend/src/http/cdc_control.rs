//! `/api/database/cdc`: how change data capture stands, what became of row changes, and whether it is to run.

use super::{
    access::mappings as permits,
    application_config::network,
    body::Params,
    grant::Grant,
    page::{Page, PageParams},
    problem::ApiError,
    route::Route,
};
use crate::state::AppState;
use ::cdc::{
    Manage, TargetUrl,
    preflight::{Finding, Preflight, Severity},
};
use ::database::tables::{
    applications,
    cdc::{self, MappingStatus, ReaderStatus},
    cdc_events::{self, CdcEventQuery, Outcome},
    installation,
    mappings::{self, Mapping},
};
use axum::{
    Json,
    extract::State,
    http::{Method, Uri},
    response::Response,
};
use outbound::Policy;
use serde::Deserialize;
use serde_json::{Value, json};
use shared_types::{Environment, Operation, Problem, Scope};
use std::fmt::Write as _;
use utoipa::IntoParams;

/// The application that `CDC_DATABASE_URL` is for.
const DEFAULT_APPLICATION: &str = "app_default";
/// A status that nobody has renewed for this long is nobody's.
const STALE_MS: i64 = 10_000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, "/api/database/cdc/status", status),
        Route::granted(Method::GET, "/api/database/cdc/events", events),
        Route::granted(Method::POST, "/api/database/cdc/start", start),
        Route::granted(Method::POST, "/api/database/cdc/stop", stop),
        Route::granted(Method::POST, "/api/database/cdc/check", check),
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
    let reader = cdc::status(&state.pool, scope).await?;
    let configured = target(state, scope).await?.is_some();
    let mut body = match &reader {
        Some(reader) => serde_json::to_value(reader).map_err(|_| Problem::internal())?,
        None => json!({}),
    };
    body["desired"] = json!(if desired { "running" } else { "stopped" });
    body["configured"] = json!(configured);
    let active = mappings::active(&state.pool, std::slice::from_ref(scope)).await?;
    body["mappings"] = json!(standing(reader.as_ref(), &active));
    if reader.is_none() || !desired {
        body["state"] = json!("stopped");
    }
    if let Some(trouble) = unread(configured, desired, reader.as_ref()) {
        body["state"] = json!("stopped");
        body["rowsPerSecond"] = json!(0.0);
        for (name, text) in ["code", "message", "cure"].into_iter().zip(trouble) {
            body[name] = json!(text);
        }
    }
    Ok(Json(body))
}

/// How each active mapping stands: what the reader has not said anything of yet is pending.
fn standing(reader: Option<&ReaderStatus>, active: &[Mapping]) -> Vec<MappingStatus> {
    let said = reader.map(|reader| reader.mappings.as_slice()).unwrap_or_default();
    let of = |mapping: &Mapping| {
        let (mapping_id, table) = (mapping.id.to_string(), mapping.definition.table.to_string());
        let found = said.iter().find(|status| status.mapping_id == mapping_id && status.table == table);
        found.cloned().unwrap_or_else(|| MappingStatus { mapping_id, table, ..MappingStatus::default() })
    };
    active.iter().map(of).collect()
}

/// Why nobody reads, where nobody who reads could say so: code, message, cure.
fn unread(configured: bool, desired: bool, reader: Option<&ReaderStatus>) -> Option<[&'static str; 3]> {
    if !configured {
        return Some([
            "NOT_CONFIGURED",
            "no CDC database configured",
            "set config.cdc.<environment>.databaseUrl in the application's settings",
        ]);
    }
    // The reader itself says so, and more of it, within a second.
    if !desired && reader.and_then(|reader| reader.code.as_deref()) != Some("STOPPED") {
        return Some(["STOPPED", "it was told to stop", "POST /api/database/cdc/start"]);
    }
    let stale = reader.is_none_or(|reader| event_router::now_ms() - reader.updated_at > STALE_MS);
    (desired && stale).then_some([
        "NO_WORKER",
        "no process that hosts change data capture has said anything for a while",
        "see that workers run (or `realtime dev`), that the platform's database takes writes, and that Redis answers where \
         it is used; changes wait in the target's log",
    ])
}

/// A scope's target: its URL, or the reason why it is sealed; whether it may be managed, and where it may lead.
struct Target {
    url: Result<String, String>,
    manage: Manage,
    network: Policy,
}

async fn target(state: &AppState, scope: &Scope) -> Result<Option<Target>, ApiError> {
    let application = applications::find(&state.pool, scope.application()).await?;
    let config = application.map(|row| row.config.0).unwrap_or_default();
    if let Some(stored) = config.cdc.get(&scope.environment()) {
        let url = applications::open_target(&state.sealer, scope, stored).map_err(|e| e.to_string());
        let manage = ::cdc::manage(scope, stored.manage_tables);
        let network = network(state, &config, scope.environment());
        return Ok(Some(Target { url, manage, network }));
    }
    let own =
        scope.application().as_str() == DEFAULT_APPLICATION && scope.environment() == state.http.environment;
    let url = state.http.cdc_database_url.clone().filter(|_| own);
    // Whoever started the process may reach what they like.
    Ok(url.map(|url| Target { url: Ok(url), manage: ::cdc::manage(scope, None), network: Policy::Any }))
}

/// Which changes.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventParams {
    /// Only of this table, as the mapping writes it.
    table: Option<String>,
    /// Only `insert`, `update` or `delete`.
    #[param(value_type = Option<String>)]
    operation: Option<Operation>,
    /// Only `routed`, `filtered` or `failed`.
    #[param(value_type = Option<String>)]
    outcome: Option<Outcome>,
    /// Only those that this mapping looked at.
    mapping_id: Option<String>,
    /// How many, 1 to 500 (default 50).
    limit: Option<u32>,
    /// Where to go on: `X-Next-Cursor` of the page before.
    cursor: Option<String>,
}

/// Row changes that a mapping looked at, and what became of each, the newest first.
#[utoipa::path(get, path = "/api/database/cdc/events", tag = "database", params(EventParams),
    responses((status = 200, body = Vec<Value>)))]
pub(super) async fn events(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Params(params): Params<EventParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    for (name, text) in [("table", &params.table), ("mappingId", &params.mapping_id)] {
        if let Some(text) = text {
            super::body::check_text(name, text, 512)?;
        }
    }
    let page = PageParams::new(params.limit, params.cursor).page()?;
    let query = CdcEventQuery {
        table: params.table,
        operation: params.operation,
        outcome: params.outcome,
        mapping: params.mapping_id,
        before: None,
    };
    let again = again(&query);
    event_page(&state, grant.scope(), query, &page, &uri, &again).await
}

/// A page of row changes; `again` are the query's other parameters.
pub(super) async fn event_page(
    state: &AppState,
    scope: &Scope,
    query: CdcEventQuery,
    page: &Page,
    uri: &Uri,
    again: &str,
) -> Result<Response, ApiError> {
    let invalid = || Problem::field("cursor", "must be the X-Next-Cursor of the page before");
    let before = page.after().map(|text| text.parse::<i64>().map_err(|_| invalid())).transpose()?;
    let query = CdcEventQuery { before, ..query };
    let rows = cdc_events::list(&state.pool, scope, &query, page.fetch()).await?;
    let keyed: Vec<_> = rows.into_iter().map(|row| (row.id.to_string(), row)).collect();
    let (rows, next) = page.cut(keyed, |(key, _)| key);
    let body: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
    let response = axum::response::IntoResponse::into_response(Json(body));
    Ok(page.with_next(uri, again, next, response))
}

/// The filters of `query` as they are asked for again.
fn again(query: &CdcEventQuery) -> String {
    let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let mut parameters = String::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            // Writing into a text cannot fail.
            let _ = write!(parameters, "&{name}={}", encoded(&value));
        }
    };
    add("table", query.table.clone());
    add("operation", query.operation.map(|operation| operation.to_string()));
    add("outcome", query.outcome.map(|outcome| outcome.as_str().to_owned()));
    add("mappingId", query.mapping.clone());
    parameters
}

/// Looks at everything that would keep the scope's target from being read, without changing anything:
/// `{ ok, findings: [{ code, severity, message, cure?, sql?, table? }] }`.
#[utoipa::path(post, path = "/api/database/cdc/check", tag = "database", responses((status = 200, body = Value)))]
pub(super) async fn check(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
) -> Result<Json<Value>, ApiError> {
    let scope = grant.scope();
    let findings = match target(&state, scope).await? {
        None => {
            let cure = "set config.cdc.<environment>.databaseUrl in the application's settings";
            vec![Finding::new(Severity::Error, "NOT_CONFIGURED", "no CDC database configured", cure)]
        }
        Some(Target { url: Err(reason), .. }) => {
            let cure = "start with the REALTIME_SECRET_KEY under which it was set, or set the URL again";
            let message = format!("the target's URL cannot be opened: {reason}");
            vec![Finding::new(Severity::Error, "TARGET_SEALED", message, cure)]
        }
        Some(Target { url: Ok(url), manage, network }) => match url.parse::<TargetUrl>() {
            Err(problem) => {
                let cure = "correct the URL in the application's settings";
                vec![Finding::new(Severity::Error, "TARGET_URL", problem.to_string(), cure)]
            }
            Ok(url) => {
                let manage =
                    if forbidden_by_others(&state, scope, &url).await? { Manage::Forbidden } else { manage };
                look(&state, scope, &url.within(network), manage).await?
            }
        },
    };
    let ok = findings.iter().all(|finding| finding.severity != Severity::Error);
    Ok(Json(json!({ "ok": ok, "findings": findings })))
}

/// Whether another application or environment names the same database and forbids to manage it: one that does is enough.
async fn forbidden_by_others(state: &AppState, scope: &Scope, url: &TargetUrl) -> Result<bool, ApiError> {
    let targets = ::cdc::application_targets(state.pool.clone(), state.sealer.clone(), true)().await?;
    let stopped = cdc::stopped(&state.pool).await?;
    Ok(targets.iter().any(|other| {
        let is_same = || other.url.as_ref().ok()?.parse().ok().map(|other| url.is_of_database(&other));
        other.manage == Manage::Forbidden
            && other.scope != *scope
            && !stopped.contains(&other.scope)
            && is_same().unwrap_or(false)
    }))
}

async fn look(
    state: &AppState,
    scope: &Scope,
    url: &TargetUrl,
    manage: Manage,
) -> Result<Vec<Finding>, ApiError> {
    let mappings = mappings::active(&state.pool, std::slice::from_ref(scope)).await?;
    let forbidden = match scope.environment() {
        Environment::Development => None,
        Environment::Staging | Environment::Production => Some(cdc::own_identity(&state.pool).await?),
    };
    let installation = installation::id(&state.pool).await?;
    let preflight = Preflight {
        url,
        slot_prefix: &state.http.cdc_slot_name,
        installation: &installation,
        manage,
        forbidden,
        mappings: &mappings,
    };
    Ok(preflight.run().await)
}
