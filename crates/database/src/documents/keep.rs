//! What a flush writes.
//!
//! Most of its documents are in the archive already, in an older state. Those are replaced, which costs the database
//! much less than an insert that looks for conflicts. What cannot be replaced is inserted after that.
//!
//! Rows are written in the order of the documents' keys, in each of the two transactions: so two flushes never wait for
//! each other.

use super::edits;
use crate::keyed;
use document_store::{Document, Flushed, Unflushed};
use sqlx::{
    Arguments as _, Connection as _, PgConnection, Postgres, Row, Transaction,
    postgres::{PgArguments, PgRow},
    query::Query,
};

/// Writes `documents`; answers what became of each, in their order, or `None` where the generation is another.
pub(super) async fn keep(
    connection: &mut PgConnection,
    generation: &str,
    documents: &[Unflushed],
) -> Result<Option<Vec<Flushed>>, sqlx::Error> {
    let mut order: Vec<usize> = (0..documents.len()).collect();
    order.sort_unstable_by(|&a, &b| documents[a].document.key.cmp(&documents[b].document.key));
    let mut kept = vec![None; documents.len()];

    let known: Vec<usize> = order.iter().copied().filter(|&n| base(&documents[n]) > 0).collect();
    if !known.is_empty() {
        let chosen: Vec<&Unflushed> = known.iter().map(|&n| &documents[n]).collect();
        let Some(replaced) = replace(connection, generation, &chosen).await? else { return Ok(None) };
        replaced.into_iter().for_each(|place| kept[known[place]] = Some(Flushed::Held));
    }

    order.retain(|&n| kept[n].is_none());
    if !order.is_empty() {
        let chosen: Vec<&Unflushed> = order.iter().map(|&n| &documents[n]).collect();
        let Some(inserted) = insert(connection, generation, &chosen).await? else { return Ok(None) };
        order.into_iter().zip(inserted).for_each(|(n, flushed)| kept[n] = Some(flushed));
    }
    Ok(kept.into_iter().collect())
}

/// The revision behind which a document's unflushed ones come, 0 where that is none.
fn base(unflushed: &Unflushed) -> u64 {
    unflushed.revisions.first().map_or(unflushed.document.revision, |first| first.revision) - 1
}

/// A transaction that holds the generation; `None` where it is another.
///
/// Whoever settles another generation waits until this is committed, and whoever comes here after that is refused: so
/// what a generation loads is not overtaken by what an earlier one had under way.
async fn begin<'a>(
    connection: &'a mut PgConnection,
    generation: &str,
) -> Result<Option<Transaction<'a, Postgres>>, sqlx::Error> {
    let mut tx = connection.begin_with(keyed::BEGIN).await?;
    let holds = sqlx::query("select 1 from event_log_redis where generation = $1 for share")
        .bind(generation)
        .fetch_optional(&mut *tx)
        .await?;
    Ok(holds.is_some().then_some(tx))
}

async fn commit(mut tx: Transaction<'_, Postgres>, written: &[&Unflushed]) -> Result<(), sqlx::Error> {
    let bases: Vec<(&Document, u64)> =
        written.iter().map(|unflushed| (&unflushed.document, base(unflushed))).collect();
    edits::prune(&mut tx, &bases).await?;
    tx.commit().await
}

/// The condition on what was replaced is written so that it is looked up, and not joined by going through all of it.
const REPLACE: &str = "with w as ( \
         select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bool[], \
                              $8::timestamptz[], $9::timestamptz[], $10::timestamptz[]) with ordinality \
              as w(application_id, environment, service, id, revision, data, deleted, created_at, updated_at, \
                   expires_at, n) \
     ), put as ( \
         update sync_documents d set revision = w.revision, data = w.data, deleted = w.deleted, \
                created_at = w.created_at, updated_at = w.updated_at, expires_at = w.expires_at \
         from w where d.application_id = w.application_id and d.environment = w.environment \
                  and d.service = w.service and d.id = w.id and d.revision < w.revision \
         returning w.n \
     ), remembered as ( \
         insert into sync_document_revisions (application_id, environment, service, id, revision, change, diff, undo, \
                                              event_id, created_at) \
         select r.application_id, r.environment, r.service, r.id, r.revision, r.change, r.diff, r.undo, r.event_id, \
                r.created_at \
         from unnest($11::text[], $12::text[], $13::text[], $14::text[], $15::bigint[], $16::text[], $17::text[], \
                     $18::text[], $19::text[], $20::timestamptz[], $21::bigint[]) \
              as r(application_id, environment, service, id, revision, change, diff, undo, event_id, created_at, n) \
         where (r.n in (select n from put)) is true \
     ) \
     select n from put";

