//! Tokens signed with the platform's secret, as an application's own server would make them.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The secret of every instance in these tests.
pub const SECRET: &str = "a platform secret for these tests only";

/// The claims of a token.
#[derive(Clone)]
pub struct Token(Value);

/// Unix seconds now.
pub fn now_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

impl Token {
    /// A token for `permissions` in the default application, an hour long.
    pub fn of(permissions: &[&str]) -> Self {
        let now = now_seconds();
        Self(json!({ "aud": "app_default", "iat": now, "exp": now + 3600, "permissions": permissions }))
    }

    /// One that may do everything.
    pub fn service() -> Self {
        Self::of(&["service"])
    }

    /// With a claim more, or another value for one.
    pub fn with(mut self, claim: &str, value: impl Into<Value>) -> Self {
        self.0[claim] = value.into();
        self
    }

    /// Expiring so many seconds from now.
    pub fn expires_in(self, seconds: i64) -> Self {
        self.with("exp", now_seconds() + seconds)
    }

    /// Signed.
    pub fn sign(&self) -> String {
        self.sign_by(SECRET)
    }

    /// Signed with some secret.
    pub fn sign_by(&self, secret: &str) -> String {
        encode(&Header::default(), &self.0, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }
}

/// A good token that may do everything.
pub fn service() -> String {
    Token::service().sign()
}
