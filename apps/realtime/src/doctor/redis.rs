//! Redis, where it is configured: above all whether what it acknowledges is on disk.

use super::{Finding, PATIENCE};
use fred::prelude::{Builder, Client, ClientLike, Config, Error, ErrorKind};
use fred::types::{ClusterHash, CustomCommand};
use std::collections::HashMap;

/// The oldest version with what our scripts need.
const OLDEST: u32 = 7;

/// What has to be set so that the death of any process loses nothing: (name, value, what happens otherwise).
const PERSISTENCE: [(&str, &str, &str); 4] = [
    ("appendonly", "yes", "nothing that is acknowledged is on disk"),
    ("appendfsync", "always", "a killed Redis loses up to 2 seconds of what it acknowledged"),
    ("no-appendfsync-on-rewrite", "no", "while the file is rewritten, what is acknowledged is not on disk"),
    ("maxmemory-policy", "noeviction", "under memory pressure events and documents are evicted"),
];

/// Looks at the server.
pub async fn look(url: &str) -> Vec<Finding> {
    let answers = tokio::time::timeout(PATIENCE * 2, ask(url)).await;
    match answers {
        Ok(Ok(answers)) => judge(&answers),
        Ok(Err(error)) => vec![unreachable(reason(url, &error))],
        Err(_) => vec![unreachable("no answer in time")],
    }
}

fn unreachable(why: &str) -> Finding {
    Finding::fail("redis", why, "start it, or mend REDIS_URL; without it PostgreSQL alone is used")
}

/// The library's own text of an input or output error is a debugging one, and does not tell what TLS failed of.
fn reason<'e>(url: &str, error: &'e Error) -> &'e str {
    match error.kind() {
        ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Tls if url.starts_with("rediss") => {
            "no TLS connection comes about: the server is not there, does not speak TLS, or has a certificate that is \
             not trusted (SSL_CERT_FILE names the file of those that are)"
        }
        ErrorKind::IO | ErrorKind::Canceled => "the server does not take connections",
        ErrorKind::Auth => "user or password are refused",
        _ => error.details(),
    }
}

/// What the server says of itself.
#[derive(Debug, Default)]
struct Answers {
    version: String,
    /// Absent where `CONFIG` is not allowed, as on managed services.
    settings: Option<HashMap<String, String>>,
}

async fn ask(url: &str) -> Result<Answers, Error> {
    let mut builder = Builder::from_config(Config::from_url(url)?);
    builder.with_connection_config(|connection| connection.connection_timeout = PATIENCE);
    let client = builder.build()?;
    let connection = client.init().await?;
    let info: String = client.custom(command("INFO"), vec!["server"]).await?;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    let answers =
        Answers { version: version.unwrap_or_default().trim().to_owned(), settings: settings(&client).await };
    client.quit().await?;
    let _ = connection.await;
    Ok(answers)
}

async fn settings(client: &Client) -> Option<HashMap<String, String>> {
    let mut found = HashMap::new();
    for (name, ..) in PERSISTENCE {
        let answer: HashMap<String, String> =
            client.custom(command("CONFIG"), vec!["GET", name]).await.ok()?;
        found.extend(answer);
    }
    Some(found)
}

fn command(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, ClusterHash::Random, false)
}

fn judge(answers: &Answers) -> Vec<Finding> {
    let mut findings = vec![version(&answers.version)];
    let Some(settings) = &answers.settings else {
        findings.push(Finding::warn(
            "redis.persistence",
            "the settings cannot be read: CONFIG is not allowed",
            "make sure of them where the service is configured: appendonly yes, appendfsync always, noeviction",
        ));
        return findings;
    };
    findings.extend(PERSISTENCE.iter().map(|(name, wanted, otherwise)| {
        let found = settings.get(*name).map_or("unknown", String::as_str);
        let text = format!("{name} is {found}");
        if found == *wanted {
            return Finding::ok("redis.persistence", text);
        }
        let cure = format!("config set {name} {wanted}, and the same in redis.conf");
        Finding::warn("redis.persistence", format!("{text}: {otherwise}"), cure)
    }));
    findings
}

fn version(text: &str) -> Finding {
    let major = text.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major >= OLDEST => Finding::ok("redis", format!("Redis {text}")),
        _ => Finding::fail("redis", format!("Redis {text} is too old"), "upgrade to Redis 7.0 or later"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    fn answers(changed: &[(&str, &str)]) -> Answers {
        let mut settings: HashMap<String, String> =
            PERSISTENCE.iter().map(|(name, value, _)| ((*name).to_owned(), (*value).to_owned())).collect();
        settings.extend(changed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Answers { version: "7.0.15".to_owned(), settings: Some(settings) }
    }

    fn states(answers: &Answers) -> Vec<State> {
        judge(answers).into_iter().map(|finding| finding.state).filter(|state| *state != State::Ok).collect()
    }

    #[test]
    fn every_setting_that_can_lose_data_is_said() {
        assert_eq!(states(&answers(&[])), []);
        let weak = [("appendonly", "no"), ("appendfsync", "everysec"), ("maxmemory-policy", "allkeys-lru")];
        assert_eq!(states(&answers(&weak)), [State::Warn; 3]);
        assert_eq!(states(&Answers { settings: None, ..answers(&[]) }), [State::Warn]);
    }

    #[test]
    fn over_tls_the_certificate_is_named() {
        let error = Error::new(ErrorKind::IO, "Custom { kind: InvalidData }");
        assert!(reason("rediss://one:6379", &error).contains("SSL_CERT_FILE"));
        assert!(reason("rediss-sentinel://one:26379", &error).contains("SSL_CERT_FILE"));
        assert_eq!(reason("redis://one:6379", &error), "the server does not take connections");
    }

    #[test]
    fn an_old_version_fails() {
        assert_eq!(version("6.2.1").state, State::Fail);
        assert_eq!(version("").state, State::Fail);
        assert_eq!(version("8.0.0").state, State::Ok);
    }
}
