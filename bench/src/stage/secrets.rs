//! What the backends of one stage share, and a token that they accept.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

const TOKEN_SECONDS: u64 = 24 * 3600;

/// Made anew for each stage.
pub struct Secrets {
    jwt: String,
    key: String,
}

impl Secrets {
    /// Secrets that nobody can guess.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<Self> {
        Ok(Self { jwt: URL_SAFE_NO_PAD.encode(random()?), key: STANDARD.encode(random()?) })
    }

    /// As the backends' environment takes them.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("JWT_SECRET", self.jwt.clone()), ("REALTIME_SECRET_KEY", self.key.clone())]
    }

    /// A token of the role `admin` for `app_default`/`development`, of this subject.
    ///
    /// # Errors
    /// The clock stands before 1970.
    pub fn token(&self, subject: &str) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = json!({
            "sub": subject, "aud": "app_default", "env": "development", "permissions": ["admin"],
            "iat": now, "exp": now + TOKEN_SECONDS,
        });
        Ok(signed(&self.jwt, &claims.to_string()))
    }
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok().context("the system has no randomness")?;
    Ok(bytes)
}

/// A JSON Web Token (RFC 7519), HS256.
fn signed(secret: &str, claims: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let body = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body.as_bytes());
    format!("{body}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_signed_as_in_rfc_7515() {
        // Checked with another implementation (Python's hmac module).
        let token = signed("secret", r#"{"sub":"1"}"#);
        assert_eq!(
            token,
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.8qZF8vbN3UpcanXFc-mPXJkOPN01-bRch8XX3rToP1U"
        );
    }
}
