//! The one definition of every variable.
//!
//! Owns names, rules, defaults and descriptions. A variable that is not in [`VARIABLES`] cannot be read:
//! the reader looks it up here by name.

/// What a value must look like.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// One of the given words.
    OneOf(&'static [&'static str]),
    /// A whole number within bounds, both included.
    Integer {
        /// The smallest value allowed.
        min: u64,
        /// The largest value allowed.
        max: u64,
    },
    /// An IP address to bind to.
    IpAddress,
    /// A URL with a host and one of the given schemes.
    Url(&'static [&'static str]),
    /// Text that may be anything but empty.
    Text,
    /// A replication slot's name, short enough for the suffix that the reader adds.
    SlotName,
    /// 32 bytes in base64.
    Key32,
    /// `*`, or origins (`https://app.example.com`) separated by commas.
    Origins,
    /// Addresses or ranges of them (`10.0.0.0/8`) separated by commas.
    Networks,
}

impl Kind {
    /// The rule in words, as it appears in messages and in the documentation.
    pub fn rule(&self) -> String {
        match self {
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::Integer { min, max: u64::MAX } => format!("a whole number, at least {min}"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::IpAddress => "an IP address".to_owned(),
            Self::Url(schemes) => {
                let schemes: Vec<String> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
                format!("a URL with a host, beginning with {}", schemes.join(" or "))
            }
            Self::Text => "text".to_owned(),
            Self::SlotName => format!("1 to {SLOT_NAME_MAX} of a–z, 0–9 and _"),
            Self::Key32 => "32 bytes in base64".to_owned(),
            Self::Origins => "`*`, or origins like https://app.example.com separated by commas".to_owned(),
            Self::Networks => "addresses or ranges like 10.0.0.0/8 separated by commas".to_owned(),
        }
    }
}

/// The longest configurable slot name: Postgres allows 63 bytes, and the reader adds `_` and a hash.
pub const SLOT_NAME_MAX: usize = 48;

/// The documented sample of `JWT_SECRET`, which must not be used in production.
pub const SAMPLE_JWT_SECRET: &str = "your-jwt-secret-here";

/// The shortest `JWT_SECRET` accepted in production, in bytes: HS256 wants a key as long as its hash.
pub const JWT_SECRET_MIN: usize = 32;

/// Whether a variable has to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// It may be left out.
    Optional,
    /// It must be set where `DATABASE_URL` is not.
    WithoutDatabaseUrl,
    /// It must be set under `NODE_ENV=production`.
    InProduction,
}

impl Requirement {
    /// The word of the documentation's "Required" column.
    pub fn label(self) -> &'static str {
        match self {
            Self::Optional => "No",
            Self::WithoutDatabaseUrl => "Without `DATABASE_URL`",
            Self::InProduction => "In production",
        }
    }
}

/// The documentation's sections, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Section {
    Server,
    Postgres,
    Redis,
    Authentication,
    EventLog,
    Documents,
    Cdc,
    Limits,
    AdminUi,
}

impl Section {
    /// All sections, in the documentation's order.
    pub const ALL: [Self; 9] = [
        Self::Server,
        Self::Postgres,
        Self::Redis,
        Self::Authentication,
        Self::EventLog,
        Self::Documents,
        Self::Cdc,
        Self::Limits,
        Self::AdminUi,
    ];

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Postgres => "PostgreSQL (platform database)",
            Self::Redis => "Redis",
            Self::Authentication => "Authentication",
            Self::EventLog => "Event log",
            Self::Documents => "Sync documents",
            Self::Cdc => "CDC (change data capture)",
            Self::Limits => "Limits",
            Self::AdminUi => "Admin UI",
        }
    }

    /// What to know before reading its table.
    pub fn introduction(self) -> &'static str {
        match self {
            Self::Server => "How the process listens, logs and stops.",
            Self::Postgres => {
                "The platform's own database. `DATABASE_URL` wins; where it is set, the `POSTGRES_*` \
                 connection variables are not looked at."
            }
            Self::Redis => {
                "With Redis any number of backends and workers share the event log there; without it \
                 everything runs on PostgreSQL alone."
            }
            Self::Authentication => "How tokens are signed and secrets are sealed.",
            Self::EventLog => "How much of the past is kept.",
            Self::Documents => "The cache of hot documents.",
            Self::Cdc => {
                "The database whose changes become events. It is another one than the platform's own."
            }
            Self::Limits => {
                "What one server accepts. What is over a limit is answered with `LIMIT_EXCEEDED`, never \
                 dropped silently."
            }
            Self::AdminUi => "Read when the admin UI is built, not by the server.",
        }
    }
}

