//! The instance's own view of keys and revocations, kept fresh, and the verification by it.

use crate::{
    identity::Identity,
    keyring::{Keyring, Verified, auth_failed},
    passwords::Passwords,
    token::Claims,
};
use arc_swap::ArcSwap;
use database::{
    Pool,
    sealing::Sealer,
    tables::{applications::ApplicationConfig, auth_snapshot},
};
use jsonwebtoken::{DecodingKey, EncodingKey};
use parking_lot::Mutex;
use shared_types::{AppId, ErrorKind, Problem};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// How often the version is looked at, besides being notified.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// How often what has expired is removed.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);
/// With a view older than this nobody is let in.
const STALE_AFTER: Duration = Duration::from_secs(10);

/// What an [`Authenticator`] is made of.
pub struct AuthSettings {
    /// The platform's database.
    pub pool: Pool,
    /// Seals signing keys.
    pub sealer: Arc<Sealer>,
    /// `JWT_SECRET`: signs where an application has no managed key, and verifies tokens without `kid`.
    pub jwt_secret: Option<String>,
}

/// Verifies tokens, API keys and sessions, and grants new ones.
pub struct Authenticator {
    pub(crate) pool: Pool,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) platform_key: Option<PlatformKey>,
    pub(crate) passwords: Passwords,
    ring: ArcSwap<Keyring>,
    /// Held only while comparing versions and storing.
    storing: Mutex<()>,
    started: Instant,
    /// Milliseconds after `started` of the last successful look, plus one; 0 before the first.
    looked_at: AtomicU64,
    changes: watch::Sender<i64>,
}

/// `JWT_SECRET` in both uses.
pub(crate) struct PlatformKey {
    pub(crate) signs: EncodingKey,
    verifies: DecodingKey,
}

impl Authenticator {
    /// One that knows nothing yet: [`Authenticator::refresh`] or [`Authenticator::follow`] make it useful.
    pub fn new(settings: AuthSettings) -> Self {
        let platform_key = settings.jwt_secret.map(|secret| PlatformKey {
            signs: EncodingKey::from_secret(secret.as_bytes()),
            verifies: DecodingKey::from_secret(secret.as_bytes()),
        });
        Self {
            pool: settings.pool,
            sealer: settings.sealer,
            platform_key,
            passwords: Passwords::new(),
            ring: ArcSwap::default(),
            storing: Mutex::new(()),
            started: Instant::now(),
            looked_at: AtomicU64::new(0),
            changes: watch::Sender::new(-1),
        }
    }

    /// Verifies a token by what is in memory.
    ///
    /// # Errors
    /// `AUTH_FAILED`, `TOKEN_EXPIRED`, `TOKEN_REVOKED`; `UNAVAILABLE` where the view is more than 10 s old.
    pub fn verify_token(&self, token: &str) -> Result<Identity, Problem> {
        self.verified(token, now_ms()).map(|verified| verified.identity.clone())
    }

    /// Verifies a token and answers its claims too.
    ///
    /// # Errors
    /// As [`Authenticator::verify_token`].
    pub fn verify_claims(&self, token: &str) -> Result<(Identity, Claims), Problem> {
        self.verify_token_at(token, now_ms())
    }

    /// Verifies a token as of `now_ms` (Unix milliseconds).
    ///
    /// # Errors
    /// As [`Authenticator::verify_token`].
    pub fn verify_token_at(&self, token: &str, now_ms: i64) -> Result<(Identity, Claims), Problem> {
        let verified = self.verified(token, now_ms)?;
        Ok((verified.identity.clone(), verified.claims.clone()))
    }

    fn verified(&self, token: &str, now_ms: i64) -> Result<Arc<Verified>, Problem> {
        self.demand_fresh()?;
        let ring = self.ring.load();
        let platform_key = self.platform_key.as_ref().map(|key| &key.verifies);
        let verified = ring.read_token(token, platform_key)?;
        let Verified { identity, claims } = &*verified;
        if claims.nbf.is_some_and(|nbf| nbf.saturating_mul(1000) > now_ms) {
            return Err(auth_failed("the token is not valid yet"));
        }
        if claims.exp.saturating_mul(1000) <= now_ms {
            return Err(Problem::new(ErrorKind::Unauthenticated, "TOKEN_EXPIRED", "the token has expired"));
        }
        ring.still_holds(identity, self.platform_key.is_some())?;
        Ok(verified)
    }

