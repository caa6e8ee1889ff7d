//! `/api/services`: the registered namespaces of documents.

use super::{
    access::services as permits,
    body::{Body, Params, Segments, check_text},
    grant::Grant,
    idempotency::{self, Once},
    page::PageParams,
    problem::{ApiError, database},
    route::Route,
};
use crate::state::AppState;
use ::database::{DatabaseError, tables::services};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use document_store::ServiceName;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use shared_types::{ErrorKind, Problem, ids::new_id};
use utoipa::ToSchema;

/// The longest description, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 2_000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::granted(Method::GET, "/api/services", list),
        Route::granted(Method::POST, "/api/services", create),
        Route::granted(Method::GET, "/api/services/{id}", get),
        Route::granted(Method::PATCH, "/api/services/{id}", update),
        Route::granted(Method::DELETE, "/api/services/{id}", delete),
    ]
}

/// A registered service.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceResource {
    id: String,
    name: String,
    description: Option<String>,
    application_id: String,
    /// ISO 8601.
    created_at: String,
    /// ISO 8601.
    updated_at: String,
}

impl From<services::Service> for ServiceResource {
    fn from(row: services::Service) -> Self {
        Self {
            id: row.id,
            name: row.name,
            description: row.description,
            application_id: row.application_id,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// A page of services.
#[derive(Serialize, ToSchema)]
pub struct Services {
    /// By name.
    services: Vec<ServiceResource>,
}

/// A service to register.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateService {
    /// `^[a-z][a-z0-9_-]*$`, at most 100 bytes; unique in its application.
    name: String,
    /// What its documents are.
    description: Option<String>,
}

/// What to change of a service.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateService {
    /// Its documents stay under the name that they were written under.
    name: Option<String>,
    /// null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
}

/// Tells null from nothing.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The registered services, by name.
#[utoipa::path(get, path = "/api/services", tag = "services", params(PageParams),
    responses((status = 200, body = Services)))]
pub(super) async fn list(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let application = grant.scope().application();
    let rows = services::list(&state.pool, application, page.after(), page.fetch()).await?;
    let (rows, next) = page.cut(rows, |row| &row.name);
    let services = rows.into_iter().map(ServiceResource::from).collect();
    Ok(page.with_next(&uri, "", next, Json(Services { services }).into_response()))
}

/// Registers a service, in all environments of the application.
#[utoipa::path(post, path = "/api/services", tag = "services", request_body = CreateService,
    responses((status = 201, body = ServiceResource), (status = 409, description = "CONFLICT: the name is taken")))]
pub(super) async fn create(
    grant: Grant<permits::Create>,
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Body<CreateService>,
) -> Result<Response, ApiError> {
    let CreateService { name, description } = &body.value;
    let name = ServiceName::parse("name", name)?;
    check_description(description.as_deref())?;
    let mut run =
        match idempotency::begin(&state, &grant, "POST /api/services", &headers, &body.bytes).await? {
            Once::Replay(response) => return Ok(response),
            Once::Run(run) => run,
        };
    let (application, id) = (grant.scope().application(), new_id("svc"));
    let row =
        services::insert(run.connection(), application, &id, name.as_str(), description.as_deref()).await;
    let row = row.map_err(|error| refused(error, name.as_str()))?;
    run.created(json!(ServiceResource::from(row)), &[]).await
}

/// One service.
#[utoipa::path(get, path = "/api/services/{id}", tag = "services", params(("id" = String, Path)),
    responses((status = 200, body = ServiceResource), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn get(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
) -> Result<Json<ServiceResource>, ApiError> {
    let row = services::find(&state.pool, grant.scope().application(), &id).await?;
    Ok(Json(row.ok_or_else(|| no_service(&id))?.into()))
}

/// Changes what is given.
#[utoipa::path(patch, path = "/api/services/{id}", tag = "services", params(("id" = String, Path)),
    request_body = UpdateService, responses((status = 200, body = ServiceResource),
        (status = 404, description = "NOT_FOUND"), (status = 409, description = "CONFLICT: the name is taken")))]
pub(super) async fn update(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
    body: Body<UpdateService>,
) -> Result<Json<ServiceResource>, ApiError> {
    let UpdateService { name, description } = body.value;
    let name = name.map(|name| ServiceName::parse("name", &name)).transpose()?;
    let name = name.as_ref().map(ServiceName::as_str);
    let description = description.as_ref().map(Option::as_deref);
    check_description(description.flatten())?;
    let row = services::update(&state.pool, grant.scope().application(), &id, name, description).await;
    let row = row.map_err(|error| refused(error, name.unwrap_or_default()))?;
    Ok(Json(row.ok_or_else(|| no_service(&id))?.into()))
}

/// Removes a service from the registry. Its documents stay.
#[utoipa::path(delete, path = "/api/services/{id}", tag = "services", params(("id" = String, Path)),
    responses((status = 204, description = "removed"), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn delete(
    grant: Grant<permits::Delete>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
) -> Result<StatusCode, ApiError> {
    match services::delete(&state.pool, grant.scope().application(), &id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_service(&id).into()),
    }
}

fn check_description(description: Option<&str>) -> Result<(), Problem> {
    description.map_or(Ok(()), |text| check_text("description", text, MAX_DESCRIPTION_BYTES))
}

fn refused(error: DatabaseError, name: &str) -> ApiError {
    if error.violates("services_name") {
        let message = format!("name: the service {name} exists already");
        return Problem::new(ErrorKind::Conflict, "CONFLICT", message).into();
    }
    database(error)
}

fn no_service(id: &str) -> Problem {
    Problem::not_found("service", id)
}
