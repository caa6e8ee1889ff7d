//! The URL of a target: what of it is allowed, and what both clients make of it.

use outbound::{
    Guard, OutboundError, Policy, literal,
    postgres::{Destination, SslMode, Tunnel},
};
use pg_walstream::PgReplicationConnection;
use shared_types::{Problem, Violation};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::{fmt, io::Write, str::FromStr, time::Duration};
use url::Url;

/// Where tunnels listen.
const LOCAL: &str = "127.0.0.1";
const PATH: &str = "databaseUrl";
const PEM: &str = "-----BEGIN CERTIFICATE-----";
const SSL_MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];

/// Where a target is and who reads it: host, port, user, password, database, `sslmode` and an inline CA, and
/// nothing else. No sockets, no files.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TargetUrl {
    host: String,
    port: u16,
    user: String,
    password: String,
    database: String,
    ssl_mode: String,
    ca: Option<String>,
    /// Where the host may lead.
    policy: Policy,
}

impl fmt::Debug for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetUrl").field("database", &self.database).finish_non_exhaustive()
    }
}

impl FromStr for TargetUrl {
    type Err = Problem;

    /// Reads `postgres://user:password@host:port/database?sslmode=…&sslrootcert=<PEM>`.
    fn from_str(text: &str) -> Result<Self, Problem> {
        let url = Url::parse(text)
            .map_err(|_| Problem::field(PATH, "must be postgres://user@host:port/database"))?;
        let mut broken = Vec::new();
        let mut rule = |rule: &str| broken.push(Violation::new(PATH, rule));
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            rule("must begin with postgres:// or postgresql://");
        }
        let host = decoded(url.host_str().unwrap_or_default());
        if host.is_empty() {
            rule("must name a host");
        } else if host.starts_with('/') || host.contains([',', '\0']) {
            rule("must name one host; sockets and lists of hosts are not allowed");
        }
        let user = decoded(url.username());
        if user.is_empty() {
            rule("must name a user");
        }
        let database = decoded(url.path().trim_start_matches('/'));
        if database.is_empty() || database.contains('/') {
            rule("must name a database");
        }
        let (mut ssl_mode, mut ca) = ("prefer".to_owned(), None);
        for (name, value) in url.query_pairs() {
            match &*name {
                "sslmode" if SSL_MODES.contains(&&*value) => ssl_mode = value.into_owned(),
                "sslmode" => rule("sslmode must be disable, prefer, require, verify-ca or verify-full"),
                "sslrootcert" if value.trim_start().starts_with(PEM) => ca = Some(value.into_owned()),
                "sslrootcert" => rule("sslrootcert must be the certificate itself (PEM), not a file"),
                _ => rule("may hold only sslmode and sslrootcert as parameters"),
            }
        }
        if !broken.is_empty() {
            return Err(Problem::fields(broken));
        }
        let password = decoded(url.password().unwrap_or_default());
        let (port, policy) = (url.port().unwrap_or(5432), Policy::default());
        Ok(Self { host, port, user, password, database, ssl_mode, ca, policy })
    }
}