/// One environment variable.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// Where it is documented.
    pub section: Section,
    /// What a value must look like.
    pub kind: Kind,
    /// The value used where it is not set.
    pub default: Option<&'static str>,
    /// A value to show in `.env.example` where there is no default.
    pub example: &'static str,
    /// Whether it has to be set.
    pub required: Requirement,
    /// Whether its value is kept out of messages and logs.
    pub secret: bool,
    /// What it does, in one or two sentences of Markdown.
    pub description: &'static str,
}

impl Variable {
    const fn new(
        name: &'static str,
        section: Section,
        kind: Kind,
        default: Option<&'static str>,
        description: &'static str,
    ) -> Self {
        let required = Requirement::Optional;
        Self { name, section, kind, default, example: "", required, secret: false, description }
    }

    const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    const fn required(self, required: Requirement) -> Self {
        Self { required, ..self }
    }

    const fn example(self, example: &'static str) -> Self {
        Self { example, ..self }
    }
}

const ENVIRONMENTS: Kind = Kind::OneOf(&["development", "staging", "production", "test"]);
const LOG_LEVELS: Kind = Kind::OneOf(&["debug", "info", "warn", "error"]);
const PORT: Kind = Kind::Integer { min: 1, max: 65_535 };
const POSTGRES_URL: Kind = Kind::Url(&["postgres", "postgresql"]);
const REDIS_URL: Kind = Kind::Url(&["redis", "rediss", "redis-sentinel", "rediss-sentinel"]);
const HTTP_URL: Kind = Kind::Url(&["http", "https"]);

const fn integer(min: u64, max: u64) -> Kind {
    Kind::Integer { min, max }
}

