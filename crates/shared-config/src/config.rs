//! The typed configuration.
//!
//! Owns how variables become values that the platform uses, and the rules that concern several
//! variables together.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use url::Url;

use crate::networks::Networks;
use crate::problem::ConfigErrors;
use crate::read::Reader;
use crate::secret::{Secret, SecretKey};
use crate::source::{Vars, process_vars};
use crate::variables::{JWT_SECRET_MIN, SAMPLE_JWT_SECRET};

/// What kind of installation this is: the values of `NODE_ENV`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// A developer's machine.
    Development,
    /// Like production, for trying.
    Staging,
    /// Real users: insists on real secrets.
    Production,
    /// Under a test suite.
    Test,
}

impl Environment {
    /// The value as it is written in `NODE_ENV`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
            Self::Test => "test",
        }
    }

    /// `None` for a word that is no environment.
    fn parse(word: &str) -> Option<Self> {
        [Self::Development, Self::Staging, Self::Production, Self::Test]
            .into_iter()
            .find(|environment| environment.as_str() == word)
    }
}

/// The least severe level that is logged: the values of `LOG_LEVEL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    /// The value as it is written in `LOG_LEVEL`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    /// `None` for a word that is no level.
    fn parse(word: &str) -> Option<Self> {
        [Self::Debug, Self::Info, Self::Warn, Self::Error].into_iter().find(|level| level.as_str() == word)
    }
}

/// How long a topic's events are kept in Redis, unless it is said.
const REDIS_HISTORY_SECONDS: u64 = 15 * 60;
/// What side-effect readers may lag behind in Redis, unless it is said.
const REDIS_BACKLOG_BYTES: u64 = 1 << 30;

/// What an answered write to a document means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncWriteMode {
    /// It is in Redis, where Redis is used, and goes to PostgreSQL right afterwards.
    WriteBehind,
    /// It is committed in PostgreSQL.
    WriteThrough,
}

/// Everything that the platform is configured with. Secrets are redacted in its `Debug`.
#[derive(Debug, Clone)]
pub struct Config {
    /// `NODE_ENV`.
    pub environment: Environment,
    /// `HOST`: the address to listen on.
    pub host: IpAddr,
    /// `PORT`: the port to listen on.
    pub port: u16,
    /// `LOG_LEVEL`.
    pub log_level: LogLevel,
    /// `CORS_ORIGINS`.
    pub cors_origins: CorsOrigins,
    /// `TRUSTED_PROXIES`: whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Networks,
    /// `SHUTDOWN_SECONDS`: how long a graceful stop may take.
    pub shutdown: Duration,
    /// `RUNTIME_THREADS`: threads on which a server program runs its tasks; `None` for one a processor.
    pub runtime_threads: Option<usize>,
    /// The platform's own database.
    pub postgres: PostgresConfig,
    /// Redis, where it is used.
    pub redis: Option<RedisConfig>,
    /// `JWT_SECRET`: signs and verifies tokens without a managed key.
    pub jwt_secret: Option<Secret>,
    /// `REALTIME_SECRET_KEY`: always there under [`Environment::Production`].
    pub secret_key: Option<SecretKey>,
    /// Retention of the event log.
    pub event_log: EventLogConfig,
    /// `SYNC_DOC_TTL_SECONDS`: how long a clean document stays hot.
    pub sync_doc_ttl: Duration,
    /// `SYNC_WRITE_MODE`: what an answered write to a document means.
    pub sync_write_mode: SyncWriteMode,
    /// Change data capture.
    pub cdc: CdcConfig,
    /// What one server accepts.
    pub limits: Limits,
}

/// The platform's own database.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    url: Secret,
    /// `POSTGRES_POOL_MIN`: connections kept open.
    pub pool_min: u32,
    /// `POSTGRES_POOL_MAX`: connections in the pool at most, never under `pool_min`.
    pub pool_max: u32,
}

impl PostgresConfig {
    /// The connection string, from `DATABASE_URL` or composed of `POSTGRES_*`. Holds the password.
    pub fn url(&self) -> &str {
        self.url.expose()
    }
}

/// Redis, where it is used.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    url: Secret,
}

impl RedisConfig {
    /// The connection string. May hold a password.
    pub fn url(&self) -> &str {
        self.url.expose()
    }
}

