//! `sessions`: who is signed in. A token is only here as its hash.

use crate::{DatabaseError, tables::users::User};
use serde::Serialize;
use sqlx::{FromRow, PgExecutor};

/// A session of a person, without its token.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// `sess_…`; not the token.
    pub id: String,
    /// From where it was begun.
    pub address: Option<String>,
    /// With what it was begun.
    pub user_agent: Option<String>,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds, to the minute.
    pub last_used_at: i64,
    /// Unix milliseconds; moves on with use.
    pub expires_at: i64,
}

/// A new session.
#[derive(Clone, Debug)]
pub struct NewSession<'a> {
    /// `sess_…`.
    pub id: &'a str,
    /// Whose.
    pub user_id: &'a str,
    /// SHA-256 of the token.
    pub token_hash: &'a [u8],
    /// From where.
    pub address: Option<&'a str>,
    /// With what.
    pub user_agent: Option<&'a str>,
    /// Seconds without use after which it ends.
    pub idle_seconds: i64,
}

/// Begins a session; answers when it expires (Unix milliseconds).
///
/// # Errors
/// Only those of the database.
pub async fn insert(executor: impl PgExecutor<'_>, session: &NewSession<'_>) -> Result<i64, DatabaseError> {
    let sql = "
        insert into sessions (id, user_id, token_hash, address, user_agent, expires_at)
        values ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
        returning (extract(epoch from expires_at) * 1000)::bigint";
    let query = sqlx::query_scalar(sql).bind(session.id).bind(session.user_id).bind(session.token_hash);
    let query = query.bind(session.address).bind(session.user_agent).bind(session.idle_seconds as f64);
    Ok(query.fetch_one(executor).await?)
}

/// The live session with this token's hash and its person.
///
/// # Errors
/// Only those of the database.
pub async fn find_live(
    executor: impl PgExecutor<'_>,
    token_hash: &[u8],
) -> Result<Option<(Session, User)>, DatabaseError> {
    let sql = "
        select s.id, s.address, s.user_agent,
            (extract(epoch from s.created_at) * 1000)::bigint as created_at,
            (extract(epoch from s.last_used_at) * 1000)::bigint as last_used_at,
            (extract(epoch from s.expires_at) * 1000)::bigint as expires_at,
            u.id as user_id, u.email, u.name, (extract(epoch from u.created_at) * 1000)::bigint as user_created_at
        from sessions s join users u on u.id = s.user_id and u.active
        where s.token_hash = $1 and s.expires_at > now()";
    let row: Option<Row> = sqlx::query_as(sql).bind(token_hash).fetch_optional(executor).await?;
    Ok(row.map(|row| {
        let user =
            User { id: row.user_id, email: row.email, name: row.name, created_at: row.user_created_at };
        (row.session, user)
    }))
}

#[derive(FromRow)]
struct Row {
    #[sqlx(flatten)]
    session: Session,
    user_id: String,
    email: String,
    name: String,
    user_created_at: i64,
}

/// Moves a session's end on after use, at most once a minute and never beyond `max_seconds` after its beginning.
///
/// # Errors
/// Only those of the database.
pub async fn touch(
    executor: impl PgExecutor<'_>,
    id: &str,
    idle_seconds: i64,
    max_seconds: i64,
) -> Result<(), DatabaseError> {
    let sql = "
        update sessions set last_used_at = now(),
            expires_at = least(now() + make_interval(secs => $2), created_at + make_interval(secs => $3))
        where id = $1 and last_used_at < now() - interval '1 minute'";
    sqlx::query(sql).bind(id).bind(idle_seconds as f64).bind(max_seconds as f64).execute(executor).await?;
    Ok(())
}

/// The live sessions of a person behind `after` by id, at most `limit`.
///
/// # Errors
/// Only those of the database.
pub async fn list(
    executor: impl PgExecutor<'_>,
    user_id: &str,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Session>, DatabaseError> {
    let sql = "
        select id, address, user_agent,
            (extract(epoch from created_at) * 1000)::bigint as created_at,
            (extract(epoch from last_used_at) * 1000)::bigint as last_used_at,
            (extract(epoch from expires_at) * 1000)::bigint as expires_at
        from sessions where user_id = $1 and id > $2 and expires_at > now() order by id limit $3";
    let query = sqlx::query_as(sql).bind(user_id).bind(after.unwrap_or_default()).bind(limit);
    Ok(query.fetch_all(executor).await?)
}

/// Ends a session of a person; whether it was there.
///
/// # Errors
/// Only those of the database.
pub async fn delete(executor: impl PgExecutor<'_>, user_id: &str, id: &str) -> Result<bool, DatabaseError> {
    let sql = "delete from sessions where user_id = $1 and id = $2";
    Ok(sqlx::query(sql).bind(user_id).bind(id).execute(executor).await?.rows_affected() > 0)
}

/// Forgets sessions that have expired; answers how many.
///
/// # Errors
/// Only those of the database.
pub async fn forget_expired(executor: impl PgExecutor<'_>) -> Result<u64, DatabaseError> {
    Ok(sqlx::query("delete from sessions where expires_at < now()").execute(executor).await?.rows_affected())
}
