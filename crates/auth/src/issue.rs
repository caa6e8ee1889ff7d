//! Issuing tokens: never more than the caller holds.

use crate::{
    authenticator::{Authenticator, now_ms},
    identity::{Identity, Via},
    secrets,
    token::Claims,
};
use database::tables::{revocations, signing_keys};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use shared_types::{
    AppId, Environment, ErrorKind, Problem, Scope,
    ids::new_id,
    rights::{Rights, TokenRole},
};
use std::collections::BTreeMap;

/// How long a token lasts that names no time, in seconds.
pub const DEFAULT_TTL_SECONDS: i64 = 3_600;
/// The longest a token may last, in seconds.
pub const MAX_TTL_SECONDS: i64 = 86_400;
/// How many tokens may follow from one another.
const MAX_ANCESTORS: usize = 8;
const ISSUER: &str = "realtime";

/// What somebody asks for.
#[derive(Clone, Debug, Default)]
pub struct TokenRequest {
    /// The application.
    pub application_id: String,
    /// The environment; the caller's own where absent.
    pub environment: Option<Environment>,
    /// The subject.
    pub sub: Option<String>,
    /// Roles and verbs; `client` where absent.
    pub permissions: Option<Vec<String>>,
    /// Seconds; [`DEFAULT_TTL_SECONDS`] where absent, at most [`MAX_TTL_SECONDS`].
    pub ttl_seconds: Option<i64>,
    /// Name pattern → verbs.
    pub capabilities: Option<BTreeMap<String, Vec<String>>>,
}

/// On whose authority a token is issued.
#[derive(Clone, Copy, Debug)]
pub enum Issuer<'a> {
    /// An API key, or a token whose role is `admin` or `service`.
    Identity(&'a Identity),
    /// A person, who holds at most these rights in the application and works in this environment.
    Person(&'a Rights, Environment),
    /// Nobody: `realtime dev` on the machine itself.
    Open,
}

/// A token with its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The signed token.
    pub token: String,
    /// Unix milliseconds.
    pub expires_at_ms: i64,
}

impl Authenticator {
    /// Issues a token.
    ///
    /// # Errors
    /// `FORBIDDEN` where it would exceed the caller, `NOT_FOUND` for an unknown application,
    /// `VALIDATION_FAILED` naming a bad field.
    pub async fn issue(&self, issuer: Issuer<'_>, request: &TokenRequest) -> Result<Issued, Problem> {
        let application = AppId::from_stored(request.application_id.as_str());
        let environment = request.environment.unwrap_or(match issuer {
            Issuer::Identity(identity) => identity.scope.environment(),
            Issuer::Person(_, environment) => environment,
            Issuer::Open => Environment::Development,
        });
        let scope = Scope::new(application, environment);
        let permissions = request.permissions.clone().unwrap_or_else(|| vec!["client".to_owned()]);
        let rights = Rights::parse(&permissions, request.capabilities.as_ref())?;
        check_request(request)?;
        authorize(issuer, &scope, &rights)?;
        if self.application(scope.application()).is_none() {
            return Err(Problem::not_found("application", &request.application_id));
        }
        let claims = self.claims(issuer, &scope, request, permissions).await?;
        self.sign(scope.application(), &claims).await
    }

    async fn claims(
        &self,
        issuer: Issuer<'_>,
        scope: &Scope,
        request: &TokenRequest,
        permissions: Vec<String>,
    ) -> Result<Claims, Problem> {
        let now = now_ms() / 1000;
        let rev = match &request.sub {
            // From the database, not from memory: a token issued right after a revocation must hold.
            Some(sub) => Some(revocations::subject_counter(&self.pool, scope.application(), sub).await?),
            None => None,
        };
        let (key, anc) = match issuer {
            Issuer::Identity(identity) => {
                (identity.api_key.as_deref().map(str::to_owned), lineage(identity)?)
            }
            Issuer::Person(..) | Issuer::Open => (None, Vec::new()),
        };
        Ok(Claims {
            sub: request.sub.clone(),
            aud: request.application_id.clone(),
            env: Some(scope.environment()),
            iss: Some(ISSUER.to_owned()),
            exp: now + request.ttl_seconds.unwrap_or(DEFAULT_TTL_SECONDS),
            iat: Some(now),
            nbf: None,
            jti: Some(new_id("jti")),
            permissions,
            capabilities: request.capabilities.clone(),
            rev,
            key,
            anc,
        })
    }

