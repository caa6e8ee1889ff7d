//! The kill drill: rows are inserted at a steady rate while the platform is killed (SIGKILL) again and
//! again, and afterwards every committed row is accounted for at bare clients.

mod account;
mod inserter;
mod readers;
mod stack;
mod stream;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::all::print_json;
use crate::link::Endpoint;
use crate::rows::Rest;
use account::{Account, Ledger, Outcome};
use readers::Shared;
use stack::{Databases, Stack, random_text};

const TOPIC: &str = "drill.row";
/// Until the platform serves, the mapping is live and the readers listen.
const START_LIMIT: Duration = Duration::from_secs(60);
/// After the last kill, until every committed row has come.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);
/// After that, for what may come once too often.
const SETTLE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many of the lost keys are named.
const NAMED: usize = 20;

/// What the drill does.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// How long rows are inserted and the platform is killed
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds between kills
    #[arg(long, default_value_t = 2.0, value_parser = seconds_between)]
    every: f64,
    /// Rows a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    #[command(flatten)]
    programs: stack::Programs,
}

fn seconds_between(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.1 to 3600".to_owned()),
    }
}

/// Runs the drill and prints its accounting line.
///
/// # Errors
/// It could not be run; or the line is not as it has to be.
pub async fn run(arguments: &Arguments, json: bool) -> Result<()> {
    // Declared first, to end last.
    let databases = Databases::start().await?;
    let mut stack = Stack::start(&arguments.programs, &databases)?;
    let outcome = match drill(arguments, &databases, &mut stack).await {
        Ok(outcome) => outcome,
        Err(error) => return Err(stack.explain(&error)),
    };
    print_json(json, "drill", &outcome);
    if !json {
        for reader in &outcome.readers {
            eprintln!("{}", serde_json::to_string(reader)?);
        }
        println!("{outcome}");
    }
    if !outcome.holds() {
        return Err(stack.explain(&anyhow::anyhow!("the drill failed: {outcome}")));
    }
    Ok(())
}

async fn drill(arguments: &Arguments, databases: &Databases, stack: &mut Stack) -> Result<Outcome> {
    let rest = Rest::new(stack.endpoint())?;
    inserter::create_table(databases.target_url()).await?;
    until(stack, "the platform is ready", async || rest.get("/ready").await).await?;
    if !stack.knows_its_target() {
        name_target(stack.endpoint(), &rest, databases.target_url()).await?;
    }
    make_mapping(&rest, stack).await?;
    let readers = Readers::start(stack);
    readers.listen(stack).await?;
    eprintln!(
        "inserting {} rows a second for {} s, killing the platform every {} s",
        arguments.rate, arguments.seconds, arguments.every
    );
    let ledger = Rc::new(RefCell::new(Ledger::default()));
    let (kills, ()) = tokio::try_join!(
        kill_again_and_again(arguments, stack),
        inserter::insert(databases.target_url(), arguments.rate, arguments.seconds, &ledger)
    )?;
    let ledger = ledger.take();
    readers.catch_up(&ledger).await;
    stack.check()?;
    let history = readers::read_history(&rest, TOPIC).await?;
    let (websocket, sse) = (readers.websocket.borrow(), readers.sse.borrow());
    let accounts = [("websocket", &*websocket), ("sse", &*sse), ("history", &history)];
    name_missing(&ledger, &accounts);
    Ok(Outcome::new(&ledger, kills, &accounts))
}

/// Becomes the platform's first person, who may do everything, and names the database whose rows become events.
async fn name_target(endpoint: &Endpoint, rest: &Rest, url: &str) -> Result<()> {
    let password = random_text()?;
    let person = json!({ "name": "Drill", "email": "drill@example.com", "password": password });
    let session = rest.post("/api/auth/setup", person).await?;
    let token = session["sessionToken"].as_str().context("a session has a token")?.to_owned();
    Rest::new(&Endpoint { token: Some(token), ..endpoint.clone() })?.set_database(url).await
}

