//! The live reader: one task that follows the topics that this process wants.
//!
//! Messages are taken only where they connect to what came before; wherever one may be missing (a gap, a full queue,
//! a new connection, a head that nothing led to) the topic is read by position.

use super::{
    announce,
    control::{self, Done, Order, WatchAsk},
    encode, history,
    lane::Shore,
    messages::{self, Heard},
};
use crate::connection::{Link, Links};
use event_log::{
    HistoryQuery, LiveReader, LiveWatch, LogError, Message, PageLimit, Start, StoredEvent, TopicKey,
    WAITING_MESSAGES, WAITING_RENEWED,
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use shared_types::Position;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How often some of the topics' heads are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How many of them at a time.
const LOOKED_AT: usize = 256;
/// How long a caller waits for a watch.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages that may wait for the reader before they are missed.
const HEARD: usize = 8_192;
/// How many of them are taken at a time.
const TAKEN: usize = 512;
/// Events that may wait for the router before no more are taken.
const WAITING: usize = 10_000;
/// What is read by position at a time.
const PAGE: PageLimit = PageLimit { events: 1_000, bytes: 4 << 20 };

enum Ask {
    Watch(WatchAsk),
    Unwatch(Vec<TopicKey>),
    Nudge(TopicKey),
}

/// What the rest of the log knows of the live reader.
pub struct LiveHub {
    asks: mpsc::Sender<Ask>,
    events: Mutex<Option<mpsc::Receiver<Vec<Arc<StoredEvent>>>>>,
    messages: Mutex<Option<mpsc::Receiver<Message>>>,
    renewed: Mutex<Option<mpsc::Receiver<TopicKey>>>,
}

impl LiveHub {
    /// Starts the reader in `tasks`; it ends with `stop`.
    pub fn start(shore: Arc<Shore>, tasks: &mut JoinSet<()>, stop: CancellationToken) -> Self {
        let (asks, asked) = mpsc::channel(1024);
        let (out, events) = mpsc::channel(64);
        let (say, messages) = mpsc::channel(WAITING_MESSAGES);
        let (tell, renewed) = mpsc::channel(WAITING_RENEWED);
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = run(shore, asked, out, Aside { say, tell }) => stop.cancelled().await,
            }
        });
        let (events, messages) = (Mutex::new(Some(events)), Mutex::new(Some(messages)));
        Self { asks, events, messages, renewed: Mutex::new(Some(renewed)) }
    }

    /// The reader's end, once; later calls get one that has ended.
    pub fn open(&self) -> LiveReader {
        let events = self.events.lock().take().unwrap_or_else(|| mpsc::channel(1).1);
        let messages = self.messages.lock().take().unwrap_or_else(|| mpsc::channel(1).1);
        let renewed = self.renewed.lock().take().unwrap_or_else(|| mpsc::channel(1).1);
        LiveReader { watch: Arc::new(Watch { asks: self.asks.clone() }), events, messages, renewed }
    }
}

struct Watch {
    asks: mpsc::Sender<Ask>,
}

impl LiveWatch for Watch {
    fn watch(&self, keys: Vec<TopicKey>) -> BoxFuture<'static, Result<Vec<Position>, LogError>> {
        let asks = self.asks.clone();
        Box::pin(async move {
            let stopped = || LogError::Unavailable("the log is stopping".to_owned());
            let (reply, answer) = oneshot::channel();
            let asked = async {
                asks.send(Ask::Watch((keys, reply))).await.map_err(|_| stopped())?;
                answer.await.map_err(|_| stopped())?
            };
            let late = || Err(LogError::Unavailable("redis does not answer in time".to_owned()));
            tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| late())
        })
    }

    fn unwatch(&self, keys: Vec<TopicKey>) {
        // A full queue keeps the topics watched, which costs a little and breaks nothing.
        let _ = self.asks.try_send(Ask::Unwatch(keys));
    }

    fn nudge(&self, key: &TopicKey) {
        let _ = self.asks.try_send(Ask::Nudge(key.clone()));
    }
}