/// Retention of the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLogConfig {
    /// `LOG_HISTORY_SECONDS`: how long events stay recoverable by position.
    pub history: Duration,
    /// `LOG_BACKLOG_BYTES`: past it, appends answer `BACKLOG_FULL`.
    pub backlog_bytes: u64,
}

/// Change data capture.
#[derive(Debug, Clone)]
pub struct CdcConfig {
    database_url: Option<Secret>,
    /// `CDC_POLL_INTERVAL_MS`: the interval of status reports and idle heartbeats.
    pub heartbeat: Duration,
    /// `CDC_EVENTS_RETENTION_DAYS`: how long what became of each row change is kept; `None` for 0, not at all.
    pub events_kept: Option<Duration>,
    /// `CDC_SPILL_BYTES`: how much is kept for each target while the event log does not take it; 0 for nothing.
    pub spill_bytes: u64,
    /// `CDC_SLOT_NAME`, before the suffix of installation and database.
    pub slot_name: String,
}

impl CdcConfig {
    /// `CDC_DATABASE_URL`: the target of the default application, where it is configured here.
    pub fn database_url(&self) -> Option<&str> {
        self.database_url.as_ref().map(Secret::expose)
    }
}

/// What one server accepts; see protocol.md, "Limits".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one client message.
    pub message_bytes: usize,
    /// Bytes of one REST body.
    pub body_bytes: usize,
    /// Subscriptions a connection.
    pub subscriptions: usize,
    /// Channels a connection.
    pub channels: usize,
    /// Client messages a second a connection, on average.
    pub messages_per_second: u32,
    /// Client messages at once a connection, never under `messages_per_second`.
    pub message_burst: u32,
    /// Bytes waiting for a connection before it is a slow consumer.
    pub backlog_bytes: usize,
    /// Messages waiting for a connection before it is a slow consumer.
    pub backlog_messages: usize,
    /// Connections from one client address; `None` for no limit.
    pub connections_per_address: Option<usize>,
    /// Connections that one client address begins in a minute; `None` for no limit.
    pub handshakes_per_minute: Option<u32>,
    /// REST requests of one caller in a minute; `None` for no limit.
    pub requests_per_minute: Option<u32>,
    /// Client addresses to which no limit by address applies.
    pub exempt_addresses: Networks,
}

/// The origins whose pages may call the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Only the server's own.
    SameOrigin,
    /// The server's own and every localhost origin, whatever its port.
    Localhost,
    /// Exactly these, as browsers send them.
    List(Vec<String>),
    /// All.
    Any,
}

impl CorsOrigins {
    /// Whether a page of `origin` (as in the `Origin` header) may call the API.
    ///
    /// The server's own origin is for the caller to recognize.
    pub fn allows(&self, origin: &str) -> bool {
        match self {
            Self::SameOrigin => false,
            Self::Localhost => Url::parse(origin).is_ok_and(|url| {
                matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
                    && matches!(url.scheme(), "http" | "https")
            }),
            Self::List(origins) => origins.iter().any(|allowed| allowed == origin),
            Self::Any => true,
        }
    }
}

impl Config {
    /// Reads the process environment and, below it, the `.env` file of the working directory.
    ///
    /// # Errors
    ///
    /// Every problem at once; print it and exit with [`crate::EXIT_CODE`].
    pub fn load() -> Result<Self, ConfigErrors> {
        Self::from_vars(&process_vars()?)
    }

