//! `cdc_slots`: the replication slots that this installation has made in targets.
//!
//! A slot belongs to a target and not to a scope; several scopes can share it. A row outlives the naming of its
//! target, so that the slot can be given up by whoever comes by.

use super::cdc::Gap;
use crate::DatabaseError;
use sqlx::{FromRow, PgExecutor, types::Json};

/// A slot with what it takes to reach it.
#[derive(Clone, Debug, FromRow)]
pub struct RegisteredSlot {
    /// The cluster's system identifier.
    pub system_identifier: String,
    /// The slot's name.
    pub slot: String,
    /// The target's database.
    pub database_name: String,
    /// The publication that goes with it.
    pub publication: String,
    /// Whether the publication is ours to drop.
    pub manages: bool,
    /// Whether the target may be in a private network.
    pub allow_private: bool,
    /// The target's URL, sealed; `None` where only some processes know it.
    pub sealed_url: Option<String>,
    /// Who named the target last, each as `application/environment`.
    pub scopes: Vec<String>,
}

/// What was noted of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotNote {
    /// When it was made, as its maker noted it; `None` while it is being made.
    pub creation: Option<String>,
    /// What was lost with the one before; its `to_lsn` is empty until this one is made.
    pub gap: Option<Gap>,
    /// Whether the subscribers of the topics concerned are still to be told of it.
    pub gap_untold: bool,
    /// The last transaction that was read from it and made events.
    pub seen: Option<Seen>,
}

/// A transaction of the target, as its log names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where its commit stands in the log.
    pub lsn: u64,
    /// When it was committed, Unix milliseconds.
    pub commit_ms: i64,
    /// Its id.
    pub xid: u32,
}

/// What was noted of a slot; `None` where it is not known.
///
/// # Errors
/// Only those of the database.
pub async fn note(
    executor: impl PgExecutor<'_>,
    system_identifier: &str,
    slot: &str,
) -> Result<Option<SlotNote>, DatabaseError> {
    type Row = (Option<String>, Option<Json<Gap>>, bool, Option<i64>, Option<i64>, Option<i64>);
    let sql = "
        select creation, gap, not gap_told, seen_lsn, seen_ms, seen_xid
        from cdc_slots where system_identifier = $1 and slot = $2";
    let row: Option<Row> =
        sqlx::query_as(sql).bind(system_identifier).bind(slot).fetch_optional(executor).await?;
    Ok(row.map(|(creation, gap, gap_untold, lsn, commit_ms, xid)| {
        let seen = lsn.zip(commit_ms).zip(xid.and_then(|xid| u32::try_from(xid).ok()));
        let seen = seen.map(|((lsn, commit_ms), xid)| Seen { lsn: lsn.cast_unsigned(), commit_ms, xid });
        SlotNote { creation, gap: gap.map(|gap| gap.0), gap_untold, seen }
    }))
}

/// Registers a slot before it is made, or renews how its target is reached.
///
/// # Errors
/// Only those of the database.
pub async fn register(executor: impl PgExecutor<'_>, slot: &RegisteredSlot) -> Result<(), DatabaseError> {
    let sql = "
        insert into cdc_slots (system_identifier, slot, database_name, publication, manages, sealed_url, scopes,
            allow_private)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (system_identifier, slot) do update
            set database_name = excluded.database_name, publication = excluded.publication,
                manages = excluded.manages, sealed_url = excluded.sealed_url, scopes = excluded.scopes,
                allow_private = excluded.allow_private";
    sqlx::query(sql)
        .bind(&slot.system_identifier)
        .bind(&slot.slot)
        .bind(&slot.database_name)
        .bind(&slot.publication)
        .bind(slot.manages)
        .bind(&slot.sealed_url)
        .bind(&slot.scopes)
        .bind(slot.allow_private)
        .execute(executor)
        .await?;
    Ok(())
}

/// Notes that the slot of now is lost, before another takes its place: should the maker die in between, the next one
/// still says the gap.
///
/// # Errors
/// Only those of the database.
pub async fn note_loss(
    executor: impl PgExecutor<'_>,
    system_identifier: &str,
    slot: &str,
    gap: &Gap,
) -> Result<(), DatabaseError> {
    let sql = "
        update cdc_slots set creation = null, gap = $3, gap_told = false, seen_lsn = null, seen_ms = null,
            seen_xid = null
        where system_identifier = $1 and slot = $2";
    sqlx::query(sql).bind(system_identifier).bind(slot).bind(Json(gap)).execute(executor).await?;
    Ok(())
}

/// Notes that the slot was made at `lsn`, which ends a gap that is open.
///
/// # Errors
/// Only those of the database.
pub async fn note_creation(
    executor: impl PgExecutor<'_>,
    system_identifier: &str,
    slot: &str,
    creation: &str,
    gap: Option<&Gap>,
) -> Result<(), DatabaseError> {
    let sql = "
        update cdc_slots set creation = $3, gap = $4, created_at = now(), seen_lsn = null, seen_ms = null,
            seen_xid = null
        where system_identifier = $1 and slot = $2";
    let query = sqlx::query(sql).bind(system_identifier).bind(slot).bind(creation);
    query.bind(gap.map(Json)).execute(executor).await?;
    Ok(())
}

/// Notes the last transaction that was read from the slot of this `creation` and made events. One of another creation,
/// or from before the one that is noted, changes nothing.
///
/// # Errors
/// Only those of the database.
pub async fn note_seen(
    executor: impl PgExecutor<'_>,
    system_identifier: &str,
    slot: &str,
    creation: &str,
    seen: Seen,
) -> Result<(), DatabaseError> {
    let sql = "
        update cdc_slots set seen_lsn = $4, seen_ms = $5, seen_xid = $6
        where system_identifier = $1 and slot = $2 and creation = $3 and (seen_lsn is null or seen_lsn < $4)";
    let query = sqlx::query(sql).bind(system_identifier).bind(slot).bind(creation);
    let query = query.bind(seen.lsn.cast_signed()).bind(seen.commit_ms).bind(i64::from(seen.xid));
    query.execute(executor).await?;
    Ok(())
}

/// Notes that the subscribers of the topics concerned were told of the gap.
///
/// # Errors
/// Only those of the database.
pub async fn note_told(
    executor: impl PgExecutor<'_>,
    system_identifier: &str,
    slot: &str,
) -> Result<(), DatabaseError> {
    let sql = "update cdc_slots set gap_told = true where system_identifier = $1 and slot = $2";
    sqlx::query(sql).bind(system_identifier).bind(slot).execute(executor).await?;
    Ok(())
}

/// Forgets a slot that was given up.
///
/// # Errors
/// Only those of the database.
pub async fn forget(
    executor: impl PgExecutor<'_>,
    system_identifier: &str,
    slot: &str,
) -> Result<(), DatabaseError> {
    let sql = "delete from cdc_slots where system_identifier = $1 and slot = $2";
    sqlx::query(sql).bind(system_identifier).bind(slot).execute(executor).await?;
    Ok(())
}

/// All slots that any process may give up.
///
/// # Errors
/// Only those of the database.
pub async fn reachable(executor: impl PgExecutor<'_>) -> Result<Vec<RegisteredSlot>, DatabaseError> {
    let sql = "
        select system_identifier, slot, database_name, publication, manages, sealed_url, scopes, allow_private
        from cdc_slots where sealed_url is not null and database_name is not null and publication is not null
        order by system_identifier, slot";
    Ok(sqlx::query_as(sql).fetch_all(executor).await?)
}
