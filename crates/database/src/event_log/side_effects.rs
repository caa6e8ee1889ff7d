//! Side-effect readers: each group reads every partition by position and acknowledges what is done.

use super::{PARTITIONS, rows, within};
use event_log::{LogError, SideEffect, SideEffectReader};
use futures::future::BoxFuture;
use sqlx::{PgPool, Row};
use std::{sync::Arc, time::Duration};

const TIMEOUT: Duration = Duration::from_secs(10);

struct GroupReader {
    pool: PgPool,
    group: String,
}

/// Opens `group`, which begins at the head of every partition when it is first named.
pub async fn open(pool: PgPool, group: String) -> Result<Arc<dyn SideEffectReader>, LogError> {
    let query = sqlx::query(
        "insert into event_log_groups (name, partition, sequence) \
         select $1, partition, sequence from event_log_partitions on conflict do nothing",
    )
    .bind(&group)
    .execute(&pool);
    within(TIMEOUT, query).await?;
    Ok(Arc::new(GroupReader { pool, group }))
}

impl SideEffectReader for GroupReader {
    fn read(&self, partition: u16, limit: usize) -> BoxFuture<'_, Result<Vec<SideEffect>, LogError>> {
        Box::pin(async move {
            debug_assert!(partition < PARTITIONS);
            let query = sqlx::query(
                "select e.sequence, t.application_id, t.environment, t.topic, t.epoch, e.topic_offset, e.event_id, \
                        e.source, e.event_type, e.payload, e.metadata \
                 from event_log_groups g join event_log e on e.partition = g.partition and e.sequence > g.sequence \
                 join event_log_topics t on t.id = e.topic_id \
                 where g.name = $1 and g.partition = $2 order by e.sequence limit $3",
            )
            .bind(&self.group)
            .bind(partition as i16)
            .bind(limit as i64)
            .fetch_all(&self.pool);
            let found = within(TIMEOUT, query).await?;
            found
                .iter()
                .map(|row| {
                    let sequence = row.try_get::<i64, _>("sequence")?.unsigned_abs();
                    Ok(SideEffect { partition, sequence, event: rows::event(row)? })
                })
                .collect::<Result<_, _>>()
                .map_err(super::failed)
        })
    }

    fn acknowledge(&self, partition: u16, sequence: u64) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            let query = sqlx::query(
                "update event_log_groups set sequence = greatest(sequence, $3) where name = $1 and partition = $2",
            )
            .bind(&self.group)
            .bind(partition as i16)
            .bind(sequence as i64)
            .execute(&self.pool);
            within(TIMEOUT, query).await.map(|_| ())
        })
    }
}
