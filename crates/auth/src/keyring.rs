//! What an instance keeps in memory: keys, API keys, revocations and the applications' settings, of one version.

use crate::{
    identity::{Identity, Via},
    secrets,
    token::Claims,
};
use database::tables::{
    applications::ApplicationConfig,
    auth_snapshot::{AuthSnapshot, LiveApiKey, OpenedKey, RevokedSubject},
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use quick_cache::{Weighter, sync::Cache};
use shared_types::{AppId, Environment, ErrorKind, Problem, Scope, rights::Rights};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use subtle::ConstantTimeEq;

/// The longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Bytes of tokens that are recognized without being verified again.
const RECOGNIZED_BYTES: u64 = 4 << 20;
/// About how many tokens those are.
const RECOGNIZED: usize = 4_096;

/// One version of everything that is needed to verify.
pub(crate) struct Keyring {
    pub(crate) version: i64,
    applications: HashMap<String, Tenant>,
    api_keys: HashMap<String, LiveApiKey>,
    /// Tokens whose signatures these keys have verified: a request that brings the same text again needs no more than
    /// the look at what may have happened since.
    recognized: Cache<Box<str>, Arc<Verified>, ByBytes>,
}

impl Default for Keyring {
    fn default() -> Self {
        Self {
            version: 0,
            applications: HashMap::new(),
            api_keys: HashMap::new(),
            recognized: Cache::with_weighter(RECOGNIZED, RECOGNIZED_BYTES, ByBytes),
        }
    }
}

/// What a token with a valid signature says. Nothing about its times, and whether it was revoked.
pub(crate) struct Verified {
    pub(crate) identity: Identity,
    pub(crate) claims: Claims,
}

/// What is said takes about as much as the token does.
#[derive(Clone)]
struct ByBytes;

impl Weighter<Box<str>, Arc<Verified>> for ByBytes {
    fn weight(&self, token: &Box<str>, _: &Arc<Verified>) -> u64 {
        3 * token.len() as u64
    }
}

/// What belongs to one application.
#[derive(Default)]
struct Tenant {
    config: Arc<ApplicationConfig>,
    keys: HashMap<String, DecodingKey>,
    revoked_tokens: HashSet<String>,
    revoked_subjects: HashMap<String, RevokedSubject>,
}

impl Keyring {
    pub(crate) fn new(snapshot: AuthSnapshot) -> Self {
        let mut applications: HashMap<String, Tenant> = snapshot
            .applications
            .into_iter()
            .map(|(id, config)| (id, Tenant { config: Arc::new(config.0), ..Tenant::default() }))
            .collect();
        for OpenedKey { application_id, id, secret } in snapshot.signing_keys {
            if let Some(tenant) = applications.get_mut(&application_id) {
                tenant.keys.insert(id, DecodingKey::from_secret(secret.as_bytes()));
            }
        }
        for (application_id, jti) in snapshot.revoked_tokens {
            if let Some(tenant) = applications.get_mut(&application_id) {
                tenant.revoked_tokens.insert(jti);
            }
        }
        for revoked in snapshot.revoked_subjects {
            if let Some(tenant) = applications.get_mut(&revoked.application_id) {
                tenant.revoked_subjects.insert(revoked.sub.clone(), revoked);
            }
        }
        let api_keys = snapshot.api_keys.into_iter().map(|key| (key.id.clone(), key)).collect();
        Self { version: snapshot.version, applications, api_keys, ..Self::default() }
    }

    /// What is set for an application; `None` where there is none of that id.
    pub(crate) fn config(&self, application: &str) -> Option<Arc<ApplicationConfig>> {
        self.applications.get(application).map(|tenant| tenant.config.clone())
    }

    /// What a token says that one of the keys has signed. `platform_key` is the same in every call.
    pub(crate) fn read_token(
        &self,
        token: &str,
        platform_key: Option<&DecodingKey>,
    ) -> Result<Arc<Verified>, Problem> {
        if let Some(verified) = self.recognized.get(token) {
            return Ok(verified);
        }
        let (claims, kid) = self.verify(token, platform_key)?;
        let verified = Arc::new(Verified { identity: Identity::of(&claims, kid)?, claims });
        self.recognized.insert(token.into(), verified.clone());
        Ok(verified)
    }

    /// The token's claims and the id of the key that signed it.
    fn verify(
        &self,
        token: &str,
        platform_key: Option<&DecodingKey>,
    ) -> Result<(Claims, Option<String>), Problem> {
        let refused = || auth_failed("the token is not one of ours");
        if token.len() > MAX_TOKEN_BYTES {
            return Err(refused());
        }
        let header = decode_header(token).map_err(|_| auth_failed(unreadable(token)))?;
        if header.alg != Algorithm::HS256 || header.crit.is_some() {
            return Err(refused());
        }
        // Only to find the key: nothing of it is believed before the signature is verified with that key.
        let unverified: Audience = jsonwebtoken::dangerous::insecure_decode_claims(token)
            .map_err(|_| auth_failed("the token cannot be read"))?;
        let tenant = self.applications.get(&unverified.aud).ok_or_else(refused)?;
        let key = match &header.kid {
            Some(kid) => tenant.keys.get(kid),
            None => platform_key,
        };
        let data =
            decode::<Claims>(token, key.ok_or_else(refused)?, &signature_only()).map_err(|_| refused())?;
        if data.claims.aud != unverified.aud {
            return Err(refused());
        }
        Ok((data.claims, header.kid))
    }

    /// Whether somebody verified earlier still holds.
    pub(crate) fn still_holds(&self, identity: &Identity, platform_key: bool) -> Result<(), Problem> {
        let revoked = || Problem::new(ErrorKind::Unauthenticated, "TOKEN_REVOKED", "the token was revoked");
        let tenant = self.applications.get(identity.scope.application().as_str()).ok_or_else(revoked)?;
        let key_holds = match &identity.via {
            Via::Token { kid: Some(kid) } => tenant.keys.contains_key(kid.as_ref()),
            Via::Token { kid: None } => platform_key,
            Via::ApiKey => true,
        };
        let api_key_holds = identity.api_key.as_deref().is_none_or(|id| {
            self.api_keys
                .get(id)
                .is_some_and(|key| key.application_id == identity.scope.application().as_str())
        });
        let named = identity.jti.iter().chain(&identity.ancestors);
        let token_revoked = named.into_iter().any(|jti| tenant.revoked_tokens.contains(jti.as_ref()));
        let subject_revoked =
            identity.sub.as_deref().and_then(|sub| tenant.revoked_subjects.get(sub)).is_some_and(|revoked| {
                match (identity.counter, identity.issued_at) {
                    (Some(counter), _) => counter < revoked.counter,
                    (None, Some(issued_at)) => issued_at <= revoked.revoked_at,
                    (None, None) => true,
                }
            });
        if key_holds && api_key_holds && !token_revoked && !subject_revoked { Ok(()) } else { Err(revoked()) }
    }

    /// The identity of an API key, given whole.
    pub(crate) fn api_key(&self, text: &str) -> Result<Identity, Problem> {
        let refused = || auth_failed("the API key is not one of ours, or was revoked");
        let (environment, id, secret) = split_api_key(text).ok_or_else(refused)?;
        let key = self.api_keys.get(id).ok_or_else(refused)?;
        let same = key.secret_hash.ct_eq(&secrets::hash(secret));
        if !bool::from(same) || key.environment != environment {
            return Err(refused());
        }
        let environment: Environment = environment.parse().map_err(|_| refused())?;
        Ok(Identity {
            scope: Scope::new(AppId::from_stored(key.application_id.as_str()), environment),
            sub: None,
            rights: Rights::parse(&key.permissions, None)?,
            expires_at_ms: i64::MAX,
            jti: None,
            via: Via::ApiKey,
            api_key: Some(key.id.as_str().into()),
            issued_at: None,
            counter: None,
            ancestors: Vec::new(),
        })
    }
}

#[derive(serde::Deserialize)]
struct Audience {
    aud: String,
}

/// Times are judged by our own clock, without leeway; audience by the lookup of the key.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}

/// What to say of a text that is no token.
fn unreadable(text: &str) -> &'static str {
    match text.split_once('_') {
        Some(("rk", _)) => "an API key is no token: ask for one with it at POST /auth/token",
        Some(("sess", _)) => "a person's session is no token: ask for one with it at POST /auth/token",
        _ => "the token cannot be read",
    }
}

