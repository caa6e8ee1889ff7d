//! Lists: `limit` and `cursor` in, `X-Next-Cursor` and `Link` out.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};
use shared_types::Problem;
use utoipa::IntoParams;

/// How many where nothing is said.
const DEFAULT_LIMIT: u32 = 50;
/// How many at most.
const MAX_LIMIT: u32 = 500;
const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");

/// Which page of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageParams {
    /// How many, 1 to 500 (default 50).
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Where to go on: `X-Next-Cursor` of the page before.
    cursor: Option<String>,
}

/// A checked page request.
pub struct Page {
    limit: u32,
    after: Option<String>,
}

/// Checks a `limit`.
pub(super) fn check_limit(limit: Option<u32>) -> Result<u32, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::field("limit", format!("must be 1 to {MAX_LIMIT}")))
}

impl PageParams {
    /// What a query with more parameters says of its page.
    pub(super) fn new(limit: Option<u32>, cursor: Option<String>) -> Self {
        Self { limit, cursor }
    }

    /// Checks what was asked for.
    pub(super) fn page(&self) -> Result<Page, Problem> {
        let invalid = || Problem::field("cursor", "must be the X-Next-Cursor of the page before");
        let after = match &self.cursor {
            None => None,
            Some(cursor) => {
                let bytes = BASE64.decode(cursor).map_err(|_| invalid())?;
                let text = String::from_utf8(bytes).map_err(|_| invalid())?;
                if text.is_empty() || text.chars().any(char::is_control) {
                    return Err(invalid());
                }
                Some(text)
            }
        };
        Ok(Page { limit: check_limit(self.limit)?, after })
    }
}

impl Page {
    /// Behind which key.
    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// One more than asked for: whether there is a next page shows by it.
    pub(super) fn fetch(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// How many were asked for.
    pub(super) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// The answer of what [`Page::fetch`] brought; `key` is what the list goes by.
    pub(super) fn answer<T, R: Serialize>(
        &self,
        uri: &Uri,
        rows: Vec<T>,
        key: impl Fn(&T) -> &str,
        resource: impl Fn(T) -> R,
    ) -> Response {
        let (rows, next) = self.cut(rows, key);
        let resources: Vec<R> = rows.into_iter().map(resource).collect();
        self.with_next(uri, "", next, Json(resources).into_response())
    }

    /// Of what [`Page::fetch`] brought the page, and behind which key the next one begins, if there is one.
    pub(super) fn cut<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> &str) -> (Vec<T>, Option<String>) {
        let more = rows.len() > self.limit();
        rows.truncate(self.limit());
        let next = rows.last().filter(|_| more).map(|row| key(row).to_owned());
        (rows, next)
    }

    /// `response` with where the next page begins; `parameters` (`&prefix=…`) are asked for again.
    pub(super) fn with_next(
        &self,
        uri: &Uri,
        parameters: &str,
        next: Option<String>,
        mut response: Response,
    ) -> Response {
        if let Some(cursor) = next.map(|key| BASE64.encode(key)) {
            let (path, limit) = (uri.path(), self.limit);
            let link = format!("<{path}?limit={limit}{parameters}&cursor={cursor}>; rel=\"next\"");
            let headers = response.headers_mut();
            if let (Ok(cursor), Ok(link)) = (HeaderValue::from_str(&cursor), HeaderValue::from_str(&link)) {
                headers.insert(NEXT_CURSOR, cursor);
                headers.insert(header::LINK, link);
            }
        }
        response
    }
}
