//! The chaos drill: work over all sources while every part of the platform is killed in turn, and afterwards an
//! account of every piece of it at clients that know nothing but the protocol.
//!
//! Owns the course of a drill. What is struck is in `stack` and `chaos`, who works and who follows in `crew`; what it
//! comes to (`account`, `outcome`) is pure.

mod account;
mod chaos;
mod crew;
mod load;
mod measure;
mod outcome;
mod proxy;
mod readers;
mod rollback;
mod source;
mod stack;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::all::print_json;
use crate::link::Endpoint;
use crate::rows::Rest;
use chaos::Plan;
use crew::Crew;
use load::{Answer, Api, ChannelOutcome, DocumentsOutcome, Going};
use measure::Measured;
use outcome::{SourceOutcome, Toll};
use rollback::RollbackOutcome;
use source::Source;
use stack::{Disk, Mode, Stack, random, random_text};

/// Until the platform serves, or serves again: also a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Which modes are drilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Modes {
    /// The event log on PostgreSQL.
    Postgres,
    /// The event log on Redis.
    Redis,
    /// One after the other.
    Both,
}

/// What the drill does.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Where the event log is
    #[arg(long, value_enum, default_value = "both", conflicts_with = "single")]
    mode: Modes,
    /// How long parts are killed, in each mode
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// What chance begins with; the same gives the same order of deaths
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds between two deaths
    #[arg(long, default_value_t = 3.0, value_parser = seconds_between)]
    every: f64,
    /// Pieces of work a second, of each source
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Let PostgreSQL not wait for the disk: what is drilled is the death of processes, not of the machine
    #[arg(long)]
    no_fsync: bool,
    /// Keep the logs of all processes in this directory
    #[arg(long)]
    logs: Option<PathBuf>,
    #[command(flatten)]
    programs: stack::Programs,
}

fn seconds_between(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.1 to 3600".to_owned()),
    }
}

/// What the drill of one mode comes to.
#[derive(Debug, Serialize)]
struct Outcome {
    seed: u64,
    sources: Vec<SourceOutcome>,
    documents: DocumentsOutcome,
    channel: ChannelOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollback: Option<RollbackOutcome>,
}

impl Outcome {
    fn holds(&self) -> bool {
        self.sources.iter().all(SourceOutcome::holds)
            && self.documents.holds()
            && self.rollback.as_ref().is_none_or(RollbackOutcome::holds)
    }

    fn print(&self, mode: Mode) {
        for outcome in &self.sources {
            println!("{outcome}");
        }
        let name = mode.name();
        println!("{name}: {}", self.documents);
        println!("{name}: {}", self.channel);
        self.measured.iter().for_each(|measured| println!("{name}: {measured}"));
        self.rollback.iter().for_each(|rollback| println!("{name}: {rollback}"));
    }
}

/// Runs the drill and prints its accounting lines.
///
/// # Errors
/// It could not be run; or an account is not as it has to be.
pub async fn run(arguments: &Arguments, json: bool) -> Result<()> {
    let seed = arguments.seed.map_or_else(|| Ok(u64::from(u32::from_le_bytes(random()?))), anyhow::Ok)?;
    let modes = match (arguments.programs.single, arguments.mode) {
        (true, _) => vec![Mode::Single],
        (false, Modes::Postgres) => vec![Mode::Postgres],
        (false, Modes::Redis) => vec![Mode::Redis],
        (false, Modes::Both) => vec![Mode::Postgres, Mode::Redis],
    };
    let mut failed = Vec::new();
    for mode in modes {
        let disk = if arguments.no_fsync { Disk::NotAwaited } else { Disk::Awaited };
        let mut stack = Stack::start(mode, &arguments.programs, disk, arguments.logs.as_deref()).await?;
        let outcome = match drill(mode, arguments, seed, &mut stack).await {
            Ok(outcome) => outcome,
            Err(error) => {
                stack.print_logs();
                return Err(error.context(format!("the drill of {}, --seed {seed}", mode.name())));
            }
        };
        print_json(json, "drill", &outcome);
        if !json {
            outcome.print(mode);
        }
        if !outcome.holds() {
            stack.print_logs();
            failed.push(mode.name());
        }
    }
    ensure!(failed.is_empty(), "the drill failed: {}; --seed {seed}", failed.join(", "));
    Ok(())
}

/// One mode, from the first start to the last stop.
async fn drill(mode: Mode, arguments: &Arguments, seed: u64, stack: &mut Stack) -> Result<Outcome> {
    load::install(stack.postgres.target_url()).await?;
    until(stack, "the platform is ready", async |stack| stack.ready().await).await?;
    set_up(mode, stack).await?;
    let mut crew = Crew::gather(stack).await?;
    until(stack, "everybody listens", async |_| crew.listens()).await?;
    let Arguments { seconds, every, rate, .. } = arguments;
    eprintln!(
        "{}: {rate} pieces of work a second and source for {seconds} s, a death every {every} s; --seed {seed}",
        mode.name()
    );
    let mut toll = Toll::default();
    let measured = strike_and_measure(mode, arguments, seed, stack, &mut crew, &mut toll).await?;
    crew.catch_up().await;
    stack.check()?;
    let mut outcome = Outcome {
        seed,
        documents: crew.documents().await?,
        sources: crew.outcomes(mode, &toll),
        channel: crew.channel.outcome(),
        measured,
        rollback: None,
    };
    crew.complaints().iter().for_each(|complaint| eprintln!("{}: {complaint}", mode.name()));
    if mode == Mode::Redis {
        outcome.rollback = Some(rollback::set_back(stack, &mut crew, f64::from(*rate), seed).await?);
    }
    drop(crew);
    stack.stop().await?;
    Ok(outcome)
}