/// `rk_<env>_key_…_<secret>` → (env, `key_…`, secret).
fn split_api_key(text: &str) -> Option<(&str, &str, &str)> {
    const ID_BYTES: usize = "key_".len() + 26;
    let (environment, rest) = text.strip_prefix("rk_")?.split_once('_')?;
    let (id, secret) = (rest.get(..ID_BYTES)?, rest.get(ID_BYTES..)?);
    Some((environment, id, secret.strip_prefix('_')?))
}

pub(crate) fn auth_failed(message: &str) -> Problem {
    Problem::new(ErrorKind::Unauthenticated, "AUTH_FAILED", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_credentials_are_told_from_tokens() {
        for (text, first) in
            [("rk_development_x", "an API key"), ("sess_x", "a person's"), ("x_y", "the token")]
        {
            assert!(unreadable(text).starts_with(first), "{text}");
        }
    }

    #[test]
    fn api_keys_come_apart() {
        let id = format!("key_{}", "0".repeat(26));
        let text = format!("rk_development_{id}_ab_c");
        assert_eq!(split_api_key(&text), Some(("development", id.as_str(), "ab_c")));
        for bad in ["", "rk_", "rk_development_", "rk_development_key_1_x", "sk_development_x", "rk_é"] {
            assert_eq!(split_api_key(bad), None, "{bad}");
        }
    }
}