/// Makes the mapping and waits until it is live.
async fn make_mapping(rest: &Rest, stack: &mut Stack) -> Result<()> {
    let mapping = json!({
        "table": inserter::TABLE, "topic": TOPIC, "events": ["insert"], "environment": "development",
        "payload": { "id": "$row.id", "note": "$row.note" },
    });
    let created = rest.post("/api/database/mappings", mapping).await?;
    let id = created["id"].as_str().context("a created mapping has an id")?.to_owned();
    until(stack, "the mapping is live", async || {
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
async fn until<T>(stack: &mut Stack, what: &str, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let failure = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        stack.check()?;
        if Instant::now() > deadline {
            return Err(failure.context(format!("waited {} s until {what}", START_LIMIT.as_secs())));
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn kill_again_and_again(arguments: &Arguments, stack: &mut Stack) -> Result<u64> {
    let start = tokio::time::Instant::now();
    let (every, end) =
        (Duration::from_secs_f64(arguments.every), start + Duration::from_secs(arguments.seconds));
    let mut kills = 0;
    let mut due = start + every;
    while due <= end {
        tokio::time::sleep_until(due).await;
        stack.kill_and_restart().await?;
        kills += 1;
        due += every;
    }
    Ok(kills)
}

/// The live readers. Dropping them closes their connections.
struct Readers {
    websocket: Shared,
    sse: Shared,
    // Aborts the tasks when it is dropped.
    _tasks: JoinSet<()>,
}

impl Readers {
    fn start(stack: &Stack) -> Self {
        let (websocket, sse) = (Shared::default(), Shared::default());
        let mut tasks = JoinSet::new();
        let place = || (stack.endpoint().clone(), TOPIC.to_owned());
        let (endpoint, topic) = place();
        tasks.spawn_local(readers::follow_websocket(endpoint, topic, Rc::clone(&websocket)));
        let (endpoint, topic) = place();
        tasks.spawn_local(readers::follow_stream(endpoint, topic, Rc::clone(&sse)));
        Self { websocket, sse, _tasks: tasks }
    }

    fn all(&self) -> [&Shared; 2] {
        [&self.websocket, &self.sse]
    }

    /// Waits until both have a position: what is committed from now on must reach them.
    async fn listen(&self, stack: &mut Stack) -> Result<()> {
        until(stack, "the readers listen", async || {
            match self.all().into_iter().find(|account| account.borrow().position().is_none()) {
                Some(silent) => bail!("{}", silent.borrow().last_trouble()),
                None => Ok(()),
            }
        })
        .await
    }

    /// Waits until both have every committed row, and a little longer; gives up after a while.
    async fn catch_up(&self, ledger: &Ledger) {
        let deadline = Instant::now() + CATCH_UP_LIMIT;
        let lacks = |account: &&Shared| account.borrow().missing(ledger).next().is_some();
        while self.all().iter().any(lacks) {
            if Instant::now() > deadline {
                for account in self.all() {
                    eprintln!(
                        "not all rows came; a connection last said: {}",
                        account.borrow().last_trouble()
                    );
                }
                return;
            }
            sleep(LOOK_EVERY).await;
        }
        sleep(SETTLE).await;
    }
}

/// Says which rows are missing, and where, for whoever looks for the reason.
fn name_missing(ledger: &Ledger, accounts: &[(&'static str, &Account)]) {
    for (name, account) in accounts {
        let missing: Vec<u64> = account.missing(ledger).take(NAMED).collect();
        if !missing.is_empty() {
            eprintln!("{name} lacks {missing:?}{}", if missing.len() == NAMED { " …" } else { "" });
        }
        let twice: Vec<u64> = account.twice().take(NAMED).collect();
        if !twice.is_empty() {
            eprintln!("{name} has twice {twice:?}");
        }
    }
}
