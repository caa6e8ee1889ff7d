//! What every instance keeps in memory to verify tokens and keys, and the version that tells when it changed.
//!
//! Reads over all tenants; every row carries its application.

use crate::{
    DatabaseError, Pool,
    pool::of_one,
    sealing::Sealer,
    tables::{applications::ApplicationConfig, signing_keys},
};
use sqlx::{FromRow, PgExecutor, postgres::PgListener, types::Json};
use std::time::Duration;

/// The channel that is notified when the version grows.
pub const CHANNEL: &str = "realtime_auth";

/// Everything of one version.
#[derive(Debug, Default)]
pub struct AuthSnapshot {
    /// The version.
    pub version: i64,
    /// Every application with what is set for it.
    pub applications: Vec<(String, Json<ApplicationConfig>)>,
    /// Every signing key, opened; one that cannot be opened is left out and logged.
    pub signing_keys: Vec<OpenedKey>,
    /// The API keys that hold.
    pub api_keys: Vec<LiveApiKey>,
    /// (application, jti) of revoked tokens that have not expired.
    pub revoked_tokens: Vec<(String, String)>,
    /// The revoked subjects.
    pub revoked_subjects: Vec<RevokedSubject>,
}

/// A signing key with its secret.
#[derive(Debug)]
pub struct OpenedKey {
    /// The application that it vouches for.
    pub application_id: String,
    /// The `kid`.
    pub id: String,
    /// The secret.
    pub secret: String,
}

/// An API key that holds.
#[derive(Debug, FromRow)]
pub struct LiveApiKey {
    /// `key_…`.
    pub id: String,
    /// Its application.
    pub application_id: String,
    /// Its environment.
    pub environment: String,
    /// SHA-256 of its secret.
    pub secret_hash: Vec<u8>,
    /// Roles and verbs.
    pub permissions: Vec<String>,
}

/// A subject whose tokens were revoked.
#[derive(Debug, FromRow)]
pub struct RevokedSubject {
    /// The application.
    pub application_id: String,
    /// The subject.
    pub sub: String,
    /// The lowest counter that holds.
    pub counter: i64,
    /// Unix seconds: tokens without a counter hold if issued later.
    pub revoked_at: i64,
}

/// The present version.
///
/// # Errors
/// Only those of the database.
pub async fn version(executor: impl PgExecutor<'_>) -> Result<i64, DatabaseError> {
    Ok(sqlx::query_scalar("select version from auth_version").fetch_one(executor).await?)
}

/// Reads everything as it stands at one moment.
///
/// # Errors
/// Only those of the database.
pub async fn load(pool: &Pool, sealer: &Sealer) -> Result<AuthSnapshot, DatabaseError> {
    let mut tx = pool.begin_with("begin isolation level repeatable read read only").await?;
    let version = version(&mut *tx).await?;
    let applications = sqlx::query_as("select id, config from applications").fetch_all(&mut *tx).await?;
    let keys: Vec<(String, String, String)> =
        sqlx::query_as("select application_id, id, secret_sealed from signing_keys")
            .fetch_all(&mut *tx)
            .await?;
    let api_keys = sqlx::query_as(
        "select id, application_id, environment, secret_hash, permissions from api_keys where revoked_at is null",
    )
    .fetch_all(&mut *tx)
    .await?;
    let revoked_tokens =
        sqlx::query_as("select application_id, jti from token_revocations").fetch_all(&mut *tx).await?;
    let revoked_subjects = sqlx::query_as(
        "select application_id, sub, counter, extract(epoch from revoked_at)::bigint as revoked_at
         from subject_revocations",
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let signing_keys = keys.into_iter().filter_map(|row| open(sealer, row)).collect();
    Ok(AuthSnapshot { version, applications, signing_keys, api_keys, revoked_tokens, revoked_subjects })
}

fn open(sealer: &Sealer, (application_id, id, sealed): (String, String, String)) -> Option<OpenedKey> {
    match sealer.open(&sealed, &signing_keys::context(&application_id, &id)) {
        Ok(secret) => Some(OpenedKey { application_id, id, secret }),
        Err(error) => {
            // Its tokens are refused; all other keys still work.
            tracing::error!(key.id = %id, %error, "signing key cannot be opened; was the secret key changed?");
            None
        }
    }
}

/// Listens for growth of the version, on a connection outside the pool.
///
/// # Errors
/// [`DatabaseError::Unavailable`] where it cannot be had within `limit`.
pub async fn listen(pool: &Pool, limit: Duration) -> Result<PgListener, DatabaseError> {
    let mut listener = PgListener::connect_with(&of_one(pool, limit)).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}
