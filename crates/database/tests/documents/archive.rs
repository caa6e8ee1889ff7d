//! What the archive makes of flushes, and what of flushes that come again.

use database::{documents::PostgresArchive, tables::applications};
use document_store::{
    Archived, DocumentArchive, DocumentId, DocumentKey, Flushed, RevisionQuery, ServiceName, Unflushed,
    contract::{counted, created},
};
use shared_types::{AppId, Environment, Scope};
use sqlx::PgPool;
use testkit::TestDatabase;

const GENERATION: &str = "one";

fn key(application: &str, service: &str, id: &str) -> DocumentKey {
    DocumentKey {
        scope: Scope::new(AppId::from_stored(application), Environment::Development),
        service: ServiceName::from_stored(service),
        id: DocumentId::from_stored(id),
    }
}

/// A document after its first `revisions`, none of which is archived.
fn unflushed(key: &DocumentKey, revisions: u64) -> Unflushed {
    let first = created(key)(None).expect("created");
    let (mut document, mut all) = (first.document, vec![first.revision]);
    while document.revision < revisions {
        let next = counted(key, None)(Some(&document)).expect("counted");
        document = next.document;
        all.push(next.revision);
    }
    Unflushed { document, revisions: all }
}

async fn start() -> (TestDatabase, PostgresArchive) {
    let database = testkit::database().await;
    sqlx::query("insert into event_log_redis (generation, nodes, sequences) values ($1, '{}', '{}')")
        .bind(GENERATION)
        .execute(&database.pool)
        .await
        .expect("a generation");
    let archive = PostgresArchive::new(database.pool.clone());
    (database, archive)
}

async fn keep(archive: &PostgresArchive, documents: &[&Unflushed]) -> Vec<Flushed> {
    let documents = documents.iter().map(|&unflushed| unflushed.clone()).collect();
    archive.keep(GENERATION.to_owned(), documents).await.expect("kept").expect("the generation holds")
}

async fn load(archive: &PostgresArchive, key: &DocumentKey) -> Archived {
    archive.load(vec![key.clone()]).await.expect("loaded").remove(0)
}

async fn revisions(archive: &PostgresArchive, key: &DocumentKey) -> Vec<u64> {
    let query = RevisionQuery { before: None, limit: 100, bytes: 1 << 20 };
    let page = archive.revisions(key, query).await.expect("read");
    page.revisions.iter().map(|revision| revision.revision).collect()
}

async fn rows(pool: &PgPool) -> (i64, i64) {
    let counts =
        "select (select count(*) from sync_documents), (select count(*) from sync_document_revisions)";
    sqlx::query_as(counts).fetch_one(pool).await.expect("counts")
}

#[tokio::test]
async fn documents_of_a_scope_that_is_gone_are_refused_alone() {
    let (database, archive) = start().await;
    let other = AppId::from_stored("app_other");
    let mut connection = database.pool.acquire().await.expect("a connection");
    applications::insert(&mut connection, &other, "Other", &applications::ApplicationConfig::default())
        .await
        .expect("another application");
    let [one, gone, two] = [("app_default", "one"), ("app_other", "one"), ("app_default", "two")]
        .map(|(application, id)| key(application, "notes", id));
    let documents = [unflushed(&one, 2), unflushed(&gone, 2), unflushed(&two, 1)];
    let flush: Vec<&Unflushed> = documents.iter().collect();
    assert_eq!(keep(&archive, &flush).await, [Flushed::Held; 3]);
    sqlx::query("delete from applications where id = 'app_other'")
        .execute(&mut *connection)
        .await
        .expect("gone");
    assert_eq!(rows(&database.pool).await, (2, 3), "what the application had goes with it");

    let documents = [unflushed(&one, 3), unflushed(&gone, 3), unflushed(&two, 2)];
    let flush: Vec<&Unflushed> = documents.iter().collect();
    assert_eq!(keep(&archive, &flush).await, [Flushed::Held, Flushed::NoScope, Flushed::Held]);
    assert_eq!(load(&archive, &one).await, Archived::Document(documents[0].document.clone()));
    assert_eq!(load(&archive, &gone).await, Archived::NoScope);
    assert_eq!(load(&archive, &two).await, Archived::Document(documents[2].document.clone()));
    assert_eq!(revisions(&archive, &one).await, [3, 2, 1]);
    assert_eq!(rows(&database.pool).await, (2, 5));
    assert_eq!(keep(&archive, &[&documents[1]]).await, [Flushed::NoScope]);
    assert_eq!(rows(&database.pool).await, (2, 5));
}

