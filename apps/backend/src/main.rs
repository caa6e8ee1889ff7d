//! The backend as a program: configured by the environment, stopped by SIGTERM or SIGINT.

use backend::{Server, state::Mode};
use platform::Platform;
use shared_config::Config;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    platform::program("backend", run)
}

async fn run(config: Config) -> anyhow::Result<()> {
    let address = config.listen_address();
    let mode = Mode::of(&config);
    let platform = Platform::start(config, "backend").await?;
    let listener = platform::listen(address).await?;
    let server = Server::start(platform.clone(), listener, mode).await?;
    let ended = platform::until_stopped(&platform).await;
    server.stop().await;
    platform.stop().await;
    ended
}
