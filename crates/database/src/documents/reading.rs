//! Reading documents and revisions, and forgetting old ones.

use super::edits::time;
use crate::event_log::{decode, within};
use chrono::{DateTime, Utc};
use document_store::{
    Change, Document, DocumentId, DocumentKey, DocumentPage, DocumentQuery, KEPT_REVISIONS, Revision,
    RevisionPage, RevisionQuery, ServiceKey, ServiceName,
};
use event_log::LogError;
use shared_types::{AppId, EventId, Problem, RawObject, Scope};
use sqlx::{PgPool, Row, postgres::PgRow};
use std::time::Duration;

/// How long a read may take before its caller is told that the store does not answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Rows that one statement forgets, so that none holds its locks for long.
const CHUNK: i64 = 5_000;

/// A document from its row.
pub(super) fn document(row: &PgRow) -> Result<Document, sqlx::Error> {
    Ok(Document {
        key: key(row)?,
        revision: row.try_get::<i64, _>("revision")?.unsigned_abs(),
        data: RawObject::from_trusted(row.try_get::<&str, _>("data")?),
        created_at: unix_ms(row, "created_at")?,
        updated_at: unix_ms(row, "updated_at")?,
        expires_at: row.try_get::<Option<DateTime<Utc>>, _>("expires_at")?.map(|at| at.timestamp_millis()),
        deleted: row.try_get("deleted")?,
    })
}

fn key(row: &PgRow) -> Result<DocumentKey, sqlx::Error> {
    let application: &str = row.try_get("application_id")?;
    let environment: &str = row.try_get("environment")?;
    Ok(DocumentKey {
        scope: Scope::new(AppId::from_stored(application), environment.parse().map_err(decode)?),
        service: ServiceName::from_stored(row.try_get::<&str, _>("service")?),
        id: DocumentId::from_stored(row.try_get::<&str, _>("id")?),
    })
}

fn unix_ms(row: &PgRow, column: &str) -> Result<i64, sqlx::Error> {
    row.try_get::<DateTime<Utc>, _>(column).map(|at| at.timestamp_millis())
}

pub(super) async fn get(pool: &PgPool, key: &DocumentKey) -> Result<Option<Document>, LogError> {
    let work = async {
        let row = sqlx::query(
            "select application_id, environment, service, id, revision, data, deleted, created_at, updated_at, \
                    expires_at \
             from sync_documents where application_id = $1 and environment = $2 and service = $3 and id = $4",
        )
        .bind(key.scope.application().as_str())
        .bind(key.scope.environment().as_str())
        .bind(key.service.as_str())
        .bind(key.id.as_str())
        .fetch_optional(pool)
        .await?;
        row.as_ref().map(document).transpose()
    };
    within(TIMEOUT, work).await
}

/// What lies behind all names that begin with `prefix`, in byte order.
fn behind(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    // Ids are ASCII: there is always a next character.
    let last = chars.pop()?;
    chars.push(char::from_u32(u32::from(last) + 1)?);
    Some(chars.into_iter().collect())
}

pub(super) async fn list(
    pool: &PgPool,
    service: &ServiceKey,
    query: &DocumentQuery,
) -> Result<DocumentPage, LogError> {
    let prefix = query.prefix.as_deref().unwrap_or_default();
    let work = async {
        // The sizes are known without reading what is stored beside the rows: only the page itself is read.
        let rows = sqlx::query(
            "select * from ( \
                 select d.*, sum(octet_length(d.data)) over (order by d.id) as bytes, \
                        row_number() over (order by d.id) as place, count(*) over () as found \
                 from ( \
                     select application_id, environment, service, id, revision, data, deleted, created_at, \
                            updated_at, expires_at \
                     from sync_documents \
                     where application_id = $1 and environment = $2 and service = $3 and id > $4 and id >= $5 \
                       and ($6::text is null or id < $6) and not deleted \
                       and (expires_at is null or expires_at > $7) \
                     order by id limit $8 + 1 \
                 ) d \
             ) p where (p.bytes <= $9 or p.place = 1) and p.place <= $8 order by p.id",
        )
        .bind(service.scope.application().as_str())
        .bind(service.scope.environment().as_str())
        .bind(service.service.as_str())
        .bind(query.after.as_ref().map_or("", DocumentId::as_str))
        .bind(prefix)
        .bind(behind(prefix))
        .bind(time(query.now_ms)?)
        .bind(query.limit as i64)
        .bind(query.bytes as i64)
        .fetch_all(pool)
        .await?;
        let found = rows.first().map_or(Ok(0), |row| row.try_get::<i64, _>("found"))?;
        let documents: Vec<Document> = rows.iter().map(document).collect::<Result<_, _>>()?;
        Ok(DocumentPage { more: found > documents.len() as i64, documents })
    };
    within(TIMEOUT, work).await
}

