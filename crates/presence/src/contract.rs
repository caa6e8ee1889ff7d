//! What every implementation must do, as tests over one store.

use crate::{Gone, Kind, LEASE, Member, Place, Presence, Record, Renewal};
use serde_json::{Value, json};
use shared_types::{AppId, Environment, Scope};
use std::sync::Arc;

/// The store under test.
pub type Store = Arc<dyn Presence>;

/// Writes a `#[tokio::test]` for each part of the contract; `$start` is an async function that answers a guard and a
/// store.
#[macro_export]
macro_rules! contract_tests {
    ($start:path) => {
        $crate::contract_tests!(
            $start;
            members_come_change_and_go,
            places_and_members_are_listed_by_pages,
            scopes_and_kinds_are_apart,
            a_client_elsewhere_is_told,
            members_are_entered_again_together,
            large_places_are_listed_whole,
            the_dead_are_reaped_once,
            connections_are_found_after_their_instance,
        );
    };
    ($start:path; $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (_guard, store) = $start().await;
                $crate::contract::$name(store).await;
            }
        )*
    };
}

fn scope(application: &str) -> Scope {
    Scope::new(AppId::from_stored(application), Environment::Development)
}

fn place(kind: Kind, name: &str) -> Place {
    Place { kind, name: name.to_owned() }
}

fn member(client: &str, socket: &str, data: Value) -> Member {
    Member { client_id: client.to_owned(), socket_id: socket.to_owned(), data, joined_at: 7 }
}

async fn sockets(store: &Store, scope: &Scope, place: &Place) -> Vec<String> {
    let members = store.members(scope, place, None, 100).await.expect("members");
    members.into_iter().map(|member| member.socket_id).collect()
}

/// Entering is answered, entering again changes the data and nothing else, and who has left is gone.
pub async fn members_come_change_and_go(store: Store) {
    let (scope, room) = (scope("app_a"), place(Kind::Present, "chat:room1"));
    store.renew("i1").await.expect("renewed");
    let entered =
        store.enter(&scope, &room, "i1", member("alice", "s1", json!({ "a": 1 }))).await.expect("in");
    assert!(entered.is_new && entered.elsewhere.is_empty());
    let later = Member { joined_at: 9, ..member("alice", "s1", json!([null, "x\"\u{e4}"])) };
    let again = store.enter(&scope, &room, "i1", later).await.expect("in");
    assert!(!again.is_new);
    assert_eq!(again.member, member("alice", "s1", json!([null, "x\"\u{e4}"])), "it came when it came");
    let members = store.members(&scope, &room, None, 10).await.expect("members");
    assert_eq!(members.as_slice(), std::slice::from_ref(&again.member));
    assert_eq!(store.leave(&scope, &room, "s1").await.expect("left"), Some(again.member));
    assert_eq!(store.leave(&scope, &room, "s1").await.expect("left"), None);
    assert!(sockets(&store, &scope, &room).await.is_empty());
    assert!(store.places(&scope, Kind::Present, None, 10).await.expect("places").is_empty());
}

/// Lists go on behind the last name.
pub async fn places_and_members_are_listed_by_pages(store: Store) {
    let scope = scope("app_a");
    store.renew("i1").await.expect("renewed");
    for room in 0..5 {
        for socket in 0..=room {
            let at = place(Kind::Channel, &format!("room:{room}"));
            store
                .enter(&scope, &at, "i1", member("a", &format!("s{socket}"), Value::Null))
                .await
                .expect("in");
        }
    }
    let first = store.places(&scope, Kind::Channel, None, 3).await.expect("places");
    assert_eq!(first, [("room:0".to_owned(), 1), ("room:1".to_owned(), 2), ("room:2".to_owned(), 3)]);
    let rest = store.places(&scope, Kind::Channel, Some("room:2"), 3).await.expect("places");
    assert_eq!(rest, [("room:3".to_owned(), 4), ("room:4".to_owned(), 5)]);
    let room = place(Kind::Channel, "room:4");
    let page = store.members(&scope, &room, Some("s1"), 2).await.expect("members");
    assert_eq!(page.iter().map(|m| &*m.socket_id).collect::<Vec<_>>(), ["s2", "s3"]);
}

/// The same name elsewhere is another place.
pub async fn scopes_and_kinds_are_apart(store: Store) {
    store.renew("i1").await.expect("renewed");
    let (ours, theirs) = (scope("app_a"), scope("app_b"));
    let room = place(Kind::Channel, "room");
    store.enter(&ours, &room, "i1", member("a", "s1", Value::Null)).await.expect("in");
    assert!(sockets(&store, &theirs, &room).await.is_empty());
    assert!(sockets(&store, &ours, &place(Kind::Present, "room")).await.is_empty());
    assert!(store.places(&theirs, Kind::Channel, None, 10).await.expect("places").is_empty());
    assert_eq!(store.leave(&theirs, &room, "s1").await.expect("left"), None);
    assert_eq!(sockets(&store, &ours, &room).await, ["s1"]);
}

