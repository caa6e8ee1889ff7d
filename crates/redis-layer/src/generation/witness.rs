//! The witness outside of Redis: which generation which nodes hold, and how far each partition was acknowledged.

use super::{acknowledged::Acknowledged, judge::Witnessed};
use crate::error::RedisError;
use sqlx::{PgPool, Postgres, Row, Transaction};
use std::{future::Future, time::Duration};

/// Held while a generation is settled, by one process at a time.
const LOCK: i64 = 0x7265_6469_735f_6765;
/// PostgreSQL's name of the error that a table is not there.
const UNDEFINED_TABLE: &str = "42P01";
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long settling may leave the database alone. Whoever is frozen in the middle of it holds the others up for so long.
const SETTLING: Duration = Duration::from_secs(20);

/// Begins to settle a generation; others wait until the transaction ends.
///
/// # Errors
/// `Unavailable` where Postgres does not answer, `NoSchema` before the first migration.
pub async fn begin(pool: &PgPool) -> Result<(Transaction<'static, Postgres>, Option<Witnessed>), RedisError> {
    let work = async {
        let mut tx = pool.begin().await?;
        // Redis is asked and filled meanwhile, which may take longer than other transactions may be idle.
        let patience = format!("set local idle_in_transaction_session_timeout = {}", SETTLING.as_millis());
        sqlx::raw_sql(sqlx::AssertSqlSafe(patience)).execute(&mut *tx).await?;
        sqlx::query("select pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
        let row = sqlx::query("select generation, nodes, sequences from event_log_redis")
            .fetch_optional(&mut *tx)
            .await?;
        let witnessed = row.map(|row| read(&row)).transpose()?;
        Ok((tx, witnessed))
    };
    within(TIMEOUT * 2, work).await
}

fn read(row: &sqlx::postgres::PgRow) -> Result<Witnessed, sqlx::Error> {
    let sequences: Vec<i64> = row.try_get("sequences")?;
    Ok(Witnessed {
        generation: row.try_get("generation")?,
        nodes: row.try_get("nodes")?,
        sequences: sequences.into_iter().map(i64::unsigned_abs).collect(),
    })
}

/// Writes what holds from now on, and ends the transaction.
///
/// # Errors
/// As [`begin`].
pub async fn finish(mut tx: Transaction<'static, Postgres>, settled: &Witnessed) -> Result<(), RedisError> {
    let work = async {
        sqlx::query(
            "insert into event_log_redis as r (generation, nodes, sequences) values ($1, $2, $3) \
             on conflict (one_row) do update set generation = excluded.generation, nodes = excluded.nodes, \
             sequences = excluded.sequences, \
             renewed_at = case when r.generation = excluded.generation then r.renewed_at else now() end",
        )
        .bind(&settled.generation)
        .bind(&settled.nodes)
        .bind(settled.sequences.iter().map(|&sequence| sequence as i64).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    };
    within(TIMEOUT, work).await
}

/// Raises what is known to be acknowledged; another generation's numbers stay.
///
/// # Errors
/// As [`begin`].
pub async fn raise(pool: &PgPool, acknowledged: &Acknowledged) -> Result<(), RedisError> {
    let work = sqlx::query(
        "update event_log_redis set sequences = (select array_agg(greatest(a, b) order by n) \
                from unnest(sequences, $2::bigint[]) with ordinality as s(a, b, n)) \
         where generation = $1",
    )
    .bind(&acknowledged.generation)
    .bind(acknowledged.sequences.iter().map(|&sequence| sequence as i64).collect::<Vec<_>>())
    .execute(pool);
    within(TIMEOUT, work).await.map(|_| ())
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, RedisError> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(sqlx::Error::Database(error))) if error.code().as_deref() == Some(UNDEFINED_TABLE) => {
            Err(RedisError::NoSchema)
        }
        Ok(Err(error)) => Err(RedisError::Unavailable(format!("its witness in PostgreSQL: {error}"))),
        Err(_) => Err(RedisError::Unavailable("its witness in PostgreSQL does not answer".to_owned())),
    }
}