    /// Reads `vars` alone. Names that are not ours are ignored.
    ///
    /// # Errors
    ///
    /// Every problem at once.
    pub fn from_vars(vars: &Vars) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(vars);
        let config = Self::read(&mut reader);
        match ConfigErrors::from_problems(reader.into_problems()) {
            None => Ok(config),
            Some(errors) => Err(errors),
        }
    }

    /// The address to listen on.
    pub fn listen_address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        let environment = reader
            .text("NODE_ENV")
            .and_then(|word| Environment::parse(&word))
            .unwrap_or(Environment::Development);
        let config = Self {
            environment,
            host: reader.ip_address("HOST"),
            port: reader.port("PORT"),
            log_level: reader
                .text("LOG_LEVEL")
                .and_then(|word| LogLevel::parse(&word))
                .unwrap_or(LogLevel::Info),
            cors_origins: read_cors_origins(reader, environment),
            trusted_proxies: reader.networks("TRUSTED_PROXIES"),
            shutdown: Duration::from_secs(reader.integer("SHUTDOWN_SECONDS")),
            runtime_threads: reader.is_set("RUNTIME_THREADS").then(|| reader.size("RUNTIME_THREADS")),
            postgres: read_postgres(reader),
            redis: read_redis(reader),
            jwt_secret: read_jwt_secret(reader, environment),
            secret_key: read_secret_key(reader, environment),
            event_log: read_event_log(reader),
            sync_doc_ttl: Duration::from_secs(reader.integer("SYNC_DOC_TTL_SECONDS")),
            sync_write_mode: match reader.text("SYNC_WRITE_MODE").as_deref() {
                Some("write-through") => SyncWriteMode::WriteThrough,
                _ => SyncWriteMode::WriteBehind,
            },
            cdc: CdcConfig {
                database_url: reader.secret("CDC_DATABASE_URL"),
                heartbeat: Duration::from_millis(reader.integer("CDC_POLL_INTERVAL_MS")),
                events_kept: match reader.integer("CDC_EVENTS_RETENTION_DAYS") {
                    0 => None,
                    days => Some(Duration::from_secs(days * 24 * 3600)),
                },
                slot_name: reader.text("CDC_SLOT_NAME").unwrap_or_default(),
                spill_bytes: reader.integer("CDC_SPILL_BYTES"),
            },
            limits: read_limits(reader),
        };
        // Of no use to a server, but a mistake in it would only show in a browser.
        reader.text("VITE_API_URL");
        config
    }
}

fn read_cors_origins(reader: &mut Reader<'_>, environment: Environment) -> CorsOrigins {
    match reader.text("CORS_ORIGINS").as_deref() {
        Some("*") => CorsOrigins::Any,
        Some(origins) => CorsOrigins::List(origins.split(',').map(|o| o.trim().to_owned()).collect()),
        None if matches!(environment, Environment::Development | Environment::Test) => CorsOrigins::Localhost,
        None => CorsOrigins::SameOrigin,
    }
}

/// A URL of Sentinels has to say which of the servers that they watch is meant.
fn read_redis(reader: &mut Reader<'_>) -> Option<RedisConfig> {
    let url = reader.secret("REDIS_URL")?;
    let parsed = Url::parse(url.expose()).ok()?;
    let is_named =
        parsed.query_pairs().any(|(name, value)| name == "sentinelServiceName" && !value.is_empty());
    if parsed.scheme().ends_with("-sentinel") && !is_named {
        reader.problem(
            "REDIS_URL",
            "must name the server as ?sentinelServiceName=… where Sentinels are asked for it",
        );
    }
    Some(RedisConfig { url })
}

/// What is in Redis is in memory: unless it is said, less is kept there.
fn read_event_log(reader: &mut Reader<'_>) -> EventLogConfig {
    let (history, backlog) = ("LOG_HISTORY_SECONDS", "LOG_BACKLOG_BYTES");
    let in_redis = reader.is_set("REDIS_URL");
    let or_redis = |reader: &mut Reader<'_>, name: &str, default: u64| {
        if in_redis && !reader.is_set(name) { default } else { reader.integer(name) }
    };
    EventLogConfig {
        history: Duration::from_secs(or_redis(reader, history, REDIS_HISTORY_SECONDS)),
        backlog_bytes: or_redis(reader, backlog, REDIS_BACKLOG_BYTES),
    }
}

/// `DATABASE_URL`, or else a URL composed of `POSTGRES_*`.
///
/// The variables that are not used are not looked at either: orchestrators set some of them for their own
/// ends (`POSTGRES_PORT=tcp://10.0.0.7:5432` for a service called `postgres`).
fn read_postgres(reader: &mut Reader<'_>) -> PostgresConfig {
    let url = if reader.is_set("DATABASE_URL") {
        reader.secret("DATABASE_URL").unwrap_or_else(|| Secret::new(""))
    } else {
        compose_postgres_url(reader)
    };
    let pool_min = reader.integer("POSTGRES_POOL_MIN") as u32;
    let pool_max = reader.integer("POSTGRES_POOL_MAX") as u32;
    if pool_max != 0 && pool_min > pool_max {
        reader.problem("POSTGRES_POOL_MIN", format!("must not be over POSTGRES_POOL_MAX ({pool_max})"));
    }
    PostgresConfig { url, pool_min, pool_max }
}

