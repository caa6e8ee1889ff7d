//! Making, rotating and removing signing keys, and revoking tokens.

use crate::{
    api_keys::gone,
    authenticator::{Authenticator, now_ms},
    issue::MAX_TTL_SECONDS,
    secrets,
};
use database::{
    DatabaseError,
    tables::{
        revocations,
        signing_keys::{self, SigningKey},
    },
};
use shared_types::{AppId, KeyId, Problem};
use sqlx::PgConnection;

/// A signing key with its secret, which is told only now.
#[derive(Clone, Debug)]
pub struct MadeSigningKey {
    /// The key without its secret.
    pub row: SigningKey,
    /// What it signs with (HS256).
    pub secret: String,
}

impl Authenticator {
    /// Makes an active signing key within the caller's transaction; [`Authenticator::refresh`] after its commit.
    ///
    /// # Errors
    /// `NOT_FOUND` where the application is gone.
    pub async fn make_signing_key(
        &self,
        connection: &mut PgConnection,
        application: &AppId,
    ) -> Result<MadeSigningKey, Problem> {
        let (id, secret) = (KeyId::generate(), secrets::random());
        let inserted = signing_keys::insert(connection, &self.sealer, application, &id, &secret).await;
        let row = inserted.map_err(|error| gone(error, "signing_keys_application", application))?;
        Ok(MadeSigningKey { row, secret })
    }

    /// Makes a new key and deactivates the old one, both or neither, within the caller's transaction.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn rotate_signing_key(
        &self,
        connection: &mut PgConnection,
        application: &AppId,
        id: &str,
    ) -> Result<MadeSigningKey, Problem> {
        let old = signing_keys::deactivate(&mut *connection, application, id).await?;
        old.ok_or_else(|| Problem::not_found("signing key", id))?;
        self.make_signing_key(connection, application).await
    }

    /// Makes a key one that only verifies what it signed.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn deactivate_signing_key(&self, application: &AppId, id: &str) -> Result<SigningKey, Problem> {
        let row = signing_keys::deactivate(&self.pool, application, id).await?;
        let row = row.ok_or_else(|| Problem::not_found("signing key", id))?;
        self.refresh().await?;
        Ok(row)
    }

    /// Removes a key: what it signed is refused on all instances within 2 s.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn delete_signing_key(&self, application: &AppId, id: &str) -> Result<(), Problem> {
        if !signing_keys::delete(&self.pool, application, id).await? {
            return Err(Problem::not_found("signing key", id));
        }
        self.refresh().await
    }

    /// Revokes one token of an application by its `jti`, on all instances within 2 s.
    ///
    /// # Errors
    /// `NOT_FOUND` where the application is gone.
    pub async fn revoke_token(&self, application: &AppId, jti: &str) -> Result<(), Problem> {
        // The token itself is not at hand: none that holds now lives longer than this, and those that follow
        // from it neither.
        let expires_at = now_ms() / 1000 + 2 * MAX_TTL_SECONDS;
        let revoked = revocations::revoke_token(&self.pool, application, jti, expires_at).await;
        revoked.map_err(|error| gone(error, "token_revocations_application", application))?;
        self.refresh().await
    }

    /// Revokes a subject's tokens issued up to now, on all instances within 2 s; later ones hold.
    ///
    /// # Errors
    /// `NOT_FOUND` where the application is gone.
    pub async fn revoke_subject(&self, application: &AppId, sub: &str) -> Result<(), Problem> {
        let revoked = revocations::revoke_subject(&self.pool, application, sub).await;
        revoked.map_err(|error| gone(error, "subject_revocations_application", application))?;
        self.refresh().await
    }

    /// Forgets what no longer matters: expired sessions and revocations, old failures and answers.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn forget_old(&self) -> Result<(), DatabaseError> {
        use database::tables::{idempotency, login_failures, sessions};
        revocations::forget_expired(&self.pool).await?;
        sessions::forget_expired(&self.pool).await?;
        login_failures::forget_old(&self.pool).await?;
        idempotency::forget_old(&self.pool).await?;
        Ok(())
    }
}
