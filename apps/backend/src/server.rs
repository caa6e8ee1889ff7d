//! The HTTP server of a backend: REST, the gateways and the pages on one port.

use crate::{
    gateway::{Gateway, GatewayLimits, GatewayParts},
    http, pages,
    rates::Rates,
    state::{AppParts, AppState, HttpSettings, Mode},
};
use anyhow::{Context as _, Result};
use axum::serve::ListenerExt as _;
use event_router::Hub;
use platform::Platform;
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

/// A running server.
pub struct Server {
    platform: Arc<Platform>,
    gateway: Arc<Gateway>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    /// Starts to serve on `listener`.
    ///
    /// # Errors
    /// Where the listener cannot be used.
    pub async fn start(platform: Arc<Platform>, listener: TcpListener, mode: Mode) -> Result<Self> {
        let address = listener.local_addr().context("the listener has no address")?;
        let rates = rates(&platform);
        let gateway = gateway(&platform, rates.clone());
        let app = http::app(state(&platform, &gateway, rates, mode), gateway.routes().merge(pages::routes()));
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        // Small messages must not wait for one another in the kernel.
        let listener = listener.tap_io(|socket| {
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "a connection keeps its delay");
            }
        });
        let serving = tokio::spawn(async move {
            let service = app.into_make_service_with_connect_info::<SocketAddr>();
            let served =
                axum::serve(listener, service).with_graceful_shutdown(stopping.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "the server ended");
            }
        });
        tracing::info!(%address, "listening");
        Ok(Self { platform, gateway, stop, serving })
    }

    /// Stops gracefully: says so on `/ready`, accepts nothing more, tells clients to reconnect elsewhere, and finishes
    /// requests.
    pub async fn stop(self) {
        let until = self.platform.begin_stop().served;
        self.stop.cancel();
        self.gateway.drain(until.saturating_duration_since(Instant::now()) * 9 / 10).await;
        if tokio::time::timeout_at(until, self.serving).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
    }
}

/// Counters that go on until the platform stops.
fn rates(platform: &Platform) -> Arc<Rates> {
    let rates = Rates::new(platform.counters.clone());
    platform.tasks.spawn("rates", rates.clone().run(platform.tasks.stopping()));
    rates
}

fn gateway(platform: &Platform, rates: Arc<Rates>) -> Arc<Gateway> {
    let (log, metrics, stop) = (platform.log.clone(), platform.metrics.clone(), platform.tasks.stopping());
    let (hub, mails) = platform.tasks.spawn_with(|set| Hub::start(log, metrics, set, stop));
    let gateway = Gateway::new(GatewayParts {
        hub,
        router: platform.router.clone(),
        authenticator: platform.authenticator.clone(),
        pool: platform.pool.clone(),
        presence: platform.presence.clone(),
        metrics: platform.metrics.clone(),
        limits: GatewayLimits::of(&platform.config),
        rates,
    });
    platform.spawn_migrated("connections", |stop| gateway.clone().watch(mails, stop));
    gateway
}

fn state(platform: &Platform, gateway: &Gateway, rates: Arc<Rates>, mode: Mode) -> AppState {
    let parts = AppParts {
        pool: platform.pool.clone(),
        authenticator: platform.authenticator.clone(),
        router: platform.router.clone(),
        documents: platform.documents.clone(),
        metrics: platform.metrics.clone(),
        sealer: platform.sealer.clone(),
        http: HttpSettings::of(&platform.config, mode),
        channels: gateway.channels.clone(),
        rates,
        draining: platform.draining.clone(),
    };
    parts.into()
}
