//! Who a request comes from: a token, an API key, or a session by header or cookie.

use super::problem::ApiError;
use crate::state::AppState;
use auth::{Identity, Person};
use axum::http::{HeaderMap, HeaderName, Method, header, request::Parts};
use shared_types::{ErrorKind, Problem};
use subtle::ConstantTimeEq;

/// The cookie that holds a session's token; a page cannot read it.
pub const SESSION_COOKIE: &str = "realtime_session";
/// What a page sends with unsafe requests when only the cookie says who it is.
pub const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");
const SESSION_HEADER: HeaderName = HeaderName::from_static("x-session-token");

/// Somebody who proved who they are.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A token or an API key.
    Identity(Box<Identity>),
    /// A person, by their session.
    Person(Box<Person>),
}

/// Who the request comes from; `None` where it carries no credentials.
pub(super) async fn caller(parts: &Parts, state: &AppState) -> Result<Option<Caller>, ApiError> {
    let authenticator = &state.authenticator;
    if let Some(given) = header_text(&parts.headers, &header::AUTHORIZATION)? {
        let credential = bearer(given);
        let caller = match credential {
            key if key.starts_with("rk_") => Caller::Identity(Box::new(authenticator.verify_api_key(key)?)),
            token if token.starts_with("sess_") => person(state, token).await?,
            token => Caller::Identity(Box::new(authenticator.verify_token(token)?)),
        };
        return Ok(Some(caller));
    }
    if let Some(token) = header_text(&parts.headers, &SESSION_HEADER)? {
        return person(state, token.trim()).await.map(Some);
    }
    let Some(token) = session_cookie(&parts.headers) else { return Ok(None) };
    let caller = person(state, token).await?;
    check_csrf(parts, token)?;
    Ok(Some(caller))
}

/// The session token that the request carries, whatever way.
pub(super) fn session_token(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).map(bearer).filter(|token| token.starts_with("sess_"));
    bearer.or_else(|| text(SESSION_HEADER)).or_else(|| session_cookie(headers))
}

async fn person(state: &AppState, token: &str) -> Result<Caller, ApiError> {
    Ok(Caller::Person(Box::new(state.authenticator.verify_session(token).await?)))
}

/// The credential after `Bearer`, or the whole where there is no scheme.
fn bearer(text: &str) -> &str {
    match text.split_once(' ') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
        _ => text.trim(),
    }
}

fn header_text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| {
        Problem::new(ErrorKind::Unauthenticated, "AUTH_FAILED", format!("the header {name} cannot be read"))
    })?;
    Ok(Some(text))
}

fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == SESSION_COOKIE)
        .map(|(_, value)| value)
}

/// Browsers send the cookie also with requests that another page makes; that page cannot know the header.
fn check_csrf(parts: &Parts, token: &str) -> Result<(), Problem> {
    if matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let given = parts.headers.get(CSRF_HEADER).map(|value| value.as_bytes()).unwrap_or_default();
    if bool::from(given.ct_eq(auth::csrf_token(token).as_bytes())) {
        return Ok(());
    }
    let message = "X-CSRF-Token: must be the csrfToken that signing in and /api/auth/me answer";
    Err(Problem::new(ErrorKind::Forbidden, "CSRF_FAILED", message))
}
