//! What enters with a request: JSON bodies, query and path, checked before a handler sees them.

use super::problem::{ApiError, of_status};
use crate::state::AppState;
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, header, request::Parts},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;
use shared_types::{Problem, json::compact};
use std::{fmt, marker::PhantomData};

/// A JSON body, as text and as what it says.
pub struct Body<T> {
    /// What it says.
    pub value: T,
    /// As it came.
    pub bytes: Bytes,
}

impl<T: DeserializeOwned> FromRequest<AppState> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let JsonText(bytes) = JsonText::from_request(request, state).await?;
        Ok(Self { value: parse_object(&bytes)?, bytes })
    }
}

/// The text of a body that is JSON.
pub struct JsonText(pub Bytes);

impl FromRequest<AppState> for JsonText {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media = content_type.and_then(|text| text.split(';').next()).map(str::trim).unwrap_or_default();
        if !media.eq_ignore_ascii_case("application/json") {
            let problem = Problem::invalid("UNSUPPORTED_MEDIA_TYPE", "the body must be application/json");
            return Err(ApiError::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            of_status(rejection.status(), state.http.body_bytes).unwrap_or_else(|| Problem::internal().into())
        })?;
        check(&bytes)?;
        Ok(Self(bytes))
    }
}

/// Refuses what is not JSON, and texts and numbers that cannot be carried.
fn check(bytes: &[u8]) -> Result<(), Problem> {
    let invalid = |error: serde_json::Error| Problem::invalid("INVALID_JSON", format!("body: {error}"));
    let raw: &RawValue = serde_json::from_slice(bytes).map_err(invalid)?;
    compact(raw.get(), "").map(drop)
}

/// Reads checked JSON; a failure names the field and the rule.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let at = error.path().to_string();
        let text = error.inner().to_string();
        describe(if at == "." { "" } else { &at }, text.split(" at line ").next().unwrap_or_default())
    })
}

/// Reads a checked JSON object; see [`parse`].
pub(super) fn parse_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    parse::<Object<T>>(bytes).map(|object| object.0)
}

/// A `T` that is written as an object. By itself serde also reads the fields of a struct from an array.
#[derive(Debug, Default)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// The field and the rule that serde's words mean.
fn describe(at: &str, text: &str) -> Problem {
    let named = |prefix: &str| {
        let name = text.strip_prefix(prefix)?.split('`').next()?;
        let inside = at.strip_suffix(name).map_or(at, |parent| parent.trim_end_matches('.'));
        Some(if inside.is_empty() { name.to_owned() } else { format!("{inside}.{name}") })
    };
    if let Some(path) = named("missing field `") {
        return Problem::field(path, "is required");
    }
    if let Some(path) = named("unknown field `") {
        return Problem::field(path, "is not a known field");
    }
    if let Some(path) = named("duplicate field `") {
        return Problem::field(path, "comes twice");
    }
    let rule = match text.split_once(", expected ") {
        // A text is not repeated: it may be a secret that stands in the wrong place.
        Some((found, expected)) => {
            let found = found.split_once(" \"").map_or(found, |(kind, _)| kind);
            format!("must be {} ({found})", in_words(expected))
        }
        None => of_query(text).to_owned(),
    };
    Problem::field(at, rule)
}

/// What serde calls a type, in words that say the rule.
fn in_words(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "i32" => "a whole number from -2147483648 to 2147483647",
        "u64" | "usize" => "a whole number of 0 or more",
        "i64" | "i128" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "an array",
        other => other,
    }
}

/// What is said of a query's text that is not of its parameter's type.
fn of_query(text: &str) -> &str {
    match text {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "must be a whole number"
        }
        "number too large to fit in target type" => "is too large",
        "number too small to fit in target type" => "is too small",
        "provided string was not `true` or `false`" => "must be true or false",
        other => other,
    }
}

/// The query, read into `T`; unknown parameters are refused where `T` refuses them.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                let (at, rule) = match text.split_once(": ") {
                    Some((at, rule)) if !at.contains(' ') => (at, rule),
                    _ => ("", text),
                };
                Err(describe(at, rule).into())
            }
        }
    }
}