    async fn sign(&self, application: &AppId, claims: &Claims) -> Result<Issued, Problem> {
        let mut header = Header::new(Algorithm::HS256);
        let token =
            match (signing_keys::active(&self.pool, &self.sealer, application).await?, &self.platform_key) {
                (Some((kid, secret)), _) => {
                    header.kid = Some(kid);
                    encode(&header, claims, &EncodingKey::from_secret(secret.as_bytes()))
                }
                (None, Some(platform_key)) => encode(&header, claims, &platform_key.signs),
                (None, None) => {
                    let (kid, secret) = self.first_signing_key(application).await?;
                    header.kid = Some(kid);
                    encode(&header, claims, &EncodingKey::from_secret(secret.as_bytes()))
                }
            };
        let token = token.map_err(|error| {
            tracing::error!(%error, "token could not be signed");
            Problem::internal()
        })?;
        Ok(Issued { token, expires_at_ms: claims.exp * 1000 })
    }

    /// Makes the key of an application that has none; of several callers at once one makes it.
    async fn first_signing_key(&self, application: &AppId) -> Result<(String, String), Problem> {
        let mut tx = self.pool.begin().await.map_err(database::DatabaseError::from)?;
        if database::tables::applications::lock(&mut tx, application).await?.is_none() {
            return Err(Problem::not_found("application", application.as_str()));
        }
        if let Some(found) = signing_keys::active(&mut *tx, &self.sealer, application).await? {
            return Ok(found);
        }
        let (id, secret) = (shared_types::KeyId::generate(), secrets::random());
        signing_keys::insert(&mut *tx, &self.sealer, application, &id, &secret).await?;
        tx.commit().await.map_err(database::DatabaseError::from)?;
        self.refresh().await?;
        Ok((id.to_string(), secret))
    }
}

fn check_request(request: &TokenRequest) -> Result<(), Problem> {
    let ttl = request.ttl_seconds.unwrap_or(DEFAULT_TTL_SECONDS);
    if !(1..=MAX_TTL_SECONDS).contains(&ttl) {
        return Err(Problem::field("ttlSeconds", format!("must be 1 to {MAX_TTL_SECONDS}")));
    }
    let fits = |sub: &String| (1..=255).contains(&sub.len()) && !sub.chars().any(char::is_control);
    if !request.sub.as_ref().is_none_or(fits) {
        return Err(Problem::field("sub", "must have 1 to 255 bytes and no control characters"));
    }
    Ok(())
}

fn authorize(issuer: Issuer<'_>, scope: &Scope, wanted: &Rights) -> Result<(), Problem> {
    let held = match issuer {
        Issuer::Open => return Ok(()),
        Issuer::Person(held, _) => held,
        Issuer::Identity(identity) => {
            if identity.scope != *scope {
                return Err(Problem::forbidden(
                    "tokens are issued only for your own application and environment",
                ));
            }
            let may_issue = identity.via == Via::ApiKey
                || identity.rights.role().is_some_and(|role| role >= TokenRole::Service);
            if !may_issue {
                return Err(Problem::forbidden("only an API key or the role admin or service issues tokens"));
            }
            &identity.rights
        }
    };
    if held.covers(wanted) {
        return Ok(());
    }
    Err(Problem::forbidden("the token would hold more than you do"))
}

/// The ids of the token that is shown and of those before it: revoking one revokes what came from it.
fn lineage(identity: &Identity) -> Result<Vec<String>, Problem> {
    let ids = identity.ancestors.iter().chain(&identity.jti).map(|jti| jti.to_string()).collect::<Vec<_>>();
    if ids.len() > MAX_ANCESTORS {
        let message = format!("a token comes at most {MAX_ANCESTORS} tokens after its API key or session");
        return Err(Problem::new(ErrorKind::Forbidden, "FORBIDDEN", message));
    }
    Ok(ids)
}