pub(super) async fn revisions(
    pool: &PgPool,
    key: &DocumentKey,
    query: RevisionQuery,
) -> Result<RevisionPage, LogError> {
    let work = async {
        let rows = sqlx::query(
            "select * from ( \
                 select r.*, sum(octet_length(r.diff) + octet_length(r.undo)) over (order by r.revision desc) as bytes, \
                        row_number() over (order by r.revision desc) as place, count(*) over () as found \
                 from ( \
                     select r.revision, r.change, r.diff, r.undo, r.event_id, r.created_at \
                     from sync_document_revisions r \
                     join sync_documents d using (application_id, environment, service, id) \
                     where application_id = $1 and environment = $2 and service = $3 and id = $4 \
                       and r.revision < $5 and r.revision > d.revision - $6 \
                     order by r.revision desc limit $7 + 1 \
                 ) r \
             ) p where (p.bytes <= $8 or p.place = 1) and p.place <= $7 order by p.revision desc",
        )
        .bind(key.scope.application().as_str())
        .bind(key.scope.environment().as_str())
        .bind(key.service.as_str())
        .bind(key.id.as_str())
        .bind(query.before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX))
        .bind(KEPT_REVISIONS as i64)
        .bind(i64::try_from(query.limit).unwrap_or(i64::MAX - 1))
        .bind(i64::try_from(query.bytes).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await?;
        let found = rows.first().map_or(Ok(0), |row| row.try_get::<i64, _>("found"))?;
        let revisions: Vec<Revision> = rows.iter().map(revision).collect::<Result<_, _>>()?;
        Ok(RevisionPage { more: found > revisions.len() as i64, revisions })
    };
    within(TIMEOUT, work).await
}

fn revision(row: &PgRow) -> Result<Revision, sqlx::Error> {
    let change: &str = row.try_get("change")?;
    let unknown = || decode(Problem::field("change", "must be created, updated or deleted"));
    Ok(Revision {
        revision: row.try_get::<i64, _>("revision")?.unsigned_abs(),
        change: Change::from_stored(change).ok_or_else(unknown)?,
        diff: RawObject::from_trusted(row.try_get::<&str, _>("diff")?),
        undo: row.try_get::<&str, _>("undo")?.into(),
        event_id: EventId::from_stored(row.try_get::<&str, _>("event_id")?),
        at: unix_ms(row, "created_at")?,
    })
}

/// Documents of all tenants, each with its scope.
pub(super) async fn due(pool: &PgPool, now_ms: i64, limit: usize) -> Result<Vec<DocumentKey>, LogError> {
    let work = async {
        let rows = sqlx::query(
            "select application_id, environment, service, id from sync_documents \
             where expires_at is not null and not deleted and expires_at <= $1 order by expires_at limit $2",
        )
        .bind(time(now_ms)?)
        .bind(limit as i64)
        .fetch_all(pool)
        .await?;
        rows.iter().map(key).collect()
    };
    within(TIMEOUT, work).await
}

pub(super) async fn forget_revisions(pool: &PgPool, before_ms: i64) -> Result<u64, LogError> {
    let work = async {
        let gone = sqlx::query(
            "delete from sync_document_revisions where ctid = any (array( \
                 select ctid from sync_document_revisions where created_at < $1 limit $2))",
        )
        .bind(time(before_ms)?)
        .bind(CHUNK)
        .execute(pool)
        .await?;
        Ok(gone.rows_affected())
    };
    within(TIMEOUT, work).await
}
