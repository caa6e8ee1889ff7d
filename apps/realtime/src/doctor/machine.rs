//! This machine: secrets, the port, and the server that may be listening there.

use super::Finding;
use crate::api::Api;
use crate::cli::ServerArgs;
use crate::place::Server;
use shared_config::{Config, Environment};
use tokio::net::TcpListener;

const MAKE_KEY: &str = "set REALTIME_SECRET_KEY, the same on every instance: openssl rand -base64 32";

/// The secrets, without a look into them.
pub fn secrets(config: &Config, is_dev: bool) -> Vec<Finding> {
    let key = match (&config.secret_key, is_dev) {
        (Some(_), _) => Finding::ok("secrets.key", "REALTIME_SECRET_KEY is set"),
        (None, true) => Finding::ok("secrets.key", "realtime dev keeps its own"),
        (None, false) => Finding::warn(
            "secrets.key",
            "REALTIME_SECRET_KEY is not set: what is sealed at rest is sealed with a key that everybody knows",
            MAKE_KEY,
        ),
    };
    let jwt = match &config.jwt_secret {
        None => Finding::ok("secrets.jwt", "JWT_SECRET is not set: tokens are signed with managed keys"),
        Some(secret) if secret.expose().len() >= 32 => {
            Finding::ok("secrets.jwt", "JWT_SECRET is long enough")
        }
        Some(_) => Finding::warn(
            "secrets.jwt",
            "JWT_SECRET is shorter than 32 bytes, and production refuses it",
            "set a longer one, or none: managed keys can be rotated",
        ),
    };
    let mut findings = vec![key, jwt];
    if config.environment == Environment::Production && !config.postgres.url().contains("sslmode=verify-full")
    {
        findings.push(Finding::warn(
            "secrets.transport",
            "the connection to PostgreSQL does not verify the server",
            "add ?sslmode=verify-full to DATABASE_URL",
        ));
    }
    findings
}

/// The server that listens, or whether its port is free.
pub async fn server(args: &ServerArgs, config: &Config) -> Vec<Finding> {
    let Ok(server) = Server::find(args) else {
        return vec![Finding::fail(
            "server",
            "the server's URL cannot be used",
            "see --url and REALTIME_URL",
        )];
    };
    let (url, named) = (server.url.clone(), args.url.is_some());
    let Ok(api) = Api::new(server) else {
        return vec![Finding::fail(
            "server",
            "this machine's certificates cannot be read",
            "install ca-certificates",
        )];
    };
    if api.get("/health").await.is_err() {
        if named {
            return vec![Finding::fail("server", format!("no answer from {url}"), "start it, or mend --url")];
        }
        return vec![port(config).await];
    }
    vec![version(&api, &url).await, readiness(&api).await]
}

async fn version(api: &Api, url: &url::Url) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    let description = api.get("/api/openapi.json").await.unwrap_or_default();
    match description.pointer("/info/version").and_then(serde_json::Value::as_str) {
        Some(theirs) if theirs == ours => Finding::ok("server", format!("{url} runs {theirs}")),
        Some(theirs) => Finding::warn(
            "server",
            format!("{url} runs {theirs}, this program is {ours}"),
            "use the same version of both",
        ),
        None => {
            Finding::warn("server", format!("{url} does not say its version"), "use the same version of both")
        }
    }
}

async fn readiness(api: &Api) -> Finding {
    match api.get("/ready").await {
        Ok(_) => Finding::ok("server.ready", "every part is there"),
        Err(_) => Finding::fail("server.ready", "a part is missing", "see GET /ready, which names it"),
    }
}

async fn port(config: &Config) -> Finding {
    let address = config.listen_address();
    match TcpListener::bind(address).await {
        Ok(_) => Finding::ok("port", format!("no server runs; port {} is free", address.port())),
        Err(error) => Finding::fail(
            "port",
            format!("another program has {address}: {error}"),
            "stop it, or set PORT (realtime dev: --port)",
        ),
    }
}
