//! The topic's states, without a log: what it asks for and what it says.

use super::*;
use crate::outbox::OutboxLimits;
use event_log::StoredEvent;
use shared_types::{AppId, Environment, EventId, Filter, RawObject, Scope, Source, TopicName};
use std::sync::atomic::AtomicBool;

fn key() -> TopicKey {
    let scope = Scope::new(AppId::from_stored("app_a"), Environment::Development);
    TopicKey { scope, topic: TopicName::parse("a.b").expect("valid") }
}

fn stored(epoch: &str, offset: u64) -> Arc<StoredEvent> {
    Arc::new(StoredEvent {
        key: key(),
        position: Position::new(epoch, offset),
        id: EventId::from_stored("evt_1"),
        source: Source::Socket,
        kind: "message".into(),
        payload: RawObject::from_trusted("{}"),
        metadata: RawObject::from_trusted("{\"timestamp\":1}"),
    })
}

fn live(epoch: &str, offset: u64) -> Arc<LiveEvent> {
    Arc::new(LiveEvent::new(stored(epoch, offset)))
}

fn page(epoch: &str, offsets: std::ops::RangeInclusive<u64>) -> HistoryPage {
    let head = Position::new(epoch, *offsets.end());
    let events = offsets.map(|offset| stored(epoch, offset)).collect();
    HistoryPage { reach: Reach::Connected, head, events }
}

/// A topic that is live at `(e, offset)`.
fn topic(offset: u64) -> Topic {
    let mut topic = Topic::new(key(), Metrics::new());
    assert!(topic.opened(Position::new("e", offset)).is_empty());
    topic
}

fn subscription() -> Arc<crate::index::Subscription> {
    Arc::new(crate::index::Subscription {
        id: SubscriptionId::generate(),
        key: key(),
        filter: Filter::default(),
        mode: ReturnMode::Full,
        outbox: Outbox::new(OutboxLimits::default()),
        socket_id: "sock_test".into(),
        failed: AtomicBool::new(false),
    })
}

fn subscribe(subscription: &Arc<crate::index::Subscription>, since: Option<(&str, u64)>) -> Subscribe {
    let since = since.map(|(epoch, offset)| Position::new(epoch, offset));
    Subscribe { subscription: subscription.clone(), since, reply: ReplyTo::Ack(1) }
}

/// What waits for the subscription's connection, in short.
async fn said(subscription: &crate::index::Subscription) -> Vec<String> {
    let mut batch = Vec::new();
    if tokio::time::timeout(std::time::Duration::ZERO, subscription.outbox.take(1 << 20, &mut batch))
        .await
        .is_err()
    {
        return Vec::new();
    }
    let short = |outgoing: &Outgoing| match outgoing {
        Outgoing::Event { event, subscriptions, .. } => {
            let several = if subscriptions.is_some() { " to several" } else { "" };
            format!("event {}{several}", event.event().position)
        }
        Outgoing::Control(_, control) => match &**control {
            Control::Subscribed(s) => {
                format!("at {} recovered={} {}", s.position, s.recovered, s.events.len())
            }
            Control::Failed(problem) => format!("failed {}", problem.code),
            Control::Position { position, gap, .. } => format!("position {position} gap={gap}"),
            other => format!("{other:?}"),
        },
        Outgoing::Message(message) => format!("message {:?}", message.content),
        Outgoing::MessageEvent { message, .. } => format!("event of {:?}", message.content),
        Outgoing::Packet(text) => (*text).to_owned(),
    };
    batch.iter().map(short).collect()
}

#[tokio::test]
async fn a_position_that_is_passed_while_a_gap_is_filled_is_answered() {
    let (mut topic, ahead) = (topic(5), subscription());
    assert!(matches!(topic.subscribe(subscribe(&ahead, Some(("e", 8)))), Some(Need::Head(_))));
    let needs = topic.head_read(&ahead.id, Ok(Position::new("e", 10)));
    assert!(matches!(needs.as_slice(), [Need::Nudge]));
    // The live reader skipped some, so that the position is reached by reading and never by an event of its own.
    assert!(matches!(topic.event(live("e", 10)).as_slice(), [Need::Fill(_)]));
    let needs = topic.filled(page("e", 6..=10));
    let [Need::Recover(id, from, until)] = needs.as_slice() else { panic!("the rest is recovered") };
    assert_eq!((id, from.offset, *until), (&ahead.id, 8, 10));
    topic.page_read(&ahead.id, Ok(page("e", 9..=10)));
    assert_eq!(said(&ahead).await, ["at e:10 recovered=true 2"]);
}

