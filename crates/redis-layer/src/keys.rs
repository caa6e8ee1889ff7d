//! Every key and channel in Redis: who belongs to a tenant carries its scope, and who shares a script a hash tag.

use document_store::{Change, DocumentId, DocumentKey, ServiceName};
use event_log::TopicKey;
use fred::types::ClusterHash;
use shared_types::{AppId, Scope};

/// The number of partitions; fixed, because topics hash to them.
pub const PARTITIONS: u16 = 64;

/// The keys of one partition, whose hash tag puts them on one node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition(pub u16);

impl Partition {
    /// The partition of a topic.
    pub fn of(key: &TopicKey) -> Self {
        Self(event_log::partition_of(key, PARTITIONS))
    }

    /// The partition of a document, which is that of its service's topics.
    pub fn of_document(key: &DocumentKey) -> Self {
        Self::of(&TopicKey { scope: key.scope.clone(), topic: Change::Updated.topic(&key.service) })
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }

    /// The hash tag that its keys have in common.
    fn tag(self) -> String {
        format!("{{p{:02}}}", self.0)
    }

    fn key(self, name: &str) -> String {
        ["realtime:", &self.tag(), ":", name].concat()
    }

    /// Generation, last sequence and bytes ever appended (modulo 10¹³), separated by spaces.
    pub fn meta(self) -> String {
        self.key("meta")
    }

    /// Stream: everything that is appended, for side-effect readers; entries are
    /// `<sequence>-<bytes before its batch>`.
    pub fn side_effects(self) -> String {
        self.key("side-effects")
    }

    /// Hash: up to which sequence each group has acknowledged.
    pub fn groups(self) -> String {
        self.key("groups")
    }

    /// Hash: term and position of each replication source.
    pub fn sources(self) -> String {
        self.key("sources")
    }

    /// The answer to the last batch of one writer; expires.
    pub fn writer(self, writer: &str) -> String {
        self.key(&format!("writer:{writer}"))
    }

    /// Sorted set: the names of documents with unflushed revisions, by when they were last found flushed (ms).
    pub fn unflushed(self) -> String {
        self.key("unflushed")
    }

    /// Who flushes what others have left; expires.
    pub fn flusher(self) -> String {
        self.key("flusher")
    }

    /// The slot in a cluster.
    pub fn slot(self) -> ClusterHash {
        ClusterHash::Custom(fred::util::redis_keyslot(format!("p{:02}", self.0).as_bytes()))
    }
}

fn scoped(name: &str, key: &TopicKey) -> String {
    let (application, environment) = (key.scope.application().as_str(), key.scope.environment().as_str());
    let (tag, topic) = (Partition::of(key).tag(), key.topic.as_str());
    ["realtime:", &tag, ":", name, ":", application, ":", environment, ":", topic].concat()
}

/// A topic's epoch and last offset; expires 24 h after the history.
pub fn head(key: &TopicKey) -> String {
    scoped("head", key)
}

/// Stream: a topic's bounded history; entries are `<offset>-<appended at, ms>`.
pub fn history(key: &TopicKey) -> String {
    scoped("history", key)
}

/// What is remembered of a publisher's id: fingerprint and position; expires.
pub fn publisher_id(key: &TopicKey, producer: &str, id: &str) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for part in [key.topic.as_str(), producer, id] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = URL_SAFE_NO_PAD.encode(&hash.finalize()[..16]);
    let (application, environment) = (key.scope.application(), key.scope.environment());
    format!("realtime:{{p{:02}}}:id:{application}:{environment}:{digest}", Partition::of(key).0)
}

fn of_document(name: &str, partition: Partition, key: &DocumentKey) -> String {
    let (application, environment) = (key.scope.application().as_str(), key.scope.environment().as_str());
    let (tag, service, id) = (partition.tag(), key.service.as_str(), key.id.as_str());
    ["syncdoc:", name, ":", &tag, ":", application, ":", environment, ":", service, ":", id].concat()
}

/// A document of `partition`: its head and its data.
pub fn document(partition: Partition, key: &DocumentKey) -> String {
    of_document("data", partition, key)
}

/// Hash: what is remembered of a document's unflushed revisions, by their numbers.
pub fn unflushed(partition: Partition, key: &DocumentKey) -> String {
    of_document("unflushed", partition, key)
}

/// A document's name among those of its partition.
pub fn document_name(key: &DocumentKey) -> String {
    let (application, environment) = (key.scope.application().as_str(), key.scope.environment().as_str());
    [application, "\n", environment, "\n", key.service.as_str(), "\n", key.id.as_str()].concat()
}

