//! New epochs for topics that have one: what they hold does not connect to what comes next.

use super::{failed, load, notify, unit::partition, within};
use event_log::{LogError, TopicKey};
use shared_types::Position;
use sqlx::{PgConnection, PgPool, Row};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(15);
/// For all topics of an installation.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(120);

/// Gives each of `keys` a new epoch, and tells live readers.
pub async fn begin_epochs(pool: PgPool, keys: Vec<TopicKey>) -> Result<Vec<Position>, LogError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let heads = within(TIMEOUT, renew(&pool, &keys)).await?;
    let partitions: BTreeSet<u16> = keys.iter().map(partition).collect();
    announce(&pool, partitions).await;
    let head = |key| heads.get(key).cloned().ok_or_else(|| failed(sqlx::Error::RowNotFound));
    keys.iter().map(head).collect()
}

/// Takes the log over from a Redis that held it, where one did; answers whether that was so.
///
/// What was appended there meanwhile is not in this log, so that no position from before it connects to what comes
/// next: every topic begins a new epoch. A Redis that is used later begins a new generation.
///
/// # Errors
/// Where the database does not answer; nothing has changed then.
pub async fn take_over(pool: &PgPool) -> Result<bool, LogError> {
    let partitions = within(TAKE_OVER_TIMEOUT, renew_all(pool)).await?;
    let held = !partitions.is_empty();
    if held {
        tracing::info!("the event log is in PostgreSQL again; every topic begins a new epoch");
        announce(pool, partitions).await;
    }
    Ok(held)
}

/// Ends the present epoch of every topic where a Redis held the log; answers the partitions.
async fn renew_all(pool: &PgPool) -> Result<BTreeSet<u16>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    if sqlx::query("delete from event_log_redis").execute(&mut *tx).await?.rows_affected() == 0 {
        return Ok(BTreeSet::new());
    }
    let partitions: Vec<i16> =
        sqlx::query_scalar("select partition from event_log_partitions order by partition for update")
            .fetch_all(&mut *tx)
            .await?;
    for statement in [
        "update event_log_partitions set renewals = renewals + 1",
        "update event_log_topics set is_current = false where is_current",
    ] {
        sqlx::query(statement).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(partitions.into_iter().map(|partition| partition as u16).collect())
}

/// Tells live readers that topics of these partitions have got new epochs.
async fn announce(pool: &PgPool, partitions: BTreeSet<u16>) {
    let channels: Vec<String> = partitions.into_iter().map(notify::channel).collect();
    let told = sqlx::query("select pg_notify(c, $2) from unnest($1::text[]) as n(c)")
        .bind(channels)
        .bind(notify::RENEWED)
        .execute(pool);
    if let Err(error) = within(TIMEOUT, told).await {
        tracing::debug!(%error, "could not announce new epochs; readers will look by themselves");
    }
}

async fn renew(pool: &PgPool, keys: &[TopicKey]) -> Result<HashMap<TopicKey, Position>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let generation = lock(&mut tx, keys).await?;
    let topics: HashSet<&TopicKey> = keys.iter().collect();
    let past = sqlx::query(
        "update event_log_topics t set is_current = false \
         from unnest($1::text[], $2::text[], $3::text[]) as w(application_id, environment, topic) \
         where t.application_id = w.application_id and t.environment = w.environment and t.topic = w.topic \
           and t.is_current",
    );
    past.bind(topics.iter().map(|k| k.scope.application().as_str()).collect::<Vec<_>>())
        .bind(topics.iter().map(|k| k.scope.environment().as_str()).collect::<Vec<_>>())
        .bind(topics.iter().map(|k| k.topic.as_str()).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
    let heads = load::insert_epochs(&mut tx, &generation, &topics).await?;
    tx.commit().await?;
    Ok(heads.into_iter().map(|(key, head)| (key, head.position)).collect())
}

/// Locks the topics' partitions in ascending order, and has everybody forget what they remember of them; answers the
/// store's generation.
async fn lock(connection: &mut PgConnection, keys: &[TopicKey]) -> Result<String, sqlx::Error> {
    let partitions: BTreeSet<i16> = keys.iter().map(|key| partition(key) as i16).collect();
    let partitions: Vec<i16> = partitions.into_iter().collect();
    let locked = sqlx::query(load::LOCK).bind(&partitions).fetch_all(&mut *connection).await?;
    sqlx::query("update event_log_partitions set renewals = renewals + 1 where partition = any($1)")
        .bind(&partitions)
        .execute(&mut *connection)
        .await?;
    let row = locked.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(load::short(row.try_get("generation")?))
}