fn compose_postgres_url(reader: &mut Reader<'_>) -> Secret {
    const WHEN: &str = "where DATABASE_URL is not";
    let host = reader.text("POSTGRES_HOST").unwrap_or_default();
    let port = reader.port("POSTGRES_PORT");
    let user = reader.required_text("POSTGRES_USER", WHEN);
    let password = reader.required_text("POSTGRES_PASSWORD", WHEN);
    let database = reader.required_text("POSTGRES_DB", WHEN);

    let Some(host) = url_host(&host) else {
        reader.problem("POSTGRES_HOST", "must be a hostname or an IP address");
        return Secret::new("");
    };
    let (user, password, database) = (escape(&user), escape(&password), escape(&database));
    Secret::new(format!("postgresql://{user}:{password}@{host}:{port}/{database}"))
}

/// A host as a URL takes it, with the brackets of an IPv6 address; `None` if it is no host.
fn url_host(host: &str) -> Option<String> {
    let bare_ipv6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    let host = if bare_ipv6 { format!("[{host}]") } else { host.to_owned() };
    url::Host::parse(&host).ok().map(|host| host.to_string())
}

/// Percent-encodes all but unreserved characters (RFC 3986): passwords hold `@`, `/`, `#` and `%`.
fn escape(part: &str) -> String {
    part.bytes().fold(String::with_capacity(part.len()), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
        escaped
    })
}

fn read_jwt_secret(reader: &mut Reader<'_>, environment: Environment) -> Option<Secret> {
    let secret = reader.secret("JWT_SECRET")?;
    if environment == Environment::Production {
        if secret.expose() == SAMPLE_JWT_SECRET {
            reader.problem("JWT_SECRET", "must not be the documentation's sample in production");
        } else if secret.expose().len() < JWT_SECRET_MIN {
            reader
                .problem("JWT_SECRET", format!("must be at least {JWT_SECRET_MIN} bytes long in production"));
        }
    }
    Some(secret)
}

fn read_secret_key(reader: &mut Reader<'_>, environment: Environment) -> Option<SecretKey> {
    if environment == Environment::Production && !reader.is_set("REALTIME_SECRET_KEY") {
        reader.problem(
            "REALTIME_SECRET_KEY",
            "must be set under NODE_ENV=production; make one with `openssl rand -base64 32`",
        );
    }
    reader.key("REALTIME_SECRET_KEY")
}

fn read_limits(reader: &mut Reader<'_>) -> Limits {
    let limits = Limits {
        message_bytes: reader.size("LIMIT_MESSAGE_BYTES"),
        body_bytes: reader.size("LIMIT_BODY_BYTES"),
        subscriptions: reader.size("LIMIT_SUBSCRIPTIONS"),
        channels: reader.size("LIMIT_CHANNELS"),
        messages_per_second: reader.integer("LIMIT_MESSAGES_PER_SECOND") as u32,
        message_burst: reader.integer("LIMIT_MESSAGE_BURST") as u32,
        backlog_bytes: reader.size("LIMIT_BACKLOG_BYTES"),
        backlog_messages: reader.size("LIMIT_BACKLOG_MESSAGES"),
        connections_per_address: Some(reader.size("LIMIT_CONNECTIONS_PER_ADDRESS")).filter(|n| *n > 0),
        handshakes_per_minute: Some(reader.integer("LIMIT_HANDSHAKES_PER_MINUTE") as u32).filter(|n| *n > 0),
        requests_per_minute: Some(reader.integer("LIMIT_REQUESTS_PER_MINUTE") as u32).filter(|n| *n > 0),
        exempt_addresses: reader.networks("LIMIT_EXEMPT_ADDRESSES"),
    };
    let rate = limits.messages_per_second;
    if limits.message_burst != 0 && limits.message_burst < rate {
        reader
            .problem("LIMIT_MESSAGE_BURST", format!("must not be under LIMIT_MESSAGES_PER_SECOND ({rate})"));
    }
    limits
}
