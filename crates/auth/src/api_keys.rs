//! Making and revoking API keys.

use crate::{authenticator::Authenticator, secrets};
use database::{
    DatabaseError,
    tables::api_keys::{self, ApiKey},
};
use shared_types::{AppId, KeyId, Problem, Scope, rights::Rights};
use sqlx::PgConnection;

/// What a new API key is made of.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// What it is called.
    pub name: String,
    /// Roles and verbs; `service` where absent.
    pub permissions: Option<Vec<String>>,
}

/// An API key with its text, which is told only now.
#[derive(Clone, Debug)]
pub struct MadeApiKey {
    /// The key without its secret.
    pub row: ApiKey,
    /// `rk_<env>_<id>_<secret>`.
    pub key: String,
}

impl Authenticator {
    /// Makes an API key within the caller's transaction; [`Authenticator::refresh`] after its commit.
    ///
    /// # Errors
    /// `VALIDATION_FAILED` naming a bad field, `NOT_FOUND` where the application is gone.
    pub async fn make_api_key(
        &self,
        connection: &mut PgConnection,
        scope: &Scope,
        new: &NewApiKey,
    ) -> Result<MadeApiKey, Problem> {
        let permissions = new.permissions.clone().unwrap_or_else(|| vec!["service".to_owned()]);
        if permissions.is_empty() {
            return Err(Problem::field("permissions", "must hold at least one role or verb"));
        }
        Rights::parse(&permissions, None)?;
        let (id, secret) = (KeyId::generate(), secrets::random());
        let inserted =
            api_keys::insert(connection, scope, &id, &new.name, &secrets::hash(&secret), &permissions).await;
        let row = inserted.map_err(|error| gone(error, "api_keys_scope", scope.application()))?;
        Ok(MadeApiKey { row, key: format!("rk_{}_{id}_{secret}", scope.environment()) })
    }

    /// Revokes an API key, and with it the tokens that come from it, on all instances within 2 s.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn revoke_api_key(&self, application: &AppId, id: &str) -> Result<ApiKey, Problem> {
        let row = api_keys::revoke(&self.pool, application, id).await?;
        let row = row.ok_or_else(|| Problem::not_found("API key", id))?;
        self.refresh().await?;
        Ok(row)
    }
}

/// An application that was removed meanwhile is not found; anything else stays what it is.
pub(crate) fn gone(error: DatabaseError, constraint: &str, application: &AppId) -> Problem {
    if error.violates(constraint) {
        return Problem::not_found("application", application.as_str());
    }
    error.into()
}
