//! `/api/auth`: the first person, signing in and out, who one is, and one's sessions.

use super::{
    access::account as permits,
    body::{Body, Params, Segments},
    credentials::{SESSION_COOKIE, session_token},
    grant::Grant,
    page::PageParams,
    peer::Peer,
    problem::{ApiError, refused},
    route::Route,
    security::permission_name,
};
use crate::state::{AppState, Mode};
use auth::{NewPerson, SignedIn, csrf_token};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use database::tables::sessions::Session;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared_types::{AppId, Problem};
use utoipa::ToSchema;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::open(Method::GET, "/api/auth/setup-status", "asked before there is anybody", setup_status),
        Route::open(
            Method::POST,
            "/api/auth/setup",
            "works once, while there is nobody; in production with the printed code",
            setup,
        ),
        Route::open(
            Method::POST,
            "/api/auth/login",
            "this is where credentials come from; held back after failures",
            login,
        ),
        Route::granted(Method::POST, "/api/auth/logout", logout),
        Route::granted(Method::GET, "/api/auth/me", me),
        Route::granted(Method::GET, "/api/auth/sessions", sessions),
        Route::granted(Method::DELETE, "/api/auth/sessions/{id}", end_session),
    ]
}

/// Whether there is nobody yet.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetupStatus {
    setup_required: bool,
    /// Whether setting up asks for the code that the server printed in its log.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    code_required: bool,
}

/// Whether the first person is still to be made.
#[utoipa::path(get, path = "/api/auth/setup-status", tag = "auth", responses((status = 200, body = SetupStatus)))]
pub(super) async fn setup_status(State(state): State<AppState>) -> Result<Json<SetupStatus>, ApiError> {
    let setup_required = state.authenticator.setup_required().await?;
    let code_required = setup_required && state.http.mode == Mode::Production;
    Ok(Json(SetupStatus { setup_required, code_required }))
}

/// The first person, who may do everything.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Setup {
    name: String,
    email: String,
    /// 8 to 256 characters.
    password: String,
    /// In production: the code that the server printed in its log.
    setup_code: Option<String>,
}

/// Makes the first person and signs them in.
#[utoipa::path(post, path = "/api/auth/setup", tag = "auth", request_body = Setup,
    responses((status = 201, body = SessionStarted), (status = 403, description = "SETUP_CODE_WRONG"),
        (status = 409, description = "SETUP_DONE")))]
pub(super) async fn setup(
    State(state): State<AppState>,
    peer: Peer,
    body: Body<Setup>,
) -> Result<Response, ApiError> {
    let Setup { name, email, password, setup_code } = body.value;
    let person = NewPerson { name, email, password };
    let code_demanded = state.http.mode == Mode::Production;
    let attempt = peer.attempt();
    let set_up = state.authenticator.set_up(&person, code_demanded, setup_code.as_deref(), &attempt).await;
    Ok(started(&state, StatusCode::CREATED, set_up.map_err(refused)?))
}

/// What somebody signs in with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    email: String,
    password: String,
}

/// A session that began.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionStarted {
    /// `sess_…`: sent as `X-Session-Token` or after `Authorization: Bearer`.
    session_token: String,
    user: UserSummary,
    /// Sent as `X-CSRF-Token` with unsafe requests when only the cookie says who one is.
    csrf_token: String,
    /// Unix milliseconds; moves on with use.
    expires_at: i64,
}

/// Who somebody is.
#[derive(Serialize, ToSchema)]
pub struct UserSummary {
    id: String,
    email: String,
    name: String,
}

/// Signs somebody in.
#[utoipa::path(post, path = "/api/auth/login", tag = "auth", request_body = Login,
    responses((status = 200, body = SessionStarted), (status = 401, description = "LOGIN_FAILED"),
        (status = 429, description = "LOGIN_DELAYED")))]
pub(super) async fn login(
    State(state): State<AppState>,
    peer: Peer,
    body: Body<Login>,
) -> Result<Response, ApiError> {
    let Login { email, password } = body.value;
    if password.len() > 1_024 || email.len() > 1_024 {
        return Err(Problem::field("password", "e-mail and password have at most 1024 bytes").into());
    }
    let signed_in = state.authenticator.log_in(&email, &password, &peer.attempt()).await.map_err(refused)?;
    Ok(started(&state, StatusCode::OK, signed_in))
}

fn started(state: &AppState, status: StatusCode, signed_in: SignedIn) -> Response {
    let cookie = session_cookie(state, &signed_in.token, 7 * 86_400);
    let user = UserSummary { id: signed_in.user.id, email: signed_in.user.email, name: signed_in.user.name };
    let body = SessionStarted {
        csrf_token: csrf_token(&signed_in.token),
        session_token: signed_in.token,
        user,
        expires_at: signed_in.expires_at_ms,
    };
    (status, [(header::SET_COOKIE, cookie)], Json(body)).into_response()
}

