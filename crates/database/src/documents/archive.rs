//! Documents that another store keeps hot: what it has written comes here, and what it no longer holds is read here.

use super::{edits, failed, reading};
use crate::{
    event_log::{leave, within},
    keyed,
    pool::of_one,
};
use document_store::{
    Archived, Document, DocumentArchive, DocumentKey, DocumentPage, DocumentQuery, Flushed, Revision,
    RevisionPage, RevisionQuery, ServiceKey, StoreError, Unflushed,
};
use event_log::LogError;
use futures::future::BoxFuture;
use sqlx::{PgConnection, PgPool, Row, postgres::PgRow};
use std::time::Duration;
use tokio::time::timeout;

/// How long a transaction or a read may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The archive of documents on PostgreSQL.
#[derive(Clone)]
pub struct PostgresArchive {
    pool: PgPool,
    /// What is kept goes over it, one flush after the other.
    writer: PgPool,
}

impl PostgresArchive {
    /// The archive in the platform's database.
    pub fn new(pool: PgPool) -> Self {
        Self { writer: of_one(&pool, TIMEOUT), pool }
    }
}

impl DocumentArchive for PostgresArchive {
    fn load(&self, keys: Vec<DocumentKey>) -> BoxFuture<'static, Result<Vec<Archived>, StoreError>> {
        let pool = self.pool.clone();
        Box::pin(async move { within(TIMEOUT, load(&pool, &keys)).await.map_err(failed) })
    }

    fn keep(
        &self,
        generation: String,
        documents: Vec<Unflushed>,
    ) -> BoxFuture<'static, Result<Option<Vec<Flushed>>, StoreError>> {
        let pool = self.writer.clone();
        Box::pin(async move { keep(&pool, &generation, &documents).await.map_err(failed) })
    }

    fn list(
        &self,
        service: &ServiceKey,
        query: DocumentQuery,
    ) -> BoxFuture<'static, Result<DocumentPage, StoreError>> {
        let (pool, service) = (self.pool.clone(), service.clone());
        Box::pin(async move { reading::list(&pool, &service, &query).await.map_err(failed) })
    }

    fn revisions(
        &self,
        key: &DocumentKey,
        query: RevisionQuery,
    ) -> BoxFuture<'static, Result<RevisionPage, StoreError>> {
        let (pool, key) = (self.pool.clone(), key.clone());
        Box::pin(async move { reading::revisions(&pool, &key, query).await.map_err(failed) })
    }

    fn due(&self, now_ms: i64, limit: usize) -> BoxFuture<'static, Result<Vec<DocumentKey>, StoreError>> {
        let pool = self.pool.clone();
        Box::pin(async move { reading::due(&pool, now_ms, limit).await.map_err(failed) })
    }

    fn forget_revisions(&self, before_ms: i64) -> BoxFuture<'static, Result<u64, StoreError>> {
        let pool = self.pool.clone();
        Box::pin(async move { reading::forget_revisions(&pool, before_ms).await.map_err(failed) })
    }
}

async fn load(pool: &PgPool, keys: &[DocumentKey]) -> Result<Vec<Archived>, sqlx::Error> {
    let mut tx = pool.begin_with(keyed::BEGIN).await?;
    let rows = sqlx::query(
        "select application_id, environment, service, id, e.application_id is not null as has_scope, \
                d.id is not null as is_there, d.revision, d.data, d.deleted, d.created_at, d.updated_at, d.expires_at \
         from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality \
              as w(application_id, environment, service, id, n) \
         left join environments e using (application_id, environment) \
         left join sync_documents d using (application_id, environment, service, id) order by w.n",
    )
    .bind(keys.iter().map(|key| key.scope.application().as_str()).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.scope.environment().as_str()).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.service.as_str()).collect::<Vec<_>>())
    .bind(keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    rows.iter().map(archived).collect()
}

fn archived(row: &PgRow) -> Result<Archived, sqlx::Error> {
    if !row.try_get::<bool, _>("has_scope")? {
        return Ok(Archived::NoScope);
    }
    if !row.try_get::<bool, _>("is_there")? {
        return Ok(Archived::Never);
    }
    reading::document(row).map(Archived::Document)
}

async fn keep(
    pool: &PgPool,
    generation: &str,
    documents: &[Unflushed],
) -> Result<Option<Vec<Flushed>>, LogError> {
    let mut connection = within(TIMEOUT, pool.acquire()).await?;
    let outcome = timeout(TIMEOUT, keep_over(&mut connection, generation, documents)).await;
    leave(connection, TIMEOUT, outcome).await
}

async fn keep_over(
    connection: &mut PgConnection,
    generation: &str,
    documents: &[Unflushed],
) -> Result<Option<Vec<Flushed>>, sqlx::Error> {
    use sqlx::Connection as _;
    let mut tx = connection.begin_with(keyed::BEGIN).await?;
    // Whoever settles another generation waits until this is committed, and whoever comes here after that is refused:
    // so what a generation loads is not overtaken by what an earlier one had under way.
    let holds = sqlx::query("select 1 from event_log_redis where generation = $1 for share")
        .bind(generation)
        .fetch_optional(&mut *tx)
        .await?;
    if holds.is_none() {
        return Ok(None);
    }
    let kept = upsert(&mut tx, documents).await?;
    let bases: Vec<(&Document, u64)> = documents
        .iter()
        .map(|unflushed| {
            let first =
                unflushed.revisions.first().map_or(unflushed.document.revision, |first| first.revision);
            (&unflushed.document, first - 1)
        })
        .collect();
    edits::prune(&mut tx, &bases).await?;
    tx.commit().await?;
    Ok(Some(kept))
}