/// Reads what [`document_name`] wrote.
pub fn read_document_name(name: &str) -> Option<DocumentKey> {
    let mut parts = name.splitn(4, '\n');
    Some(DocumentKey {
        scope: Scope::new(AppId::from_stored(parts.next()?), parts.next()?.parse().ok()?),
        service: ServiceName::from_stored(parts.next()?),
        id: DocumentId::from_stored(parts.next()?),
    })
}

/// The channel on which the names of leases are told that were given back; on the node that has the leases.
pub const LEASES_FREED: &str = "realtime:{leases}";

/// Who holds the lease `name`, and in which term; expires. There are few, and all are on one node of a cluster.
pub fn lease(name: &str) -> String {
    format!("realtime:{{leases}}:{name}")
}

/// The slot of leases in a cluster.
pub fn leases_slot() -> ClusterHash {
    ClusterHash::Custom(fred::util::redis_keyslot(b"leases"))
}

/// How live readers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcing {
    /// `PUBLISH` on one server.
    Plain,
    /// `SPUBLISH` on the node of a cluster that has the partition.
    Sharded,
}

impl Announcing {
    /// The command that publishes.
    pub fn command(self) -> &'static str {
        match self {
            Self::Plain => "PUBLISH",
            Self::Sharded => "SPUBLISH",
        }
    }

    /// The channel of a topic: `realtime:event:{app}:{env}:{topic}`, with a hash tag where a slot decides.
    pub fn channel(self, key: &TopicKey) -> String {
        match self {
            Self::Plain => {
                let (scope, topic) = (&key.scope, &key.topic);
                format!("realtime:event:{}:{}:{topic}", scope.application(), scope.environment())
            }
            Self::Sharded => scoped("event", key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_types::{Environment, TopicName};

    fn key(application: &str, topic: &str) -> TopicKey {
        TopicKey {
            scope: Scope::new(AppId::from_stored(application), Environment::Staging),
            topic: TopicName::parse(topic).expect("valid"),
        }
    }

    #[test]
    fn keys_of_one_partition_share_a_slot() {
        let key = key("app_a", "order.updated");
        let partition = Partition::of(&key);
        let names = [
            partition.meta(),
            partition.side_effects(),
            partition.groups(),
            partition.sources(),
            partition.writer("w"),
            head(&key),
            history(&key),
            publisher_id(&key, "client:a", "one"),
            Announcing::Sharded.channel(&key),
        ];
        for name in names {
            let slot = fred::util::redis_keyslot(name.as_bytes());
            assert_eq!(ClusterHash::Custom(slot), partition.slot(), "{name}");
        }
    }

    #[test]
    fn a_document_shares_the_slot_of_its_topics() {
        let document = DocumentKey {
            scope: Scope::new(AppId::from_stored("app_a"), Environment::Staging),
            service: ServiceName::from_stored("notes"),
            id: DocumentId::from_stored("a{b}c"),
        };
        let partition = Partition::of_document(&document);
        for change in [Change::Created, Change::Updated, Change::Deleted] {
            assert_eq!(Partition::of(&key("app_a", change.topic(&document.service).as_str())), partition);
        }
        for name in [super::document(partition, &document), unflushed(partition, &document)] {
            let slot = fred::util::redis_keyslot(name.as_bytes());
            assert_eq!(ClusterHash::Custom(slot), partition.slot(), "{name}");
            assert!(name.ends_with(":app_a:staging:notes:a{b}c"), "{name}");
        }
        assert_eq!(read_document_name(&document_name(&document)), Some(document));
    }

    #[test]
    fn leases_share_a_slot_with_their_channel() {
        for name in ["cdc/7/slot", "{a}", "a:{b}/}c", ""].map(super::lease) {
            assert_eq!(
                ClusterHash::Custom(fred::util::redis_keyslot(name.as_bytes())),
                leases_slot(),
                "{name}"
            );
        }
        let channel = fred::util::redis_keyslot(LEASES_FREED.as_bytes());
        assert_eq!(ClusterHash::Custom(channel), leases_slot());
    }

    #[test]
    fn names_carry_the_scope() {
        let (a, b) = (key("app_a", "order.updated"), key("app_b", "order.updated"));
        assert_eq!(Announcing::Plain.channel(&a), "realtime:event:app_a:staging:order.updated");
        for name in [head, history] {
            assert!(name(&a).contains(":app_a:staging:"));
            assert_ne!(name(&a), name(&b));
        }
        assert!(publisher_id(&a, "client:x", "one").contains(":app_a:staging:"));
        assert_ne!(publisher_id(&a, "client:x", "one"), publisher_id(&a, "client:xo", "ne"));
    }
}
