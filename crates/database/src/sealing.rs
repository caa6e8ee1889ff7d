//! Secrets at rest: AES-256-GCM under the platform's secret key.
//!
//! A sealed text is bound to its context (which row, which field): copied to another place it does not open.

use crate::DatabaseError;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf, hmac,
};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use std::fmt;

const PREFIX: &str = "v1.";

/// Seals and opens secrets with keys derived from `REALTIME_SECRET_KEY`.
pub struct Sealer {
    seal: RandomizedNonceKey,
    mac: hmac::Key,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// A sealer under `key`.
    pub fn new(key: &[u8; 32]) -> Self {
        let seal = RandomizedNonceKey::new(&AES_256_GCM, &derive(key, b"realtime sealing"))
            .expect("AES-256-GCM takes a key of 32 bytes");
        Self { seal, mac: hmac::Key::new(hmac::HMAC_SHA256, &derive(key, b"realtime fingerprints")) }
    }

    /// Seals `plain` for `context`; every call gives another text: `v1.` and base64 of nonce, ciphertext, tag.
    pub fn seal(&self, plain: &str, context: &str) -> String {
        let mut bytes = plain.as_bytes().to_vec();
        let nonce = self
            .seal
            .seal_in_place_append_tag(Aad::from(context.as_bytes()), &mut bytes)
            .expect("secrets are far shorter than the cipher's limit");
        let mut out = nonce.as_ref().to_vec();
        out.append(&mut bytes);
        format!("{PREFIX}{}", BASE64.encode(out))
    }

    /// Opens what [`Sealer::seal`] made for the same `context`.
    ///
    /// # Errors
    /// [`DatabaseError::Unsealable`] under another key, for another context, or where the text was changed.
    pub fn open(&self, sealed: &str, context: &str) -> Result<String, DatabaseError> {
        let encoded = sealed.strip_prefix(PREFIX).ok_or(DatabaseError::Unsealable("unknown form"))?;
        let mut bytes = BASE64.decode(encoded).map_err(|_| DatabaseError::Unsealable("not base64"))?;
        if bytes.len() < NONCE_LEN {
            return Err(DatabaseError::Unsealable("too short"));
        }
        let mut sealed = bytes.split_off(NONCE_LEN);
        let nonce =
            Nonce::try_assume_unique_for_key(&bytes).map_err(|_| DatabaseError::Unsealable("nonce"))?;
        let plain = self
            .seal
            .open_in_place(nonce, Aad::from(context.as_bytes()), &mut sealed)
            .map_err(|_| DatabaseError::Unsealable("another key or context"))?;
        String::from_utf8(plain.to_vec()).map_err(|_| DatabaseError::Unsealable("not text"))
    }

    /// A keyed hash: equal for equal `data` and `purpose`, and telling nothing about short data to who has only
    /// the database.
    pub fn fingerprint(&self, purpose: &str, data: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.mac);
        context.update(&(purpose.len() as u64).to_be_bytes());
        context.update(purpose.as_bytes());
        context.update(data);
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }
}

/// A key of its own for each use, so that one use never weakens another.
fn derive(key: &[u8; 32], purpose: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"realtime")
        .extract(key)
        .expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out))
        .expect("HKDF gives 32 bytes");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_under_its_key_and_context() {
        let sealer = Sealer::new(&[7; 32]);
        let sealed = sealer.seal("postgres://u:p@h/d", "app_1/cdc");
        assert!(!sealed.contains("postgres"));
        assert_ne!(sealed, sealer.seal("postgres://u:p@h/d", "app_1/cdc"));
        assert_eq!(sealer.open(&sealed, "app_1/cdc").unwrap(), "postgres://u:p@h/d");
        assert!(sealer.open(&sealed, "app_2/cdc").is_err());
        assert!(Sealer::new(&[8; 32]).open(&sealed, "app_1/cdc").is_err());
        for bad in ["", "v1.", "v1.AAAA", "v2.AAAA", "v1.!!"] {
            assert!(sealer.open(bad, "app_1/cdc").is_err(), "{bad}");
        }
    }

    #[test]
    fn fingerprints_depend_on_key_and_purpose() {
        let sealer = Sealer::new(&[7; 32]);
        assert_eq!(sealer.fingerprint("a", b"x"), sealer.fingerprint("a", b"x"));
        assert_ne!(sealer.fingerprint("a", b"x"), sealer.fingerprint("b", b"x"));
        assert_ne!(sealer.fingerprint("a", b"x"), Sealer::new(&[8; 32]).fingerprint("a", b"x"));
    }
}
