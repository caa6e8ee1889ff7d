//! The workers as a program: configured by the environment, stopped by SIGTERM or SIGINT.

use platform::Platform;
use shared_config::Config;
use std::process::ExitCode;
use workers::{Workers, health};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    platform::program("workers", run)
}

async fn run(config: Config) -> anyhow::Result<()> {
    let address = config.listen_address();
    let platform = Platform::start(config, "workers").await?;
    let listener = platform::listen(address).await?;
    let health = health::serve(platform.clone(), listener);
    let workers = Workers::start(platform.clone()).await?;
    tracing::info!(%address, "workers run; health and metrics are served");
    let ended = platform::until_stopped(&platform).await;
    workers.stop().await;
    health.stop().await;
    platform.stop().await;
    ended
}
