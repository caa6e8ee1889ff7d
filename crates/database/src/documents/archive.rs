//! Documents that another store keeps hot: what it has written comes here, and what it no longer holds is read here.

use super::{failed, keep::keep, reading};
use crate::{
    event_log::{leave, within},
    keyed,
    pool::of_one,
};
use document_store::{
    Archived, DocumentArchive, DocumentKey, DocumentPage, DocumentQuery, Flushed, RevisionPage,
    RevisionQuery, ServiceKey, StoreError, Unflushed,
};
use futures::future::BoxFuture;
use sqlx::{PgPool, Row, postgres::PgRow};
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
        Box::pin(async move {
            let mut connection = within(TIMEOUT, pool.acquire()).await.map_err(failed)?;
            let outcome = timeout(TIMEOUT, keep(&mut connection, &generation, &documents)).await;
            leave(connection, TIMEOUT, outcome).await.map_err(failed)
        })
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