/// A client that is in the place by another instance is told to whoever enters it.
pub async fn a_client_elsewhere_is_told(store: Store) {
    let (scope, room) = (scope("app_a"), place(Kind::Present, "room"));
    for instance in ["i1", "i2"] {
        store.renew(instance).await.expect("renewed");
    }
    store.enter(&scope, &room, "i1", member("alice", "s1", Value::Null)).await.expect("in");
    store.enter(&scope, &room, "i1", member("bob", "s2", Value::Null)).await.expect("in");
    let second = store.enter(&scope, &room, "i2", member("alice", "s3", Value::Null)).await.expect("in");
    let elsewhere: Vec<_> =
        second.elsewhere.iter().map(|(i, m)| (i.as_str(), m.socket_id.as_str())).collect();
    assert_eq!(elsewhere, [("i1", "s1")]);
    let same = store.enter(&scope, &room, "i2", member("alice", "s4", Value::Null)).await.expect("in");
    assert_eq!(same.elsewhere.len(), 1, "one's own instance knows its own connections");
    let other = store.enter(&scope, &room, "i2", member("ali", "s5", Value::Null)).await.expect("in");
    assert!(other.elsewhere.is_empty(), "another client whose name begins alike");
    store.leave(&scope, &room, "s1").await.expect("left");
    let alone = store.enter(&scope, &room, "i2", member("alice", "s3", json!(1))).await.expect("in");
    assert!(!alone.is_new && alone.elsewhere.is_empty(), "who has left is not there");
    store.retire("i2").await.expect("retired");
    assert_eq!(store.reap("i2").await.expect("reaped").len(), 3);
    let back = store.enter(&scope, &room, "i1", member("alice", "s6", Value::Null)).await.expect("in");
    assert!(back.elsewhere.is_empty(), "nor is who went with its instance");
    let channel = place(Kind::Channel, "room");
    for instance in ["i1", "i2"] {
        let socket = format!("s-{instance}");
        let joined = store.enter(&scope, &channel, instance, member("alice", &socket, Value::Null)).await;
        assert!(joined.expect("in").elsewhere.is_empty(), "members of a channel may be there often");
    }
}

/// Entering again puts back what is missing, brings data up to date, and leaves everything else as it is.
pub async fn members_are_entered_again_together(store: Store) {
    let (ours, theirs) = (scope("app_a"), scope("app_b"));
    let (room, channel) = (place(Kind::Present, "room"), place(Kind::Channel, "room"));
    store.renew("i1").await.expect("renewed");
    store.enter(&ours, &room, "i1", member("a", "s1", json!(1))).await.expect("in");
    let late = Member { joined_at: 9, ..member("a", "s1", json!({ "b": "\n" })) };
    let again = vec![
        (ours.clone(), room.clone(), late),
        (ours.clone(), room.clone(), member("b", "s2", Value::Null)),
        (ours.clone(), channel.clone(), member("a", "s1", Value::Null)),
        (theirs.clone(), room.clone(), member("a", "s1", Value::Null)),
    ];
    let was_missing = store.enter_again("i1", again.clone()).await.expect("entered");
    assert_eq!(was_missing, [false, true, true, true]);
    assert_eq!(store.enter_again("i1", again).await.expect("entered"), [false; 4]);
    assert_eq!(store.enter_again("i1", Vec::new()).await.expect("entered"), [false; 0]);
    let members = store.members(&ours, &room, None, 10).await.expect("members");
    assert_eq!(members, [member("a", "s1", json!({ "b": "\n" })), member("b", "s2", Value::Null)]);
    assert_eq!(sockets(&store, &ours, &channel).await, ["s1"]);
    assert_eq!(sockets(&store, &theirs, &room).await, ["s1"]);
    store.retire("i1").await.expect("retired");
    assert_eq!(store.left_by("i1").await.expect("left").len(), 4);
    assert_eq!(store.reap("i1").await.expect("reaped").len(), 4);
}

