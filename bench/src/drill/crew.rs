//! Everybody who works at the platform or follows it during a drill: the ledgers, the load, the readers.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::account::Position;
use super::load::{self, Book, Channel, Documents, DocumentsOutcome, Going, Held};
use super::outcome::{SourceOutcome, Toll, lost, missing, wanted};
use super::readers::Readers;
use super::source::Source;
use super::stack::{Mode, Stack};

/// After the last death, until everything has come.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(180);
/// After that, for what may come once too often.
const SETTLE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many of the lost keys are named.
const NAMED: usize = 20;
/// Messages a second in the channel.
const SPOKEN: f64 = 10.0;

/// All of them. Dropping it ends their work and closes their connections.
pub struct Crew {
    books: Vec<(Source, Book)>,
    readers: Vec<Readers>,
    /// The channel's members.
    pub channel: Channel,
    documents: std::rc::Rc<Documents>,
}

impl Crew {
    /// Makes the documents and lets readers and members connect.
    ///
    /// # Errors
    /// The platform refuses.
    pub async fn gather(stack: &Stack) -> Result<Self> {
        let books: Vec<(Source, Book)> =
            Source::ALL.into_iter().map(|source| (source, Book::default())).collect();
        let endpoint = stack.endpoint();
        let documents = Documents::create(&endpoint, books[2].1.clone()).await?;
        let readers = Source::ALL.into_iter().map(|source| Readers::start(source, &endpoint)).collect();
        Ok(Self { books, readers, channel: Channel::open(&stack.backends()), documents })
    }

    /// The ledger of a source.
    pub fn book(&self, source: Source) -> &Book {
        let found = self.books.iter().find(|(of, _)| *of == source);
        &found.expect("each source has a ledger").1
    }

    /// The readers of a source.
    pub fn readers(&self, source: Source) -> &Readers {
        self.readers.iter().find(|readers| readers.source == source).expect("each source has readers")
    }

    /// Whether everybody listens: what is done from now on must reach them.
    ///
    /// # Errors
    /// Somebody does not.
    pub fn listens(&self) -> Result<()> {
        match self.readers.iter().find_map(Readers::silent) {
            Some(silent) => bail!("{silent}"),
            None => Ok(()),
        }
    }

    /// Begins all work, `rate` pieces a second of each source.
    pub fn work(&mut self, stack: &Stack, rate: f64, seed: u64, going: &Going) -> JoinSet<Result<()>> {
        let mut tasks = JoinSet::new();
        let (endpoint, target) = (stack.endpoint(), stack.postgres.target_url().to_owned());
        let (rows, outbox) = (self.book(Source::Database).clone(), self.book(Source::Outbox).clone());
        tasks.spawn_local(load::write(target, rate, seed, rows, outbox, going.clone()));
        for writer in self.documents.writers(rate, seed, going) {
            tasks.spawn_local(writer);
        }
        for publisher in load::publish(&endpoint, rate, self.book(Source::Socket), going) {
            tasks.spawn_local(publisher);
        }
        self.channel.speak(&endpoint, SPOKEN.min(rate), going);
        tasks
    }

    /// Waits until every resilient reader has everything, and a little longer; gives up after a while.
    pub async fn catch_up(&self) {
        let deadline = Instant::now() + CATCH_UP_LIMIT;
        while self.lacks_anything() {
            if Instant::now() > deadline {
                for (name, account) in self.readers.iter().flat_map(Readers::live) {
                    eprintln!("not everything came; {name} last said: {}", account.borrow().last_trouble());
                }
                return;
            }
            sleep(LOOK_EVERY).await;
        }
        sleep(SETTLE).await;
    }

    /// The same for what was acknowledged under later keys than these, one a source.
    pub async fn catch_up_from(&self, earlier: &[u64]) {
        let deadline = Instant::now() + CATCH_UP_LIMIT;
        let lacks = |(readers, earlier): (&Readers, &u64)| {
            let book = self.book(readers.source).borrow();
            let new = book.acknowledged_keys().range(earlier + 1..).copied().collect();
            readers.look(|readings| lost(&new, readings)) > 0
        };
        while self.readers.iter().zip(earlier).any(lacks) && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
    }

    fn lacks_anything(&self) -> bool {
        self.readers.iter().any(|readers| {
            readers.look(|readings| {
                let wanted = wanted(&self.book(readers.source).borrow(), readings);
                readings.iter().any(|reading| !missing(reading, &wanted).is_empty())
            })
        })
    }

    /// Reads the documents until they agree with their events, or for a while.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn documents(&self) -> Result<DocumentsOutcome> {
        let deadline = Instant::now() + CATCH_UP_LIMIT / 3;
        let history = self.readers(Source::Sync).account("history").context("the history is read")?;
        loop {
            let held = self.documents.read().await?;
            // What was written last may still be on its way to the reader.
            let outcome = self.documents.compare(&held, &history.borrow());
            if outcome.holds() || Instant::now() > deadline {
                return Ok(outcome);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// See [`Documents::commit`].
    ///
    /// # Errors
    /// They cannot be written.
    pub async fn commit_documents(&self) -> Result<Vec<Held>> {
        self.documents.commit().await
    }

    /// See [`Documents::read`].
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn read_documents(&self) -> Result<Vec<Held>> {
        self.documents.read().await
    }

    /// Sums up, one line a source, and names what is wrong.
    pub fn outcomes(&self, mode: Mode, toll: &Toll) -> Vec<SourceOutcome> {
        let of_source = |readers: &Readers| {
            let book = self.book(readers.source).borrow();
            readers.look(|readings| {
                let wanted = wanted(&book, readings);
                for reading in readings {
                    let at = format!("{} of {}", reading.name, readers.source.name());
                    name(&format!("{at} lacks"), &missing(reading, &wanted));
                    name(
                        &format!("{at} has twice"),
                        &reading.account.twice().iter().copied().collect::<Vec<_>>(),
                    );
                }
                SourceOutcome::new(mode.name(), readers.source, &book, readings, toll)
            })
        };
        self.readers.iter().map(of_source).collect()
    }

    /// What was answered instead of success, for whoever looks for a reason.
    pub fn complaints(&self) -> Vec<String> {
        let of_source = |(source, book): &(Source, Book)| {
            let book = book.borrow();
            let said = book.complaints().iter();
            said.map(|(said, count)| format!("{}: {count} × {said}", source.name())).collect::<Vec<_>>()
        };
        self.books.iter().flat_map(of_source).collect()
    }

    /// Where each reader stands: source, reader, position.
    pub fn positions(&self) -> Vec<(Source, &'static str, Option<Position>)> {
        let of_source = |readers: &Readers| {
            let position = |name: &'static str, account: &super::readers::Shared| {
                (readers.source, name, account.borrow().position().cloned())
            };
            let history = readers.account("history").map(|account| position("history", account));
            readers.live().map(|(name, account)| position(name, account)).chain(history).collect::<Vec<_>>()
        };
        self.readers.iter().flat_map(of_source).collect()
    }
}

fn name(what: &str, keys: &[u64]) {
    if !keys.is_empty() {
        let more = if keys.len() > NAMED { " …" } else { "" };
        let mut named: Vec<u64> = keys.to_vec();
        named.sort_unstable();
        named.truncate(NAMED);
        eprintln!("{what} {named:?}{more}");
    }
}
