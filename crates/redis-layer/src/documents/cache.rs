//! What one lane remembers of its hot documents: a guess at what Redis holds, which every write checks.
//!
//! Bounded by the bytes of all lanes of the process together; whoever finds too much forgets what it has not used for
//! longest, down to a little that every lane may keep.

use ahash::AHashMap;
use document_store::{Document, DocumentKey};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Bytes that all lanes of a process may remember.
const BUDGET: usize = 64 << 20;
/// Bytes that a lane may remember whatever the others do.
const SHARE: usize = 512 << 10;
/// About what an entry takes beside its data.
const OVERHEAD: usize = 512;

/// How many bytes the lanes of a process remember.
#[derive(Default)]
pub struct Remembered(AtomicUsize);

/// A document as it stood in Redis, under this head.
#[derive(Clone)]
pub struct Hot {
    /// The document.
    pub document: Arc<Document>,
    /// Its head.
    pub head: Arc<str>,
}

impl Hot {
    fn bytes(&self) -> usize {
        self.document.data.as_str().len() + OVERHEAD
    }
}

struct Held {
    hot: Hot,
    used: bool,
}

/// One lane's memory.
pub struct Cache {
    documents: AHashMap<DocumentKey, Held>,
    /// Every key once, in the order in which they are looked at to be forgotten.
    order: VecDeque<DocumentKey>,
    bytes: usize,
    all: Arc<Remembered>,
}

impl Cache {
    /// An empty one that counts towards `all`.
    pub fn new(all: Arc<Remembered>) -> Self {
        Self { documents: AHashMap::new(), order: VecDeque::new(), bytes: 0, all }
    }

    /// What is remembered of `key`.
    pub fn get(&mut self, key: &DocumentKey) -> Option<&Hot> {
        self.documents.get_mut(key).map(|held| {
            held.used = true;
            &held.hot
        })
    }

    /// Remembers a document.
    pub fn put(&mut self, hot: Hot) {
        let key = hot.document.key.clone();
        self.add(hot.bytes());
        match self.documents.get_mut(&key) {
            Some(held) => {
                let before = std::mem::replace(held, Held { hot, used: true }).hot.bytes();
                self.subtract(before);
            }
            None => {
                self.documents.insert(key.clone(), Held { hot, used: false });
                self.order.push_back(key);
            }
        }
        self.shrink();
    }

    /// Forgets a document.
    pub fn forget(&mut self, key: &DocumentKey) {
        if let Some(held) = self.documents.remove(key) {
            self.subtract(held.hot.bytes());
            self.order.retain(|other| other != key);
        }
    }

    fn shrink(&mut self) {
        while self.bytes > SHARE && self.all.0.load(Ordering::Relaxed) > BUDGET {
            let Some(key) = self.order.pop_front() else { return };
            match self.documents.get_mut(&key) {
                Some(held) if held.used => {
                    held.used = false;
                    self.order.push_back(key);
                }
                _ => {
                    if let Some(held) = self.documents.remove(&key) {
                        self.subtract(held.hot.bytes());
                    }
                }
            }
        }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.all.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn subtract(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.all.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.subtract(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use document_store::{DocumentId, ServiceName};
    use shared_types::{AppId, Environment, RawObject, Scope};

    fn hot(id: usize, bytes: usize) -> Hot {
        let key = DocumentKey {
            scope: Scope::new(AppId::from_stored("app_a"), Environment::Staging),
            service: ServiceName::from_stored("notes"),
            id: DocumentId::from_stored(format!("d{id}")),
        };
        let data = RawObject::from_trusted("x".repeat(bytes));
        let document = Document {
            key,
            revision: 1,
            data,
            created_at: 0,
            updated_at: 0,
            expires_at: None,
            deleted: false,
        };
        Hot { document: Arc::new(document), head: "g 1".into() }
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let all = Arc::new(Remembered::default());
        let mut cache = Cache::new(all.clone());
        let favourite = hot(0, 1 << 20);
        cache.put(favourite.clone());
        for number in 1..200 {
            cache.put(hot(number, 1 << 20));
            assert!(cache.get(&favourite.document.key).is_some(), "{number}");
        }
        assert!(all.0.load(Ordering::Relaxed) <= BUDGET);
        assert!(cache.documents.len() > 32 && cache.documents.len() == cache.order.len());
        cache.put(hot(0, 10));
        cache.forget(&favourite.document.key);
        assert!(cache.get(&favourite.document.key).is_none());
        let mut other = Cache::new(all.clone());
        other.put(hot(300, 10));
        other.put(hot(301, 10));
        assert!(other.get(&hot(300, 0).document.key).is_some(), "a little of every lane's stays");
        drop((cache, other));
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }
}
