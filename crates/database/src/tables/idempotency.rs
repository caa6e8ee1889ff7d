//! `idempotency_records`: what a creating request answered, for 24 hours, by (scope, caller, route, key).

use crate::DatabaseError;
use shared_types::Scope;
use sqlx::{PgConnection, PgExecutor};

/// Who repeats what.
#[derive(Clone, Copy, Debug)]
pub struct RecordKey<'a> {
    /// Where.
    pub scope: &'a Scope,
    /// `usr_…`, `key_…` or `client:…`.
    pub caller: &'a str,
    /// `POST /api/topics`.
    pub route: &'a str,
    /// The `Idempotency-Key`.
    pub key: &'a str,
}

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing stood there: the request is to be carried out. Holds when the record was made (Unix milliseconds).
    New {
        /// Unix milliseconds.
        created_at: i64,
    },
    /// The same request was carried out before.
    Repeated {
        /// Unix milliseconds.
        created_at: i64,
        /// Status and body, where they were kept.
        answer: Option<(i16, String)>,
    },
    /// Another request stands there.
    OtherBody,
}

/// Claims a key. Waits for a transaction that is carrying out a request under the same key.
///
/// # Errors
/// Violates `idempotency_records_scope` where the application is gone.
pub async fn claim(
    connection: &mut PgConnection,
    record: RecordKey<'_>,
    body_hash: &[u8],
) -> Result<Claim, DatabaseError> {
    let sql = "
        insert into idempotency_records (application_id, environment, caller, route, key, body_hash)
        values ($1, $2, $3, $4, $5, $6)
        on conflict on constraint idempotency_records_pkey do update
            set body_hash = excluded.body_hash, status = null, response = null, created_at = now()
            where idempotency_records.created_at < now() - interval '24 hours'
        returning (extract(epoch from created_at) * 1000)::bigint";
    let query = sqlx::query_scalar(sql).bind(record.scope.application().as_str());
    let query = query.bind(record.scope.environment().as_str()).bind(record.caller).bind(record.route);
    let inserted: Option<i64> =
        query.bind(record.key).bind(body_hash).fetch_optional(&mut *connection).await?;
    if let Some(created_at) = inserted {
        return Ok(Claim::New { created_at });
    }
    let sql = "
        select body_hash, status, response, (extract(epoch from created_at) * 1000)::bigint
        from idempotency_records
        where application_id = $1 and environment = $2 and caller = $3 and route = $4 and key = $5";
    let query = sqlx::query_as(sql).bind(record.scope.application().as_str());
    let query = query.bind(record.scope.environment().as_str()).bind(record.caller).bind(record.route);
    let (hash, status, response, created_at): (Vec<u8>, Option<i16>, Option<String>, i64) =
        query.bind(record.key).fetch_one(connection).await?;
    if hash != body_hash {
        return Ok(Claim::OtherBody);
    }
    Ok(Claim::Repeated { created_at, answer: status.zip(response) })
}

/// Keeps the answer to a claimed request; it must hold no secret.
///
/// # Errors
/// Only those of the database.
pub async fn keep_answer(
    connection: &mut PgConnection,
    record: RecordKey<'_>,
    status: i16,
    response: &str,
) -> Result<(), DatabaseError> {
    let sql = "
        update idempotency_records set status = $6, response = $7
        where application_id = $1 and environment = $2 and caller = $3 and route = $4 and key = $5";
    let query = sqlx::query(sql).bind(record.scope.application().as_str());
    let query = query.bind(record.scope.environment().as_str()).bind(record.caller).bind(record.route);
    query.bind(record.key).bind(status).bind(response).execute(connection).await?;
    Ok(())
}

/// Gives a claim up, because the request came to nothing: it may be repeated with another body. An answer that was kept
/// stays.
///
/// # Errors
/// Only those of the database.
pub async fn give_up(connection: &mut PgConnection, record: RecordKey<'_>) -> Result<(), DatabaseError> {
    let sql = "
        delete from idempotency_records
        where application_id = $1 and environment = $2 and caller = $3 and route = $4 and key = $5
            and status is null";
    let query = sqlx::query(sql).bind(record.scope.application().as_str());
    let query = query.bind(record.scope.environment().as_str()).bind(record.caller).bind(record.route);
    query.bind(record.key).execute(connection).await?;
    Ok(())
}

/// Forgets records of more than a day ago; answers how many.
///
/// # Errors
/// Only those of the database.
pub async fn forget_old(executor: impl PgExecutor<'_>) -> Result<u64, DatabaseError> {
    let sql = "delete from idempotency_records where created_at < now() - interval '24 hours'";
    Ok(sqlx::query(sql).execute(executor).await?.rows_affected())
}
