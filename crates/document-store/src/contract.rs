//! What every implementation must do, as tests that run on two instances over one store.
//!
//! An implementation's test crate calls each function with two freshly started instances that share a store; the
//! macro [`contract_tests!`](crate::contract_tests) writes out one test for each.

mod edits;
mod reading;
mod writing;

pub use edits::{counted, created, deleted, expiring, sized};
pub use reading::*;
pub use writing::*;

use crate::{
    Change, Document, DocumentId, DocumentKey, DocumentQuery, DocumentStore, Durability, Edit, Revision,
    RevisionQuery, ServiceKey, ServiceName, StoreError,
};
use futures::future::BoxFuture;
use shared_types::{AppId, Environment, Scope, TopicName};
use std::sync::Arc;

/// An event as the log answers it.
#[derive(Clone, Debug)]
pub struct SeenEvent {
    /// Its place in the topic.
    pub offset: u64,
    /// Its id.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// Its payload.
    pub payload: serde_json::Value,
}

/// Reads all events of a topic, in order.
pub type EventReader = Arc<dyn Fn(Scope, TopicName) -> BoxFuture<'static, Vec<SeenEvent>> + Send + Sync>;

/// One of the instances under test.
#[derive(Clone)]
pub struct Instance {
    /// The store.
    pub store: Arc<dyn DocumentStore>,
    /// The event log beside it.
    pub events: EventReader,
}

/// Writes a `#[tokio::test]` for each part of the contract; `$start` is an async function that answers a guard that
/// keeps the store alive and two [`Instance`]s over it. The applications `app_default` and `app_other` must be there.
#[macro_export]
macro_rules! contract_tests {
    ($start:path) => {
        $crate::contract_tests!(
            $start;
            writes_document_revision_and_event,
            a_refused_edit_changes_nothing,
            all_increments_count,
            one_of_many_meets_the_expected_revision,
            one_of_many_creates,
            many_documents_at_once,
            a_deleted_document_counts_on,
            large_documents_are_kept,
            texts_are_kept_as_written,
            lists_page,
            revisions_page,
            only_the_last_revisions_are_kept,
            due_documents_are_found,
            scopes_and_services_are_apart,
        );
    };
    ($start:path; $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (_guard, first, second) = $start().await;
                $crate::contract::$name(first, second).await;
            }
        )*
    };
}

fn scope(application: &str) -> Scope {
    Scope::new(AppId::from_stored(application), Environment::Development)
}

fn key(service: &str, id: &str) -> DocumentKey {
    DocumentKey {
        scope: scope("app_default"),
        service: ServiceName::parse("service", service).expect("a valid service"),
        id: DocumentId::parse(id).expect("a valid id"),
    }
}

impl Instance {
    async fn try_commit(&self, key: &DocumentKey, edit: Edit) -> Result<Document, StoreError> {
        self.store.commit(key, edit, Durability::Acknowledged).await
    }

    async fn commit(&self, key: &DocumentKey, edit: Edit) -> Document {
        self.try_commit(key, edit).await.expect("committed")
    }

    async fn get(&self, key: &DocumentKey) -> Option<Document> {
        self.store.get(key).await.expect("read")
    }

    async fn topic(&self, key: &DocumentKey, change: Change) -> Vec<SeenEvent> {
        (self.events)(key.scope.clone(), change.topic(&key.service)).await
    }

    async fn revisions(&self, key: &DocumentKey) -> Vec<Revision> {
        let query = RevisionQuery { before: None, limit: 10_000, bytes: 1 << 30 };
        self.store.revisions(key, query).await.expect("read").revisions
    }

    async fn list(&self, key: &DocumentKey, query: DocumentQuery) -> (Vec<String>, bool) {
        let service = ServiceKey { scope: key.scope.clone(), service: key.service.clone() };
        let page = self.store.list(&service, query).await.expect("read");
        (page.documents.iter().map(|document| document.key.id.to_string()).collect(), page.more)
    }
}
