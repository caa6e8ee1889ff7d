//! The one row that tells this installation from others.

use crate::DatabaseError;
use sqlx::PgExecutor;

/// The installation's id: 32 hexadecimal digits, made by the first migration run.
///
/// # Errors
/// [`DatabaseError::Unavailable`] where the database does not answer.
pub async fn id(executor: impl PgExecutor<'_>) -> Result<String, DatabaseError> {
    Ok(sqlx::query_scalar("select id from installation").fetch_one(executor).await?)
}
