//! `/api/sync/{service}/documents`: documents.

mod creating;
mod shapes;

use super::{
    access::documents as permits,
    body::{Body, Params, Segments},
    grant::Grant,
    page::PageParams,
    problem::ApiError,
    route::Route,
};
use crate::state::AppState;
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, Method, Uri},
    response::{IntoResponse, Response},
};
pub(super) use creating::__path_create;
pub(super) use creating::create;
use document_store::{
    DocumentId, DocumentKey, DocumentQuery, Durability, RevisionQuery, ServiceKey, ServiceName,
};
use shapes::{
    DeleteParams, DocumentResource, ListParams, MergeDocument, MutateDocument, ReplaceDocument,
    RestoreDocument, RevisionResource, data,
};
use shared_types::{Problem, rights::Verb};
use sync::{Mutations, WriteOptions};

/// Bytes of one page's documents.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

pub(super) fn routes() -> Vec<Route> {
    const DOCUMENTS: &str = "/api/sync/{service}/documents";
    const DOCUMENT: &str = "/api/sync/{service}/documents/{id}";
    vec![
        Route::granted(Method::GET, DOCUMENTS, list),
        Route::granted(Method::POST, DOCUMENTS, create),
        Route::granted(Method::GET, DOCUMENT, get),
        Route::granted(Method::PUT, DOCUMENT, replace),
        Route::granted(Method::DELETE, DOCUMENT, delete),
        Route::granted(Method::PATCH, "/api/sync/{service}/documents/{id}/merge", merge),
        Route::granted(Method::POST, "/api/sync/{service}/documents/{id}/mutate", mutate),
        Route::granted(Method::GET, "/api/sync/{service}/documents/{id}/revisions", revisions),
        Route::granted(Method::POST, "/api/sync/{service}/documents/{id}/restore", restore),
    ]
}

/// The document that a path names, where the caller holds `verb` on it.
fn key<P: super::access::Permit>(
    grant: &Grant<P>,
    verb: Verb,
    service: &str,
    id: &str,
) -> Result<DocumentKey, Problem> {
    let service = ServiceName::parse("service", service)?;
    let id = DocumentId::parse(id)?;
    grant.demand(verb, &format!("sync.{service}.{id}"))?;
    Ok(DocumentKey { scope: grant.scope().clone(), service, id })
}

/// What `X-Durability` asks for.
fn durability(headers: &HeaderMap) -> Result<Option<Durability>, Problem> {
    let Some(value) = headers.get("x-durability") else { return Ok(None) };
    match value.as_bytes() {
        b"committed" => Ok(Some(Durability::Committed)),
        b"acknowledged" => Ok(Some(Durability::Acknowledged)),
        _ => Err(Problem::field("X-Durability", "must be committed or acknowledged")),
    }
}

fn options(headers: &HeaderMap, expected_revision: Option<u64>) -> Result<WriteOptions, Problem> {
    Ok(WriteOptions { expected_revision, expires_at: None, durability: durability(headers)? })
}

/// The documents of a service, by id.
///
/// A page also ends where it would exceed 4 MiB of data.
#[utoipa::path(get, path = "/api/sync/{service}/documents", tag = "documents",
    params(("service" = String, Path), ListParams), responses((status = 200, body = Vec<DocumentResource>)))]