/// The cookie by which pages of this server stay signed in, without being able to read it.
fn session_cookie(state: &AppState, token: &str, max_age_seconds: u32) -> HeaderValue {
    let secure = if state.http.mode == Mode::Production { "; Secure" } else { "" };
    let text = format!(
        "{SESSION_COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age_seconds}{secure}"
    );
    HeaderValue::from_str(&text).expect("hexadecimal digits")
}

/// Ends the session.
#[utoipa::path(post, path = "/api/auth/logout", tag = "auth", responses((status = 200, body = Value)))]
pub(super) async fn logout(
    grant: Grant<permits::SignedIn>,
    State(state): State<AppState>,
) -> Result<Response, ApiError> {
    let person = grant.person().ok_or_else(Problem::internal)?;
    state.authenticator.end_session(person, &person.session.id).await?;
    let cookie = session_cookie(&state, "", 0);
    Ok(([(header::SET_COOKIE, cookie)], Json(json!({ "loggedOut": true }))).into_response())
}

/// Who is signed in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Me {
    id: String,
    email: String,
    name: String,
    /// Each everywhere, or in one application.
    roles: Vec<AssignedRole>,
    /// `topics:read`, …, as they hold in the application of `X-Application-Id`.
    permissions: Vec<String>,
    /// Unix milliseconds.
    created_at: i64,
    session_id: String,
    csrf_token: String,
    /// Unix milliseconds; moves on with use.
    session_expires_at: i64,
}

/// A role that somebody holds.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AssignedRole {
    role: &'static str,
    /// The only application where it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    application_id: Option<String>,
}

/// Who is signed in.
#[utoipa::path(get, path = "/api/auth/me", tag = "auth", responses((status = 200, body = Me)))]
pub(super) async fn me(grant: Grant<permits::SignedIn>, headers: HeaderMap) -> Result<Json<Me>, ApiError> {
    let person = grant.person().ok_or_else(Problem::internal)?;
    let application =
        headers.get("x-application-id").and_then(|value| value.to_str().ok()).unwrap_or("app_default");
    let permissions = person.permissions_in(&AppId::from_stored(application));
    let roles = person
        .roles()
        .map(|(role, only)| AssignedRole { role: role.as_str(), application_id: only.map(str::to_owned) });
    Ok(Json(Me {
        id: person.user.id.clone(),
        email: person.user.email.clone(),
        name: person.user.name.clone(),
        roles: roles.collect(),
        permissions: permissions.list().into_iter().map(permission_name).collect(),
        created_at: person.user.created_at,
        session_id: person.session.id.clone(),
        csrf_token: session_token(&headers).map(csrf_token).unwrap_or_default(),
        session_expires_at: person.session.expires_at,
    }))
}

/// A session of one's own.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionResource {
    id: String,
    /// From where it was begun.
    address: Option<String>,
    user_agent: Option<String>,
    /// Unix milliseconds.
    created_at: i64,
    /// Unix milliseconds, to the minute.
    last_used_at: i64,
    /// Unix milliseconds.
    expires_at: i64,
    /// Whether it is the one that asks.
    current: bool,
}

/// One's live sessions.
#[utoipa::path(get, path = "/api/auth/sessions", tag = "auth", params(PageParams),
    responses((status = 200, body = Vec<SessionResource>)))]
pub(super) async fn sessions(
    grant: Grant<permits::SignedIn>,
    State(state): State<AppState>,
    Params(params): Params<PageParams>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = params.page()?;
    let person = grant.person().ok_or_else(Problem::internal)?;
    let rows = state.authenticator.sessions(person, page.after(), page.fetch()).await?;
    let resource = |row: Session| SessionResource {
        current: row.id == person.session.id,
        id: row.id,
        address: row.address,
        user_agent: row.user_agent,
        created_at: row.created_at,
        last_used_at: row.last_used_at,
        expires_at: row.expires_at,
    };
    Ok(page.answer(&uri, rows, |row| &row.id, resource))
}

/// Ends one of one's sessions.
#[utoipa::path(delete, path = "/api/auth/sessions/{id}", tag = "auth", params(("id" = String, Path)),
    responses((status = 200, body = Value), (status = 404, description = "NOT_FOUND")))]
pub(super) async fn end_session(
    grant: Grant<permits::SignedIn>,
    State(state): State<AppState>,
    Segments(id): Segments<String>,
) -> Result<Json<Value>, ApiError> {
    let person = grant.person().ok_or_else(Problem::internal)?;
    state.authenticator.end_session(person, &id).await?;
    Ok(Json(json!({ "ended": true })))
}
