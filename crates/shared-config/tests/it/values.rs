//! What good configurations become.

use std::time::Duration;

use shared_config::{Config, CorsOrigins, Environment, LogLevel, SyncWriteMode, Vars};

use crate::{minimal, vars, with};

const KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

#[test]
fn defaults_are_the_documented_ones() {
    let config = Config::from_vars(&minimal()).unwrap();
    assert_eq!(config.environment, Environment::Development);
    assert_eq!(config.listen_address().to_string(), "0.0.0.0:3000");
    assert_eq!(config.log_level, LogLevel::Info);
    assert_eq!(config.cors_origins, CorsOrigins::Localhost);
    assert_eq!(config.shutdown, Duration::from_secs(25));
    assert_eq!(config.runtime_threads, None);
    assert_eq!((config.postgres.pool_min, config.postgres.pool_max), (2, 10));
    assert!(config.redis.is_none() && config.jwt_secret.is_none() && config.secret_key.is_none());
    assert_eq!(config.event_log.history, Duration::from_secs(24 * 60 * 60));
    assert_eq!(config.event_log.backlog_bytes, 20 * 1024 * 1024 * 1024);
    assert_eq!(config.sync_doc_ttl, Duration::from_secs(600));
    assert_eq!(config.sync_write_mode, SyncWriteMode::WriteBehind);
    assert_eq!(config.cdc.database_url(), None);
    assert_eq!(config.cdc.heartbeat, Duration::from_millis(1000));
    assert_eq!(config.cdc.slot_name, "realtime_cdc_slot");
}

#[test]
fn threads_are_as_many_as_is_said() {
    let config = |value| Config::from_vars(&with(minimal(), &[("RUNTIME_THREADS", value)])).unwrap();
    assert_eq!(config("3").runtime_threads, Some(3));
    assert_eq!(config("").runtime_threads, None, "set to nothing");
}

#[test]
fn documents_may_be_written_through() {
    let config = Config::from_vars(&with(minimal(), &[("SYNC_WRITE_MODE", "write-through")])).unwrap();
    assert_eq!(config.sync_write_mode, SyncWriteMode::WriteThrough);
}

#[test]
fn default_limits_are_the_protocol_s() {
    let limits = Config::from_vars(&minimal()).unwrap().limits;
    assert_eq!((limits.message_bytes, limits.body_bytes), (64 * 1024, 1024 * 1024));
    assert_eq!((limits.subscriptions, limits.channels), (1_000, 100));
    assert_eq!((limits.messages_per_second, limits.message_burst), (100, 200));
    assert_eq!((limits.backlog_bytes, limits.backlog_messages), (4 * 1024 * 1024, 16_384));
    assert_eq!(limits.connections_per_address, None);
}

#[test]
fn a_connection_string_wins_and_the_parts_are_not_looked_at() {
    let config = Config::from_vars(&with(minimal(), &[("POSTGRES_PORT", "tcp://10.0.0.7:5432")])).unwrap();
    assert_eq!(config.postgres.url(), "postgresql://realtime:secret@db:5432/realtime");
}

#[test]
fn parts_compose_a_connection_string_with_every_character_escaped() {
    let parts =
        [("POSTGRES_USER", "re@l"), ("POSTGRES_PASSWORD", "p@ss/w:o#r?d %"), ("POSTGRES_DB", "a b/c")];
    let config = Config::from_vars(&vars(&parts)).unwrap();
    let url = url::Url::parse(config.postgres.url()).unwrap();
    assert_eq!((url.host_str(), url.port()), (Some("localhost"), Some(5432)));
    assert_eq!(
        config.postgres.url(),
        "postgresql://re%40l:p%40ss%2Fw%3Ao%23r%3Fd%20%25@localhost:5432/a%20b%2Fc"
    );

    let config = Config::from_vars(&with(vars(&parts), &[("POSTGRES_HOST", "::1")])).unwrap();
    assert!(config.postgres.url().contains("@[::1]:5432/"), "{}", config.postgres.url());
}