#[tokio::test]
async fn nothing_older_replaces_a_document() {
    let (database, archive) = start().await;
    let (one, two) = (key("app_default", "notes", "one"), key("app_default", "notes", "two"));
    let mut newer = unflushed(&one, 5);
    newer.revisions.drain(..3);
    assert_eq!(keep(&archive, &[&newer]).await, [Flushed::Held]);
    let refused = keep(&archive, &[&unflushed(&two, 1), &unflushed(&one, 3)]).await;
    assert_eq!(refused, [Flushed::Held, Flushed::Newer { revision: 5 }]);
    assert_eq!(load(&archive, &one).await, Archived::Document(newer.document.clone()));
    assert_eq!(revisions(&archive, &one).await, [5, 4, 3, 2, 1], "those of the older one are remembered");
    assert_eq!(keep(&archive, &[&newer]).await, [Flushed::Held], "it is held already");

    let another = archive.keep("another".to_owned(), vec![unflushed(&one, 9)]).await.expect("answered");
    assert_eq!(another, None);
    assert_eq!(rows(&database.pool).await, (2, 6));
}

/// Redis was not told that a flush is done: its revisions come again, with later ones.
#[tokio::test]
async fn revisions_that_come_again_are_remembered_once() {
    let (database, archive) = start().await;
    let (one, two) = (key("app_default", "notes", "one"), key("app_default", "notes", "two"));
    assert_eq!(keep(&archive, &[&unflushed(&one, 3), &unflushed(&two, 1)]).await, [Flushed::Held; 2]);
    let (mut again, mut later) = (unflushed(&one, 5), unflushed(&two, 2));
    again.revisions.drain(..1);
    later.revisions.drain(..1);
    for _ in 0..2 {
        assert_eq!(keep(&archive, &[&later, &again]).await, [Flushed::Held; 2]);
        assert_eq!(load(&archive, &one).await, Archived::Document(again.document.clone()));
        assert_eq!(load(&archive, &two).await, Archived::Document(later.document.clone()));
        assert_eq!(revisions(&archive, &one).await, [5, 4, 3, 2, 1]);
        assert_eq!(revisions(&archive, &two).await, [2, 1]);
        assert_eq!(rows(&database.pool).await, (2, 7));
    }
}

/// Of a document that is written more often than flushed, revisions are missing between two flushes.
#[tokio::test]
async fn no_more_revisions_stay_than_are_kept() {
    let (database, archive) = start().await;
    let one = key("app_default", "notes", "one");
    let whole = unflushed(&one, 1_100);
    let at = |from: usize, revision: usize| {
        let mut document = whole.document.clone();
        document.revision = revision as u64;
        Unflushed { document, revisions: whole.revisions[from..revision].to_vec() }
    };
    let mut base = 0;
    for (revision, lost) in (1..24).map(|n| (n * 45, if n % 3 == 0 { 20 } else { 0 })) {
        assert_eq!(keep(&archive, &[&at(base + lost, revision)]).await, [Flushed::Held]);
        base = revision;
    }
    assert_eq!(base, 1_035);
    let kept = rows(&database.pool).await.1;
    assert!(kept <= 160, "{kept}: what was left over went with revision 1,024");
    assert_eq!(revisions(&archive, &one).await.first(), Some(&1_035));
}

/// Processes that flush the same documents at once, in other orders, wait for each other and fail in nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushes_of_the_same_documents_do_not_meet_in_a_circle() {
    let (database, _) = start().await;
    let flushers: Vec<_> = (0..4)
        .map(|flusher: usize| {
            let archive = PostgresArchive::new(database.pool.clone());
            tokio::spawn(async move {
                for round in 0..30_u64 {
                    // Some are new in each round, others are there.
                    let mut documents: Vec<Unflushed> = (0..24)
                        .map(|n| {
                            let id = if n % 2 == 0 { format!("{n}") } else { format!("{n}-{round}") };
                            unflushed(&key("app_default", "notes", &id), round + 1)
                        })
                        .collect();
                    documents.rotate_left(flusher * 7);
                    for flushed in keep(&archive, &documents.iter().collect::<Vec<_>>()).await {
                        assert_ne!(flushed, Flushed::NoScope);
                    }
                }
            })
        })
        .collect();
    for flusher in flushers {
        flusher.await.expect("no flush fails");
    }
    assert_eq!(rows(&database.pool).await.0, 12 + 12 * 30);
}
