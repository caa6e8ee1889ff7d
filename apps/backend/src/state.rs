//! What every handler can reach.

use crate::{gateway::channels::Channels, rates::Rates};
use auth::Authenticator;
use database::{DatabaseError, Pool, sealing::Sealer, tables::applications};
use event_router::EventRouter;
use metrics::Metrics;
use shared_config::{Config, CorsOrigins, Environment, Networks};
use shared_types::AppId;
use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use sync::Documents;

/// What a backend's handlers share: one pointer, since every request copies it several times.
#[derive(Clone)]
pub struct AppState(Arc<AppParts>);

impl Deref for AppState {
    type Target = AppParts;

    fn deref(&self) -> &AppParts {
        &self.0
    }
}

impl From<AppParts> for AppState {
    fn from(parts: AppParts) -> Self {
        Self(Arc::new(parts))
    }
}

/// The parts of a backend.
pub struct AppParts {
    /// The platform's database.
    pub pool: Pool,
    /// Verifies and grants.
    pub authenticator: Arc<Authenticator>,
    /// The way into the event log.
    pub router: EventRouter,
    /// All operations on documents.
    pub documents: Arc<Documents>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Seals connection URLs.
    pub sealer: Arc<Sealer>,
    /// How HTTP behaves.
    pub http: HttpSettings,
    /// Channels, presence and the connections of all instances.
    pub channels: Arc<Channels>,
    /// How often callers do something.
    pub rates: Arc<Rates>,
    /// Whether the server is stopping: `/ready` says 503 from then on.
    pub draining: Arc<AtomicBool>,
}

/// How HTTP behaves.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Pages that may call the API.
    pub cors: CorsOrigins,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// How long a request may take.
    pub timeout: Duration,
    /// Requests of one caller in a minute.
    pub requests_per_minute: Option<u32>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Networks,
    /// `NODE_ENV`, as the platform sees it.
    pub mode: Mode,
    /// Whether the platform may follow its own database: in development only.
    pub own_database_as_target: bool,
    /// The URL of the platform's own database.
    pub platform_database_url: String,
    /// The environment of the platform that `NODE_ENV` stands for.
    pub environment: shared_types::Environment,
    /// `CDC_SLOT_NAME`, from which the names of slots come.
    pub cdc_slot_name: String,
    /// `CDC_DATABASE_URL`: the target of the default application, where it is set to none itself.
    pub cdc_database_url: Option<String>,
}

/// What kind of installation this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real users: setting up asks for the printed code, cookies are only sent over TLS.
    Production,
    /// Anything less.
    Development,
    /// `realtime dev`: issues tokens without credentials to programs on the machine itself.
    OwnMachine,
}

impl Mode {
    /// What `NODE_ENV` says; [`Mode::OwnMachine`] is only chosen by `realtime dev`.
    pub fn of(config: &Config) -> Self {
        match config.environment {
            Environment::Production => Self::Production,
            Environment::Development | Environment::Staging | Environment::Test => Self::Development,
        }
    }
}

impl HttpSettings {
    /// What is configured, in `mode`.
    pub fn of(config: &Config, mode: Mode) -> Self {
        Self {
            cors: config.cors_origins.clone(),
            body_bytes: config.limits.body_bytes,
            timeout: Duration::from_secs(30),
            requests_per_minute: config.limits.requests_per_minute,
            trusted_proxies: config.trusted_proxies.clone(),
            mode,
            own_database_as_target: matches!(
                config.environment,
                Environment::Development | Environment::Test
            ),
            platform_database_url: config.postgres.url().to_owned(),
            environment: match config.environment {
                Environment::Production => shared_types::Environment::Production,
                Environment::Staging => shared_types::Environment::Staging,
                Environment::Development | Environment::Test => shared_types::Environment::Development,
            },
            cdc_slot_name: config.cdc.slot_name.clone(),
            cdc_database_url: config.cdc.database_url().map(str::to_owned),
        }
    }

    /// The defaults of development.
    pub fn development(platform_database_url: impl Into<String>) -> Self {
        Self {
            cors: CorsOrigins::Localhost,
            body_bytes: 1024 * 1024,
            timeout: Duration::from_secs(30),
            requests_per_minute: None,
            trusted_proxies: Networks::default(),
            mode: Mode::Development,
            own_database_as_target: true,
            platform_database_url: platform_database_url.into(),
            environment: shared_types::Environment::Development,
            cdc_slot_name: "realtime_cdc_slot".to_owned(),
            cdc_database_url: None,
        }
    }
}

impl AppState {
    /// Whether there is such an application: as of the last look at keys and revocations, or else in the database.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn application_exists(&self, id: &AppId) -> Result<bool, DatabaseError> {
        if self.authenticator.application(id).is_some() {
            return Ok(true);
        }
        Ok(applications::find(&self.pool, id).await?.is_some())
    }

    /// Whether the server is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