    /// Verifies an API key (`rk_…`) by what is in memory.
    ///
    /// # Errors
    /// `AUTH_FAILED`; `UNAVAILABLE` where the view is more than 10 s old.
    pub fn verify_api_key(&self, text: &str) -> Result<Identity, Problem> {
        self.demand_fresh()?;
        self.ring.load().api_key(text)
    }

    /// Whether somebody verified earlier still holds: not revoked, key and application still there. Cheap.
    ///
    /// # Errors
    /// `TOKEN_REVOKED`.
    pub fn still_holds(&self, identity: &Identity) -> Result<(), Problem> {
        self.ring.load().still_holds(identity, self.platform_key.is_some())
    }

    /// Wakes whenever keys, revocations or applications changed; then [`Authenticator::still_holds`] may answer
    /// differently.
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.changes.subscribe()
    }

    /// What is set for an application; `None` where there is none of that id. At most 2 s old.
    pub fn application(&self, id: &AppId) -> Option<Arc<ApplicationConfig>> {
        self.ring.load().config(id.as_str())
    }

    /// Looks at the version now, and reads everything anew if it grew.
    ///
    /// # Errors
    /// `UNAVAILABLE` where the database does not answer in time.
    pub async fn refresh(&self) -> Result<(), Problem> {
        let looked_at = self.started.elapsed();
        let look = async {
            let version = auth_snapshot::version(&self.pool).await?;
            if version == self.ring.load().version && self.looked_at.load(Ordering::Acquire) != 0 {
                return Ok(());
            }
            self.store(Keyring::new(auth_snapshot::load(&self.pool, &self.sealer).await?));
            Ok::<(), database::DatabaseError>(())
        };
        let timed_out = || Problem::unavailable("the database does not answer; try again");
        tokio::time::timeout(LOOK_LIMIT, look).await.map_err(|_| timed_out())??;
        let millis = u64::try_from(looked_at.as_millis()).unwrap_or(u64::MAX - 1);
        self.looked_at.fetch_max(millis + 1, Ordering::AcqRel);
        Ok(())
    }

    /// Keeps the view fresh until dropped: every second, and whenever the database notifies.
    pub async fn follow(&self) {
        let mut listener = None;
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept: Option<Instant> = None;
        loop {
            if listener.is_none() {
                listener = auth_snapshot::listen(&self.pool, LOOK_LIMIT).await.ok();
            }
            match listener.as_mut() {
                Some(listening) => tokio::select! {
                    _ = tick.tick() => {}
                    notified = listening.recv() => if notified.is_err() {
                        listener = None;
                    },
                },
                None => {
                    tick.tick().await;
                }
            }
            if let Err(problem) = self.refresh().await {
                tracing::warn!(error = %problem, "keys and revocations could not be looked at");
            } else if swept.is_none_or(|at| at.elapsed() > SWEEP_EVERY) {
                swept = Some(Instant::now());
                self.sweep().await;
            }
        }
    }

    /// Forgets what no longer matters, in the time of a look.
    async fn sweep(&self) {
        match tokio::time::timeout(LOOK_LIMIT, self.forget_old()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "expired sessions and revocations could not be removed"),
            Err(_) => tracing::warn!("removing expired sessions and revocations took too long"),
        }
    }

    fn store(&self, ring: Keyring) {
        let version = ring.version;
        {
            let _turn = self.storing.lock();
            // Two may have read at once: the older never replaces the newer.
            if version < self.ring.load().version {
                return;
            }
            self.ring.store(Arc::new(ring));
        }
        self.changes.send_replace(version);
    }

    /// Whether the view is young enough to let somebody in.
    pub fn is_fresh(&self) -> bool {
        let looked_at = self.looked_at.load(Ordering::Acquire);
        let age = self.started.elapsed().saturating_sub(Duration::from_millis(looked_at.saturating_sub(1)));
        looked_at != 0 && age <= STALE_AFTER
    }

    fn demand_fresh(&self) -> Result<(), Problem> {
        if self.is_fresh() {
            return Ok(());
        }
        Err(Problem::unavailable("revocations cannot be looked up now; try again"))
    }
}

/// Unix milliseconds now.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