/// Where goes what is no event.
struct Aside {
    say: mpsc::Sender<Message>,
    /// Topics that have got a new epoch.
    tell: mpsc::Sender<TopicKey>,
}

/// Waits for the connection, then reads with what listens and subscribes beside it.
async fn run(
    shore: Arc<Shore>,
    asked: mpsc::Receiver<Ask>,
    out: mpsc::Sender<Vec<Arc<StoredEvent>>>,
    aside: Aside,
) {
    let Some(link) = connected(&shore.links).await else { return };
    let (heard_in, heard) = mpsc::channel(HEARD);
    let (orders, ordered) = mpsc::channel(1024);
    let (done_in, done) = mpsc::channel(64);
    let reader = Reader {
        shore: shore.clone(),
        link: link.clone(),
        orders,
        aside,
        topics: HashMap::new(),
        channels: HashMap::new(),
        behind: HashSet::new(),
        unfinished: HashSet::new(),
        turn: Vec::new(),
        suspects: HashMap::new(),
    };
    tokio::select! {
        () = messages::pump(&link, heard_in) => {}
        () = control::run(shore, link.clone(), ordered, done_in) => {}
        () = reader.run(asked, heard, done, out) => {}
    }
}

async fn connected(links: &Links) -> Option<Arc<Link>> {
    links.clone().wait_for(Option::is_some).await.ok()?.clone()
}

/// A followed topic.
struct Followed {
    /// Everything up to here has been handed on; none until the first head is known.
    last: Option<Position>,
    /// The highest position heard of while there is no `last`.
    heard: Option<Position>,
}

struct Reader {
    shore: Arc<Shore>,
    link: Arc<Link>,
    orders: mpsc::Sender<Order>,
    aside: Aside,
    topics: HashMap<TopicKey, Followed>,
    channels: HashMap<String, TopicKey>,
    /// Topics that could not be read by position and are to be.
    behind: HashSet<TopicKey>,
    /// Topics that are read by position as soon as there is room again.
    unfinished: HashSet<TopicKey>,
    /// Topics whose heads are still to be looked at in this round.
    turn: Vec<TopicKey>,
    /// Heads that were seen beyond what has come.
    suspects: HashMap<TopicKey, Position>,
}