pub(super) async fn list(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Segments(service): Segments<String>,
    Params(params): Params<ListParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let ListParams { limit, cursor, prefix } = params;
    let page = PageParams::new(limit, cursor).page()?;
    let service = ServiceName::parse("service", &service)?;
    let after = page.after().map(DocumentId::parse).transpose();
    let after =
        after.map_err(|_| Problem::field("cursor", "must be the X-Next-Cursor of the page before"))?;
    // What begins with something that no id may hold is nothing; as a rule of its own it is easier to understand.
    let prefix = prefix.filter(|prefix| !prefix.is_empty());
    if let Some(prefix) = &prefix {
        DocumentId::parse(prefix).or_else(|problem| match prefix.as_str() {
            "." | ".." => Ok(DocumentId::from_stored(prefix.as_str())),
            _ => Err(Problem::field("prefix", problem.message.trim_start_matches("id: "))),
        })?;
    }
    grant
        .demand(Verb::DocumentsRead, &format!("sync.{service}.{}*", prefix.as_deref().unwrap_or_default()))?;
    let again = prefix.as_ref().map(|prefix| format!("&prefix={prefix}")).unwrap_or_default();
    let query = DocumentQuery { after, prefix, limit: page.limit(), bytes: PAGE_BYTES, now_ms: 0 };
    let found = state.documents.list(&ServiceKey { scope: grant.scope().clone(), service }, query).await?;
    let next = found.documents.last().filter(|_| found.more).map(|document| document.key.id.to_string());
    let resources: Vec<_> = found.documents.into_iter().map(DocumentResource::of).collect();
    Ok(page.with_next(&uri, &again, next, Json(resources).into_response()))
}

/// One document.
#[utoipa::path(get, path = "/api/sync/{service}/documents/{id}", tag = "documents",
    params(("service" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = DocumentResource), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn get(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Segments((service, id)): Segments<(String, String)>,
) -> Result<Json<DocumentResource>, ApiError> {
    let key = key(&grant, Verb::DocumentsRead, &service, &id)?;
    Ok(Json(DocumentResource::of(state.documents.get(&key).await?)))
}

/// Replaces all data.
#[utoipa::path(put, path = "/api/sync/{service}/documents/{id}", tag = "documents",
    params(("service" = String, Path), ("id" = String, Path), ("X-Durability" = Option<String>, Header)),
    request_body = ReplaceDocument, responses((status = 200, body = DocumentResource),
        (status = 404, description = "NOT_FOUND"), (status = 409, description = "REVISION_CONFLICT")))]
pub(super) async fn replace(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments((service, id)): Segments<(String, String)>,
    headers: HeaderMap,
    Body { value: body, .. }: Body<ReplaceDocument>,
) -> Result<Json<DocumentResource>, ApiError> {
    let key = key(&grant, Verb::DocumentsWrite, &service, &id)?;
    let options = WriteOptions { expires_at: body.expires_at, ..options(&headers, body.expected_revision)? };
    let document = state.documents.replace(&key, data(&body.data)?, options).await?;
    Ok(Json(DocumentResource::of(document)))
}

/// Merges data into the document, deeply; arrays and null replace.
#[utoipa::path(patch, path = "/api/sync/{service}/documents/{id}/merge", tag = "documents",
    params(("service" = String, Path), ("id" = String, Path), ("X-Durability" = Option<String>, Header)),
    request_body = MergeDocument, responses((status = 200, body = DocumentResource),
        (status = 404, description = "NOT_FOUND"), (status = 409, description = "REVISION_CONFLICT")))]
pub(super) async fn merge(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments((service, id)): Segments<(String, String)>,
    headers: HeaderMap,
    Body { value: body, .. }: Body<MergeDocument>,
) -> Result<Json<DocumentResource>, ApiError> {
    let key = key(&grant, Verb::DocumentsWrite, &service, &id)?;
    let options = WriteOptions { expires_at: body.expires_at, ..options(&headers, body.expected_revision)? };
    let document = state.documents.merge(&key, data(&body.data)?, options).await?;
    Ok(Json(DocumentResource::of(document)))
}

/// Applies mutations, all or none: an array of `{ op, path, value }`, or an object whose members are set.
#[utoipa::path(post, path = "/api/sync/{service}/documents/{id}/mutate", tag = "documents",
    params(("service" = String, Path), ("id" = String, Path), ("X-Durability" = Option<String>, Header)),
    request_body = MutateDocument, responses((status = 200, body = DocumentResource),
        (status = 400, description = "INVALID_MUTATION"), (status = 404, description = "NOT_FOUND"),
        (status = 409, description = "REVISION_CONFLICT")))]
