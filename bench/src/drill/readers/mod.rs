//! The clients that follow a topic, each in its own way and as its protocol says, through whatever dies.
//!
//! Owns connecting anew and resuming. What they see goes into their accounts; they judge nothing.

mod history;
mod messages;
mod stream;
mod websocket;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::account::{Account, Position};
use super::outcome::{Kind, Reading};
use super::source::{Event, Source};
use crate::link::{Endpoint, Transport};

/// How long to wait before a connection is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Where a reader's account is kept.
pub type Shared = Rc<RefCell<Account>>;

/// Notes an event of a source.
fn note(source: Source, account: &Shared, event: Event, now: Instant) -> anyhow::Result<()> {
    let mark = source.mark(&event.payload)?;
    let position = Position { epoch: event.metadata.epoch, offset: event.metadata.offset };
    account.borrow_mut().event(position, event.id, mark, now);
    Ok(())
}

/// One reader.
struct Reader {
    name: &'static str,
    kind: Kind,
    account: Shared,
}

/// All readers of one source.
pub struct Readers {
    /// Which.
    pub source: Source,
    readers: Vec<Reader>,
    // Aborts the tasks when it is dropped.
    _tasks: JoinSet<()>,
}

impl Readers {
    /// Starts them: resilient ones and a bare one over `endpoint`.
    pub fn start(source: Source, endpoint: &Endpoint) -> Self {
        let mut readers = Vec::new();
        let mut tasks = JoinSet::new();
        let mut add = |name, kind| {
            let account = Shared::default();
            readers.push(Reader { name, kind, account: Rc::clone(&account) });
            (endpoint.clone(), account)
        };
        for (name, transport, kind) in [
            ("websocket", Transport::Ws, Kind::Resilient),
            ("socketio", Transport::SocketIo, Kind::Resilient),
            ("bare", Transport::Ws, Kind::Bare),
        ] {
            let (endpoint, account) = add(name, kind);
            let follower = websocket::Follower { source, transport, kind, endpoint, account };
            tasks.spawn_local(follower.follow());
        }
        let (endpoint, account) = add("sse", Kind::Resilient);
        tasks.spawn_local(stream::follow(source, endpoint, account));
        let (endpoint, account) = add("history", Kind::Resilient);
        tasks.spawn_local(history::follow(source, endpoint, account));
        Self { source, readers, _tasks: tasks }
    }

    /// Why some reader has no position yet; `None` where all listen.
    pub fn silent(&self) -> Option<String> {
        let silent = self.readers.iter().find(|reader| reader.account.borrow().position().is_none())?;
        Some(format!("{} of {}: {}", silent.name, self.source.name(), silent.account.borrow().last_trouble()))
    }

    /// The names and accounts of those that follow live and resume.
    pub fn live(&self) -> impl Iterator<Item = (&'static str, &Shared)> {
        let live =
            self.readers.iter().filter(|reader| reader.kind == Kind::Resilient && reader.name != "history");
        live.map(|reader| (reader.name, &reader.account))
    }

    /// The account of the reader of this name.
    pub fn account(&self, name: &str) -> Option<&Shared> {
        self.readers.iter().find(|reader| reader.name == name).map(|reader| &reader.account)
    }

    /// Hands all accounts to `look`.
    pub fn look<T>(&self, look: impl FnOnce(&[Reading<'_>]) -> T) -> T {
        let accounts: Vec<_> = self.readers.iter().map(|reader| reader.account.borrow()).collect();
        let reading = |(reader, account)| {
            let Reader { name, kind, .. }: &Reader = reader;
            Reading { name, kind: *kind, account }
        };
        let accounts: Vec<&Account> = accounts.iter().map(|account| &**account).collect();
        let readings: Vec<Reading<'_>> = self.readers.iter().zip(accounts).map(reading).collect();
        look(&readings)
    }
}
