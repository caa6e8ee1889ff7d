//! The served pages: the landing page, the example's page, the SDK for pages without a bundler, and the documents.
//!
//! Owns which files are embedded and how they are served. Knows nothing of the platform: what the pages show, they
//! read through the public API like anybody else.

use crate::http::ApiError;
use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use rust_embed::{Embed, EmbeddedFile};
use shared_types::{ErrorKind, Problem};

/// Pages load from their own origin only; the connections of the SDK are of that origin too.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Embed)]
#[folder = "src/pages/static/"]
struct Landing;

#[derive(Embed)]
#[folder = "../../examples/orders/"]
#[include = "*.html"]
#[include = "*.js"]
#[include = "*.css"]
struct Demo;

#[derive(Embed)]
#[folder = "../../docs/"]
#[include = "*.md"]
#[include = "*.svg"]
struct Documents;

/// Not there in a build that was made before the SDK's.
#[derive(Embed)]
#[folder = "../../sdk/dist/"]
#[include = "realtime.browser.js"]
#[include = "realtime.browser.js.map"]
#[allow_missing = true]
struct Sdk;

/// `/`, `/landing/…`, `/demo/…`, `/sdk/…` and `/docs/…`.
pub fn routes() -> Router {
    Router::new()
        .route("/", get(async |headers: HeaderMap| serve::<Landing>("index.html", &headers)))
        .route("/landing/{file}", get(landing))
        .route("/demo", get(async || Redirect::permanent("/demo/")))
        .route("/demo/", get(async |headers: HeaderMap| serve::<Demo>("index.html", &headers)))
        .route("/demo/{file}", get(demo))
        .route("/sdk/{file}", get(sdk))
        .route("/docs/{file}", get(document))
}

async fn landing(Path(file): Path<String>, headers: HeaderMap) -> Response {
    serve::<Landing>(&file, &headers)
}

async fn demo(Path(file): Path<String>, headers: HeaderMap) -> Response {
    serve::<Demo>(&file, &headers)
}

async fn document(Path(file): Path<String>, headers: HeaderMap) -> Response {
    serve::<Documents>(&file, &headers)
}

async fn sdk(Path(file): Path<String>, headers: HeaderMap) -> Response {
    if Sdk::get("realtime.browser.js").is_none() {
        let message =
            "the SDK was not built: run `npm ci && npm run build` in sdk/, then build the server again";
        return ApiError::from(Problem::new(ErrorKind::NotFound, "SDK_NOT_BUILT", message)).into_response();
    }
    serve::<Sdk>(&file, &headers)
}

/// A file as it was embedded; 304 for who has it already.
fn serve<Files: Embed>(name: &str, request: &HeaderMap) -> Response {
    let Some(file) = Files::get(name) else {
        return ApiError::from(Problem::not_found("page", name)).into_response();
    };
    let tag = entity_tag(&file);
    let known = request.get(header::IF_NONE_MATCH).is_some_and(|given| *given == tag);
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, content_type(name))], file.data).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag);
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

const HEADERS: [(HeaderName, &str); 4] = [
    // Looked for anew each time, so that a new version is seen at once.
    (header::CACHE_CONTROL, "no-cache"),
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

fn entity_tag(file: &EmbeddedFile) -> HeaderValue {
    let hash: String = file.metadata.sha256_hash()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("\"{hash}\"")).expect("hexadecimal digits in quotes")
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("map") => "application/json",
        // Browsers show it, instead of storing it.
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, http::Request};
    use tower::ServiceExt as _;

    async fn get_page(path: &str, tag: Option<&HeaderValue>) -> Response {
        let mut request = Request::get(path);
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        routes().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// What a page loads: the values of `src`, `href` and of `from '…'`.
    fn loads(page: &str) -> Vec<String> {
        let values = |marker: &str, end: char| {
            let after = page.split(marker).skip(1);
            after.filter_map(move |rest| rest.split(end).next()).map(str::to_owned).collect::<Vec<_>>()
        };
        [values("src=\"", '"'), values("href=\"", '"'), values("from '", '\'')].concat()
    }

    #[tokio::test]
    async fn pages_load_only_what_is_served() {
        for page in ["/", "/demo/", "/demo/orders.js"] {
            let base = url::Url::parse("http://here").unwrap().join(page).unwrap();
            let response = get_page(page, None).await;
            assert_eq!(response.status(), StatusCode::OK, "{page}");
            for reference in loads(&text(response).await) {
                let address = base.join(&reference).unwrap();
                assert_eq!(address.host_str(), Some("here"), "{page} loads {reference} from elsewhere");
                let ours = ["/landing/", "/demo/", "/docs/"].iter().any(|at| address.path().starts_with(at));
                if ours {
                    let status = get_page(address.path(), None).await.status();
                    assert_eq!(status, StatusCode::OK, "{page} loads {reference}");
                }
            }
        }
    }

    #[tokio::test]
    async fn who_has_a_page_already_is_told_so() {
        let first = get_page("/", None).await;
        let again = get_page("/", first.headers().get(header::ETAG)).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        let other = get_page("/", Some(&HeaderValue::from_static("\"other\""))).await;
        assert_eq!(other.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn only_named_files_are_served() {
        for path in [
            "/landing/none.js",
            "/demo/schema.sql",
            "/demo/README.md",
            "/docs/..%2fCargo.toml",
            "/sdk/index.js",
        ] {
            assert_eq!(get_page(path, None).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }
}
