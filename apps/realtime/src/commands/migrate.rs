//! `realtime migrate`.

use crate::cli::MigrateCommand;
use crate::exit::{Code, Failure, Outcome};
use crate::place::running_dev;
use crate::terminal::{self, Paint, Tone};
use database::Pool;
use database::migrate::{self, MigrationStatus};
use database::pool::{self, PoolSettings};
use serde_json::json;
use shared_config::Config;
use std::path::Path;
use std::time::Duration;

/// Where migrations are written, below the working directory.
const DIRECTORY: &str = "migrations";

/// Does what is asked.
pub async fn run(command: &MigrateCommand, json: bool) -> Outcome {
    match command {
        MigrateCommand::Make { name } => make(name, json),
        MigrateCommand::Latest => latest(&connect().await?, json).await,
        MigrateCommand::Rollback => rollback(&connect().await?, json).await,
        MigrateCommand::Status => status(&connect().await?, json).await,
    }
}

/// The database that DATABASE_URL names, else that of a running `realtime dev`, else the configured one.
///
/// Whoever names a database on the command line means it, also in a folder where `realtime dev` runs.
async fn connect() -> Outcome<Pool> {
    let is_named = std::env::var_os("DATABASE_URL").is_some_and(|url| !url.is_empty());
    let url = match running_dev().filter(|_| !is_named) {
        Some(dev) => dev.database_url,
        None => Config::load()?.postgres.url().to_owned(),
    };
    let settings = PoolSettings {
        min_connections: 0,
        max_connections: 2,
        application_name: "realtime migrate".to_owned(),
        ..PoolSettings::new(url)
    };
    let pool = pool::connect_lazy(&settings)?;
    if let Err(error) = pool::ping(&pool, Duration::from_secs(10)).await {
        return Err(Failure::new(
            Code::Unavailable,
            format!("the platform's database does not answer: {error}"),
        ));
    }
    Ok(pool)
}

async fn latest(pool: &Pool, json: bool) -> Outcome {
    let applied = migrate::latest(pool).await?;
    tell(json, "applied", &applied, "nothing to do: every migration is applied")
}

async fn rollback(pool: &Pool, json: bool) -> Outcome {
    let reverted = migrate::rollback(pool).await?;
    tell(json, "reverted", &reverted, "nothing to do: no migration is applied")
}

fn tell(json: bool, done: &str, versions: &[i64], nothing: &str) -> Outcome {
    if json {
        return terminal::print(&json!({ done: versions }).to_string());
    }
    if versions.is_empty() {
        return terminal::print(nothing);
    }
    versions.iter().try_for_each(|version| terminal::print(&format!("{done} {version}")))
}

async fn status(pool: &Pool, json: bool) -> Outcome {
    let all = migrate::status(pool).await?;
    if json {
        let rows: Vec<_> = all.iter().map(row).collect();
        return terminal::print(&json!(rows).to_string());
    }
    let paint = Paint::stdout();
    for migration in &all {
        let state = match migration.batch {
            Some(batch) => paint.tone(Tone::Good, &format!("{:<10}", format!("batch {batch}"))),
            None => paint.tone(Tone::Warning, &format!("{:<10}", "pending")),
        };
        terminal::print(&format!("{state} {} {}", migration.version, migration.name))?;
    }
    let pending = all.iter().filter(|migration| migration.batch.is_none()).count();
    terminal::print(&format!("{} applied, {pending} pending", all.len() - pending))
}

fn row(migration: &MigrationStatus) -> serde_json::Value {
    json!({ "version": migration.version, "name": migration.name, "batch": migration.batch })
}

fn make(name: &str, json: bool) -> Outcome {
    let directory = Path::new(DIRECTORY);
    if !directory.is_dir() {
        let message = "there is no folder `migrations` here: run this in the root of the repository";
        return Err(Failure::new(Code::Failure, message));
    }
    // What is wrong with a name is wrong with the arguments, not with the configuration.
    let files = migrate::make(directory, name).map_err(|error| match error {
        database::DatabaseError::Setting(message) => Failure::new(Code::Usage, message),
        other => other.into(),
    })?;
    let names = files.map(|file| file.display().to_string());
    if json {
        return terminal::print(&json!({ "files": names }).to_string());
    }
    names.iter().try_for_each(|name| terminal::print(name))
}
