//! The running parts, from the database up, and down again in order.

use super::databases::Databases;
use super::folder::Folder;
use super::settings::Settings;
use super::shop;
use crate::cli::DevArgs;
use crate::demo::Generator;
use crate::exit::{Code, Failure, Outcome};
use crate::place::RunningDev;
use auth::{Issuer, TokenRequest};
use backend::{Server, state::Mode};
use database::tables::cdc::{self, MappingState};
use platform::Platform;
use shared_types::{AppId, Environment, Scope};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use url::Url;
use workers::Workers;

/// The application that is there from the first migration.
const APPLICATION: &str = "app_default";
/// A token of a day is renewed at half of it.
pub const RENEW_TOKEN_EVERY: Duration = Duration::from_secs(12 * 3600);
/// One that could not be renewed is tried again after this.
pub const RETRY_TOKEN_AFTER: Duration = Duration::from_secs(60);
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Longer than the mapping of an untouched database takes to be followed.
const LIVE_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Everything that `realtime dev` runs.
pub struct Stack {
    url: Url,
    redis_url: Option<String>,
    followed: String,
    platform: Arc<Platform>,
    server: Server,
    workers: Workers,
    generator: Option<Generator>,
    databases: Databases,
}

/// The scope of everything here.
pub fn scope() -> Scope {
    Scope::new(AppId::from_stored(APPLICATION), Environment::Development)
}

impl Stack {
    /// Starts the parts and waits until they can be used. Cancelling ends what runs.
    ///
    /// # Errors
    /// The part that does not start.
    pub async fn start(
        args: &DevArgs,
        settings: &Settings,
        folder: &Folder,
        listener: TcpListener,
    ) -> Outcome<Self> {
        let port = listener.local_addr().map_err(|error| Failure::from(anyhow::Error::new(error)))?.port();
        let databases = Databases::start(args, settings, folder).await?;
        let config = settings.with_database(&databases.platform_url)?;
        let platform = Platform::start(config, "dev").await.map_err(anyhow::Error::new)?;
        let server = Server::start(platform.clone(), listener, Mode::OwnMachine).await?;
        wait_until_ready(&platform).await?;
        let target = &databases.target_url;
        if (databases.has_private_shop() || args.demo) && shop::is_wanted(target, args.demo).await? {
            shop::make(&platform, target).await?;
        }
        let followed = shop::set_target(&platform, target, !databases.has_private_shop()).await?;
        let workers = Workers::start(platform.clone()).await?;
        wait_until_live(&platform).await;
        let generator = args.demo.then(|| Generator::start(databases.target_url.clone()));
        let redis_url = args.redis_url.clone();
        let url = settings.url(port)?;
        Ok(Self { url, redis_url, followed, platform, server, workers, generator, databases })
    }

    /// What other commands need to know.
    ///
    /// # Errors
    /// Where no token can be issued.
    pub async fn describe(&self) -> Outcome<RunningDev> {
        Ok(RunningDev {
            url: self.url.as_str().trim_end_matches('/').to_owned(),
            token: self.token().await?,
            database_url: self.databases.platform_url.clone(),
            target_url: Some(self.followed.clone()),
            redis_url: self.redis_url.clone(),
            pid: std::process::id(),
        })
    }

    /// Whether the example shop is there to be tried.
    pub fn has_shop(&self) -> bool {
        self.databases.has_private_shop() && self.followed == self.databases.target_url
    }

    /// A token of an administrator, for a day.
    ///
    /// # Errors
    /// Where the database does not answer.
    pub async fn token(&self) -> Outcome<String> {
        let request = TokenRequest {
            application_id: APPLICATION.to_owned(),
            environment: Some(Environment::Development),
            sub: Some("developer".to_owned()),
            permissions: Some(vec!["admin".to_owned()]),
            ttl_seconds: Some(auth::MAX_TTL_SECONDS),
            capabilities: None,
        };
        let issued = self.platform.authenticator.issue(Issuer::Open, &request).await;
        issued.map(|issued| issued.token).map_err(|problem| Failure::new(Code::Failure, problem))
    }

    /// Waits for the failure of a part.
    pub async fn failed(&self) -> Failure {
        tokio::select! {
            () = self.platform.tasks.failed().cancelled_owned() => {
                Failure::new(Code::Failure, "a background task failed; the log says which")
            }
            () = self.databases.ended() => {
                let message = format!("PostgreSQL ended by itself; see {}", self.databases.log_file());
                Failure::new(Code::Failure, message)
            }
        }
    }

    /// Ends the parts, each before what it needs.
    ///
    /// # Errors
    /// Where the private database does not end.
    pub async fn stop(self) -> Outcome {
        if let Some(generator) = self.generator {
            generator.stop().await;
        }
        tokio::join!(self.workers.stop(), self.server.stop());
        self.platform.stop().await;
        self.databases.stop().await
    }
}

/// The platform goes on without a database that does not answer; here that is a failure.
async fn wait_until_ready(platform: &Platform) -> Outcome {
    let deadline = Instant::now() + READY_LIMIT;
    while !(platform.is_migrated() && platform.authenticator.is_fresh()) {
        if Instant::now() > deadline {
            let message = "the platform's database does not answer, or cannot be migrated; see above";
            return Err(Failure::new(Code::Unavailable, message));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// What is committed once a mapping is live is never missed: so "ready" is said only then. A target that cannot be
/// followed is said too, and does not keep the rest from working.
async fn wait_until_live(platform: &Platform) {
    let deadline = Instant::now() + LIVE_LIMIT;
    let started_ms = chrono::Utc::now().timestamp_millis();
    loop {
        match cdc::status(&platform.pool, &scope()).await {
            Ok(Some(status)) if status.updated_at >= started_ms => {
                if let (Some(message), Some(cure)) = (&status.message, &status.cure) {
                    tracing::warn!(%message, %cure, "changes of the target database are not followed yet");
                    return;
                }
                let pending = |state: &MappingState| *state == MappingState::Pending;
                let streams = status.state == cdc::ReaderState::Streaming;
                if streams && !status.mappings.iter().any(|mapping| pending(&mapping.state)) {
                    return;
                }
            }
            _ => {}
        }
        if Instant::now() > deadline {
            tracing::warn!(
                "changes of the target database are not followed yet; see GET /api/database/cdc/status"
            );
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
