//! An outbox to read: its database, whose it is, and where its events go.

use crate::{
    row::Outbox,
    table::{self, Form},
    trouble::{OutboxError, Trouble},
};
use database::{
    Pool,
    tables::{cdc, outbox},
};
use event_router::EventRouter;
use metrics::Metrics;
use outbound::{
    Guard, Policy, literal,
    postgres::{Destination, Tunnel},
};
use shared_types::Scope;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use std::{future::Future, sync::Arc, time::Duration};
use url::Url;

/// Partitions of one outbox that a process works on at a time.
pub const AT_A_TIME: usize = 4;
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);
/// A worker that stops in the middle (a paused machine) loses its claims after this.
const CLAIM_LIMIT: Duration = Duration::from_secs(60);
const PEM: &str = "-----BEGIN CERTIFICATE-----";
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);

/// An outbox with what reading it takes.
pub struct Source {
    /// Which, and whose.
    pub outbox: Outbox,
    /// The database that holds it.
    pub pool: PgPool,
    /// The way to that database, where connections do not go straight.
    pub _tunnel: Option<Tunnel>,
    /// The platform's own database.
    pub platform: Pool,
    /// The way into the log.
    pub router: EventRouter,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Source {
    /// Which form its table has.
    pub fn form(&self) -> Form {
        if self.outbox.owner.is_none() { Form::Platform } else { Form::Target }
    }
}

/// How to connect to `url`: statements end, and so do transactions in which nothing happens. `sslrootcert` may be the
/// certificate itself.
///
/// # Errors
/// [`OutboxError::Url`].
pub fn connect_options(url: &str) -> Result<PgConnectOptions, OutboxError> {
    let unusable = || OutboxError::Url("it must be postgresql://user:password@host:port/database".to_owned());
    let (url, ca) = without_inline_ca(url).ok_or_else(unusable)?;
    let mut options: PgConnectOptions = url.as_str().parse().map_err(|_| unusable())?;
    if let Some(ca) = ca {
        options = options.ssl_root_cert_from_pem(ca.into_bytes());
    }
    Ok(options.application_name("realtime-outbox").options([
        ("statement_timeout", STATEMENT_LIMIT.as_millis().to_string()),
        ("idle_in_transaction_session_timeout", CLAIM_LIMIT.as_millis().to_string()),
    ]))
}

/// Takes a certificate out of a URL: the client would look for a file of that name.
fn without_inline_ca(url: &str) -> Option<(Url, Option<String>)> {
    let mut url = Url::parse(url).ok()?;
    let is_ca = |name: &str, value: &str| name == "sslrootcert" && value.trim_start().starts_with(PEM);
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let ca = pairs.iter().find(|(name, value)| is_ca(name, value)).map(|(_, value)| value.clone());
    if ca.is_some() {
        url.query_pairs_mut().clear().extend_pairs(pairs.iter().filter(|(name, value)| !is_ca(name, value)));
    }
    Some((url, ca))
}

/// A pool that suffices for one outbox, and connects when it is first used.
///
/// # Errors
/// [`OutboxError::Url`].
pub fn pool(url: &str) -> Result<PgPool, OutboxError> {
    Ok(pool_of(connect_options(url)?))
}

fn pool_of(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(AT_A_TIME as u32 + 2)
        .acquire_timeout(ACQUIRE_LIMIT)
        .idle_timeout(Some(Duration::from_secs(60)))
        .connect_lazy_with(options)
}

/// A pool for a target, whose connections lead where `policy` allows, with the way that they take where they do not go
/// straight: it has to live as long as the pool.
///
/// # Errors
/// [`OutboxError::Url`], [`OutboxError::Outbound`].
pub async fn guarded_pool(url: &str, policy: Policy) -> Result<(PgPool, Option<Tunnel>), OutboxError> {
    let options = connect_options(url)?;
    let (host, port) = (options.get_host().to_owned(), options.get_port());
    if policy == Policy::Any {
        return Ok((pool_of(options), None));
    }
    let guard = Guard::new(policy);
    if literal(&host).is_some() {
        guard.addresses(&host, port).await?;
        return Ok((pool_of(options), None));
    }
    let unusable = || OutboxError::Url("it must be postgresql://user:password@host:port/database".to_owned());
    let (bare, ca) = without_inline_ca(url).ok_or_else(unusable)?;
    let ssl_mode =
        bare.query_pairs().find(|(name, _)| name == "sslmode").map(|(_, value)| value.into_owned());
    let ssl_mode = ssl_mode.as_deref().unwrap_or("prefer").parse().map_err(|()| unusable())?;
    let tunnel = Tunnel::open(guard, Destination { host, port, ssl_mode, ca }).await?;
    let options = options.host("127.0.0.1").port(tunnel.port()).ssl_mode(PgSslMode::Disable);
    Ok((pool_of(options), Some(tunnel)))
}

/// Asks a target who it is, and claims its outbox for `scope`.
///
/// # Errors
/// What keeps it from being read.
pub async fn claim_target(pool: &PgPool, platform: &Pool, scope: &Scope) -> Result<Outbox, Trouble> {
    let identity =
        limited(async { Ok(table::identify(pool).await?) }).await.map_err(|e| Trouble::from(&e))?;
    let own =
        limited(async { Ok(cdc::own_identity(platform).await?) }).await.map_err(|e| Trouble::from(&e))?;
    if own == (identity.system.clone(), identity.database.clone()) {
        return Err(Trouble::own());
    }
    // Whether there is an outbox, before it is somebody's.
    limited(async { Ok(table::pending(pool, Form::Target, &[]).await?) })
        .await
        .map_err(|error| Trouble::from(&error))?;
    let is_ours =
        limited(async { Ok(outbox::claim(platform, scope, &identity.system, &identity.database).await?) });
    if is_ours.await.map_err(|error| Trouble::from(&error))? {
        Ok(Outbox::of_target(&identity.system, &identity.database, scope.clone()))
    } else {
        Err(Trouble::owned())
    }
}

/// Waits for `work` not much longer than a statement may take: a server that is gone does not time statements out.
pub async fn limited<T>(work: impl Future<Output = Result<T, OutboxError>>) -> Result<T, OutboxError> {
    match tokio::time::timeout(CLAIM_LIMIT, work).await {
        Ok(result) => result,
        Err(_) => Err(OutboxError::TooSlow(CLAIM_LIMIT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_in_the_url_is_one_and_no_file() {
        let text = "postgres://me:p%40ss@db.example:6432/shop?sslrootcert=-----BEGIN%20CERTIFICATE-----%0AAAAA%0A\
                    -----END%20CERTIFICATE-----&sslmode=verify-full";
        let (url, ca) = without_inline_ca(text).expect("a URL");
        assert_eq!(url.as_str(), "postgres://me:p%40ss@db.example:6432/shop?sslmode=verify-full");
        assert_eq!(ca.as_deref(), Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"));
        let options = connect_options(text).expect("usable");
        assert_eq!((options.get_host(), options.get_port()), ("db.example", 6432));
        assert!(format!("{options:?}").contains("Inline"), "{options:?}");
        assert!(!format!("{:?}", connect_options("postgres://me@h/d").expect("usable")).contains("Inline"));
        assert!(matches!(connect_options("nonsense"), Err(OutboxError::Url(_))));
    }
}
