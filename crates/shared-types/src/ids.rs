//! Prefixed identifiers that sort by time: `evt_` followed by a UUIDv7 in lower-case Crockford base32.

use crate::error::Problem;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, sync::Arc};
use uuid::Uuid;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// 128 bits as 26 characters, most significant first, so that text order is number order.
pub fn base32(value: u128) -> String {
    let mut text = String::with_capacity(26);
    text.extend((0..26).rev().map(|i| ALPHABET[((value >> (i * 5)) & 31) as usize] as char));
    text
}

/// A new id with `prefix`, for instance `evt_01jd…`: the prefix, an underscore and 26 characters.
pub fn new_id(prefix: &str) -> String {
    [prefix, "_", &base32(Uuid::now_v7().as_u128())].concat()
}

/// An id that is the same whenever `parts` are the same: a UUIDv7 whose random bits are a hash of them.
///
/// `timestamp_ms` makes it sort among the others by time.
pub fn derived_id(prefix: &str, timestamp_ms: u64, parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut random = [0u8; 10];
    random.copy_from_slice(&digest[..10]);
    let uuid = uuid::Builder::from_unix_timestamp_millis(timestamp_ms, &random).into_uuid();
    format!("{prefix}_{}", base32(uuid.as_u128()))
}

macro_rules! id {
    ($name:ident, $prefix:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A new one, later in order than all before it.
            pub fn generate() -> Self {
                Self(new_id($prefix).into())
            }

            /// One that was read from where we stored it.
            pub fn from_stored(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(AppId, "app", "An application (tenant): `app_…`; `app_default` exists from the start.");
id!(EventId, "evt", "An event: `evt_…`, or the id that its publisher gave.");
id!(SubscriptionId, "sub", "A subscription of one connection: `sub_…`.");
id!(MappingId, "map", "A mapping from table to topic: `map_…`.");
id!(KeyId, "key", "An API key or a signing key: `key_…`.");
id!(UserId, "usr", "A person: `usr_…`.");
id!(SessionId, "sess", "A signed-in session: `sess_…`.");

impl EventId {
    /// An id that a publisher gives: 1 to 64 of `A-Z a-z 0-9 _ -`, and not ours (`evt_…`).
    ///
    /// # Errors
    /// `INVALID_ID` where it is anything else.
    pub fn from_publisher(text: &str) -> Result<Self, Problem> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !fits {
            return Err(Problem::field_rule("INVALID_ID", "id", "must match ^[A-Za-z0-9_-]{1,64}$"));
        }
        if text.starts_with("evt_") {
            return Err(Problem::field_rule(
                "INVALID_ID",
                "id",
                "may not begin with evt_, which the server uses",
            ));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_have_26_characters() {
        let early = derived_id("evt", 1_000, &[b"a"]);
        let late = derived_id("evt", 2_000, &[b"a"]);
        assert!(early < late);
        assert_eq!(early.len(), 4 + 26);
        assert_ne!(derived_id("evt", 1, &[b"ab", b"c"]), derived_id("evt", 1, &[b"a", b"bc"]));
        assert_eq!(derived_id("evt", 1, &[b"ab"]), derived_id("evt", 1, &[b"ab"]));
    }

    #[test]
    fn publishers_may_not_use_our_prefix() {
        assert!(EventId::from_publisher("order-1_A").is_ok());
        for bad in ["", "evt_1", "a b", &"x".repeat(65), "ä"] {
            assert!(EventId::from_publisher(bad).is_err(), "{bad}");
        }
    }
}
