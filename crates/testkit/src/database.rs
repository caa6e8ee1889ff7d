//! Databases cloned from a migrated template.

use anyhow::{Context, Result};
use database::{
    Pool, migrate,
    pool::{PoolSettings, connect_lazy},
};
use local_postgres::SharedPostgres;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::env;

/// Held while the template is made, so that parallel test programs make it once.
const TEMPLATE_LOCK: i64 = 0x7265_616c_7469_6d65;

/// A database of a test's own; dropped with it.
pub struct TestDatabase {
    /// A pool of connections to it.
    pub pool: Pool,
    /// `postgres://…` of it.
    pub url: String,
    /// Its name on the server.
    pub name: String,
    server: Server,
}

/// How long a test waits for its database to be gone.
const DROP_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// A fresh database with all migrations applied.
///
/// # Panics
/// Where no Postgres can be had; the message says why.
pub async fn database() -> TestDatabase {
    let server = Server::acquire().await.expect("a Postgres for tests");
    let template = server.template().await.expect("a migrated template");
    server.create(Some(&template)).await.expect("a cloned database")
}

/// A fresh database without anything in it.
///
/// # Panics
/// As [`fn@database`].
pub async fn empty_database() -> TestDatabase {
    let server = Server::acquire().await.expect("a Postgres for tests");
    server.create(None).await.expect("an empty database")
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (url, name) = (self.server.url("postgres"), self.name.clone());
        // Dropping is synchronous and may happen inside a runtime: a thread of its own can wait for the server. It is
        // not waited for without end: a connection of this runtime that is just being opened would hold it up until
        // this returns.
        let (done, dropped) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let drop = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let mut connection = PgConnection::connect(&url).await?;
                    let sql = format!("drop database if exists \"{name}\" with (force)");
                    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
                    anyhow::Ok(())
                })
            };
            // Who no longer listens has gone on.
            let _ = done.send(drop());
        });
        if let Ok(Err(error)) = dropped.recv_timeout(DROP_WITHIN) {
            eprintln!("test database {} was not dropped: {error}", self.name);
        }
    }
}

/// The server that test databases live on.
enum Server {
    /// One that is shared by all test programs of a run, and ends after the last.
    Private(&'static SharedPostgres),
    /// One that the environment names.
    Named(url::Url),
}

impl Server {
    async fn acquire() -> Result<Self> {
        match env::var("REALTIME_TEST_DATABASE_URL") {
            Ok(url) => Ok(Self::Named(url.parse().context("REALTIME_TEST_DATABASE_URL")?)),
            Err(_) => Ok(Self::Private(SharedPostgres::acquire().await?)),
        }
    }

    /// The URL of the database `name` on this server.
    fn url(&self, name: &str) -> String {
        match self {
            Self::Private(server) => server.url(name),
            Self::Named(base) => {
                let mut url = base.clone();
                url.set_path(name);
                url.into()
            }
        }
    }

    async fn admin(&self) -> Result<PgConnection> {
        PgConnection::connect(&self.url("postgres")).await.context("connect to the test server")
    }

    /// The name of the template for the present migrations, made on first use.
    async fn template(&self) -> Result<String> {
        let name = format!("realtime_template_{}", migrate::fingerprint());
        let mut admin = self.admin().await?;
        sqlx::query("select pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut admin).await?;
        let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(&name)
            .fetch_one(&mut admin)
            .await?;
        if !exists {
            self.make_template(&mut admin, &name).await?;
        }
        // The lock goes with the session.
        admin.close().await?;
        Ok(name)
    }

    /// Migrates under a provisional name, so that a killed run leaves no half-made template behind.
    async fn make_template(&self, admin: &mut PgConnection, name: &str) -> Result<()> {
        let building = format!("{name}_building");
        execute(admin, format!("drop database if exists \"{building}\" with (force)")).await?;
        execute(admin, format!("create database \"{building}\"")).await?;
        let pool =
            connect_lazy(&PoolSettings { min_connections: 0, ..PoolSettings::new(self.url(&building)) })?;
        migrate::latest(&pool).await?;
        pool.close().await;
        execute(admin, format!("alter database \"{building}\" rename to \"{name}\"")).await
    }

    async fn create(self, template: Option<&str>) -> Result<TestDatabase> {
        let name = format!("realtime_test_{:016x}", rand::random::<u64>());
        let mut admin = self.admin().await?;
        let source = template.unwrap_or("template0");
        execute(&mut admin, format!("create database \"{name}\" template \"{source}\"")).await?;
        admin.close().await?;
        let url = self.url(&name);
        let pool = connect_lazy(&PoolSettings { min_connections: 0, ..PoolSettings::new(&url) })?;
        Ok(TestDatabase { pool, url, name, server: self })
    }
}

async fn execute(connection: &mut PgConnection, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(connection).await.with_context(|| sql)?;
    Ok(())
}
