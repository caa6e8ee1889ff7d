//! The state of one topic in a backend: where it stands, who subscribes, and who is still recovering.
//!
//! Pure but for the outboxes it pushes to: it asks for reads by answering [`Need`]s, and is told their results.

use crate::{
    hub::Subscribe,
    index::Index,
    live_event::LiveEvent,
    message::Listener,
    outbox::Outbox,
    outgoing::{Control, Outgoing, ReplyTo, Subscribed},
    projection::effective,
};
use event_log::{HistoryPage, LogError, PageLimit, Reach, TopicKey};
use metrics::{Metrics, RecoveryResult};
use shared_types::{ErrorKind, Position, Problem, ReturnMode, SubscriptionId};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

/// The size of a page of recovery.
pub const PAGE: PageLimit = PageLimit { events: 1_000, bytes: 1 << 20 };
/// How many events may wait while a topic opens or a gap is filled; past it they are read again.
const BUFFERED: usize = 4_096;

/// A read that a topic asks for.
pub enum Need {
    /// Follow the topic and say where it stands.
    Open,
    /// The events behind the position, to fill a gap.
    Fill(Position),
    /// The events behind the position up to the offset, for a subscription.
    Recover(SubscriptionId, Position, u64),
    /// The head, because a subscription knows a position that we do not.
    Head(SubscriptionId),
    /// A look by the live reader, which is behind.
    Nudge,
}

enum Stage {
    /// Where it stands is not known yet.
    Opening,
    /// Everything up to its position has been delivered.
    Live,
    /// Events are missing behind its position and are being read.
    Filling,
}

struct Recovering {
    subscribe: Subscribe,
    from: Position,
    start: u64,
    /// What came live since the recovery began, for the splice; `None` once there is too much.
    since: Option<Vec<Arc<LiveEvent>>>,
    lost: bool,
}

pub use saying::Join;

/// One topic's state.
pub struct Topic {
    key: TopicKey,
    stage: Stage,
    position: Position,
    index: Index,
    /// Subscribes that wait for the topic to be live.
    waiting: Vec<Subscribe>,
    /// Subscribes whose position is ahead of ours.
    ahead: HashMap<SubscriptionId, Subscribe>,
    recovering: HashMap<SubscriptionId, Recovering>,
    /// Events that came while opening or filling; `overflowed` where there were too many to keep.
    buffered: Vec<Arc<LiveEvent>>,
    overflowed: bool,
    /// Epochs that were left: an event of them comes late, and a head of them was read before.
    past: VecDeque<Arc<str>>,
    /// The topic was said to have another epoch while a read was under way that may not know it.
    is_doubted: bool,
    idle_since: Option<Instant>,
    /// Connections that hear what is said under the key, by number.
    listeners: HashMap<u64, Listener>,
    /// Joins that wait for the topic to be followed.
    joining: Vec<Join>,
    metrics: Arc<Metrics>,
}

impl Topic {
    /// A topic that is about to be opened.
    pub fn new(key: TopicKey, metrics: Arc<Metrics>) -> Self {
        Self {
            key,
            stage: Stage::Opening,
            position: Position::new("", 0),
            index: Index::default(),
            waiting: Vec::new(),
            ahead: HashMap::new(),
            recovering: HashMap::new(),
            buffered: Vec::new(),
            overflowed: false,
            past: VecDeque::new(),
            is_doubted: false,
            idle_since: None,
            listeners: HashMap::new(),
            joining: Vec::new(),
            metrics,
        }
    }

    /// Where the topic stands.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// How many subscriptions are live.
    pub fn members(&self) -> usize {
        self.index.len()
    }

    /// How long nobody has wanted it.
    pub fn idle(&mut self, now: Instant) -> Option<std::time::Duration> {
        let wanted = !self.index.is_empty()
            || !self.waiting.is_empty()
            || !self.ahead.is_empty()
            || !self.recovering.is_empty()
            || !self.listeners.is_empty()
            || !self.joining.is_empty()
            || !matches!(self.stage, Stage::Live);
        if wanted {
            self.idle_since = None;
            return None;
        }
        Some(now - *self.idle_since.get_or_insert(now))
    }

