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
            // What ended it comes first: that the rest did not stop well may follow from it.
            Ok(stopped) => ended.and(stopped),
            Err(_) => Err(Failure::new(Code::Failure, "some parts did not end in time and were killed")),
        },
        () = signals.next() => Err(Failure::new(Code::Interrupted, "killed by the second signal")),
    }
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
    let mut wait = stack::RENEW_TOKEN_EVERY;
    loop {
        tokio::select! {
            () = signals.next() => return Ok(()),
            failure = stack.failed() => return Err(failure),
            next = renew(wait, &mut dev, folder, stack) => wait = next,
        }
    }
}

/// Announces a new token after `wait`; answers when to do so again. The old one is good for hours, so that a database
/// that does not answer for a moment ends nothing.
async fn renew(wait: Duration, dev: &mut RunningDev, folder: &Folder, stack: &Stack) -> Duration {
    tokio::time::sleep(wait).await;
    let renewed = stack.token().await.and_then(|token| {
        dev.token = token;
        folder.announce(dev)
    });
    match renewed {
        Ok(()) => stack::RENEW_TOKEN_EVERY,
        Err(failure) => {
            tracing::warn!(?failure, "the token of dev.json could not be renewed; trying again");
            stack::RETRY_TOKEN_AFTER
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
