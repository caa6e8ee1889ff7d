//! Migrations: embedded, applied in order under an advisory lock, reversible batch by batch.
//!
//! A batch is what one call of [`latest`] applied. Any number of instances may start at once: one migrates, the
//! others wait for its lock and find nothing left to do.

use crate::{DatabaseError, pool::Pool};
use sqlx::{
    ConnectOptions, Connection, PgConnection,
    migrate::{Migrate, MigrateError, Migration, Migrator},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");
const TABLE: &str = "_sqlx_migrations";

/// Where one migration stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its version, the number that its file name begins with.
    pub version: i64,
    /// The rest of its file name.
    pub name: String,
    /// The batch that applied it; `None` while it is pending.
    pub batch: Option<i64>,
}

/// Applies what is pending; answers the versions applied.
///
/// # Errors
/// [`DatabaseError::Migration`] where one fails; those before it stay applied.
pub async fn latest(pool: &Pool) -> Result<Vec<i64>, DatabaseError> {
    let mut connection = locked(pool).await?;
    let outcome = apply_pending(&mut connection).await;
    // Closing the session gives the lock back, whatever happened.
    connection.close().await?;
    outcome
}

/// Every known migration and whether it is applied. Reads only: works on an empty database.
///
/// # Errors
/// [`DatabaseError::Unavailable`] where the database does not answer.
pub async fn status(pool: &Pool) -> Result<Vec<MigrationStatus>, DatabaseError> {
    let known: bool =
        sqlx::query_scalar("select to_regclass('migration_batches') is not null").fetch_one(pool).await?;
    let applied: Vec<(i64, i64)> = if known {
        sqlx::query_as("select version, batch from migration_batches").fetch_all(pool).await?
    } else {
        Vec::new()
    };
    let batch = |version| applied.iter().find(|(v, _)| *v == version).map(|(_, batch)| *batch);
    Ok(ups()
        .map(|m| MigrationStatus {
            version: m.version,
            name: m.description.to_string(),
            batch: batch(m.version),
        })
        .collect())
}

/// How many migrations are pending.
///
/// # Errors
/// As [`status`].
pub async fn pending(pool: &Pool) -> Result<usize, DatabaseError> {
    Ok(status(pool).await?.iter().filter(|m| m.batch.is_none()).count())
}

/// Reverts the last batch; answers the versions reverted, latest first.
///
/// # Errors
/// [`DatabaseError::Migration`] where one fails; those after it stay reverted.
pub async fn rollback(pool: &Pool) -> Result<Vec<i64>, DatabaseError> {
    let mut connection = locked(pool).await?;
    let outcome = revert_last_batch(&mut connection).await;
    connection.close().await?;
    outcome
}

/// Writes an empty pair of files for a new migration below `directory`, named by the present second.
///
/// # Errors
/// [`DatabaseError::Setting`] for a name that is not lower-case words joined by underscores.
pub fn make(directory: &Path, name: &str) -> Result<[PathBuf; 2], DatabaseError> {
    let fits =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !fits {
        return Err(DatabaseError::Setting("a migration's name holds only a-z, 0-9 and _".to_owned()));
    }
    let stamp = chrono::Utc::now().format("%Y%m%d%H%M%S");
    let up = directory.join(format!("{stamp}_{name}.up.sql"));
    let down = directory.join(format!("{stamp}_{name}.down.sql"));
    std::fs::write(&up, format!("-- {name}\n"))?;
    std::fs::write(&down, format!("-- reverts {name}\n"))?;
    Ok([up, down])
}

fn ups() -> impl Iterator<Item = &'static Migration> {
    MIGRATOR.iter().filter(|m| m.migration_type.is_up_migration())
}

/// A session of its own that holds the migration lock; without a statement timeout, since both waiting for the
/// lock and a migration may take long.
async fn locked(pool: &Pool) -> Result<PgConnection, DatabaseError> {
    let options = pool.connect_options().as_ref().clone().options([("statement_timeout", "0")]);
    let mut connection = options.connect().await?;
    connection.lock().await?;
    connection.ensure_migrations_table(TABLE).await?;
    sqlx::query(
        "create table if not exists migration_batches (version bigint primary key, batch bigint not null)",
    )
    .execute(&mut connection)
    .await?;
    Ok(connection)
}

async fn apply_pending(connection: &mut PgConnection) -> Result<Vec<i64>, DatabaseError> {
    if let Some(version) = connection.dirty_version(TABLE).await? {
        return Err(MigrateError::Dirty(version).into());
    }
    let applied = connection.list_applied_migrations(TABLE).await?;
    let known: BTreeSet<i64> = ups().map(|m| m.version).collect();
    if let Some(missing) = applied.iter().find(|a| !known.contains(&a.version)) {
        return Err(MigrateError::VersionMissing(missing.version).into());
    }
    let batch: i64 = sqlx::query_scalar("select coalesce(max(batch), 0) + 1 from migration_batches")
        .fetch_one(&mut *connection)
        .await?;
    let mut done = Vec::new();
    for migration in ups() {
        match applied.iter().find(|a| a.version == migration.version) {
            Some(found) if found.checksum == migration.checksum => {}
            Some(_) => return Err(MigrateError::VersionMismatch(migration.version).into()),
            None => {
                connection.apply(TABLE, migration).await?;
                tracing::info!(migration.version = migration.version, migration.name = %migration.description, "applied migration");
                done.push(migration.version);
            }
        }
        // Also for one applied before: a crash between the migration and this row is mended by the next run.
        sqlx::query("insert into migration_batches (version, batch) values ($1, $2) on conflict do nothing")
            .bind(migration.version)
            .bind(batch)
            .execute(&mut *connection)
            .await?;
    }
    Ok(done)
}

async fn revert_last_batch(connection: &mut PgConnection) -> Result<Vec<i64>, DatabaseError> {
    let versions: Vec<i64> = sqlx::query_scalar(
        "select version from migration_batches where batch = (select max(batch) from migration_batches) order by version desc",
    )
    .fetch_all(&mut *connection)
    .await?;
    for version in &versions {
        let down = MIGRATOR
            .iter()
            .find(|m| m.version == *version && m.migration_type.is_down_migration())
            .ok_or(MigrateError::VersionMissing(*version))?;
        connection.revert(TABLE, down).await?;
        sqlx::query("delete from migration_batches where version = $1")
            .bind(version)
            .execute(&mut *connection)
            .await?;
        tracing::info!(migration.version = version, migration.name = %down.description, "reverted migration");
    }
    Ok(versions)
}

/// A text that differs whenever any migration differs: names the template that test databases are cloned from.
pub fn fingerprint() -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for migration in ups() {
        hash.update(migration.version.to_be_bytes());
        hash.update(&migration.checksum);
    }
    hex::encode(&hash.finalize()[..8])
}
