//! `realtime dev`: backend, workers and a PostgreSQL of their own in one process.
//!
//! Owns starting and stopping them in order, and what is found by the next command: `dev.json`, removed at the end.
//! What the parts do is theirs.

mod databases;
mod folder;
mod settings;
mod shop;
mod signals;
mod stack;
mod welcome;

use crate::cli::DevArgs;
use crate::exit::{Code, Failure, Outcome};
use crate::place::{Place, RunningDev};
use crate::terminal;
use folder::Folder;
use serde_json::json;
use settings::Settings;
use signals::Signals;
use stack::Stack;
use std::time::{Duration, Instant};

/// A graceful stop that takes longer than this ends anyway.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Runs until Ctrl-C, SIGTERM or the failure of a part.
pub async fn run(args: DevArgs, json: bool) -> Outcome {
    let started = Instant::now();
    let mut signals = Signals::listen()?;
    let folder = Folder::claim(Place::at(&args.data_dir))?;
    let settings = Settings::read(&args, &folder)?;
    let listener = settings.listen().await?;
    observability::init("realtime dev", settings.log_level(), settings.environment())
        .map_err(|error| Failure::new(Code::Failure, error))?;
    // Cancelling ends what was started: the private server goes with its owner.
    let stack = tokio::select! {
        stack = Stack::start(&args, &settings, &folder, listener) => stack?,
        () = signals.next() => return Ok(()),
    };
    let ended = serve(&args, json, &folder, &stack, &mut signals, started).await;
    folder.withdraw();
    terminal::note("stopping");
    tokio::select! {
        stopped = tokio::time::timeout(STOP_LIMIT, stack.stop()) => match stopped {
            Ok(stopped) => stopped?,
            Err(_) => return Err(Failure::new(Code::Failure, "some parts did not end in time and were killed")),
        },
        () = signals.next() => return Err(Failure::new(Code::Interrupted, "killed by the second signal")),
    }
    ended
}

/// Says that it is ready, and keeps what it said true until the end.
async fn serve(
    args: &DevArgs,
    json: bool,
    folder: &Folder,
    stack: &Stack,
    signals: &mut Signals,
    started: Instant,
) -> Outcome {
    let mut dev = stack.describe().await?;
    folder.announce(&dev)?;
    if json {
        terminal::print(&ready_line(&dev).to_string())?;
    } else {
        welcome::print(&dev, stack, folder, args.demo, started.elapsed())?;
    }
    let mut renewals = tokio::time::interval(stack::RENEW_TOKEN_EVERY);
    renewals.tick().await;
    loop {
        tokio::select! {
            () = signals.next() => return Ok(()),
            failure = stack.failed() => return Err(failure),
            _ = renewals.tick() => {
                dev.token = stack.token().await?;
                folder.announce(&dev)?;
            }
        }
    }
}

fn ready_line(dev: &RunningDev) -> serde_json::Value {
    json!({
        "url": dev.url,
        "token": dev.token,
        "databaseUrl": dev.database_url,
        "targetUrl": dev.target_url,
        "pid": dev.pid,
    })
}
