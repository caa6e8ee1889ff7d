//! Passwords: Argon2id, off the runtime's threads, a few at a time.

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use shared_types::Problem;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::Semaphore;

/// Each takes some 25 ms of a core and 19 MiB.
const AT_ONCE: usize = 2;
/// How long a caller waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// Fewest and most characters and bytes.
const LENGTH: (usize, usize) = (8, 256);

/// Hashes and verifies passwords.
#[derive(Debug)]
pub(crate) struct Passwords {
    permits: Arc<Semaphore>,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The hash of `password` as a PHC string.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Problem> {
        self.work(move || hash_now(&password)).await?
    }

    /// Whether `password` is the one that was hashed. Without a hash the answer is no, after as long a time.
    pub(crate) async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Problem> {
        self.work(move || {
            let known = hash.is_some();
            let hash = hash.as_deref().unwrap_or_else(|| stand_in());
            let matches = PasswordHash::new(hash)
                .is_ok_and(|parsed| Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok());
            known && matches
        })
        .await
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        let permit = tokio::time::timeout(PATIENCE, self.permits.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(Problem::unavailable("too many sign-ins at once; try again"));
        };
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await.map_err(|_| Problem::internal())
    }
}

/// Refuses what is no acceptable password.
pub(crate) fn check(path: &str, password: &str) -> Result<(), Problem> {
    if password.chars().count() < LENGTH.0 || password.len() > LENGTH.1 {
        let rule = format!("must have {} to {} characters", LENGTH.0, LENGTH.1);
        return Err(Problem::field(path, rule));
    }
    Ok(())
}

fn hash_now(password: &str) -> Result<String, Problem> {
    Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).map_err(|error| {
        tracing::error!(%error, "password could not be hashed");
        Problem::internal()
    })
}

/// A hash of nothing that anybody knows, with the same cost as a real one.
fn stand_in() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| hash_now(&crate::secrets::random()).expect("Argon2 with its default cost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_password_verifies() {
        let passwords = Passwords::new();
        let hash = passwords.hash("correct horse".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"));
        assert!(passwords.verify("correct horse".to_owned(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify("wrong horse".to_owned(), Some(hash)).await.unwrap());
        assert!(!passwords.verify("correct horse".to_owned(), None).await.unwrap());
    }
}