/// The part under load.
async fn strike_and_measure(
    mode: Mode,
    arguments: &Arguments,
    seed: u64,
    stack: &mut Stack,
    crew: &mut Crew,
    toll: &mut Toll,
) -> Result<Option<Measured>> {
    let going = Going::on();
    let work = crew.work(stack, f64::from(arguments.rate), seed, &going);
    drive(work, async {
        let plan = Plan::new(seed, mode.victims());
        let (every, length) =
            (Duration::from_secs_f64(arguments.every), Duration::from_secs(arguments.seconds));
        chaos::strike(stack, plan, every, length, toll).await?;
        let measured = match mode {
            Mode::Single => None,
            Mode::Postgres | Mode::Redis => Some(measure::measure(stack, crew).await?),
        };
        going.end();
        Ok(measured)
    })
    .await
}

/// Runs the work beside `course`, which ends it, until both are through.
///
/// # Errors
/// Either's first.
async fn drive<T>(mut work: JoinSet<Result<()>>, course: impl Future<Output = Result<T>>) -> Result<T> {
    let all_work = async {
        while let Some(ended) = work.join_next().await {
            ended.context("a piece of work was cut off")??;
        }
        Ok(())
    };
    let (done, ()) = tokio::try_join!(course, all_work)?;
    Ok(done)
}

/// Becomes the platform's first person, names the database whose rows become events, makes the mapping, and waits
/// until rows and outbox are read.
async fn set_up(mode: Mode, stack: &mut Stack) -> Result<()> {
    let endpoint = stack.endpoint();
    let rest = Rest::new(&endpoint)?;
    let password = random_text()?;
    let person = json!({ "name": "Drill", "email": "drill@example.com", "password": password });
    let session = rest.post("/api/auth/setup", person).await?;
    let token = session["sessionToken"].as_str().context("a session has a token")?.to_owned();
    let person = Api::new(&Endpoint { token: Some(token), ..endpoint })?;
    let url = json!({ "development": { "databaseUrl": stack.postgres.target_url() } });
    let mut config = json!({ "config": { "outbox": url } });
    if mode != Mode::Single {
        config["config"]["cdc"] = url;
    }
    match person.send(reqwest::Method::PATCH, "/api/applications/app_default", &config, None).await {
        Answer::Done(_) => {}
        Answer::Refused(said) | Answer::Unknown(said) => bail!("the target could not be named: {said}"),
    }
    make_mapping(&rest, stack).await?;
    until(stack, "the outbox is read", async |_| {
        let status = rest.get("/api/database/outbox/status").await?;
        ensure!(status["state"] == "reading", "the outbox says: {status}");
        Ok(())
    })
    .await
}

/// Makes the mapping and waits until it is live.
async fn make_mapping(rest: &Rest, stack: &mut Stack) -> Result<()> {
    let mapping = json!({
        "table": load::TABLE, "topic": Source::Database.topic(), "events": ["insert", "update"],
        "environment": "development", "payload": { "key": "$row.key", "note": "$row.note" },
    });
    let created = rest.post("/api/database/mappings", mapping).await?;
    let id = created["id"].as_str().context("a created mapping has an id")?.to_owned();
    until(stack, "the mapping is live", async |_| {
        let status = rest.get("/api/database/cdc/status").await?;
        ensure!(mapping_state(&status, &id) == Some("live"), "change data capture says: {status}");
        Ok(())
    })
    .await
}

fn mapping_state<'a>(status: &'a Value, id: &str) -> Option<&'a str> {
    let mappings = status["mappings"].as_array()?;
    mappings.iter().find(|mapping| mapping["mappingId"] == id)?["state"].as_str()
}

/// Tries until it succeeds.
///
/// # Errors
/// It does not within the time; or something ended by itself meanwhile.
async fn until<T>(
    stack: &mut Stack,
    what: &str,
    attempt: impl AsyncFnMut(&mut Stack) -> Result<T>,
) -> Result<T> {
    until_within(PATIENCE, stack, what, attempt).await
}

async fn until_within<T>(
    patience: Duration,
    stack: &mut Stack,
    what: &str,
    mut attempt: impl AsyncFnMut(&mut Stack) -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        let failure = match attempt(stack).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        stack.check()?;
        if Instant::now() > deadline {
            return Err(failure.context(format!("waited {} s until {what}", patience.as_secs())));
        }
        sleep(LOOK_EVERY).await;
    }
}