    /// Takes up a subscribe. One for a subscription that is live already begins it anew; one for a subscription
    /// whose subscribe is not answered yet is refused.
    pub fn subscribe(&mut self, subscribe: Subscribe) -> Option<Need> {
        let id = &subscribe.subscription.id;
        if self.is_pending(id) {
            refuse(
                &subscribe,
                Problem::new(ErrorKind::Conflict, "CONFLICT", "it is being subscribed already"),
            );
            return None;
        }
        self.take_down(id);
        if !matches!(self.stage, Stage::Live) {
            self.waiting.push(subscribe);
            return None;
        }
        match subscribe.since.clone() {
            None => {
                self.go_live(subscribe, false, Vec::new());
                None
            }
            Some(since) if since == self.position => {
                self.recovered(subscribe, Vec::new());
                None
            }
            Some(since) if since.epoch == self.position.epoch && since.offset < self.position.offset => {
                Some(self.recover(subscribe, since))
            }
            Some(_) => {
                let id = subscribe.subscription.id.clone();
                self.ahead.insert(id.clone(), subscribe);
                Some(Need::Head(id))
            }
        }
    }

    fn recover(&mut self, subscribe: Subscribe, from: Position) -> Need {
        let id = subscribe.subscription.id.clone();
        let start = self.position.offset;
        let recovering =
            Recovering { subscribe, from: from.clone(), start, since: Some(Vec::new()), lost: false };
        self.recovering.insert(id.clone(), recovering);
        Need::Recover(id, from, start)
    }

    fn is_pending(&self, id: &SubscriptionId) -> bool {
        self.ahead.contains_key(id)
            || self.recovering.contains_key(id)
            || self.waiting.iter().any(|subscribe| subscribe.subscription.id == *id)
    }

    /// Ends a subscription in whatever state; a subscribe that was not answered yet is told so.
    pub fn unsubscribe(&mut self, id: &SubscriptionId) {
        self.take_down(id);
        let waiting = self.waiting.extract_if(.., |subscribe| subscribe.subscription.id == *id);
        let recovering = self.recovering.remove(id).map(|recovering| recovering.subscribe);
        for subscribe in waiting.chain(self.ahead.remove(id)).chain(recovering) {
            refuse(
                &subscribe,
                Problem::new(ErrorKind::Conflict, "CONFLICT", "it was ended before it was live"),
            );
        }
    }

    /// Delivers to a subscription no more.
    fn take_down(&mut self, id: &SubscriptionId) {
        if self.index.remove(id) {
            self.metrics.subscriptions.dec();
        }
    }

    /// The topic is followed from `head` on.
    pub fn opened(&mut self, head: Position) -> Vec<Need> {
        self.position = head;
        self.stage = Stage::Live;
        for join in std::mem::take(&mut self.joining) {
            self.join(join);
        }
        self.settle()
    }

    /// The topic could not be opened: everybody who waits is told.
    pub fn failed(&mut self, error: &LogError) {
        for subscribe in self.waiting.drain(..) {
            fail(&subscribe, error.clone().into());
        }
        for join in self.joining.drain(..) {
            let _ = join.reply.send(Err(error.clone()));
        }
    }

    /// Delivers what was buffered and takes up those who wait.
    fn settle(&mut self) -> Vec<Need> {
        let mut needs = Vec::new();
        let is_doubted = std::mem::take(&mut self.is_doubted);
        if std::mem::take(&mut self.overflowed) {
            self.buffered.clear();
            self.stage = Stage::Filling;
            return vec![Need::Fill(self.position.clone())];
        }
        if is_doubted {
            self.stage = Stage::Filling;
            return vec![Need::Fill(self.position.clone())];
        }
        for event in std::mem::take(&mut self.buffered) {
            needs.extend(self.event(event));
        }
        if matches!(self.stage, Stage::Live) {
            for subscribe in std::mem::take(&mut self.waiting) {
                needs.extend(self.subscribe(subscribe));
            }
        }
        needs
    }

    /// An event came from the live reader.
    pub fn event(&mut self, event: Arc<LiveEvent>) -> Vec<Need> {
        let position = &event.event().position;
        if !matches!(self.stage, Stage::Live) {
            if self.buffered.len() < BUFFERED {
                self.buffered.push(event);
            } else {
                self.overflowed = true;
            }
            return Vec::new();
        }
        let mut needs = Vec::new();
        if self.past.contains(&position.epoch) {
            return needs;
        }
        if position.epoch != self.position.epoch {
            // Events come in order, so that another epoch is a newer one.
            needs = self.lose(Position::new(position.epoch.clone(), position.offset - 1));
        } else if position.offset <= self.position.offset {
            return needs;
        } else if position.offset != self.position.offset + 1 {
            self.metrics.log_gaps.inc();
            self.stage = Stage::Filling;
            self.buffered.push(event);
            return vec![Need::Fill(self.position.clone())];
        }
        self.deliver(&event);
        needs.extend(self.catch_up());
        needs
    }

