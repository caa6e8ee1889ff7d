//! Forgetting ids whose owner says that they cannot come again.

use crate::DatabaseError;
use shared_types::{EventId, Scope};
use sqlx::PgExecutor;

/// Forgets events' ids of `producer`, by topic. Ids that are not remembered are passed over.
///
/// # Errors
/// Only those of the database.
pub async fn forget_ids(
    executor: impl PgExecutor<'_>,
    producer: &str,
    ids: &[(Scope, &str, EventId)],
) -> Result<(), DatabaseError> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "delete from event_log_ids i \
         using unnest($2::text[], $3::text[], $4::text[], $5::text[]) \
               as gone(application_id, environment, topic, event_id) \
         where i.application_id = gone.application_id and i.environment = gone.environment \
           and i.topic = gone.topic and i.producer = $1 and i.event_id = gone.event_id",
    )
    .bind(producer)
    .bind(ids.iter().map(|(scope, _, _)| scope.application().as_str()).collect::<Vec<_>>())
    .bind(ids.iter().map(|(scope, _, _)| scope.environment().as_str()).collect::<Vec<_>>())
    .bind(ids.iter().map(|(_, topic, _)| *topic).collect::<Vec<_>>())
    .bind(ids.iter().map(|(_, _, id)| id.as_str()).collect::<Vec<_>>())
    .execute(executor)
    .await?;
    Ok(())
}
