//! Authentication on a real Postgres.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod people;
mod tokens;

use auth::{AuthSettings, Authenticator};
use database::{Pool, sealing::Sealer};
use std::sync::Arc;
use testkit::TestDatabase;

/// An instance on `test`'s database, fresh.
async fn instance(test: &TestDatabase, jwt_secret: Option<&str>) -> Authenticator {
    over(test.pool.clone(), jwt_secret).await
}

/// One over a pool of its own.
async fn over(pool: Pool, jwt_secret: Option<&str>) -> Authenticator {
    let settings = AuthSettings {
        pool,
        sealer: Arc::new(Sealer::new(&[3; 32])),
        jwt_secret: jwt_secret.map(str::to_owned),
    };
    let authenticator = Authenticator::new(settings);
    authenticator.refresh().await.expect("a view");
    authenticator
}
