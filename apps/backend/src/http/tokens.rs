//! `/auth/token`, `/auth/verify` and `/api/admin/tokens/revoke`.

use super::{
    access::keys as permits,
    body::Body,
    credentials::{Caller, caller},
    grant::{Grant, credentials_required, wanted_environment},
    peer::Peer,
    problem::ApiError,
    route::Route,
    security::permission_name,
};
use crate::state::{AppState, Mode};
use auth::{Claims, Issuer, TokenRequest};
use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{HeaderMap, Method, request::Parts},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared_types::{
    AppId, Environment, Problem,
    rights::{Action, Permission, Resource},
};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What a person needs in the application to get a token for it.
const ISSUE: Permission = Permission { resource: Resource::Socket, action: Action::Read };

pub(super) fn routes() -> Vec<Route> {
    let issue = "an API key, a token whose role is admin or service, or a person with socket:read; never more than the \
                 caller holds (realtime dev: also programs on the machine itself)";
    vec![
        Route::open(Method::POST, "/auth/token", issue, issue_token),
        Route::open(Method::POST, "/auth/verify", "tells only what the token itself says", verify),
        Route::granted(Method::POST, "/api/admin/tokens/revoke", revoke),
    ]
}

/// Whoever asks, if they say who they are.
pub(super) struct MaybeCaller(Option<Caller>);

impl FromRequestParts<AppState> for MaybeCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        Ok(Self(caller(parts, state).await?))
    }
}

/// A token to issue.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssueToken {
    application_id: String,
    /// The caller's own where absent.
    #[schema(value_type = Option<String>, example = "development")]
    environment: Option<Environment>,
    /// The person or service that the token is for.
    sub: Option<String>,
    /// Roles (`admin`, `service`, `client`) and verbs; `client` where absent.
    permissions: Option<Vec<String>>,
    /// 1 to 86400 (default 3600).
    ttl_seconds: Option<i64>,
    /// Name pattern → verbs.
    capabilities: Option<BTreeMap<String, Vec<String>>>,
}

/// A token.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenIssued {
    token: String,
    /// Unix milliseconds.
    expires_at: i64,
}

/// Issues a token that holds no more than the caller does.
#[utoipa::path(post, path = "/auth/token", tag = "auth", request_body = IssueToken,
    responses((status = 200, body = TokenIssued), (status = 401, description = "AUTH_REQUIRED"),
        (status = 403, description = "FORBIDDEN: more than the caller holds")))]
pub(super) async fn issue_token(
    State(state): State<AppState>,
    MaybeCaller(caller): MaybeCaller,
    peer: Peer,
    headers: HeaderMap,
    body: Body<IssueToken>,
) -> Result<Json<TokenIssued>, ApiError> {
    let request = TokenRequest {
        application_id: body.value.application_id,
        environment: body.value.environment,
        sub: body.value.sub,
        permissions: body.value.permissions,
        ttl_seconds: body.value.ttl_seconds,
        capabilities: body.value.capabilities,
    };
    let issued = match &caller {
        Some(Caller::Identity(identity)) => {
            state.authenticator.issue(Issuer::Identity(identity), &request).await?
        }
        Some(Caller::Person(person)) => {
            let permissions = person.permissions_in(&AppId::from_stored(request.application_id.as_str()));
            if permissions.is_empty() {
                return Err(Problem::not_found("application", &request.application_id).into());
            }
            if !permissions.hold(ISSUE) {
                return Err(Problem::forbidden(format!("no permission {}", permission_name(ISSUE))).into());
            }
            let environment = wanted_environment(&headers)?.unwrap_or(Environment::Development);
            let rights = permissions.token_rights();
            state.authenticator.issue(Issuer::Person(&rights, environment), &request).await?
        }
        None if state.http.mode == Mode::OwnMachine && peer.is_this_machine(&headers) => {
            tracing::warn!("issued a token without credentials, as realtime dev does on the machine itself");
            state.authenticator.issue(Issuer::Open, &request).await?
        }
        None => return Err(credentials_required().into()),
    };
    Ok(Json(TokenIssued { token: issued.token, expires_at: issued.expires_at_ms }))
}

/// A token to verify.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyToken {
    token: String,
}

/// What a valid token says.
#[derive(Serialize, ToSchema)]
pub struct TokenVerified {
    /// Always true: an invalid token is answered by 401.
    valid: bool,
    #[schema(value_type = Object)]
    claims: Claims,
}

/// Verifies a token.
#[utoipa::path(post, path = "/auth/verify", tag = "auth", request_body = VerifyToken,
    responses((status = 200, body = TokenVerified),
        (status = 401, description = "AUTH_FAILED, TOKEN_EXPIRED or TOKEN_REVOKED")))]
pub(super) async fn verify(
    State(state): State<AppState>,
    body: Body<VerifyToken>,
) -> Result<Json<TokenVerified>, ApiError> {
    let (_, claims) = state.authenticator.verify_claims(&body.value.token)?;
    Ok(Json(TokenVerified { valid: true, claims }))
}

/// Which tokens to revoke: exactly one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeTokens {
    /// All tokens of this subject issued up to now.
    sub: Option<String>,
    /// The token with this id, and those that came from it.
    jti: Option<String>,
}

/// Revokes tokens of the application: refused everywhere, and connections closed, within 2 s.
#[utoipa::path(post, path = "/api/admin/tokens/revoke", tag = "keys", request_body = RevokeTokens,
    responses((status = 200, body = Value)))]
pub(super) async fn revoke(
    grant: Grant<permits::Update>,
    State(state): State<AppState>,
    body: Body<RevokeTokens>,
) -> Result<Json<Value>, ApiError> {
    let application = grant.scope().application();
    match (&body.value.sub, &body.value.jti) {
        (Some(sub), None) => {
            super::body::check_text("sub", sub, 255)?;
            state.authenticator.revoke_subject(application, sub).await?;
        }
        (None, Some(jti)) => {
            super::body::check_text("jti", jti, 255)?;
            state.authenticator.revoke_token(application, jti).await?;
        }
        _ => return Err(Problem::field("", "exactly one of sub and jti is required").into()),
    }
    Ok(Json(json!({ "revoked": true })))
}
