//! A cluster whose slots move while it is used.

use crate::harness::{Instance, append_one, key, payloads, soon, unique, whole};
use event_log::{EventLog as _, Message, TopicKey};
use redis_layer::RedisSettings;
use std::time::Duration;
use testkit::LocalRedisCluster;

/// A slot, and the nodes between which it moves, by their numbers.
struct Move<'a> {
    cluster: &'a mut LocalRedisCluster,
    slot: String,
    from: usize,
    to: usize,
}

impl<'a> Move<'a> {
    /// Of the slot that `key`'s partition hashes to.
    fn of(cluster: &'a mut LocalRedisCluster, key: &TopicKey) -> Self {
        let tag = format!("{{p{:02}}}", event_log::partition_of(key, 64));
        let slot = cluster.nodes()[0].command(&["CLUSTER", "KEYSLOT", &tag]).remove(0);
        let number: usize = slot.parse().expect("a number");
        let from = [5_461, 10_923, 16_384].iter().position(|&end| number < end).expect("a node");
        Self { cluster, slot, from, to: (from + 1) % 3 }
    }

    fn ask(&mut self, node: usize, words: &[&str]) -> Vec<String> {
        self.cluster.nodes()[node].command(words)
    }

    /// From here on the old node sends on what it does not have.
    fn begin(&mut self) {
        let ids: Vec<String> =
            [self.from, self.to].map(|node| self.ask(node, &["CLUSTER", "MYID"]).remove(0)).into();
        let slot = self.slot.clone();
        self.ask(self.to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]);
        self.ask(self.from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]);
    }

    fn move_keys(&mut self) {
        let (slot, port) = (self.slot.clone(), self.cluster.nodes()[self.to].port().to_string());
        loop {
            let keys = self.ask(self.from, &["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            if keys.is_empty() {
                return;
            }
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            let answer = self.ask(self.from, &migrate);
            assert!(answer == ["OK"] || answer == ["NOKEY"], "{answer:?}");
        }
    }

    fn end(&mut self) {
        self.move_keys();
        let (slot, id) = (self.slot.clone(), self.ask(self.to, &["CLUSTER", "MYID"]).remove(0));
        for node in [self.to, self.from, 3 - self.to - self.from] {
            self.ask(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_while_its_partition_is_written_to() {
    let (mut cluster, database) = (LocalRedisCluster::start(), testkit::database().await);
    let settings = RedisSettings::new(cluster.url());
    let (writer, reader) =
        (Instance::start(settings.clone(), &database), Instance::start(settings, &database));
    let key = key("order.updated");
    let mut live = reader.log.live();
    live.watch.watch(vec![key.clone()]).await.expect("watched");
    let first = append_one(&writer.log, &key, 1).await;
    let mut moving = Move::of(&mut cluster, &key);
    let mut acknowledged = vec![1];
    for turn in 0..3 {
        let (log, topic) = (writer.log.clone(), key.clone());
        let appending = tokio::spawn(async move {
            let numbers = 10 * turn + 2..10 * turn + 12;
            for number in numbers.clone() {
                append_one(&log, &topic, number).await;
            }
            numbers
        });
        moving.begin();
        moving.move_keys();
        // Long enough for appends to meet the slot on its way.
        tokio::time::sleep(Duration::from_millis(400)).await;
        moving.end();
        acknowledged.extend(soon("all are appended", appending).await.expect("the task ends"));
        moving = Move { from: moving.to, to: (moving.to + 1) % 3, ..moving };
    }
    let last = append_one(&writer.log, &key, 32).await;
    assert_eq!((&last.epoch, last.offset), (&first.epoch, 32), "one epoch, each event once");
    acknowledged.push(32);
    let expected: Vec<String> = acknowledged.iter().map(|number| format!("{{\"n\":{number}}}")).collect();
    assert_eq!(payloads(&whole(&reader.log, &key).await), expected);
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        seen.extend(payloads(&soon("live events", live.events.recv()).await.expect("the reader lives")));
    }
    assert_eq!(seen, expected);
}

/// Messages leave no trace that a reader could come upon: it has to know by itself that it is not subscribed any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_heard_again_once_their_slot_has_moved() {
    let (mut cluster, database) = (LocalRedisCluster::start(), testkit::database().await);
    let settings = RedisSettings::new(cluster.url());
    let (writer, reader) =
        (Instance::start(settings.clone(), &database), Instance::start(settings, &database));
    let key = key("chat:room");
    let mut live = reader.log.live();
    live.watch.watch(vec![key.clone()]).await.expect("watched");
    let mut moving = Move::of(&mut cluster, &key);
    moving.begin();
    moving.end();
    // Something else that the reader asks tells it where the slot is, maybe at once.
    soon("a head", reader.log.head(&key)).await.expect("head");
    let heard = soon("a message is heard", async {
        for number in 0.. {
            let body = format!("{{\"n\":{number}}}");
            let message = Message { key: key.clone(), body: body.into() };
            soon("announced", writer.log.announce(vec![message])).await.expect("announced");
            let next = tokio::time::timeout(Duration::from_millis(100), live.messages.recv());
            if let Ok(message) = next.await {
                return message.expect("the reader lives");
            }
        }
        unreachable!("numbers do not end")
    });
    assert_eq!(heard.await.key, key);
    // Nor does it end what else is done.
    soon("appended", writer.log.append(vec![unique(&key, 1)])).await.expect("appended");
}
