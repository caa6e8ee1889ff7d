//! Who a token or an API key stands for.

use crate::{keyring::auth_failed, token::Claims};
use shared_types::{AppId, Environment, Problem, Scope, rights::Rights};
use std::sync::Arc;

/// How an identity proved itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// By a token signed with a managed key (`kid`), or with the platform's `JWT_SECRET` where absent.
    Token {
        /// The key's id.
        kid: Option<Arc<str>>,
    },
    /// By an API key.
    ApiKey,
}

/// A verified token or API key: whose scope it is in, and what it may do there.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The scope of everything it does.
    pub scope: Scope,
    /// The subject, a person or service of the customer's.
    pub sub: Option<Arc<str>>,
    /// What it may do.
    pub rights: Rights,
    /// Unix milliseconds; `i64::MAX` for an API key.
    pub expires_at_ms: i64,
    /// The token's own id.
    pub jti: Option<Arc<str>>,
    /// How it proved itself.
    pub via: Via,
    /// The API key that it is, or that its token comes from.
    pub api_key: Option<Arc<str>>,
    /// Unix seconds.
    pub(crate) issued_at: Option<i64>,
    /// The subject's revocation counter when it was issued.
    pub(crate) counter: Option<i64>,
    /// The ids of the tokens that it was asked for with, the first one first.
    pub(crate) ancestors: Vec<Arc<str>>,
}

impl Identity {
    /// What verified claims say.
    pub(crate) fn of(claims: &Claims, kid: Option<String>) -> Result<Self, Problem> {
        let environment = claims.env.unwrap_or(Environment::Development);
        let rights = Rights::parse(&claims.permissions, claims.capabilities.as_ref()).map_err(|problem| {
            auth_failed(&format!("the token's claims are not valid: {}", problem.message))
        })?;
        Ok(Self {
            scope: Scope::new(AppId::from_stored(claims.aud.as_str()), environment),
            sub: claims.sub.as_deref().map(Arc::from),
            rights,
            expires_at_ms: claims.exp.saturating_mul(1000),
            jti: claims.jti.as_deref().map(Arc::from),
            via: Via::Token { kid: kid.map(Arc::from) },
            api_key: claims.key.as_deref().map(Arc::from),
            issued_at: claims.iat,
            counter: claims.rev,
            ancestors: claims.anc.iter().map(|jti| Arc::from(jti.as_str())).collect(),
        })
    }

    /// What it is called in records: `key_…` for an API key, else `client:<sub>` or `client:<jti>`.
    pub fn name(&self) -> String {
        match (&self.via, &self.api_key) {
            (Via::ApiKey, Some(key)) => key.to_string(),
            _ => format!("client:{}", self.sub.as_deref().or(self.jti.as_deref()).unwrap_or("anonymous")),
        }
    }
}
