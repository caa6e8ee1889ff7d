//! `cdc_backfills`: existing rows of a mapping's table on their way to become events.
//!
//! [`next`] reads over several scopes; its rows carry theirs.

use crate::DatabaseError;
use serde::Serialize;
use shared_types::{AppId, MappingId, Scope, ids::new_id};
use sqlx::{FromRow, PgExecutor, types::Json};

/// A backfill as it is shown.
#[derive(Clone, Debug, PartialEq, FromRow, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backfill {
    /// `bf_…`.
    pub id: String,
    /// Its mapping.
    pub mapping_id: String,
    /// `pending`, `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// `requested`, or `resync` after changes were lost.
    pub reason: String,
    /// How many rows have become events, were held back by the mapping's condition, or were left to the stream because
    /// they changed meanwhile.
    pub rows_sent: i64,
    /// How many rows the table had by the target's estimate when it began; `None` before that, and where there is none.
    pub rows_expected: Option<i64>,
    /// What keeps it from going on, for a person.
    pub message: Option<String>,
    /// What helps.
    pub cure: Option<String>,
    /// Who asked for it.
    pub requested_by: Option<String>,
    /// Unix milliseconds.
    pub created_at: i64,
    /// Unix milliseconds.
    pub updated_at: i64,
    /// Unix milliseconds.
    pub finished_at: Option<i64>,
}

/// A backfill that is to go on.
#[derive(Clone, Debug)]
pub struct Work {
    /// To whom it belongs.
    pub scope: Scope,
    /// `bf_…`.
    pub id: String,
    /// Its mapping.
    pub mapping: MappingId,
    /// The number of the chunk that comes next.
    pub chunk: i64,
    /// Behind which key it begins: a text for each column of the key.
    pub after: Option<Vec<String>>,
    /// Where it has to end, where it was read before.
    pub upto: Option<Vec<String>>,
    /// The last key of all, once it is known.
    pub end: Option<Vec<String>>,
    /// The table that these are keys of, once it is known.
    pub table: Option<String>,
}

macro_rules! select_backfill {
    ($rest:literal) => {
        concat!(
            "select id, mapping_id, state, reason, rows_sent, rows_expected, message, cure, requested_by,
                (extract(epoch from created_at) * 1000)::bigint as created_at,
                (extract(epoch from updated_at) * 1000)::bigint as updated_at,
                (extract(epoch from finished_at) * 1000)::bigint as finished_at
            from cdc_backfills where application_id = $1 and environment = $2 ",
            $rest
        )
    };
}