fn decoded(text: &str) -> String {
    // `query_pairs` decodes; the other parts come as written. A `+` stands for itself outside of queries.
    let pair = format!("x={}", text.replace('+', "%2B").replace('&', "%26").replace('#', "%23"));
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

/// As it stands in a URL. `byte_serialize` writes a blank as `+`, which stands for itself outside of queries.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

impl TargetUrl {
    /// The whole URL with its password, to be sealed.
    pub(crate) fn to_text(&self) -> String {
        let (user, password, database) =
            (encoded(&self.user), encoded(&self.password), encoded(&self.database));
        let (host, port) = (self.bracketed_host(), self.port);
        let mut text =
            format!("postgresql://{user}:{password}@{host}:{port}/{database}?sslmode={}", self.ssl_mode);
        if let Some(ca) = &self.ca {
            text.push_str("&sslrootcert=");
            text.push_str(&encoded(ca));
        }
        text
    }

    fn bracketed_host(&self) -> String {
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }

    /// Who reads.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database's name.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Whether both name the same database, whoever reads it.
    pub fn is_of_database(&self, other: &Self) -> bool {
        (&self.host, self.port, &self.database) == (&other.host, other.port, &other.database)
    }

    /// The host's name or address, for the outbound guard.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same, with connections that lead where `policy` allows.
    #[must_use]
    pub fn within(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// Where its connections may lead.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The way that connections have to take; `None` where they go straight, because the host is an address that has
    /// been checked now, or may lead anywhere.
    ///
    /// # Errors
    /// `Refused` where the host leads to what the policy does not allow, `Unresolved`.
    pub(crate) async fn tunnel(&self) -> Result<Option<Tunnel>, OutboundError> {
        if self.policy == Policy::Any {
            return Ok(None);
        }
        let guard = Guard::new(self.policy);
        if literal(&self.host).is_some() {
            return guard.addresses(&self.host, self.port).await.map(|_| None);
        }
        let ssl_mode = self.ssl_mode.parse().unwrap_or(SslMode::VerifyFull);
        let (host, port, ca) = (self.host.clone(), self.port, self.ca.clone());
        Tunnel::open(guard, Destination { host, port, ssl_mode, ca }).await.map(Some)
    }

    /// Options for ordinary connections, whose statements end after `statement_timeout`; by way of `tunnel` where there
    /// is one.
    pub(crate) fn options(&self, statement_timeout: Duration, tunnel: Option<&Tunnel>) -> PgConnectOptions {
        let (host, port, ssl_mode) = match tunnel {
            Some(tunnel) => (LOCAL, tunnel.port(), PgSslMode::Disable),
            None => (self.host.as_str(), self.port, self.ssl_mode.parse().unwrap_or(PgSslMode::Prefer)),
        };
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(host)
            .port(port)
            .username(&self.user)
            .password(&self.password)
            .database(&self.database)
            .ssl_mode(ssl_mode)
            .application_name("realtime-cdc")
            .options([("statement_timeout", statement_timeout.as_millis().to_string())]);
        if let Some(ca) = &self.ca {
            options = options.ssl_root_cert_from_pem(ca.clone().into_bytes());
        }
        options
    }

    /// A replication connection, by way of a tunnel's port where there is one. Blocks: call it where that is allowed.
    pub(crate) fn connect_replication(
        &self,
        connect_timeout: Duration,
        tunnel: Option<u16>,
    ) -> Result<PgReplicationConnection, pg_walstream::ReplicationError> {
        if let Some(port) = tunnel {
            let (host, ssl_mode) = (LOCAL.to_owned(), "disable".to_owned());
            let near = Self { host, port, ssl_mode, ca: None, ..self.clone() };
            return PgReplicationConnection::connect(&near.replication_url(None, connect_timeout));
        }
        // The replication client takes a CA only from a file: one that lives as long as the handshake.
        let ca_file = match &self.ca {
            None => None,
            Some(ca) => {
                let mut file = tempfile::NamedTempFile::new()?;
                file.write_all(ca.as_bytes())?;
                file.flush()?;
                Some(file)
            }
        };
        let verifies = self.ssl_mode.starts_with("verify");
        let ca = match &ca_file {
            Some(file) => Some(file.path().to_string_lossy().into_owned()),
            // Without a CA of its own, the certificates that browsers trust.
            None => verifies.then(|| "system".to_owned()),
        };
        PgReplicationConnection::connect(&self.replication_url(ca.as_deref(), connect_timeout))
    }

    fn replication_url(&self, ca: Option<&str>, connect_timeout: Duration) -> String {
        let host = self.bracketed_host();
        let mut url = format!(
            "postgresql://{}:{}@{host}:{}/{}?replication=database&sslmode={}&connect_timeout={}\
             &keepalives_idle=20&tcp_user_timeout=20000",
            encoded(&self.user),
            encoded(&self.password),
            self.port,
            encoded(&self.database),
            self.ssl_mode,
            connect_timeout.as_secs().max(1),
        );
        if let Some(ca) = ca {
            url.push_str("&sslrootcert=");
            url.push_str(&encoded(ca));
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        url.parse::<TargetUrl>().expect_err(url).message
    }

    #[test]
    fn reads_what_is_allowed() {
        let url: TargetUrl = "postgres://us%40er:p%2Bw%20d+@db.example:6432/my%20db?sslmode=verify-full"
            .parse()
            .expect("allowed");
        assert_eq!((url.user.as_str(), url.password.as_str()), ("us@er", "p+w d+"));
        assert_eq!((url.host(), url.port(), url.database()), ("db.example", 6432, "my db"));
        let replication = url.replication_url(Some("system"), Duration::from_secs(5));
        assert!(replication.starts_with("postgresql://us%40er:p%2Bw%20d%2B@db.example:6432/my%20db?"));
        assert!(replication.ends_with("&sslrootcert=system"));
        assert_eq!(url.to_text().parse(), Ok(url.clone()));
        assert!(!format!("{url:?}").contains("p+w"));
    }

    #[test]
    fn takes_an_inline_ca() {
        let url = format!("postgres://u@h/d?sslrootcert={PEM}%0AAAA%0A-----END%20CERTIFICATE-----");
        let url = url.parse::<TargetUrl>().expect("allowed");
        assert!(url.ca.as_ref().is_some_and(|ca| ca.contains('\n')));
        assert_eq!(url.to_text().parse(), Ok(url));
    }

    #[test]
    fn refuses_sockets_files_and_everything_else() {
        for (url, rule) in [
            ("mysql://u@h/d", "must begin with"),
            ("postgres://u@%2Fvar%2Frun/d", "sockets"),
            ("postgres:///d", "host"),
            ("postgres://h/d", "user"),
            ("postgres://u@h", "database"),
            ("postgres://u@h/d?host=/tmp", "only sslmode"),
            ("postgres://u@h/d?sslmode=off", "sslmode must be"),
            ("postgres://u@h/d?sslrootcert=/etc/ca.pem", "not a file"),
            ("postgres://u@h/d?options=-c%20x", "only sslmode"),
            ("nonsense", "must be postgres"),
        ] {
            let message = refused(url);
            assert!(message.starts_with("databaseUrl: ") && message.contains(rule), "{url}: {message}");
        }
    }
}
