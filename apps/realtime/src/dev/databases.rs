//! The databases of `realtime dev`: private ones, where none is named.

use super::folder::Folder;
use super::settings::Settings;
use crate::cli::DevArgs;
use crate::exit::{Code, Failure, Outcome};
use local_postgres::{LocalPostgres, Options};
use sqlx::{Connection, PgConnection};
use std::time::Duration;

/// The platform's own.
const PLATFORM: &str = "realtime";
/// The one whose changes are followed.
pub const SHOP: &str = "shop";
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);

/// Where the data is.
pub struct Databases {
    /// The platform's database.
    pub platform_url: String,
    /// The database whose changes are followed.
    pub target_url: String,
    server: Option<LocalPostgres>,
    has_private_shop: bool,
}

impl Databases {
    /// Starts the private server, unless both databases are somebody else's.
    ///
    /// # Errors
    /// A server that does not start, with the end of its log.
    pub async fn start(args: &DevArgs, settings: &Settings, folder: &Folder) -> Outcome<Self> {
        let theirs = (args.database_url.clone(), settings.target_url().map(str::to_owned));
        if let (Some(platform_url), Some(target_url)) = theirs {
            return Ok(Self { platform_url, target_url, server: None, has_private_shop: false });
        }
        let options = Options { database: PLATFORM.to_owned(), ..Options::new(folder.postgres()) };
        let server =
            LocalPostgres::start(options).await.map_err(|error| Failure::new(Code::Failure, error))?;
        let has_private_shop = theirs.1.is_none();
        if has_private_shop {
            ensure_shop(&server).await?;
        }
        Ok(Self {
            platform_url: theirs.0.unwrap_or_else(|| server.url(PLATFORM)),
            target_url: theirs.1.unwrap_or_else(|| server.url(SHOP)),
            server: Some(server),
            has_private_shop,
        })
    }

    /// Whether the database whose changes are followed is ours to fill.
    pub fn has_private_shop(&self) -> bool {
        self.has_private_shop
    }

    /// Waits until the private server ends by itself; for ever where there is none.
    pub async fn ended(&self) {
        let Some(server) = &self.server else { return std::future::pending().await };
        while !server.has_ended() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Where the private server writes its log.
    pub fn log_file(&self) -> String {
        self.server.as_ref().map(|server| server.log_file().display().to_string()).unwrap_or_default()
    }

    /// Ends the private server in order.
    ///
    /// # Errors
    /// Where it does not end.
    pub async fn stop(self) -> Outcome {
        match self.server {
            Some(server) => server.stop().await.map_err(|error| Failure::new(Code::Failure, error)),
            None => Ok(()),
        }
    }
}

async fn ensure_shop(server: &LocalPostgres) -> Outcome {
    let work = async {
        let mut connection = PgConnection::connect(&server.url(PLATFORM)).await?;
        let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(SHOP)
            .fetch_one(&mut connection)
            .await?;
        if !exists {
            sqlx::raw_sql("create database shop").execute(&mut connection).await?;
        }
        connection.close().await
    };
    within(work).await
}

/// Runs statements on a database of ours within a time limit.
///
/// # Errors
/// Those of the database.
pub async fn within<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Outcome<T> {
    let done = tokio::time::timeout(STATEMENT_LIMIT, work).await;
    done.unwrap_or(Err(sqlx::Error::PoolTimedOut))
        .map_err(|error| Failure::new(Code::Failure, format!("the private PostgreSQL: {error}")))
}