/// Everything in one statement. Rows are written in the order of their keys, so that two of these never wait for each
/// other.
const UPSERT: &str = "with w as ( \
         select w.*, e.application_id is not null as has_scope \
         from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bool[], \
                     $8::timestamptz[], $9::timestamptz[], $10::timestamptz[]) with ordinality \
              as w(application_id, environment, service, id, revision, data, deleted, created_at, updated_at, \
                   expires_at, n) \
         left join environments e using (application_id, environment) \
     ), remembered as ( \
         insert into sync_document_revisions (application_id, environment, service, id, revision, change, diff, undo, \
                                              event_id, created_at) \
         select r.* from unnest($11::text[], $12::text[], $13::text[], $14::text[], $15::bigint[], $16::text[], \
                                $17::text[], $18::text[], $19::text[], $20::timestamptz[]) \
              as r(application_id, environment, service, id, revision, change, diff, undo, event_id, created_at) \
         join environments e using (application_id, environment) \
         order by r.application_id, r.environment, r.service, r.id, r.revision \
         on conflict do nothing \
     ), put as ( \
         insert into sync_documents as d (application_id, environment, service, id, revision, data, deleted, \
                                          created_at, updated_at, expires_at) \
         select application_id, environment, service, id, revision, data, deleted, created_at, updated_at, expires_at \
         from w where has_scope order by application_id, environment, service, id \
         on conflict on constraint sync_documents_pkey do update set revision = excluded.revision, \
            data = excluded.data, deleted = excluded.deleted, created_at = excluded.created_at, \
            updated_at = excluded.updated_at, expires_at = excluded.expires_at \
         where d.revision < excluded.revision \
         returning application_id, environment, service, id \
     ) \
     select has_scope, is_written, case when not is_written then \
         (select d.revision from sync_documents d where d.application_id = w.application_id \
             and d.environment = w.environment and d.service = w.service and d.id = w.id) end as held \
     from (select w.*, (application_id, environment, service, id) in (select * from put) as is_written \
           from w offset 0) w order by n";

async fn upsert(connection: &mut PgConnection, documents: &[Unflushed]) -> Result<Vec<Flushed>, sqlx::Error> {
    let all = || documents.iter().map(|unflushed| &unflushed.document);
    let query = sqlx::query(UPSERT)
        .bind(all().map(|d| d.key.scope.application().as_str()).collect::<Vec<_>>())
        .bind(all().map(|d| d.key.scope.environment().as_str()).collect::<Vec<_>>())
        .bind(all().map(|d| d.key.service.as_str()).collect::<Vec<_>>())
        .bind(all().map(|d| d.key.id.as_str()).collect::<Vec<_>>())
        .bind(all().map(|d| d.revision as i64).collect::<Vec<_>>())
        .bind(all().map(|d| d.data.as_str()).collect::<Vec<_>>())
        .bind(all().map(|d| d.deleted).collect::<Vec<_>>())
        .bind(all().map(|d| edits::time(d.created_at)).collect::<Result<Vec<_>, _>>()?)
        .bind(all().map(|d| edits::time(d.updated_at)).collect::<Result<Vec<_>, _>>()?)
        .bind(all().map(|d| d.expires_at.map(edits::time).transpose()).collect::<Result<Vec<_>, _>>()?);
    let revisions: Vec<(&DocumentKey, &Revision)> = documents
        .iter()
        .flat_map(|unflushed| unflushed.revisions.iter().map(|revision| (&unflushed.document.key, revision)))
        .collect();
    let all = || revisions.iter();
    let rows = query
        .bind(all().map(|(key, _)| key.scope.application().as_str()).collect::<Vec<_>>())
        .bind(all().map(|(key, _)| key.scope.environment().as_str()).collect::<Vec<_>>())
        .bind(all().map(|(key, _)| key.service.as_str()).collect::<Vec<_>>())
        .bind(all().map(|(key, _)| key.id.as_str()).collect::<Vec<_>>())
        .bind(all().map(|(_, r)| r.revision as i64).collect::<Vec<_>>())
        .bind(all().map(|(_, r)| r.change.as_str()).collect::<Vec<_>>())
        .bind(all().map(|(_, r)| r.diff.as_str()).collect::<Vec<_>>())
        .bind(all().map(|(_, r)| &*r.undo).collect::<Vec<_>>())
        .bind(all().map(|(_, r)| r.event_id.as_str()).collect::<Vec<_>>())
        .bind(all().map(|(_, r)| edits::time(r.at)).collect::<Result<Vec<_>, _>>()?)
        .fetch_all(connection)
        .await?;
    rows.iter().zip(documents).map(|(row, unflushed)| flushed(row, unflushed.document.revision)).collect()
}

fn flushed(row: &PgRow, ours: u64) -> Result<Flushed, sqlx::Error> {
    if !row.try_get::<bool, _>("has_scope")? {
        return Ok(Flushed::NoScope);
    }
    let held = row.try_get::<Option<i64>, _>("held")?.map_or(0, i64::unsigned_abs);
    let is_held = row.try_get::<bool, _>("is_written")? || held == ours;
    // What was read may be older than what kept ours from being written; it is as high at least.
    Ok(if is_held { Flushed::Held } else { Flushed::Newer { revision: held.max(ours) } })
}