/// Replaces those that are there and older; answers their places, or `None` where the generation is another.
async fn replace(
    connection: &mut PgConnection,
    generation: &str,
    documents: &[&Unflushed],
) -> Result<Option<Vec<usize>>, sqlx::Error> {
    let Some(mut tx) = begin(connection, generation).await? else { return Ok(None) };
    let numbers: Vec<i64> = (1..)
        .zip(documents)
        .flat_map(|(n, unflushed)| std::iter::repeat_n(n, unflushed.revisions.len()))
        .collect();
    match bound(REPLACE, documents)?.bind(numbers).fetch_all(&mut *tx).await {
        Ok(rows) => {
            let place = |row: &PgRow| row.try_get::<i64, _>("n").map(|n| n as usize - 1);
            let places = rows.iter().map(place).collect::<Result<Vec<_>, _>>()?;
            let written: Vec<&Unflushed> = places.iter().map(|&place| documents[place]).collect();
            commit(tx, &written).await?;
            Ok(Some(places))
        }
        // Some of the revisions were remembered by a flush before, of which it was not said that it is done.
        Err(sqlx::Error::Database(error)) if error.constraint() == Some("sync_document_revisions_pkey") => {
            tx.rollback().await?;
            Ok(Some(Vec::new()))
        }
        Err(error) => Err(error),
    }
}

const INSERT: &str = "with w as ( \
         select w.*, e.application_id is not null as has_scope \
         from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bool[], \
                     $8::timestamptz[], $9::timestamptz[], $10::timestamptz[]) with ordinality \
              as w(application_id, environment, service, id, revision, data, deleted, created_at, updated_at, \
                   expires_at, n) \
         left join environments e using (application_id, environment) \
     ), remembered as ( \
         insert into sync_document_revisions (application_id, environment, service, id, revision, change, diff, undo, \
                                              event_id, created_at) \
         select application_id, environment, service, id, revision, change, diff, undo, event_id, created_at \
         from unnest($11::text[], $12::text[], $13::text[], $14::text[], $15::bigint[], $16::text[], $17::text[], \
                     $18::text[], $19::text[], $20::timestamptz[]) with ordinality \
              as r(application_id, environment, service, id, revision, change, diff, undo, event_id, created_at, n) \
         join environments e using (application_id, environment) order by r.n \
         on conflict do nothing \
     ), put as ( \
         insert into sync_documents as d (application_id, environment, service, id, revision, data, deleted, \
                                          created_at, updated_at, expires_at) \
         select application_id, environment, service, id, revision, data, deleted, created_at, updated_at, expires_at \
         from w where has_scope order by n \
         on conflict on constraint sync_documents_pkey do update set revision = excluded.revision, \
            data = excluded.data, deleted = excluded.deleted, created_at = excluded.created_at, \
            updated_at = excluded.updated_at, expires_at = excluded.expires_at \
         where d.revision < excluded.revision \
         returning application_id, environment, service, id \
     ) \
     select has_scope, is_written, case when not is_written then \
         (select d.revision from sync_documents d where d.application_id = w.application_id \
             and d.environment = w.environment and d.service = w.service and d.id = w.id) end as held \
     from (select w.*, (application_id, environment, service, id) in (select * from put) as is_written \
           from w offset 0) w order by n";

/// Inserts what is not there and replaces what is older; answers what became of each, or `None` where the generation is
/// another.
async fn insert(
    connection: &mut PgConnection,
    generation: &str,
    documents: &[&Unflushed],
) -> Result<Option<Vec<Flushed>>, sqlx::Error> {
    let Some(mut tx) = begin(connection, generation).await? else { return Ok(None) };
    let rows = bound(INSERT, documents)?.fetch_all(&mut *tx).await?;
    let outcomes =
        rows.iter().zip(documents).map(|(row, unflushed)| flushed(row, unflushed.document.revision));
    let outcomes = outcomes.collect::<Result<Vec<_>, _>>()?;
    commit(tx, documents).await?;
    Ok(Some(outcomes))
}

