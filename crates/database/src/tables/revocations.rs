//! `token_revocations` and `subject_revocations`: tokens that are refused before they expire.

use crate::DatabaseError;
use shared_types::AppId;
use sqlx::PgExecutor;

/// Revokes one token; remembered until it has expired (Unix seconds).
///
/// # Errors
/// Violates `token_revocations_application` where the application is gone.
pub async fn revoke_token(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    jti: &str,
    expires_at: i64,
) -> Result<(), DatabaseError> {
    let sql = "
        insert into token_revocations (application_id, jti, expires_at) values ($1, $2, to_timestamp($3))
        on conflict on constraint token_revocations_pkey
        do update set expires_at = greatest(token_revocations.expires_at, excluded.expires_at)";
    sqlx::query(sql).bind(application.as_str()).bind(jti).bind(expires_at as f64).execute(executor).await?;
    Ok(())
}

/// Revokes all tokens of a subject issued up to now; answers the counter that its next tokens carry.
///
/// # Errors
/// Violates `subject_revocations_application` where the application is gone.
pub async fn revoke_subject(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    sub: &str,
) -> Result<i64, DatabaseError> {
    let sql = "
        insert into subject_revocations (application_id, sub, counter, revoked_at)
        values ($1, $2, 1, clock_timestamp())
        on conflict on constraint subject_revocations_pkey
        do update set counter = subject_revocations.counter + 1, revoked_at = clock_timestamp()
        returning counter";
    Ok(sqlx::query_scalar(sql).bind(application.as_str()).bind(sub).fetch_one(executor).await?)
}

/// The counter that a token for `sub` carries; 0 for one that was never revoked.
///
/// # Errors
/// Only those of the database.
pub async fn subject_counter(
    executor: impl PgExecutor<'_>,
    application: &AppId,
    sub: &str,
) -> Result<i64, DatabaseError> {
    let sql = "select counter from subject_revocations where application_id = $1 and sub = $2";
    let found: Option<i64> =
        sqlx::query_scalar(sql).bind(application.as_str()).bind(sub).fetch_optional(executor).await?;
    Ok(found.unwrap_or(0))
}

/// Forgets revocations of tokens that have expired; answers how many.
///
/// # Errors
/// Only those of the database.
pub async fn forget_expired(executor: impl PgExecutor<'_>) -> Result<u64, DatabaseError> {
    let done = sqlx::query("delete from token_revocations where expires_at < now() - interval '1 minute'")
        .execute(executor)
        .await?;
    Ok(done.rows_affected())
}
