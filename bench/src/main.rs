//! The load generator and what the platform is compared with.
//!
//! `bench all` measures everything in one run and writes the tables of `docs/benchmarks.md`; the other
//! commands measure one thing each. Linux only: CPU time and memory come from `/proc`.

mod accounting;
mod all;
mod cdc;
mod channels;
mod child;
mod departure;
mod documents;
mod drill;
mod fanout;
mod filter;
mod floor;
mod host;
mod link;
mod platform;
mod procfs;
mod published;
mod recvlogical;
mod report;
mod requests;
mod rows;
mod session;
mod stage;
mod storm;
mod target;
mod wire;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::link::Transport;
use crate::stage::Mode;
use crate::target::Target;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the smallest run needs; the others check for more.
const MINIMUM_OPEN_FILES: u64 = 256;

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
    /// Many filtered subscriptions on the platform, one of which matches: CPU an event
    Filter(FilterArguments),
    /// Rows of PostgreSQL to events of the platform: rows a second, CPU a row, beside pg_recvlogical
    Cdc(CdcArguments),
    /// From a commit in PostgreSQL to the event in a client, on an idle machine
    Latency(CdcArguments),
    /// Merges of documents over REST, beside the same work with nothing around it
    Documents(ServiceArguments<documents::Load>),
    /// A channel's members on two backends, beside the same on one: CPU a delivery
    Channels(ServiceArguments<channels::Load>),
    /// Events published through Redis: events a second, CPU of Redis an event beside a bare script
    Publish(ServiceArguments<published::Load>),
    /// All clients lose their backend at once and recover what they missed from another
    Storm(ServiceArguments<storm::Load>),
    /// How long the clients of a killed backend are still shown as present
    Presence(ServiceArguments<departure::Load>),
    /// Rows while the platform is killed again and again: what is lost, what comes twice
    Drill(drill::Arguments),
    /// All of it, platform and peers in turn, into the tables of a page
    All(all::Arguments),
    /// Run the bare tokio server (started by the other commands)
    #[command(hide = true)]
    Floor,
    /// Run the server that only runs a script for each document (started by `documents`)
    #[command(hide = true)]
    BareDocuments(documents::BareArguments),
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

#[derive(clap::Args)]
struct FilterArguments {
    #[command(flatten)]
    load: filter::Load,
    #[command(flatten)]
    platform: platform::Options,
}

#[derive(clap::Args)]
struct CdcArguments {
    /// Only pg_recvlogical on --database-url, without a platform
    #[arg(long, requires = "database_url")]
    recvlogical_only: bool,
    #[command(flatten)]
    load: cdc::Load,
    #[command(flatten)]
    platform: platform::Options,
}

/// What a measurement of several services is told.
#[derive(clap::Args)]
struct ServiceArguments<L: clap::Args> {
    /// What stands behind the backends, where the measurement is about both
    #[arg(long, value_enum, default_value = "redis")]
    mode: Mode,
    #[command(flatten)]
    load: L,
    #[command(flatten)]
    stage: stage::Options,
}

fn main() -> ExitCode {
    match try_main() {
        Ok(()) => ExitCode::SUCCESS,
        // Not a backtrace after it: what went wrong is the last that is read.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn try_main() -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let arguments = Arguments::parse();
    match &arguments.command {
        Command::Floor => return server_runtime()?.block_on(floor::serve()),
        Command::BareDocuments(bare) => return server_runtime()?.block_on(documents::serve_bare(bare)),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = LocalSet::new().block_on(&runtime, until_interrupted(arguments));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// As the platform's programs have it.
fn server_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Runs the command; a signal drops it, and with it every child process.
async fn until_interrupted(arguments: Arguments) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = run(arguments) => done,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let json = arguments.json;
    // Before any server starts, because it inherits the limit.
    host::ensure_open_files(MINIMUM_OPEN_FILES)?;
    match arguments.command {
        Command::Fanout(fanout) => run_fanout(fanout, json).await,
        Command::Filter(filter) => {
            let server = Target::Platform.start(&filter.platform).await?;
            print_all(json, "filter", &server.explain(filter::measure(&server, &filter.load).await)?)
        }
        Command::Cdc(cdc) => run_cdc(cdc, json).await,
        Command::Latency(latency) => {
            let server = Target::Platform.start(&latency.platform).await?;
            print_all(
                json,
                "latency",
                &[server.explain(cdc::commit_to_client(&server, &latency.load).await)?],
            )
        }
        Command::Documents(ServiceArguments { mode, load, stage }) => {
            print_all(json, "documents", &[documents::measure(&stage, mode, &load).await?])
        }
        Command::Channels(ServiceArguments { load, stage, .. }) => {
            print_all(json, "channels", &channels::measure(&stage, &load).await?)
        }
        Command::Publish(ServiceArguments { load, stage, .. }) => {
            print_all(json, "publish", &published::measure(&stage, &load).await?)
        }
        Command::Storm(ServiceArguments { mode, load, stage }) => {
            print_all(json, "storm", &[storm::measure(&stage, mode, &load).await?])
        }
        Command::Presence(ServiceArguments { mode, load, stage }) => {
            print_all(json, "presence", &[departure::measure(&stage, mode, &load).await?])
        }
        Command::Drill(drill) => drill::run(&drill, json).await,
        Command::All(all) => all::run(&all, json).await,
        Command::Floor | Command::BareDocuments(_) => Ok(()),
    }
}

async fn run_fanout(arguments: FanoutArguments, json: bool) -> Result<()> {
    let transport = arguments.transport.unwrap_or(arguments.target.transports()[0]);
    if !arguments.target.transports().contains(&transport) {
        bail!("{} does not serve {transport:?}", arguments.target.title());
    }
    let server = arguments.target.start(&arguments.platform).await?;
    print_all(json, "fanout", &server.explain(fanout::measure(&server, transport, &arguments.load).await)?)
}

async fn run_cdc(arguments: CdcArguments, json: bool) -> Result<()> {
    if let Some(url) = arguments.platform.database_url.as_ref().filter(|_| arguments.recvlogical_only) {
        let received = recvlogical::alone(url, arguments.load.rows, arguments.load.batch).await?;
        return print_all(json, "recvlogical", &[received]);
    }
    let options = platform::Options { all_cores: true, ..arguments.platform };
    let server = Target::Platform.start(&options).await?;
    print_all(json, "cdc", &[server.explain(cdc::throughput(&server, &arguments.load).await)?])
}

fn print_all<T: serde::Serialize>(json: bool, kind: &str, results: &[T]) -> Result<()> {
    for result in results {
        all::print_json(json, kind, result);
        if !json {
            println!("{}", serde_json::to_string_pretty(result)?);
        }
    }
    Ok(())
}