    /// The events of a gap were read.
    pub fn filled(&mut self, page: HistoryPage) -> Vec<Need> {
        let mut needs = Vec::new();
        if page.reach != Reach::Connected {
            // What is kept behind the loss is delivered.
            let first = page.events.first().map(|event| &event.position);
            let before = |first: &Position| Position::new(first.epoch.clone(), first.offset - 1);
            needs = self.lose(first.map_or_else(|| page.head.clone(), before));
        }
        for event in page.events {
            if event.position.offset == self.position.offset + 1 {
                self.deliver(&Arc::new(LiveEvent::new(event)));
            }
        }
        if self.position.offset < page.head.offset {
            needs.push(Need::Fill(self.position.clone()));
            return needs;
        }
        self.stage = Stage::Live;
        needs.extend(self.catch_up());
        needs.extend(self.settle());
        needs
    }

    /// Takes up subscribes whose position we have reached, or passed, by now.
    fn catch_up(&mut self) -> Vec<Need> {
        if self.ahead.is_empty() {
            return Vec::new();
        }
        let here = &self.position;
        let reached = |since: &Position| since.epoch == here.epoch && since.offset <= here.offset;
        let reached: Vec<Subscribe> = self
            .ahead
            .extract_if(|_, subscribe| subscribe.since.as_ref().is_some_and(reached))
            .map(|(_, subscribe)| subscribe)
            .collect();
        reached.into_iter().filter_map(|subscribe| self.subscribe(subscribe)).collect()
    }

    /// The head was read for a subscribe whose position we do not know.
    pub fn head_read(&mut self, id: &SubscriptionId, head: Result<Position, LogError>) -> Vec<Need> {
        let Some(subscribe) = self.ahead.remove(id) else { return Vec::new() };
        let head = match head {
            Ok(head) => head,
            Err(error) => {
                fail(&subscribe, error.into());
                return Vec::new();
            }
        };
        let Some(since) = subscribe.since.clone() else { return Vec::new() };
        if self.past.contains(&head.epoch) {
            self.ahead.insert(id.clone(), subscribe);
            return vec![Need::Head(id.clone())];
        }
        let mut needs = Vec::new();
        if matches!(self.stage, Stage::Live) && head.epoch != self.position.epoch {
            // The topic has a new epoch that we have not seen an event of: stand where it stands.
            needs = self.lose(head.clone());
        }
        if since.epoch != head.epoch || since.offset > head.offset {
            self.metrics.recovery(RecoveryResult::Lost);
            self.go_live(subscribe, false, Vec::new());
        } else if since.epoch == self.position.epoch && since.offset <= self.position.offset {
            needs.extend(self.subscribe(subscribe));
        } else {
            // The position is real and we are behind: wait for the live reader to get there.
            self.ahead.insert(id.clone(), subscribe);
            needs.push(Need::Nudge);
        }
        needs
    }

    /// A page of recovery was read.
    pub fn page_read(&mut self, id: &SubscriptionId, page: Result<HistoryPage, LogError>) {
        let Some(recovering) = self.recovering.remove(id) else { return };
        let page = match page {
            Ok(page) => page,
            Err(error) => return fail(&recovering.subscribe, error.into()),
        };
        if recovering.lost || page.reach != Reach::Connected {
            self.metrics.recovery(RecoveryResult::Lost);
            return self.go_live(recovering.subscribe, false, Vec::new());
        }
        let events: Vec<_> = page.events.into_iter().map(|event| Arc::new(LiveEvent::new(event))).collect();
        let last = events.last().map_or(recovering.from.offset, |event| event.event().position.offset);
        match recovering.since {
            Some(since) if last == recovering.start && fits(&events, &since) => {
                let mut whole = events;
                whole.extend(since);
                self.recovered(recovering.subscribe, whole);
            }
            _ => {
                let position = Position::new(recovering.from.epoch.clone(), last);
                answer(&recovering.subscribe, position, true, events, true);
            }
        }
    }

    fn recovered(&mut self, subscribe: Subscribe, events: Vec<Arc<LiveEvent>>) {
        self.metrics.recovery(RecoveryResult::Recovered);
        self.go_live(subscribe, true, events);
    }

    /// Answers the subscribe and delivers from here on: both in one step, so that nothing comes between.
    fn go_live(&mut self, subscribe: Subscribe, recovered: bool, events: Vec<Arc<LiveEvent>>) {
        answer(&subscribe, self.position.clone(), recovered, events, false);
        if subscribe.subscription.outbox.closed().is_none() {
            self.index.insert(subscribe.subscription, self.position.offset);
            self.metrics.subscriptions.inc();
        }
    }