/// The statement with documents as its first ten arguments, and all their revisions as the next ten.
fn bound<'a>(
    statement: &'static str,
    documents: &[&'a Unflushed],
) -> Result<Query<'a, Postgres, PgArguments>, sqlx::Error> {
    let all = || documents.iter().map(|unflushed| &unflushed.document);
    let mut arguments = PgArguments::default();
    arguments.reserve(21, documents.iter().map(|unflushed| bytes(unflushed)).sum());
    let query = sqlx::query_with(statement, arguments)
        .bind(all().map(|d| d.key.scope.application().as_str()).collect::<Vec<_>>())
        .bind(all().map(|d| d.key.scope.environment().as_str()).collect::<Vec<_>>())
        .bind(all().map(|d| d.key.service.as_str()).collect::<Vec<_>>())
        .bind(all().map(|d| d.key.id.as_str()).collect::<Vec<_>>())
        .bind(all().map(|d| d.revision as i64).collect::<Vec<_>>())
        .bind(all().map(|d| d.data.as_str()).collect::<Vec<_>>())
        .bind(all().map(|d| d.deleted).collect::<Vec<_>>())
        .bind(all().map(|d| edits::time(d.created_at)).collect::<Result<Vec<_>, _>>()?)
        .bind(all().map(|d| edits::time(d.updated_at)).collect::<Result<Vec<_>, _>>()?)
        .bind(all().map(|d| d.expires_at.map(edits::time).transpose()).collect::<Result<Vec<_>, _>>()?);
    let keyed = |unflushed: &'a Unflushed| {
        unflushed.revisions.iter().map(move |revision| (&unflushed.document.key, revision))
    };
    let revisions: Vec<_> = documents.iter().copied().flat_map(keyed).collect();
    let all = || revisions.iter().copied();
    Ok(query
        .bind(all().map(|(key, _)| key.scope.application().as_str()).collect::<Vec<_>>())
        .bind(all().map(|(key, _)| key.scope.environment().as_str()).collect::<Vec<_>>())
        .bind(all().map(|(key, _)| key.service.as_str()).collect::<Vec<_>>())
        .bind(all().map(|(key, _)| key.id.as_str()).collect::<Vec<_>>())
        .bind(all().map(|(_, r)| r.revision as i64).collect::<Vec<_>>())
        .bind(all().map(|(_, r)| r.change.as_str()).collect::<Vec<_>>())
        .bind(all().map(|(_, r)| r.diff.as_str()).collect::<Vec<_>>())
        .bind(all().map(|(_, r)| &*r.undo).collect::<Vec<_>>())
        .bind(all().map(|(_, r)| r.event_id.as_str()).collect::<Vec<_>>())
        .bind(all().map(|(_, r)| edits::time(r.at)).collect::<Result<Vec<_>, _>>()?))
}

/// About how much a document and its revisions take as arguments.
fn bytes(unflushed: &Unflushed) -> usize {
    /// Lengths, numbers and times.
    const REST: usize = 128;
    let Unflushed { document, revisions } = unflushed;
    let key = document.key.scope.application().as_str().len()
        + document.key.service.as_str().len()
        + document.key.id.as_str().len()
        + REST;
    let remembered: usize = revisions.iter().map(|r| key + r.diff.as_str().len() + r.undo.len()).sum();
    key + document.data.as_str().len() + remembered
}

fn flushed(row: &PgRow, ours: u64) -> Result<Flushed, sqlx::Error> {
    if !row.try_get::<bool, _>("has_scope")? {
        return Ok(Flushed::NoScope);
    }
    let held = row.try_get::<Option<i64>, _>("held")?.map_or(0, i64::unsigned_abs);
    let is_held = row.try_get::<bool, _>("is_written")? || held == ours;
    // What was read may be older than what kept ours from being written; it is as high at least.
    Ok(if is_held { Flushed::Held } else { Flushed::Newer { revision: held.max(ours) } })
}
