//! `POST /api/sync/{service}/documents`: where the policy is asked, and repeats are recognized.

use super::{
    super::{
        access::documents as permits,
        body::{Body, Segments},
        grant::Grant,
        idempotency::{body_hash, key as idempotency_key, other_body, refused, replay},
        problem::{ApiError, database},
    },
    durability, key,
    shapes::{CreateDocument, DocumentResource, data},
};
use crate::state::AppState;
use ::database::tables::{
    applications::TopicPolicy,
    idempotency::{self, Claim, RecordKey},
    services,
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use document_store::{DocumentId, ServiceName};
use shared_types::{EventId, Problem, Scope, ids::derived_id, rights::Verb};
use sync::{NewDocument, WriteOptions};

/// Creates a document. A service that is not registered is none where only registered topics may be used.
#[utoipa::path(post, path = "/api/sync/{service}/documents", tag = "documents",
    params(("service" = String, Path), ("X-Durability" = Option<String>, Header)), request_body = CreateDocument,
    responses((status = 201, body = DocumentResource), (status = 404, description = "NOT_FOUND: the service"),
        (status = 409, description = "CONFLICT: the id is in use")))]
pub(in crate::http) async fn create(
    grant: Grant<permits::Create>,
    State(state): State<AppState>,
    Segments(service): Segments<String>,
    headers: HeaderMap,
    body: Body<CreateDocument>,
) -> Result<Response, ApiError> {
    let CreateDocument { id, data: given, expires_at } = body.value;
    let service = ServiceName::parse("service", &service)?;
    let data = data(&given)?;
    let options = WriteOptions { durability: durability(&headers)?, ..WriteOptions::default() };
    let idempotency_key = idempotency_key(&headers)?;
    // Judged before anything is remembered; with an id of ours it is judged below.
    let id = id.map(|id| key(&grant, Verb::DocumentsWrite, service.as_str(), &id)).transpose()?;
    check_policy(&state, grant.scope(), &service).await?;
    let route = format!("POST /api/sync/{service}/documents");
    let once = match &idempotency_key {
        None => None,
        Some(key) => {
            let (scope, caller) = (grant.scope(), grant.actor().name());
            match Once::begin(&state, RecordKey { scope, caller, route: &route, key }, &body.bytes).await? {
                Begun::Replay(response) => return Ok(response),
                Begun::Run(once) => Some(once),
            }
        }
    };
    let created = async {
        let id = match id {
            Some(key) => key,
            None => {
                let id = once.as_ref().map_or_else(DocumentId::generate, Once::document_id);
                key(&grant, Verb::DocumentsWrite, service.as_str(), id.as_str())?
            }
        };
        let event_id = once.as_ref().map(|once| once.event_id.clone());
        state.documents.create(&id, NewDocument { data, expires_at, event_id }, options).await
    };
    let document = match created.await {
        Ok(document) => document,
        Err(problem) => {
            if let Some(once) = once {
                refused(&state, once.record, &problem).await?;
            }
            return Err(problem.into());
        }
    };
    let body = serde_json::to_string(&DocumentResource::of(document)).map_err(|_| Problem::internal())?;
    if let Some(once) = once {
        once.keep(&state, &body).await?;
    }
    Ok((StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn check_policy(state: &AppState, scope: &Scope, service: &ServiceName) -> Result<(), Problem> {
    let config = state.authenticator.application(scope.application());
    let policy = config.and_then(|config| config.topic_policy.get(&scope.environment()).copied());
    let open = policy != Some(TopicPolicy::Registered);
    if open || services::is_registered(&state.pool, scope.application(), service.as_str()).await? {
        return Ok(());
    }
    Err(Problem::not_found("service", service.as_str()))
}

/// A creation that is carried out once. Document and event get ids that a repeat gives too, so that one which comes
/// before the answer was kept finds what the first one did.
struct Once<'r> {
    record: RecordKey<'r>,
    created_at: u64,
    event_id: EventId,
}

enum Begun<'r> {
    Run(Once<'r>),
    Replay(Response),
}

impl<'r> Once<'r> {
    async fn begin(state: &AppState, record: RecordKey<'r>, body: &[u8]) -> Result<Begun<'r>, ApiError> {
        let mut connection = state.pool.acquire().await.map_err(database)?;
        let created_at = match idempotency::claim(&mut connection, record, &body_hash(state, body)).await? {
            Claim::OtherBody => return Err(other_body().into()),
            Claim::Repeated { answer: Some((status, body)), .. } => {
                return Ok(Begun::Replay(replay(status, body)));
            }
            Claim::New { created_at } | Claim::Repeated { created_at, answer: None } => created_at,
        };
        let created_at = u64::try_from(created_at).unwrap_or(0);
        let parts = [record.caller.as_bytes(), record.route.as_bytes(), record.key.as_bytes()];
        let event_id = EventId::from_stored(derived_id("evt", created_at, &parts));
        Ok(Begun::Run(Self { record, created_at, event_id }))
    }

    fn document_id(&self) -> DocumentId {
        DocumentId::derived(self.created_at, &[self.event_id.as_str().as_bytes()])
    }

    async fn keep(self, state: &AppState, body: &str) -> Result<(), ApiError> {
        let status = StatusCode::CREATED.as_u16() as i16;
        let mut connection = state.pool.acquire().await.map_err(database)?;
        idempotency::keep_answer(&mut connection, self.record, status, body).await.map_err(database)
    }
}