/// Every variable, by section.
pub const VARIABLES: &[Variable] = {
    use Requirement::{InProduction, WithoutDatabaseUrl};
    use Section::{AdminUi, Authentication, Cdc, Documents, EventLog, Postgres, Redis, Server};
    &[
        Variable::new(
            "NODE_ENV",
            Server,
            ENVIRONMENTS,
            Some("development"),
            "The environment. `production` and `staging` log JSON, the others readable lines; \
             `production` insists on real secrets.",
        ),
        Variable::new(
            "HOST",
            Server,
            Kind::IpAddress,
            Some("0.0.0.0"),
            "The address to listen on. `realtime dev` listens on `127.0.0.1` unless this says otherwise.",
        ),
        Variable::new("PORT", Server, PORT, Some("3000"), "HTTP server listen port."),
        Variable::new(
            "LOG_LEVEL",
            Server,
            LOG_LEVELS,
            Some("info"),
            "The least severe level that is logged.",
        ),
        Variable::new(
            "CORS_ORIGINS",
            Server,
            Kind::Origins,
            None,
            "Origins whose pages may call the API. Unset: none but the server's own, and under \
             `development` and `test` every localhost origin.",
        )
        .example("https://app.example.com"),
        Variable::new(
            "TRUSTED_PROXIES",
            Server,
            Kind::Networks,
            None,
            "Proxies whose `X-Forwarded-For` is believed. Unset: none, and a client's address is that of its connection.",
        )
        .example("10.0.0.0/8"),
        Variable::new(
            "SHUTDOWN_SECONDS",
            Server,
            integer(1, 600),
            Some("25"),
            "How long a graceful stop may take before the process ends anyway.",
        ),
        Variable::new(
            "RUNTIME_THREADS",
            Server,
            integer(1, 1_024),
            None,
            "Threads on which `backend` and `workers` run their tasks. Unset: one for each processor. Fewer may do \
             more where databases share the processors; see docs/deployment.md.",
        )
        .example("1"),
        Variable::new(
            "DATABASE_URL",
            Postgres,
            POSTGRES_URL,
            None,
            "Full connection string. Wins over `POSTGRES_HOST`, `_PORT`, `_USER`, `_PASSWORD` and `_DB`.",
        )
        .secret()
        .example("postgresql://realtime:change-me@localhost:5432/realtime"),
        Variable::new("POSTGRES_HOST", Postgres, Kind::Text, Some("localhost"), "PostgreSQL hostname."),
        Variable::new("POSTGRES_PORT", Postgres, PORT, Some("5432"), "PostgreSQL port."),
        Variable::new("POSTGRES_USER", Postgres, Kind::Text, None, "PostgreSQL username.")
            .required(WithoutDatabaseUrl)
            .example("realtime"),
        Variable::new("POSTGRES_PASSWORD", Postgres, Kind::Text, None, "PostgreSQL password.")
            .required(WithoutDatabaseUrl)
            .secret()
            .example("change-me"),
        Variable::new("POSTGRES_DB", Postgres, Kind::Text, None, "PostgreSQL database name.")
            .required(WithoutDatabaseUrl)
            .example("realtime"),
        Variable::new(
            "POSTGRES_POOL_MIN",
            Postgres,
            integer(0, 1_000),
            Some("2"),
            "Connections that a process keeps open.",
        ),
        Variable::new(
            "POSTGRES_POOL_MAX",
            Postgres,
            integer(1, 1_000),
            Some("10"),
            "Connections in a process's pool at most. A few more listen, lead and flush documents.",
        ),
        Variable::new(
            "REDIS_URL",
            Redis,
            REDIS_URL,
            None,
            "Redis connection URL; `rediss://` for TLS, `redis-sentinel://` or `rediss-sentinel://` for a server that \
             Sentinels name. Unset: PostgreSQL alone.",
        )
        .secret()
        .example("redis://localhost:6379"),
        Variable::new(
            "JWT_SECRET",
            Authentication,
            Kind::Text,
            None,
            "Default JWT signing secret, for tokens without a managed key. In production at least 32 bytes.",
        )
        .secret(),
        Variable::new(
            "REALTIME_SECRET_KEY",
            Authentication,
            Kind::Key32,
            None,
            "Seals signing keys and connection strings at rest; make one with `openssl rand -base64 32`. \
             The same on every instance. `realtime dev` makes its own on first start.",
        )
        .required(InProduction)
        .secret(),
        Variable::new(
            "LOG_HISTORY_SECONDS",
            EventLog,
            integer(60, 31_536_000),
            Some("86400"),
            "How long a topic's events stay recoverable by position (default: 24 hours; with Redis \
             15 minutes).",
        ),
        Variable::new(
            "LOG_BACKLOG_BYTES",
            EventLog,
            integer(1_048_576, u64::MAX),
            Some("21474836480"),
            "What side-effect readers may lag behind before appends answer `BACKLOG_FULL` \
             (default: 20 GiB; with Redis 1 GiB).",
        ),
        Variable::new(
            "SYNC_DOC_TTL_SECONDS",
            Documents,
            integer(1, 31_536_000),
            Some("600"),
            "TTL in seconds for hot sync documents in Redis (default: 10 minutes).",
        ),
        Variable::new(
            "SYNC_WRITE_MODE",
            Documents,
            Kind::OneOf(&["write-behind", "write-through"]),
            Some("write-behind"),
            "What an answered write to a document means: it is in Redis (`write-behind`), or committed in PostgreSQL \
             (`write-through`; the same as `X-Durability: committed` on every request). Without Redis every answered \
             write is committed.",
        ),
        Variable::new(
            "CDC_DATABASE_URL",
            Cdc,
            POSTGRES_URL,
            None,
            "Target application database connection string. Unset: only what applications configure.",
        )
        .secret()
        .example("postgresql://myapp:change-me@localhost:5432/myapp"),
        Variable::new(
            "CDC_POLL_INTERVAL_MS",
            Cdc,
            integer(10, 60_000),
            Some("1000"),
            "How often the reader reports its state, in milliseconds (from 100 to 2000; what is beyond is taken for \
             the nearest). Changes themselves are streamed, not polled.",
        ),
        Variable::new(
            "CDC_EVENTS_RETENTION_DAYS",
            Cdc,
            integer(0, 365),
            Some("7"),
            "How many days what became of each row change is kept for the event history. 0: nothing is written down.",
        ),
        Variable::new(
            "CDC_SPILL_BYTES",
            Cdc,
            integer(0, 1_099_511_627_776),
            Some("1073741824"),
            "How many bytes of events are kept in the platform's database for each target while the event log does not \
             take them (default: 1 GiB), so that the target need not keep its own log. Past it, and with 0, the target \
             does.",
        ),
        Variable::new(
            "CDC_SLOT_NAME",
            Cdc,
            Kind::SlotName,
            Some("realtime_cdc_slot"),
            "PostgreSQL logical replication slot name. A short hash of installation and database is added.",
        ),
        limit(
            "LIMIT_MESSAGE_BYTES",
            integer(1_024, 67_108_864),
            "65536",
            "One client message (default: 64 KiB).",
        ),
        limit(
            "LIMIT_BODY_BYTES",
            integer(1_024, 1_073_741_824),
            "1048576",
            "One REST body (default: 1 MiB).",
        ),
        limit("LIMIT_SUBSCRIPTIONS", integer(1, 1_000_000), "1000", "Subscriptions a connection."),
        limit("LIMIT_CHANNELS", integer(1, 1_000_000), "100", "Channels a connection."),
        limit(
            "LIMIT_MESSAGES_PER_SECOND",
            integer(1, 1_000_000),
            "100",
            "Client messages a second a connection, on average.",
        ),
        limit(
            "LIMIT_MESSAGE_BURST",
            integer(1, 1_000_000),
            "200",
            "Client messages at once a connection; not under `LIMIT_MESSAGES_PER_SECOND`.",
        ),
        limit(
            "LIMIT_BACKLOG_BYTES",
            integer(65_536, 1_073_741_824),
            "4194304",
            "Bytes waiting for a connection before it is closed as a slow consumer (default: 4 MiB).",
        ),
        limit(
            "LIMIT_BACKLOG_MESSAGES",
            integer(16, 10_000_000),
            "16384",
            "Messages waiting for a connection before it is closed as a slow consumer.",
        ),
        limit(
            "LIMIT_CONNECTIONS_PER_ADDRESS",
            integer(0, 10_000_000),
            "0",
            "Connections from one client address to one server; 0 for no limit, as behind a load balancer that hides \
             addresses.",
        ),
        limit(
            "LIMIT_HANDSHAKES_PER_MINUTE",
            integer(0, 10_000_000),
            "0",
            "Connections that one client address (of IPv6: one /64) begins in a minute, with Redis over all servers; 0 \
             for no limit.",
        ),
        limit(
            "LIMIT_REQUESTS_PER_MINUTE",
            integer(0, 10_000_000),
            "0",
            "REST requests of one caller (token's subject, API key or person) in a minute, with Redis over all servers; \
             0 for no limit.",
        ),
        Variable::new(
            "LIMIT_EXEMPT_ADDRESSES",
            Section::Limits,
            Kind::Networks,
            None,
            "Client addresses to which no limit by address applies: load tests, health checkers.",
        )
        .example("192.0.2.7,198.51.100.0/24"),
        Variable::new(
            "VITE_API_URL",
            AdminUi,
            HTTP_URL,
            Some("http://localhost:3000"),
            "Backend API base URL, for an admin UI that is not served by the backend itself.",
        ),
    ]
};

const fn limit(name: &'static str, kind: Kind, default: &'static str, description: &'static str) -> Variable {
    Variable::new(name, Section::Limits, kind, Some(default), description)
}

/// The definition of `name`.
///
/// # Panics
///
/// If there is none: every name in the code is a constant that the tests walk through.
pub(crate) fn variable(name: &str) -> &'static Variable {
    VARIABLES.iter().find(|variable| variable.name == name).expect("every variable read is defined")
}
