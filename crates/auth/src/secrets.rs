//! Random secrets and their hashes.

use rand::RngCore;
use sha2::{Digest, Sha256};

/// 256 random bits as 64 hexadecimal digits.
pub(crate) fn random() -> String {
    let mut bytes = [0u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// What is stored of a random secret. It has 256 bits, so that a plain hash cannot be searched.
pub(crate) fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// What a page that holds the session only in its cookie sends in a header with unsafe requests.
///
/// Derived from the session's token, which another origin cannot read.
pub fn csrf_token(session_token: &str) -> String {
    hex::encode(&Sha256::digest(format!("csrf:{session_token}").as_bytes())[..16])
}