    /// Events were lost for good: everybody is told and continues at `to`. Whoever waits for a position of the past
    /// is looked at anew.
    fn lose(&mut self, to: Position) -> Vec<Need> {
        self.leave(&to);
        self.position = to;
        for recovering in self.recovering.values_mut() {
            recovering.lost = true;
        }
        for member in self.index.all() {
            member.known = self.position.offset;
            tell_position(
                &self.key,
                &member.subscription.outbox,
                &member.subscription.id,
                &self.position,
                true,
            );
        }
        self.ahead.keys().cloned().map(Need::Head).collect()
    }

    /// Tells subscriptions that are behind where the topic stands.
    pub fn tell_positions(&mut self) {
        let offset = self.position.offset;
        for member in self.index.all().filter(|member| member.known < offset) {
            member.known = offset;
            tell_position(
                &self.key,
                &member.subscription.outbox,
                &member.subscription.id,
                &self.position,
                false,
            );
        }
    }

    fn deliver(&mut self, event: &Arc<LiveEvent>) {
        let offset = event.event().position.offset;
        self.position.offset = offset;
        let mut delivered = 0;
        let mut several: HashMap<(u64, ReturnMode), (Arc<Outbox>, Vec<SubscriptionId>)> = HashMap::new();
        for group in self.index.matching(event) {
            for member in self.index.members(group) {
                delivered += 1;
                member.known = offset;
                let subscription = &member.subscription;
                if member.several {
                    let mode = effective(event.event(), subscription.mode);
                    let place = several.entry((subscription.outbox.connection(), mode));
                    let (_, ids) = place.or_insert_with(|| (subscription.outbox.clone(), Vec::new()));
                    ids.push(subscription.id.clone());
                } else {
                    push(event, &subscription.outbox, subscription.mode, None);
                }
            }
        }
        for ((_, mode), (outbox, ids)) in several {
            push(event, &outbox, mode, Some(ids.into_boxed_slice()));
        }
        for recovering in self.recovering.values_mut() {
            match &mut recovering.since {
                Some(since) if since.len() < PAGE.events => since.push(event.clone()),
                since => *since = None,
            }
        }
        self.metrics.events_delivered.inc_by(delivered);
        self.metrics.events_filtered.inc_by(self.index.len() as u64 - delivered.min(self.index.len() as u64));
    }
}

fn push(
    event: &Arc<LiveEvent>,
    outbox: &Arc<Outbox>,
    mode: ReturnMode,
    subscriptions: Option<Box<[SubscriptionId]>>,
) {
    // Quietly: the shard wakes the writers once all of a batch is pushed, so that one write carries many events.
    outbox.push_quietly(Outgoing::Event { event: event.clone(), mode, subscriptions });
}

fn tell_position(key: &TopicKey, outbox: &Arc<Outbox>, id: &SubscriptionId, position: &Position, gap: bool) {
    let (id, topic, position) = (id.clone(), key.topic.clone(), position.clone());
    outbox.control(ReplyTo::Nothing, Control::Position { id, topic, position, gap });
}

/// Whether both parts of a recovery fit into one page.
fn fits(events: &[Arc<LiveEvent>], since: &[Arc<LiveEvent>]) -> bool {
    let bytes: usize = events.iter().chain(since).map(|event| event.event().size()).sum();
    since.is_empty() || (events.len() + since.len() <= PAGE.events && bytes <= PAGE.bytes)
}

fn answer(
    subscribe: &Subscribe,
    position: Position,
    recovered: bool,
    events: Vec<Arc<LiveEvent>>,
    more: bool,
) {
    let subscription = &subscribe.subscription;
    let events = events
        .into_iter()
        .filter(|event| subscription.filter.is_empty() || subscription.filter.matches(event.payload()));
    let subscribed = Subscribed {
        id: subscription.id.clone(),
        topic: subscription.key.topic.clone(),
        position,
        recovered,
        events: events.collect(),
        mode: subscription.mode,
        more,
    };
    subscription.outbox.control(subscribe.reply.clone(), Control::Subscribed(subscribed));
}

/// The subscription cannot be: its session may forget it.
fn fail(subscribe: &Subscribe, problem: Problem) {
    subscribe.subscription.failed.store(true, Ordering::Relaxed);
    refuse(subscribe, problem);
}

fn refuse(subscribe: &Subscribe, problem: Problem) {
    subscribe.subscription.outbox.control(subscribe.reply.clone(), Control::Failed(problem));
}

mod renewing;
mod saying;

#[cfg(test)]
mod tests;