#[tokio::test]
async fn a_position_of_a_lost_past_does_not_wait_for_ever() {
    let (mut topic, ahead) = (topic(5), subscription());
    topic.subscribe(subscribe(&ahead, Some(("e", 8))));
    assert!(matches!(topic.head_read(&ahead.id, Ok(Position::new("e", 10))).as_slice(), [Need::Nudge]));
    let needs = topic.event(live("f", 1));
    assert!(matches!(needs.as_slice(), [Need::Head(id)] if *id == ahead.id));
    assert!(topic.head_read(&ahead.id, Ok(Position::new("f", 1))).is_empty());
    assert_eq!(said(&ahead).await, ["at f:1 recovered=false 0"]);
}

#[tokio::test]
async fn a_new_epoch_without_an_event_is_met_by_whoever_knows_it() {
    let (mut topic, old, new) = (topic(5), subscription(), subscription());
    topic.subscribe(subscribe(&old, None));
    topic.subscribe(subscribe(&new, Some(("f", 0))));
    assert!(topic.head_read(&new.id, Ok(Position::new("f", 0))).is_empty());
    assert_eq!(said(&new).await, ["at f:0 recovered=true 0"]);
    assert_eq!(said(&old).await, ["at e:5 recovered=false 0", "position f:0 gap=true"]);
}

#[tokio::test]
async fn a_new_epoch_without_an_event_is_told_to_everybody_once() {
    let (mut topic, one) = (topic(5), subscription());
    topic.subscribe(subscribe(&one, None));
    let empty = || HistoryPage { reach: Reach::OtherEpoch, head: Position::new("f", 0), events: Vec::new() };
    assert!(matches!(topic.renewed().as_slice(), [Need::Fill(from)] if from.offset == 5));
    // Said again meanwhile, and an event of before comes late.
    assert!(topic.renewed().is_empty());
    topic.event(live("e", 6));
    assert!(matches!(topic.filled(empty()).as_slice(), [Need::Fill(from)] if *from.epoch == *"f"));
    let same = HistoryPage { reach: Reach::Connected, ..empty() };
    assert!(topic.filled(same).is_empty());
    topic.event(live("e", 7));
    topic.event(live("f", 1));
    let expected = ["at e:5 recovered=false 0", "position f:0 gap=true", "event f:1"];
    assert_eq!(said(&one).await, expected);
}

#[tokio::test]
async fn what_is_kept_behind_a_loss_is_delivered() {
    let (mut topic, one) = (topic(5), subscription());
    topic.subscribe(subscribe(&one, None));
    assert_eq!(topic.renewed().len(), 1);
    assert!(topic.filled(HistoryPage { reach: Reach::OtherEpoch, ..page("f", 1..=2) }).is_empty());
    let expected = ["at e:5 recovered=false 0", "position f:0 gap=true", "event f:1", "event f:2"];
    assert_eq!(said(&one).await, expected);
}

#[tokio::test]
async fn a_subscription_that_is_subscribed_again_is_there_once() {
    let (mut topic, one) = (topic(5), subscription());
    topic.subscribe(subscribe(&one, None));
    topic.subscribe(subscribe(&one, Some(("e", 5))));
    assert_eq!(topic.members(), 1);
    topic.event(live("e", 6));
    let expected = ["at e:5 recovered=false 0", "at e:5 recovered=true 0", "event e:6"];
    assert_eq!(said(&one).await, expected);
    topic.unsubscribe(&one.id);
    assert_eq!((topic.members(), topic.metrics.subscriptions.get()), (0, 0));
}

#[tokio::test]
async fn every_subscribe_is_answered_whatever_comes_between() {
    let (mut topic, one) = (topic(5), subscription());
    assert!(matches!(topic.subscribe(subscribe(&one, Some(("e", 2)))), Some(Need::Recover(..))));
    assert!(topic.subscribe(subscribe(&one, Some(("e", 1)))).is_none());
    assert_eq!(said(&one).await, ["failed CONFLICT"], "one recovery at a time");
    topic.unsubscribe(&one.id);
    assert_eq!(said(&one).await, ["failed CONFLICT"], "the subscribe that was not answered yet");
    topic.page_read(&one.id, Ok(page("e", 3..=5)));
    assert_eq!((said(&one).await.len(), topic.members()), (0, 0));
}
