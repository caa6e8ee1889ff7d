//! The load generator and what the platform is compared with.
//!
//! `bench all` measures everything in one run and writes the tables of `docs/benchmarks.md`; the other
//! commands measure one thing each. Linux only: CPU time and memory come from `/proc`.

mod accounting;
mod child;
mod fanout;
mod floor;
mod host;
mod link;
mod platform;
mod procfs;
mod session;
mod target;
mod wire;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::link::Transport;
use crate::target::Target;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Measures the platform beside what it is compared with")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print each measurement as one line of JSON on standard output
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// One topic, many subscribers: CPU a delivery, deliveries a second, latency, memory, losses
    Fanout(FanoutArguments),
    /// Run the bare tokio server (started by the other commands)
    #[command(hide = true)]
    Floor,
}

#[derive(clap::Args)]
struct FanoutArguments {
    /// Which server
    #[arg(long, value_enum, default_value = "platform")]
    target: Target,
    /// How the subscribers are connected
    #[arg(long, value_enum)]
    transport: Option<Transport>,
    #[command(flatten)]
    load: fanout::Load,
    #[command(flatten)]
    platform: platform::Options,
}

fn main() -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let arguments = Arguments::parse();
    if matches!(arguments.command, Command::Floor) {
        return tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(floor::serve());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = LocalSet::new().block_on(&runtime, until_interrupted(arguments));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Runs the command; a signal drops it, and with it every child process.
async fn until_interrupted(arguments: Arguments) -> Result<()> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = run(arguments) => done,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Fanout(fanout) => run_fanout(fanout, arguments.json).await,
        Command::Floor => Ok(()),
    }
}

async fn run_fanout(arguments: FanoutArguments, json: bool) -> Result<()> {
    let transport = arguments.transport.unwrap_or(arguments.target.transports()[0]);
    if !arguments.target.transports().contains(&transport) {
        bail!("{} does not serve {transport:?}", arguments.target.title());
    }
    let server = arguments.target.start(&arguments.platform).await?;
    for result in fanout::measure(&server, transport, &arguments.load).await? {
        if json { println!("{}", serde_json::to_string(&result)?) } else { println!("{result:#?}") }
    }
    Ok(())
}
