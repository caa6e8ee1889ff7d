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

/// Gives each of `keys` a new epoch, and tells live readers.
pub async fn begin_epochs(pool: PgPool, keys: Vec<TopicKey>) -> Result<Vec<Position>, LogError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let heads = within(TIMEOUT, renew(&pool, &keys)).await?;
    let partitions: BTreeSet<u16> = keys.iter().map(partition).collect();
    let channels: Vec<String> = partitions.into_iter().map(notify::channel).collect();
    let told = sqlx::query("select pg_notify(c, $2) from unnest($1::text[]) as n(c)")
        .bind(channels)
        .bind(notify::RENEWED)
        .execute(&pool);
    if let Err(error) = within(TIMEOUT, told).await {
        tracing::debug!(%error, "could not announce new epochs; readers will look by themselves");
    }
    let head = |key| heads.get(key).cloned().ok_or_else(|| failed(sqlx::Error::RowNotFound));
    keys.iter().map(head).collect()
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
