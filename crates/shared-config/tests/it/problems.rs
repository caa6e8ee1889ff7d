//! What bad configurations are answered with.

use shared_config::{Config, ConfigErrors};

use crate::{minimal, vars, with};

fn errors(pairs: &[(&str, &str)]) -> ConfigErrors {
    Config::from_vars(&with(minimal(), pairs)).expect_err("the configuration is bad")
}

fn names(errors: &ConfigErrors) -> Vec<&str> {
    errors.problems().iter().map(|problem| problem.variable.as_str()).collect()
}

#[test]
fn every_problem_is_listed_at_once() {
    let errors = errors(&[
        ("NODE_ENV", "prod"),
        ("PORT", "eighty"),
        ("LOG_LEVEL", "loud"),
        ("DATABASE_URL", "mysql://u:hidden@h/d"),
        ("REDIS_URL", "localhost:6379"),
        ("CDC_SLOT_NAME", "My-Slot"),
        ("LIMIT_BODY_BYTES", "1"),
    ]);
    assert_eq!(
        names(&errors),
        ["NODE_ENV", "PORT", "LOG_LEVEL", "DATABASE_URL", "REDIS_URL", "CDC_SLOT_NAME", "LIMIT_BODY_BYTES"]
    );
    let text = errors.to_string();
    assert!(text.starts_with("the configuration has 7 problems:\n"), "{text}");
    assert!(text.contains("PORT: must be a whole number from 1 to 65535, not `eighty`"), "{text}");
    assert!(text.contains("LOG_LEVEL: must be one of debug, info, warn, error, not `loud`"), "{text}");
    assert!(!text.contains("hidden"), "a secret's value shows in {text}");
}

#[test]
fn a_missing_database_names_what_to_set() {
    let errors = Config::from_vars(&vars(&[])).unwrap_err();
    assert_eq!(names(&errors), ["POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"]);
    assert!(errors.to_string().contains("where DATABASE_URL is not"));
}

#[test]
fn production_insists_on_real_secrets() {
    let missing = errors(&[("NODE_ENV", "production")]);
    assert_eq!(names(&missing), ["REALTIME_SECRET_KEY"]);

    let sample = [("NODE_ENV", "production"), ("JWT_SECRET", "your-jwt-secret-here")];
    assert_eq!(names(&errors(&sample)), ["JWT_SECRET", "REALTIME_SECRET_KEY"]);
    assert!(errors(&sample).to_string().contains("sample"));

    let short = [("NODE_ENV", "production"), ("JWT_SECRET", "0123456789abcdef0123456789abcde")];
    assert!(errors(&short).to_string().contains("at least 32 bytes"));

    for relaxed in ["development", "staging", "test"] {
        let pairs = [("NODE_ENV", relaxed), ("JWT_SECRET", "your-jwt-secret-here")];
        Config::from_vars(&with(minimal(), &pairs)).unwrap();
    }
}

#[test]
fn each_rule_is_kept_at_its_bounds() {
    for (name, good, bad) in [
        ("PORT", "65535", "65536"),
        ("PORT", "1", "0"),
        ("HOST", "127.0.0.1", "localhost"),
        ("SHUTDOWN_SECONDS", "1", "0"),
        ("RUNTIME_THREADS", "1", "0"),
        ("SYNC_DOC_TTL_SECONDS", "1", "-1"),
        ("CDC_POLL_INTERVAL_MS", "10", "9"),
        ("LOG_HISTORY_SECONDS", "60", "59"),
        ("LIMIT_CONNECTIONS_PER_ADDRESS", "0", "many"),
        ("VITE_API_URL", "https://api.example", "api.example"),
        ("REALTIME_SECRET_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc", "c2hvcnQ="),
        ("CORS_ORIGINS", "*", "example.com"),
    ] {
        Config::from_vars(&with(minimal(), &[(name, good)])).unwrap();
        assert_eq!(names(&errors(&[(name, bad)])), [name], "{name}={bad}");
    }
}

#[test]
fn variables_that_belong_together_agree() {
    assert_eq!(names(&errors(&[("POSTGRES_POOL_MIN", "11")])), ["POSTGRES_POOL_MIN"]);
    assert_eq!(names(&errors(&[("LIMIT_MESSAGE_BURST", "99")])), ["LIMIT_MESSAGE_BURST"]);
    // A number that is none is one problem, not two.
    assert_eq!(names(&errors(&[("POSTGRES_POOL_MAX", "x")])), ["POSTGRES_POOL_MAX"]);
    assert_eq!(names(&errors(&[("LIMIT_MESSAGE_BURST", "x")])), ["LIMIT_MESSAGE_BURST"]);
}

#[test]
fn an_impossible_host_is_a_problem_not_a_panic() {
    for host in ["a b", "ho/st", "[", "%%", "host:5432"] {
        let parts = [
            ("POSTGRES_HOST", host),
            ("POSTGRES_USER", "u"),
            ("POSTGRES_PASSWORD", "p"),
            ("POSTGRES_DB", "d"),
        ];
        let errors = Config::from_vars(&vars(&parts)).unwrap_err();
        assert_eq!(names(&errors), ["POSTGRES_HOST"], "{host}");
    }
}

#[test]
fn sentinels_are_told_which_server_is_meant() {
    for bad in ["redis-sentinel://one:26379", "rediss-sentinel://one?sentinelServiceName="] {
        assert_eq!(names(&errors(&[("REDIS_URL", bad)])), ["REDIS_URL"], "{bad}");
    }
    let good = ("REDIS_URL", "redis-sentinel://one:26379?sentinelServiceName=main&node=two:26379");
    Config::from_vars(&with(minimal(), &[good])).unwrap();
}
