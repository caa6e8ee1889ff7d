//! The shapes of requests and answers.

use super::super::services::given;
use document_store::{Document, Revision};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared_types::{Problem, RawObject};
use utoipa::{IntoParams, ToSchema};

/// Which documents.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// How many, 1 to 500 (default 50).
    #[param(minimum = 1, maximum = 500)]
    pub(super) limit: Option<u32>,
    /// Where to go on: `X-Next-Cursor` of the page before.
    pub(super) cursor: Option<String>,
    /// Those whose id begins so.
    pub(super) prefix: Option<String>,
}

/// What a deletion may say.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeleteParams {
    /// The revision that the document must be at.
    pub(super) expected_revision: Option<u64>,
}

/// A document to create.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateDocument {
    /// `^[A-Za-z0-9._:-]{1,128}$`; `doc_…` where absent.
    pub(super) id: Option<String>,
    /// A JSON object.
    #[schema(value_type = Object)]
    pub(super) data: Box<RawValue>,
    /// When it is deleted by itself. Unix milliseconds.
    pub(super) expires_at: Option<i64>,
}

/// The new data of a document.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplaceDocument {
    /// A JSON object.
    #[schema(value_type = Object)]
    pub(super) data: Box<RawValue>,
    /// The revision that the document must be at.
    pub(super) expected_revision: Option<u64>,
    /// When it is deleted by itself, in Unix milliseconds; null for never. As before where absent.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    pub(super) expires_at: Option<Option<i64>>,
}

/// What to merge into a document.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MergeDocument {
    /// A JSON object.
    #[schema(value_type = Object)]
    pub(super) data: Box<RawValue>,
    /// The revision that the document must be at.
    pub(super) expected_revision: Option<u64>,
    /// When it is deleted by itself, in Unix milliseconds; null for never. As before where absent.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    pub(super) expires_at: Option<Option<i64>>,
}

/// How to change a document.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MutateDocument {
    /// `[{ op: set|unset|increment|push|pull|merge, path: JSON pointer, value }]`, at most 1,000; or an object, whose
    /// members are set at the top.
    #[schema(value_type = Object)]
    pub(super) mutations: Box<RawValue>,
    /// The revision that the document must be at.
    pub(super) expected_revision: Option<u64>,
}

/// What to put back.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreDocument {
    /// The revision whose data comes back.
    pub(super) revision: u64,
    /// The revision that the document must be at.
    pub(super) expected_revision: Option<u64>,
}

/// A document.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DocumentResource {
    service: String,
    id: String,
    /// 1 for the first, growing by 1 with every write.
    revision: u64,
    /// What it says, as it was written.
    #[schema(value_type = Object)]
    data: RawObject,
    /// Unix milliseconds.
    created_at: i64,
    /// Unix milliseconds.
    updated_at: i64,
    /// Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    /// true in the answer to a deletion.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
}

impl DocumentResource {
    pub(super) fn of(document: Document) -> Self {
        Self {
            service: document.key.service.to_string(),
            id: document.key.id.to_string(),
            revision: document.revision,
            data: document.data,
            created_at: document.created_at,
            updated_at: document.updated_at,
            expires_at: document.expires_at,
            deleted: document.deleted,
        }
    }
}

/// What one revision changed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionResource {
    revision: u64,
    /// `created`, `updated`, `deleted`: the end of its event's topic.
    operation: &'static str,
    /// `{ added, removed, changed }`.
    #[schema(value_type = Object)]
    diff: Box<RawValue>,
    /// The id of its event.
    event_id: String,
    /// Unix milliseconds.
    timestamp: i64,
}

impl RevisionResource {
    pub(super) fn of(revision: Revision) -> Result<Self, Problem> {
        Ok(Self {
            revision: revision.revision,
            operation: revision.change.as_str(),
            diff: raw(revision.diff.as_str())?,
            event_id: revision.event_id.to_string(),
            timestamp: revision.at,
        })
    }
}

fn raw(text: &str) -> Result<Box<RawValue>, Problem> {
    RawValue::from_string(text.to_owned()).map_err(|error| {
        tracing::error!(%error, "a stored document is not JSON");
        Problem::internal()
    })
}

/// The data of a request.
pub(super) fn data(raw: &RawValue) -> Result<RawObject, Problem> {
    RawObject::from_raw(raw).map_err(|problem| problem.renamed("payload", "data"))
}
