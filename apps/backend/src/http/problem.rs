//! How a failure is answered: one shape for everything, written in one place.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use shared_types::{ErrorKind, Problem};

/// A failure of a handler or an extractor. The outermost layer writes it out with the request's id.
#[derive(Clone, Debug)]
pub struct ApiError {
    problem: Problem,
    /// A status other than that of the problem's kind (405, 415).
    status: Option<StatusCode>,
    retry_after_seconds: Option<u64>,
}

impl ApiError {
    /// The problem under another status than that of its kind.
    pub fn with_status(status: StatusCode, problem: Problem) -> Self {
        Self { problem, status: Some(status), retry_after_seconds: None }
    }

    /// What a caller is told.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| {
            StatusCode::from_u16(self.problem.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }

    /// The answer, whole.
    pub(super) fn render(self, request_id: Option<&str>) -> Response {
        let status = self.status();
        let retry = match self.problem.kind {
            ErrorKind::TooMany | ErrorKind::Unavailable => Some(self.retry_after_seconds.unwrap_or(1)),
            _ => None,
        };
        let mut body = json!({
            "error": self.problem.kind.class(),
            "message": self.problem.message,
            "code": self.problem.code,
        });
        if !self.problem.details.is_empty() {
            body["details"] = json!(self.problem.details);
        }
        body["requestId"] = json!(request_id);
        let mut response = (status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl<P: Into<Problem>> From<P> for ApiError {
    fn from(problem: P) -> Self {
        Self { problem: problem.into(), status: None, retry_after_seconds: None }
    }
}

/// Why signing in was refused, with the wait that it names.
pub(super) fn refused(refusal: auth::Refusal) -> ApiError {
    ApiError { retry_after_seconds: refusal.retry_after_seconds, ..refusal.problem.into() }
}

/// The failure of a statement.
pub(super) fn database(error: impl Into<database::DatabaseError>) -> ApiError {
    ApiError::from(error.into())
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status();
        response.extensions_mut().insert(self);
        response
    }
}

/// A failure outside of the REST routes, written out at once in the same shape.
#[derive(Clone, Debug)]
pub struct ApiProblem {
    problem: Problem,
    request_id: Option<String>,
}

impl ApiProblem {
    /// `problem` as the answer to the request with this id.
    pub fn new(problem: Problem, request_id: Option<String>) -> Self {
        Self { problem, request_id }
    }
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        ApiError::from(self.problem).render(self.request_id.as_deref())
    }
}

/// The failure of a body that is larger than `bytes`.
pub(super) fn body_too_large(bytes: usize) -> Problem {
    Problem::new(ErrorKind::TooLarge, "LIMIT_EXCEEDED", format!("the body may have {bytes} bytes"))
}

/// The failure that stands behind a bare status from the framework, if it is one, where a body may have `body_bytes`.
pub(super) fn of_status(status: StatusCode, body_bytes: usize) -> Option<ApiError> {
    let problem = match status {
        StatusCode::NOT_FOUND => {
            Problem::new(ErrorKind::NotFound, "ROUTE_NOT_FOUND", "there is no such route")
        }
        StatusCode::METHOD_NOT_ALLOWED => Problem::invalid(
            "METHOD_NOT_ALLOWED",
            "the route does not take this method; Allow lists those it takes",
        ),
        StatusCode::PAYLOAD_TOO_LARGE => body_too_large(body_bytes),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Problem::invalid("UNSUPPORTED_MEDIA_TYPE", "the body must be application/json")
        }
        status if status.is_client_error() => Problem::invalid("BAD_REQUEST", "the request cannot be read"),
        status if status.is_server_error() => Problem::internal(),
        _ => return None,
    };
    Some(ApiError::with_status(status, problem))
}