pub(super) async fn mutate(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments((service, id)): Segments<(String, String)>,
    headers: HeaderMap,
    Body { value: body, .. }: Body<MutateDocument>,
) -> Result<Json<DocumentResource>, ApiError> {
    let key = key(&grant, Verb::DocumentsWrite, &service, &id)?;
    let mutations = Mutations::parse(&body.mutations)?;
    let options = options(&headers, body.expected_revision)?;
    let document = state.documents.mutate(&key, mutations, options).await?;
    Ok(Json(DocumentResource::of(document)))
}

/// Deletes a document; answers it with `deleted: true`.
#[utoipa::path(delete, path = "/api/sync/{service}/documents/{id}", tag = "documents",
    params(("service" = String, Path), ("id" = String, Path), ("X-Durability" = Option<String>, Header), DeleteParams),
    responses((status = 200, body = DocumentResource), (status = 404, description = "NOT_FOUND"),
        (status = 409, description = "REVISION_CONFLICT")))]
pub(super) async fn delete(
    grant: Grant<permits::Delete>,
    State(state): State<AppState>,
    Segments((service, id)): Segments<(String, String)>,
    Params(params): Params<DeleteParams>,
    headers: HeaderMap,
) -> Result<Json<DocumentResource>, ApiError> {
    let key = key(&grant, Verb::DocumentsWrite, &service, &id)?;
    let options = options(&headers, params.expected_revision)?;
    Ok(Json(DocumentResource::of(state.documents.delete(&key, options).await?)))
}

/// What the last revisions changed, newest first: of the last 100, those of the last 30 days. Those of a deleted
/// document too.
#[utoipa::path(get, path = "/api/sync/{service}/documents/{id}/revisions", tag = "documents",
    params(("service" = String, Path), ("id" = String, Path), PageParams),
    responses((status = 200, body = Vec<RevisionResource>), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn revisions(
    grant: Grant<permits::Read>,
    State(state): State<AppState>,
    Segments((service, id)): Segments<(String, String)>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let key = key(&grant, Verb::DocumentsRead, &service, &id)?;
    let before = page.after().map(str::parse).transpose();
    let before =
        before.map_err(|_| Problem::field("cursor", "must be the X-Next-Cursor of the page before"))?;
    let query = RevisionQuery { before, limit: page.limit(), bytes: PAGE_BYTES };
    let found = state.documents.revisions(&key, query).await?;
    let next = found.revisions.last().filter(|_| found.more).map(|last| last.revision.to_string());
    let resources: Vec<_> =
        found.revisions.into_iter().map(RevisionResource::of).collect::<Result<_, Problem>>()?;
    Ok(page.with_next(&uri, "", next, Json(resources).into_response()))
}

/// Puts the data of a kept revision back, as a new revision; a deleted document comes back by it.
#[utoipa::path(post, path = "/api/sync/{service}/documents/{id}/restore", tag = "documents",
    params(("service" = String, Path), ("id" = String, Path), ("X-Durability" = Option<String>, Header)),
    request_body = RestoreDocument, responses((status = 200, body = DocumentResource),
        (status = 404, description = "NOT_FOUND: no such document, or the revision is not kept"),
        (status = 409, description = "REVISION_CONFLICT")))]
pub(super) async fn restore(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    Segments((service, id)): Segments<(String, String)>,
    headers: HeaderMap,
    Body { value: body, .. }: Body<RestoreDocument>,
) -> Result<Json<DocumentResource>, ApiError> {
    let key = key(&grant, Verb::DocumentsWrite, &service, &id)?;
    let options = options(&headers, body.expected_revision)?;
    let document = state.documents.restore(&key, body.revision, options).await?;
    Ok(Json(DocumentResource::of(document)))
}
