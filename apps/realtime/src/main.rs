//! `realtime`: the one program for people.
//!
//! Owns the command line: what the commands are called, what they print and how they end. It knows the platform
//! only by its interfaces: REST and WebSocket for the commands that talk to a running server, the composition
//! root for `dev`, the platform's database for `migrate` and `doctor`. Data goes to standard output, everything
//! said to people about it to standard error.

mod api;
mod cli;
mod commands;
mod demo;
mod dev;
mod doctor;
mod exit;
mod place;
mod terminal;

use clap::Parser;
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is still running when a command has ended gets this long.
const LINGER: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // Whoever installed one before us installed the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(commands::run(cli));
    runtime.shutdown_timeout(LINGER);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
