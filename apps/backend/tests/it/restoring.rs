//! Revisions of documents, and the way back to them.

use crate::{
    server::Server,
    sync::{NOTES, ONE, create, events},
};
use serde_json::{Value, json};

async fn put(server: &Server, token: &str, data: Value) {
    server.put(ONE, json!({ "data": data })).by(token).send().await.ok();
}

#[tokio::test]
async fn revisions_are_listed_newest_first() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    create(&server, &token, json!({ "a": 1 })).await;
    put(&server, &token, json!({ "a": 2 })).await;
    server.delete(ONE).by(&token).send().await.ok();
    let path = format!("{ONE}/revisions");
    let all = server.get(&path).by(&token).send().await.ok();
    let told: Vec<_> = all.as_array().unwrap().iter().map(|r| (&r["revision"], &r["operation"])).collect();
    let expected = [(json!(3), json!("deleted")), (json!(2), json!("updated")), (json!(1), json!("created"))];
    assert_eq!(told, expected.iter().map(|(r, o)| (r, o)).collect::<Vec<_>>());
    assert_eq!(all[1]["diff"]["changed"], json!({ "a": { "from": 1, "to": 2 } }));
    assert!(all[0]["timestamp"].as_i64() >= all[2]["timestamp"].as_i64());
    let first = server.get(format!("{path}?limit=2")).by(&token).send().await;
    let cursor = first.header("x-next-cursor").unwrap().to_owned();
    let second = server.get(format!("{path}?limit=2&cursor={cursor}")).by(&token).send().await;
    assert_eq!(second.header("x-next-cursor"), None);
    assert_eq!(second.ok(), json!([all[2]]));
    let bad = server.get(format!("{path}?cursor=bm8")).by(&token).send().await;
    assert_eq!(bad.refused(400, "VALIDATION_FAILED")["details"][0]["path"], "cursor");
    server.get(format!("{NOTES}/never/revisions")).by(&token).send().await.refused(404, "NOT_FOUND");
}

#[tokio::test]
async fn every_kept_revision_can_come_back() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    let states = [
        json!({ "a": 1, "b": { "x": [1, 2], "y": { "z": null } } }),
        json!({ "a": "text", "b": { "x": [2] }, "c.d": 1 }),
        json!({}),
        json!({ "b": 7, "e~/": { "": 1 } }),
        json!({ "b": { "deep": { "deeper": [{}] } } }),
    ];
    create(&server, &token, states[0].clone()).await;
    for state in &states[1..] {
        put(&server, &token, state.clone()).await;
    }
    for (index, state) in states.iter().enumerate() {
        let restored =
            server.post(format!("{ONE}/restore"), json!({ "revision": index + 1 })).by(&token).send().await;
        let restored = restored.ok();
        assert_eq!((&restored["data"], &restored["revision"]), (state, &json!(6 + index)));
    }
    let updated = events(&server, &token, "sync.notes.updated").await;
    assert_eq!(updated.last().unwrap()["payload"]["data"], states[4]);
    for revision in [0, 11, u64::MAX >> 1] {
        let none =
            server.post(format!("{ONE}/restore"), json!({ "revision": revision })).by(&token).send().await;
        let message = none.refused(404, "NOT_FOUND")["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("revision not found"), "{message}");
    }
    let never =
        server.post(format!("{NOTES}/never/restore"), json!({ "revision": 1 })).by(&token).send().await;
    never.refused(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_deleted_document_comes_back() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    create(&server, &token, json!({ "life": 1, "shared": 1 })).await;
    put(&server, &token, json!({ "life": 1, "shared": 1, "more": 1 })).await;
    server.delete(ONE).by(&token).send().await.ok();
    create(&server, &token, json!({ "life": 2, "shared": 1 })).await;
    server.delete(ONE).by(&token).send().await.ok();
    let restore = |revision: u64| {
        server.post(format!("{ONE}/restore"), json!({ "revision": revision })).by(&token).send()
    };
    for deletion in [3, 5] {
        assert_eq!(
            restore(deletion).await.refused(400, "VALIDATION_FAILED")["details"][0]["path"],
            "revision"
        );
    }
    let back = restore(2).await.ok();
    assert_eq!(back["data"], json!({ "life": 1, "shared": 1, "more": 1 }), "of the life before the last");
    assert_eq!((&back["revision"], back.get("deleted")), (&json!(6), None));
    assert_eq!(events(&server, &token, "sync.notes.created").await.len(), 3, "it comes to be again");
    assert_eq!(restore(4).await.ok()["data"], json!({ "life": 2, "shared": 1 }));
    assert_eq!(restore(1).await.ok()["data"], json!({ "life": 1, "shared": 1 }));
}

#[tokio::test]
async fn what_is_no_longer_kept_cannot_come_back() {
    let server = Server::start().await;
    let token = server.token(&["service"]).await;
    create(&server, &token, json!({ "n": 0 })).await;
    for n in 1..130 {
        put(&server, &token, json!({ "n": n })).await;
    }
    let restore = |revision: u64| {
        server.post(format!("{ONE}/restore"), json!({ "revision": revision })).by(&token).send()
    };
    restore(30).await.refused(404, "NOT_FOUND");
    assert_eq!(restore(31).await.ok()["data"]["n"], 30);
    let all = server.get(format!("{ONE}/revisions?limit=500")).by(&token).send().await.ok();
    assert_eq!(all.as_array().map(Vec::len), Some(100));
}