/// The variable parts of the path, as texts without control characters.
pub struct Segments<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send + AsTexts> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let not_found =
            || Problem::new(shared_types::ErrorKind::NotFound, "NOT_FOUND", "there is no such thing");
        let Path(value) = Path::<T>::from_request_parts(parts, state).await.map_err(|_| not_found())?;
        // No stored name holds such a character, and the database takes no NUL.
        if value.texts().iter().any(|text| text.len() > 512 || text.chars().any(char::is_control)) {
            return Err(not_found().into());
        }
        Ok(Self(value))
    }
}

/// One or two path segments.
pub trait AsTexts {
    /// Them.
    fn texts(&self) -> Vec<&str>;
}

impl AsTexts for String {
    fn texts(&self) -> Vec<&str> {
        vec![self]
    }
}

impl AsTexts for (String, String) {
    fn texts(&self) -> Vec<&str> {
        vec![&self.0, &self.1]
    }
}

/// Refuses a text that is empty, blank, too long or holds control characters.
pub(super) fn check_text(path: &str, text: &str, max_bytes: usize) -> Result<(), Problem> {
    if text.trim().is_empty() || text.len() > max_bytes || text.chars().any(char::is_control) {
        return Err(Problem::field(
            path,
            format!("must have 1 to {max_bytes} bytes and no control characters"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        count: u8,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        name: String,
        inner: Vec<Inner>,
        payload: Option<Box<RawValue>>,
    }

    fn path(text: &str) -> (String, String) {
        let problem = parse::<Outer>(text.as_bytes()).expect_err(text);
        (problem.details[0].path.clone(), problem.details[0].message.clone())
    }

    #[test]
    fn failures_name_field_and_rule() {
        assert_eq!(path("{}"), ("name".to_owned(), "is required".to_owned()));
        assert_eq!(
            path(r#"{"name":"a","inner":[],"x":1}"#),
            ("x".to_owned(), "is not a known field".to_owned())
        );
        assert_eq!(
            path(r#"{"name":"a","inner":[{}]}"#),
            ("inner[0].count".to_owned(), "is required".to_owned())
        );
        assert_eq!(
            path(r#"{"name":"a","inner":[{"count":1,"y":2}]}"#),
            ("inner[0].y".to_owned(), "is not a known field".to_owned())
        );
        assert_eq!(path(r#"{"name":1,"inner":[]}"#).0, "name");
        assert_eq!(path(r#"{"name":"a","name":"b"}"#), ("name".to_owned(), "comes twice".to_owned()));
        assert_eq!(
            path(r#"{"name":"a","inner":{}}"#).1,
            "must be an array (invalid type: map)",
            "serde's words are not the caller's"
        );
        let array = parse_object::<Outer>(br#"["a",[],null]"#).expect_err("an array");
        assert_eq!(array.details[0].message, "must be an object (invalid type: sequence)");
        assert_eq!(
            path(r#"{"name":"a","inner":"postgres://u:secret@h/d"}"#).1,
            "must be an array (invalid type: string)"
        );
        let (at, rule) = path(r#"{"name":"a","inner":[{"count":300}]}"#);
        assert_eq!(
            (at.as_str(), rule.as_str()),
            ("inner[0].count", "must be a whole number from 0 to 255 (invalid value: integer `300`)")
        );
    }

    #[test]
    fn payloads_keep_their_text() {
        let parsed: Outer = parse(br#"{"name":"a","inner":[],"payload":{"n":1.0}}"#).expect("valid");
        assert_eq!(parsed.payload.expect("payload").get(), r#"{"n":1.0}"#);
    }

    #[test]
    fn texts_that_cannot_be_carried_are_refused() {
        let nul = check(br#"{"data":{"list":[1,{"a":"\u0000"}]}}"#).expect_err("NUL");
        assert_eq!((nul.code, nul.details[0].path.as_str()), ("INVALID_TEXT", "data.list[1].a"));
        assert_eq!(check(br#"{"a":"#).expect_err("cut off").code, "INVALID_JSON");
        assert_eq!(check(br#"{"a":1e999}"#).expect_err("infinite").code, "INVALID_NUMBER");
    }
}
