//! What the server programs have in common: configuration, logging, the runtime, signals and exit codes.

use crate::Platform;
use shared_config::{Config, EXIT_CODE};
use std::{future::Future, net::SocketAddr, process::ExitCode};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Why a server program ends with a failure.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {cause} (set HOST and PORT)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        cause: std::io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot wait for signals: {0}")]
    Signals(#[from] std::io::Error),
    /// A background task ended by itself.
    #[error("a background task failed; the log says which")]
    Task,
}

/// Runs a server program: 78 for a bad configuration, 1 for a failure, 0 for a graceful stop.
pub fn program<F>(service: &str, run: impl FnOnce(Config) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    install_crypto();
    let config = match Config::load() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_CODE);
        }
    };
    if let Err(error) = observability::init(service, config.log_level.as_str(), config.environment.as_str()) {
        eprintln!("logging cannot be set up: {error}");
        return ExitCode::FAILURE;
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = config.runtime_threads {
        builder.worker_threads(threads);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime cannot be started");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "stopped by a failure");
            ExitCode::FAILURE
        }
    }
}

/// Chooses the cryptography of all TLS in the process. First thing in every program.
pub fn install_crypto() {
    // A second call finds the same provider installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Listens on `address`.
///
/// # Errors
/// Naming the address and what to set.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ProgramError> {
    TcpListener::bind(address).await.map_err(|cause| ProgramError::Listen { address, cause })
}

/// Waits for SIGTERM or SIGINT, or for a task of `platform` to fail.
///
/// # Errors
/// Where a task failed.
pub async fn until_stopped(platform: &Platform) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ProgramError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ProgramError::Signals)?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
        _ = interrupt.recv() => tracing::info!("stopping on SIGINT"),
        () = platform.tasks.failed().cancelled_owned() => return Err(ProgramError::Task.into()),
    }
    Ok(())
}