/// Asks for a backfill.
///
/// # Errors
/// Violates `cdc_backfills_one_at_a_time` where one is under way, `cdc_backfills_mapping` where there is no such
/// mapping.
pub async fn request(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    mapping: &MappingId,
    by: &str,
) -> Result<String, DatabaseError> {
    let id = new_id("bf");
    let sql = "
        insert into cdc_backfills (application_id, environment, id, mapping_id, reason, requested_by)
        values ($1, $2, $3, $4, 'requested', $5)";
    let query = sqlx::query(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    query.bind(&id).bind(mapping.as_str()).bind(by).execute(executor).await?;
    Ok(id)
}

/// Asks for backfills of all mappings of `scopes` that are to be sent anew after changes were lost, where none is
/// asked for that has not begun. One that is under way begins anew. Answers how many.
///
/// # Errors
/// Only those of the database.
pub async fn request_resync(executor: impl PgExecutor<'_>, scopes: &[Scope]) -> Result<u64, DatabaseError> {
    let sql = "
        insert into cdc_backfills (application_id, environment, id, mapping_id, reason)
        select m.application_id, m.environment, 'bf_' || replace(gen_random_uuid()::text, '-', ''), m.id, 'resync'
        from mappings m
        join unnest($1::text[], $2::text[]) as wanted (application_id, environment)
            on wanted.application_id = m.application_id and wanted.environment = m.environment
        where m.resync
        on conflict (application_id, environment, mapping_id) where state in ('pending', 'running')
            do update set id = excluded.id, state = 'pending', reason = excluded.reason, chunk = 0, after_key = null,
                upto_key = null, end_key = null, table_name = null, rows_sent = 0, rows_expected = null,
                message = null, cure = null, requested_by = null, updated_at = now()";
    let applications: Vec<&str> = scopes.iter().map(|scope| scope.application().as_str()).collect();
    let environments: Vec<&str> = scopes.iter().map(|scope| scope.environment().as_str()).collect();
    Ok(sqlx::query(sql).bind(applications).bind(environments).execute(executor).await?.rows_affected())
}

/// The last backfill of a mapping.
///
/// # Errors
/// Only those of the database.
pub async fn last(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    mapping: &MappingId,
) -> Result<Option<Backfill>, DatabaseError> {
    let sql = select_backfill!("and mapping_id = $3 order by created_at desc, id desc limit 1");
    let query = sqlx::query_as(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(mapping.as_str()).fetch_optional(executor).await?)
}

/// Ends what is under way for a mapping; whether anything was.
///
/// # Errors
/// Only those of the database.
pub async fn cancel(
    executor: impl PgExecutor<'_>,
    scope: &Scope,
    mapping: &MappingId,
) -> Result<bool, DatabaseError> {
    let sql = "
        update cdc_backfills set state = 'cancelled', finished_at = now(), updated_at = now()
        where application_id = $1 and environment = $2 and mapping_id = $3 and state in ('pending', 'running')";
    let query = sqlx::query(sql).bind(scope.application().as_str()).bind(scope.environment().as_str());
    Ok(query.bind(mapping.as_str()).execute(executor).await?.rows_affected() > 0)
}

/// The oldest backfill of `scopes` that is to go on, of mappings that are followed; none of those that are put off.
///
/// # Errors
/// Only those of the database.
pub async fn next(
    executor: impl PgExecutor<'_>,
    scopes: &[Scope],
    put_off: &[&str],
) -> Result<Option<Work>, DatabaseError> {
    type Key = Option<Json<Vec<String>>>;
    type Row = (String, String, String, String, i64, Key, Key, Key, Option<String>);
    let sql = "
        select b.application_id, b.environment, b.id, b.mapping_id, b.chunk, b.after_key, b.upto_key,
            b.end_key, b.table_name
        from cdc_backfills b
        join unnest($1::text[], $2::text[]) as wanted (application_id, environment)
            on wanted.application_id = b.application_id and wanted.environment = b.environment
        join cdc_subscriptions s on s.application_id = b.application_id and s.environment = b.environment
            and s.mapping_id = b.mapping_id and s.active
        where b.state in ('pending', 'running') and b.id <> all ($3::text[]) order by b.updated_at, b.id limit 1";
    let applications: Vec<&str> = scopes.iter().map(|scope| scope.application().as_str()).collect();
    let environments: Vec<&str> = scopes.iter().map(|scope| scope.environment().as_str()).collect();
    let row: Option<Row> = sqlx::query_as(sql)
        .bind(applications)
        .bind(environments)
        .bind(put_off)
        .fetch_optional(executor)
        .await?;
    Ok(row.and_then(|(application, environment, id, mapping, chunk, after, upto, end, table)| {
        Some(Work {
            scope: Scope::new(AppId::from_stored(application), environment.parse().ok()?),
            id,
            mapping: MappingId::from_stored(mapping),
            chunk,
            after: after.map(|key| key.0),
            upto: upto.map(|key| key.0),
            end: end.map(|key| key.0),
            table,
        })
    }))
}

/// Notes the last key of all, and of which table.
///
/// # Errors
/// Only those of the database.
pub async fn note_end(
    executor: impl PgExecutor<'_>,
    work: &Work,
    table: &str,
    end: &[String],
) -> Result<(), DatabaseError> {
    let sql = "
        update cdc_backfills set end_key = $4, table_name = $5
        where application_id = $1 and environment = $2 and id = $3 and end_key is null";
    sqlx::query(sql)
        .bind(work.scope.application().as_str())
        .bind(work.scope.environment().as_str())
        .bind(&work.id)
        .bind(Json(end))
        .bind(table)
        .execute(executor)
        .await?;
    Ok(())
}

/// Notes where the chunk that comes next will end, before any of it is sent; `false` where the backfill has been
/// ended.
///
/// # Errors
/// Only those of the database.
pub async fn note_read(
    executor: impl PgExecutor<'_>,
    work: &Work,
    upto: &[String],
    expected: Option<i64>,
) -> Result<bool, DatabaseError> {
    let sql = "
        update cdc_backfills set state = 'running', upto_key = $4, rows_expected = coalesce(rows_expected, $5),
            message = null, cure = null, updated_at = now()
        where application_id = $1 and environment = $2 and id = $3 and state in ('pending', 'running')";
    let query = sqlx::query(sql)
        .bind(work.scope.application().as_str())
        .bind(work.scope.environment().as_str())
        .bind(&work.id);
    Ok(query.bind(Json(upto)).bind(expected).execute(executor).await?.rows_affected() > 0)
}

/// Notes that the chunk of `work` is in the log with its `rows`.
///
/// # Errors
/// Only those of the database.
pub async fn note_sent(executor: impl PgExecutor<'_>, work: &Work, rows: i64) -> Result<(), DatabaseError> {
    let sql = "
        update cdc_backfills set chunk = chunk + 1, after_key = upto_key, upto_key = null,
            rows_sent = rows_sent + $5, updated_at = now()
        where application_id = $1 and environment = $2 and id = $3 and chunk = $4";
    sqlx::query(sql)
        .bind(work.scope.application().as_str())
        .bind(work.scope.environment().as_str())
        .bind(&work.id)
        .bind(work.chunk)
        .bind(rows)
        .execute(executor)
        .await?;
    Ok(())
}

/// Ends a backfill: as done, or with what is wrong and what helps.
///
/// # Errors
/// Only those of the database.
pub async fn finish(
    executor: impl PgExecutor<'_>,
    work: &Work,
    failure: Option<(&str, &str)>,
) -> Result<(), DatabaseError> {
    let sql = "
        update cdc_backfills set state = case when $4::text is null then 'done' else 'failed' end, message = $4,
            cure = $5, finished_at = now(), updated_at = now()
        where application_id = $1 and environment = $2 and id = $3 and state in ('pending', 'running')";
    sqlx::query(sql)
        .bind(work.scope.application().as_str())
        .bind(work.scope.environment().as_str())
        .bind(&work.id)
        .bind(failure.map(|(message, _)| message))
        .bind(failure.map(|(_, cure)| cure))
        .execute(executor)
        .await?;
    Ok(())
}

/// Shows why a backfill does not go on now; it is tried again.
///
/// # Errors
/// Only those of the database.
pub async fn note_trouble(
    executor: impl PgExecutor<'_>,
    work: &Work,
    message: &str,
    cure: &str,
) -> Result<(), DatabaseError> {
    let sql = "
        update cdc_backfills set message = $4, cure = $5, updated_at = now()
        where application_id = $1 and environment = $2 and id = $3 and state in ('pending', 'running')";
    let query = sqlx::query(sql)
        .bind(work.scope.application().as_str())
        .bind(work.scope.environment().as_str())
        .bind(&work.id);
    query.bind(message).bind(cure).execute(executor).await?;
    Ok(())
}