#[test]
fn an_empty_value_counts_as_not_set() {
    let config = Config::from_vars(&with(minimal(), &[("PORT", ""), ("REDIS_URL", " ")])).unwrap();
    assert_eq!(config.port, 3000);
    assert!(config.redis.is_none());
}

#[test]
fn less_is_kept_in_memory_unless_it_is_said() {
    let redis = ("REDIS_URL", "redis://cache");
    let config = Config::from_vars(&with(minimal(), &[redis])).unwrap();
    assert_eq!((config.event_log.history.as_secs(), config.event_log.backlog_bytes), (900, 1 << 30));
    let config = Config::from_vars(&with(minimal(), &[redis, ("LOG_HISTORY_SECONDS", "86400")])).unwrap();
    assert_eq!((config.event_log.history.as_secs(), config.event_log.backlog_bytes), (86_400, 1 << 30));
    let config = Config::from_vars(&minimal()).unwrap();
    assert_eq!((config.event_log.history.as_secs(), config.event_log.backlog_bytes), (86_400, 20 << 30));
}

#[test]
fn everything_set_arrives() {
    let config = Config::from_vars(&with(
        minimal(),
        &[
            ("NODE_ENV", "production"),
            ("HOST", "::"),
            ("LOG_LEVEL", "warn"),
            ("REDIS_URL", "rediss://user:hidden@cache:6380"),
            ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
            ("REALTIME_SECRET_KEY", KEY),
            ("CDC_DATABASE_URL", "postgres://app:hidden@target/app"),
            ("CORS_ORIGINS", "https://a.example, https://b.example:8443"),
            ("LIMIT_CONNECTIONS_PER_ADDRESS", "50"),
            ("LIMIT_HANDSHAKES_PER_MINUTE", "60"),
            ("LIMIT_EXEMPT_ADDRESSES", "192.0.2.7"),
            ("TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
        ],
    ))
    .unwrap();
    assert_eq!(config.listen_address().to_string(), "[::]:3000");
    assert_eq!(config.redis.as_ref().unwrap().url(), "rediss://user:hidden@cache:6380");
    assert_eq!(config.secret_key.as_ref().unwrap().expose(), &[7; 32]);
    assert_eq!(config.cdc.database_url(), Some("postgres://app:hidden@target/app"));
    assert!(config.cors_origins.allows("https://b.example:8443"));
    assert!(!config.cors_origins.allows("https://b.example"));
    assert_eq!(config.limits.connections_per_address, Some(50));
    assert_eq!((config.limits.handshakes_per_minute, config.limits.requests_per_minute), (Some(60), None));
    assert!(config.limits.exempt_addresses.contains("192.0.2.7".parse().unwrap()));
    assert!(config.trusted_proxies.contains("10.9.9.9".parse().unwrap()));
}

#[test]
fn secrets_do_not_show_in_debug() {
    let config = Config::from_vars(&with(
        minimal(),
        &[
            ("JWT_SECRET", "hush-hush"),
            ("REALTIME_SECRET_KEY", KEY),
            ("REDIS_URL", "redis://:hidden@cache"),
            ("CDC_DATABASE_URL", "postgres://app:hidden@target/app"),
        ],
    ))
    .unwrap();
    let shown = format!("{config:?}");
    for secret in ["hush-hush", "hidden", "realtime:secret", "7, 7", KEY] {
        assert!(!shown.contains(secret), "{secret} shows in {shown}");
    }
    assert!(shown.contains("[redacted]"));
}

#[test]
fn localhost_pages_may_call_a_development_server_only() {
    let development = Config::from_vars(&minimal()).unwrap().cors_origins;
    assert!(development.allows("http://localhost:5173"));
    assert!(development.allows("http://127.0.0.1:8080"));
    assert!(!development.allows("http://localhost.evil.example"));
    let staging = Config::from_vars(&with(minimal(), &[("NODE_ENV", "staging")])).unwrap().cors_origins;
    assert!(!staging.allows("http://localhost:5173"));
}

#[test]
fn other_people_s_variables_are_ignored() {
    let mut all: Vars = minimal();
    all.insert("PATH".to_owned(), "/usr/bin".to_owned());
    Config::from_vars(&all).unwrap();
}