/// A place with more members than fit into one step of whatever the store does.
pub async fn large_places_are_listed_whole(store: Store) {
    const MEMBERS: usize = 1_100;
    let (scope, room) = (scope("app_a"), place(Kind::Present, "room"));
    store.renew("i1").await.expect("renewed");
    let all = (0..MEMBERS).map(|n| {
        (scope.clone(), room.clone(), member(&format!("c{n}"), &format!("s{n:04}"), json!({ "n": n })))
    });
    let was_missing = store.enter_again("i1", all.collect()).await.expect("entered");
    assert_eq!(was_missing, [true; MEMBERS]);
    assert_eq!(
        store.places(&scope, Kind::Present, None, 10).await.expect("places"),
        [("room".to_owned(), MEMBERS as u64)]
    );
    let mut found: Vec<Member> = Vec::new();
    loop {
        let after = found.last().map(|member| member.socket_id.clone());
        let page = store.members(&scope, &room, after.as_deref(), 400).await.expect("members");
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert!(found.iter().enumerate().all(|(n, member)| member.data == json!({ "n": n })));
    assert_eq!(found.len(), MEMBERS);
    store.retire("i1").await.expect("retired");
    let (left, gone) = (store.left_by("i1").await.expect("left"), store.reap("i1").await.expect("reaped"));
    assert_eq!((left.len(), gone.len()), (MEMBERS, MEMBERS));
    assert!(store.places(&scope, Kind::Present, None, 10).await.expect("places").is_empty());
}

/// Removes what all dead instances left, as several at once would.
async fn reap(store: &Store) -> Vec<Gone> {
    let mut gone = Vec::new();
    for instance in store.dead().await.expect("dead") {
        let (a, b) = futures::join!(store.reap(&instance), store.reap(&instance));
        gone.extend(a.expect("reaped"));
        gone.extend(b.expect("reaped"));
    }
    gone
}

/// An instance that does not renew loses its members, once, and learns of it when it renews again.
pub async fn the_dead_are_reaped_once(store: Store) {
    let (scope, room) = (scope("app_a"), place(Kind::Document, "notes/1"));
    assert_eq!(store.renew("dead").await.expect("renewed"), Renewal::Lapsed, "there was no lease before");
    assert_eq!(store.renew("dead").await.expect("renewed"), Renewal::Held);
    store.renew("retired").await.expect("renewed");
    store.enter(&scope, &room, "dead", member("a", "s1", json!(1))).await.expect("in");
    store.enter(&scope, &room, "retired", member("b", "s2", json!(2))).await.expect("in");
    assert!(reap(&store).await.is_empty(), "both leases hold");
    assert!(store.reap("dead").await.expect("reaped").is_empty(), "the living are not reaped");
    store.retire("retired").await.expect("retired");
    assert_eq!(store.dead().await.expect("dead"), ["retired"]);
    let left = store.left_by("retired").await.expect("left");
    let gone = reap(&store).await;
    assert_eq!(left, gone);
    assert_eq!(gone.iter().map(|gone| &*gone.member.socket_id).collect::<Vec<_>>(), ["s2"]);
    assert_eq!((&gone[0].scope, &gone[0].place), (&scope, &room));
    let begun = std::time::Instant::now();
    let mut reaped = Vec::new();
    while reaped.is_empty() && begun.elapsed() < LEASE * 3 {
        store.renew("alive").await.expect("renewed");
        reaped.extend(reap(&store).await);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(reaped.len(), 1, "each is answered to one of those who look");
    assert_eq!(reaped[0].member.socket_id, "s1");
    assert_eq!(store.instances().await.expect("instances"), ["alive"]);
    assert!(store.dead().await.expect("dead").is_empty(), "what left nothing is forgotten");
    assert_eq!(store.renew("dead").await.expect("renewed"), Renewal::Lapsed, "it enters its members again");
    assert!(sockets(&store, &scope, &room).await.is_empty());
}

/// What an instance wrote down of its connections stays until it is removed, and the instance with it.
pub async fn connections_are_found_after_their_instance(store: Store) {
    let record = |n: u32| Record { key: format!("s{n}"), text: format!("{{\"n\":{n}}}") };
    store.renew("i1").await.expect("renewed");
    store.hold("i1", (1..=5).map(record).collect()).await.expect("held");
    store.hold("i1", vec![Record { text: "{}".to_owned(), ..record(2) }]).await.expect("held");
    store.renew("i2").await.expect("renewed");
    store.hold("i2", vec![record(9)]).await.expect("held");
    store.hold("i1", Vec::new()).await.expect("held");
    store.release("i1", vec!["s1".to_owned(), "nobody".to_owned()]).await.expect("released");
    store.release("i1", Vec::new()).await.expect("released");
    let mut held = store.records("i1", 10).await.expect("records");
    held.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(held, [Record { text: "{}".to_owned(), ..record(2) }, record(3), record(4), record(5)]);
    let some = store.records("i1", 3).await.expect("records");
    assert!(some.len() == 3 && some.iter().all(|record| held.contains(record)));
    store.retire("i1").await.expect("retired");
    for _ in 0..2 {
        assert!(store.reap("i1").await.expect("reaped").is_empty());
        assert_eq!(store.dead().await.expect("dead"), ["i1"], "it has left connections");
    }
    store.release("i1", (2..=5).map(|n| format!("s{n}")).collect()).await.expect("released");
    assert!(store.records("i1", 10).await.expect("records").is_empty());
    store.reap("i1").await.expect("reaped");
    assert!(store.dead().await.expect("dead").is_empty());
    assert_eq!(store.records("i2", 10).await.expect("records"), [record(9)]);
}