impl Reader {
    async fn run(
        mut self,
        mut asked: mpsc::Receiver<Ask>,
        mut heard: mpsc::Receiver<Heard>,
        mut done: mpsc::Receiver<Done>,
        out: mpsc::Sender<Vec<Arc<StoredEvent>>>,
    ) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(TAKEN);
        let mut events = Vec::new();
        loop {
            // While the router is busy messages wait, or are missed and read by position; asks are served all along.
            let is_ample = events.len() < WAITING;
            tokio::select! {
                permit = out.reserve(), if !events.is_empty() => {
                    let Ok(permit) = permit else { return };
                    permit.send(std::mem::take(&mut events));
                }
                ask = asked.recv() => {
                    let Some(ask) = ask else { return };
                    self.serve(ask, &mut asked, &mut events).await;
                }
                Some(done) = done.recv() => self.finish(done, &mut events).await,
                count = heard.recv_many(&mut batch, TAKEN), if is_ample => {
                    if count == 0 {
                        return;
                    }
                    for heard in batch.drain(..) {
                        self.hear(heard, &mut events).await;
                    }
                }
                _ = look.tick(), if is_ample => self.look(&mut events).await,
                () = std::future::ready(()), if is_ample && !self.unfinished.is_empty() => {
                    for key in std::mem::take(&mut self.unfinished) {
                        self.catch_up(&key, &mut events).await;
                    }
                }
            }
        }
    }

    async fn hear(&mut self, heard: Heard, events: &mut Vec<Arc<StoredEvent>>) {
        match heard {
            Heard::Message { channel, text } => self.take(&channel, &text, events).await,
            Heard::Missed => self.order(Order::Look(self.topics.keys().cloned().collect())),
            Heard::Lapsed => self.order(Order::Again(self.topics.keys().cloned().collect())),
        }
    }

    /// Takes a message where it connects.
    async fn take(&mut self, channel: &str, text: &str, events: &mut Vec<Arc<StoredEvent>>) {
        let Some(key) = self.channels.get(channel) else { return };
        if let Some(body) = announce::message(text) {
            if self.aside.say.try_send(Message { key: key.clone(), body: body.into() }).is_err() {
                self.shore.metrics.messages_dropped.inc();
            }
            return;
        }
        if text == announce::RENEWED {
            let key = key.clone();
            return self.catch_up(&key, events).await;
        }
        let Some(followed) = self.topics.get_mut(key) else { return };
        let event = match encode::decode_for(key, text) {
            Ok(event) => event,
            Err(error) => return tracing::warn!(%error, channel, "a message is none of ours"),
        };
        let position = event.position.clone();
        let Some(last) = &mut followed.last else {
            followed.heard = Some(position);
            return;
        };
        let is_next = position.offset == last.offset + 1 && position.epoch == last.epoch;
        if is_next || (position.epoch != last.epoch && position.offset == 1) {
            *last = position;
            events.push(Arc::new(event));
        } else if position.epoch != last.epoch || position.offset > last.offset {
            let key = key.clone();
            self.catch_up(&key, events).await;
        }
    }

    /// Serves one ask and all that wait behind it, so that many new topics cost few commands.
    async fn serve(
        &mut self,
        first: Ask,
        asked: &mut mpsc::Receiver<Ask>,
        events: &mut Vec<Arc<StoredEvent>>,
    ) {
        let mut watches = Vec::new();
        let mut next = Some(first);
        while let Some(ask) = next {
            match ask {
                Ask::Watch((keys, reply)) => {
                    for key in &keys {
                        self.follow(key);
                    }
                    watches.push((keys, reply));
                }
                Ask::Unwatch(keys) => {
                    // In order: a topic that is wanted again right behind must stay.
                    self.watch(std::mem::take(&mut watches));
                    self.forget(keys);
                }
                Ask::Nudge(key) => self.catch_up(&key, events).await,
            }
            next = asked.try_recv().ok();
        }
        self.watch(watches);
    }

    fn follow(&mut self, key: &TopicKey) {
        if !self.topics.contains_key(key) {
            self.topics.insert(key.clone(), Followed { last: None, heard: None });
            self.channels.insert(self.link.announcing.channel(key), key.clone());
        }
    }

    fn watch(&mut self, asks: Vec<WatchAsk>) {
        if !asks.is_empty() {
            self.order(Order::Watch(asks));
        }
    }

    fn forget(&mut self, keys: Vec<TopicKey>) {
        let keys: Vec<TopicKey> = keys.into_iter().filter(|key| self.topics.remove(key).is_some()).collect();
        for key in &keys {
            self.channels.remove(&self.link.announcing.channel(key));
            self.behind.remove(key);
            self.unfinished.remove(key);
            self.suspects.remove(key);
        }
        if !keys.is_empty() {
            self.order(Order::Unwatch(keys));
        }
    }

    /// Passes an order on. One that finds no room is answered, or made up for by the next look.
    fn order(&mut self, order: Order) {
        if let Err(TrySendError::Full(order) | TrySendError::Closed(order)) = self.orders.try_send(order) {
            match order {
                Order::Watch(asks) => {
                    let busy = LogError::Unavailable("too much is being subscribed to".to_owned());
                    asks.into_iter().for_each(|(_, reply)| drop(reply.send(Err(busy.clone()))));
                }
                Order::Again(keys) | Order::Look(keys) => self.behind.extend(keys),
                Order::Unwatch(_) => {}
            }
        }
    }

    async fn finish(&mut self, done: Done, events: &mut Vec<Arc<StoredEvent>>) {
        match done {
            Done::Watched(asks, heads) => {
                if let Ok(heads) = &heads {
                    self.reach(heads, events).await;
                }
                for (keys, reply) in asks {
                    let answer = heads.as_ref().map_err(Clone::clone);
                    let answer = answer.map(|heads| keys.iter().map(|key| heads[key].clone()).collect());
                    let _ = reply.send(answer);
                }
            }
            Done::Again(heads) => self.reach(&heads, events).await,
            Done::Looked(heads) => self.suspect(heads, events).await,
        }
    }

    /// Begins at heads that were looked up after the subscription, or reads up to them.
    async fn reach(&mut self, heads: &HashMap<TopicKey, Position>, events: &mut Vec<Arc<StoredEvent>>) {
        for (key, head) in heads {
            let Some(followed) = self.topics.get_mut(key) else { continue };
            let is_behind = match &followed.last {
                Some(last) => is_beyond(head, last),
                None => {
                    followed.last = Some(head.clone());
                    followed.heard.take().is_some_and(|heard| is_beyond(&heard, head))
                }
            };
            if is_behind {
                self.catch_up(key, events).await;
            }
        }
    }

    /// A head beyond what has come is nothing yet: its message may be under way. If it is still beyond when it is
    /// looked at again, messages do not come.
    async fn suspect(&mut self, heads: HashMap<TopicKey, Position>, events: &mut Vec<Arc<StoredEvent>>) {
        for (key, head) in heads {
            let Some(last) = self.topics.get(&key).and_then(|followed| followed.last.as_ref()) else {
                continue;
            };
            if !is_beyond(&head, last) {
                self.suspects.remove(&key);
                continue;
            }
            let is_overdue = self.suspects.get(&key).is_some_and(|seen| is_beyond(seen, last));
            if is_overdue {
                self.suspects.remove(&key);
                self.shore.metrics.log_gaps.inc();
                self.catch_up(&key, events).await;
                self.order(Order::Again(vec![key]));
            } else {
                self.suspects.insert(key, head);
            }
        }
    }

    /// Reads what could not be read before, and looks at some of the heads.
    async fn look(&mut self, events: &mut Vec<Arc<StoredEvent>>) {
        for key in std::mem::take(&mut self.behind) {
            self.catch_up(&key, events).await;
        }
        if self.turn.is_empty() {
            self.turn = self.topics.keys().cloned().collect();
        }
        let rest = self.turn.len().saturating_sub(LOOKED_AT);
        let mut keys = self.turn.split_off(rest);
        keys.extend(self.suspects.keys().cloned());
        if !keys.is_empty() {
            self.order(Order::Look(keys));
        }
    }

    /// Reads a topic by position up to its head, or as far as there is room.
    async fn catch_up(&mut self, key: &TopicKey, events: &mut Vec<Arc<StoredEvent>>) {
        loop {
            if events.len() >= WAITING {
                self.unfinished.insert(key.clone());
                return;
            }
            let Some(last) = self.topics.get(key).and_then(|followed| followed.last.clone()) else { return };
            let query = HistoryQuery { start: Start::After(last.clone()), until: None, limit: PAGE };
            let page = match history::page(self.shore.clone(), key.clone(), query).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::debug!(%error, topic.name = %key.topic, "could not read live events; trying again");
                    self.behind.insert(key.clone());
                    return;
                }
            };
            let first = page.events.first().map(|event| &event.position);
            if first.is_some_and(|first| first.epoch == last.epoch && first.offset != last.offset + 1) {
                self.shore.metrics.log_gaps.inc();
            }
            if page.head.epoch != last.epoch
                && page.events.is_empty()
                && let Err(TrySendError::Full(key)) = self.aside.tell.try_send(key.clone())
            {
                // Found again, and told then.
                self.behind.insert(key);
                return;
            }
            let reached = page.events.last().map_or(page.head.clone(), |event| event.position.clone());
            let is_whole = page.events.is_empty() || reached == page.head;
            if let Some(followed) = self.topics.get_mut(key) {
                followed.last = Some(reached);
            }
            events.extend(page.events);
            if is_whole {
                return;
            }
        }
    }
}

fn is_beyond(position: &Position, last: &Position) -> bool {
    position.epoch != last.epoch || position.offset > last.offset
}
