//! What only server-sent events have: query, cursors, several topics in one stream.

use crate::{
    clients::sse::Stream,
    harness::{Instance, Platform},
    token::{Token, service},
};
use serde_json::{Value, json};

async fn open(instance: &Instance, topics: &[&str], since: Option<&str>) -> Stream {
    let token = service();
    let mut query: Vec<(&str, &str)> = topics.iter().map(|topic| ("topic", *topic)).collect();
    query.push(("token", &token));
    let headers: Vec<(&str, &str)> = since.map(|since| ("last-event-id", since)).into_iter().collect();
    Stream::request(instance, &query, &headers).await.unwrap_or_else(|refusal| panic!("{refusal:?}"))
}

/// Topic and number of the next `count` events.
async fn events(stream: &mut Stream, count: usize) -> Vec<(String, u64)> {
    let mut events = Vec::new();
    while events.len() < count {
        let message = stream.message().await.expect("an event");
        assert_eq!(message.event.as_deref(), Some("event"), "{message:?}");
        let topic = message.data["topic"].as_str().unwrap().to_owned();
        events.push((topic, message.data["payload"]["n"].as_u64().unwrap()));
    }
    events
}

fn of_topic(events: &[(String, u64)], topic: &str) -> Vec<u64> {
    events.iter().filter(|(name, _)| name == topic).map(|(_, n)| *n).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_begins_with_the_state_of_all_its_topics() {
    let (_platform, instance) = Platform::with_instance().await;
    instance.publish_numbers("a.b", 0..3).await;
    let stream = open(&instance, &["a.b", "a.c", "a.b"], None).await;
    let data = &stream.subscribed.data;
    assert!(data["socketId"].as_str().unwrap().starts_with("sock_"));
    assert!(stream.subscribed.id.is_some());
    let mut topics: Vec<(&str, &Value, &Value)> = data["subscriptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|topic| (topic["topic"].as_str().unwrap(), &topic["offset"], &topic["recovered"]))
        .collect();
    topics.sort_by_key(|topic| topic.0);
    assert_eq!(topics, [("a.b", &json!(3), &json!(false)), ("a.c", &json!(0), &json!(false))]);
    assert!(data["subscriptions"][0]["epoch"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn all_topics_recover_from_one_cursor() {
    let (_platform, instance) = Platform::with_instance().await;
    let mut stream = open(&instance, &["a.b", "a.c", "quiet.one"], None).await;
    instance.publish_numbers("a.b", 0..5).await;
    instance.publish_numbers("a.c", 100..103).await;
    events(&mut stream, 8).await;
    let cursor = stream.last_id.clone();
    drop(stream);
    instance.publish_numbers("a.b", 5..1_505).await;
    instance.publish_numbers("a.c", 103..203).await;

    let mut again = open(&instance, &["a.b", "a.c", "quiet.one"], Some(&cursor)).await;
    let list = again.subscribed.data["subscriptions"].as_array().unwrap();
    assert!(list.iter().all(|topic| topic["recovered"] == true), "{list:?}");
    instance.publish_numbers("quiet.one", 7..8).await;
    let came = events(&mut again, 1_601).await;
    assert_eq!(of_topic(&came, "a.b"), (5..1_505).collect::<Vec<_>>());
    assert_eq!(of_topic(&came, "a.c"), (103..203).collect::<Vec<_>>());
    assert_eq!(of_topic(&came, "quiet.one"), [7]);

    // Broken off in the midst of recovery, and with the cursor in the query this time.
    let mut half = open(&instance, &["a.b"], Some(&cursor)).await;
    assert_eq!(of_topic(&events(&mut half, 700).await, "a.b"), (5..705).collect::<Vec<_>>());
    let (token, cursor) = (service(), half.last_id.clone());
    let query = [("topic", "a.b"), ("since", cursor.as_str()), ("token", token.as_str())];
    let mut rest = Stream::request(&instance, &query, &[]).await.unwrap_or_else(|r| panic!("{r:?}"));
    assert_eq!(of_topic(&events(&mut rest, 800).await, "a.b"), (705..1_505).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn each_topic_says_for_itself_whether_it_recovered() {
    let (platform, instance) = Platform::with_instance().await;
    let mut stream = open(&instance, &["a.b", "a.c"], None).await;
    instance.publish_numbers("a.b", 0..2).await;
    instance.publish_numbers("a.c", 0..2).await;
    events(&mut stream, 4).await;
    let cursor = stream.last_id.clone();
    drop(stream);
    platform.forget_topic("a.c").await;
    let second = platform.instance().await;
    second.publish_numbers("a.c", 50..53).await;
    let again = open(&second, &["a.b", "a.c", "a.d"], Some(&cursor)).await;
    let recovered = |topic: &str| {
        let list = again.subscribed.data["subscriptions"].as_array().unwrap();
        list.iter().find(|entry| entry["topic"] == topic).unwrap()["recovered"] == true
    };
    assert!(recovered("a.b"));
    assert!(!recovered("a.c"), "its epoch is another");
    assert!(!recovered("a.d"), "it is not in the cursor");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_token_may_come_in_the_header() {
    let (_platform, instance) = Platform::with_instance().await;
    let bearer = format!("Bearer {}", service());
    assert!(Stream::request(&instance, &[("topic", "a.b")], &[("authorization", &bearer)]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wrong_query_is_refused() {
    let (_platform, instance) = Platform::with_instance().await;
    let token = service();
    let long = "a".repeat(256);
    type Query<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Query<'_>, u16, &str); 13] = [
        (&[], 400, "VALIDATION_FAILED"),
        (&[("topic", "")], 400, "INVALID_TOPIC"),
        (&[("topic", "a b")], 400, "INVALID_TOPIC"),
        (&[("topic", &long)], 413, "LIMIT_EXCEEDED"),
        (&[("topic", "a.b"), ("filter", "{")], 400, "VALIDATION_FAILED"),
        (&[("topic", "a.b"), ("filter", "[]")], 400, "INVALID_FILTER"),
        (&[("topic", "a.b"), ("filter", r#"{"a":{"gt":1}}"#)], 400, "INVALID_FILTER"),
        (&[("topic", "a.b"), ("returnMode", "some")], 400, "VALIDATION_FAILED"),
        (&[("topic", "a.b"), ("since", "nonsense!")], 400, "INVALID_CURSOR"),
        (&[("topic", "a.b"), ("since", "bm9uc2Vuc2U")], 400, "INVALID_CURSOR"),
        (&[("topic", "a.b"), ("extra", "1")], 400, "VALIDATION_FAILED"),
        (&[("topic", "a.b"), ("filter", "{}"), ("filter", "{}")], 400, "VALIDATION_FAILED"),
        (&[("topic", "a.b"), ("returnMode", "full"), ("returnMode", "diff")], 400, "VALIDATION_FAILED"),
    ];
    for (parameters, status, code) in cases {
        let mut query = parameters.to_vec();
        query.push(("token", &token));
        let refused = Stream::request(&instance, &query, &[]).await.err();
        let refused = refused.unwrap_or_else(|| panic!("refused: {parameters:?}"));
        assert_eq!((refused.status, refused.code.as_str()), (Some(status), code), "{parameters:?}");
    }
    let channel = instance.url(&format!("/api/stream?channel=a%20b&token={token}"));
    let body = reqwest::get(channel).await.unwrap().text().await.unwrap();
    let refused: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(refused["details"][0]["path"], "channel", "{refused}");
    let query = [("topic", "a.b"), ("token", token.as_str())];
    let refused = Stream::request(&instance, &query, &[("last-event-id", "nonsense!")]).await.err().unwrap();
    assert_eq!((refused.status, refused.code.as_str()), (Some(400), "INVALID_CURSOR"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_topic_without_the_right_refuses_the_stream() {
    let (_platform, instance) = Platform::with_instance().await;
    let token = Token::of(&["client"]).with("capabilities", json!({ "a.*": ["subscribe"] })).sign();
    let query = [("topic", "a.b"), ("topic", "b.c"), ("token", token.as_str())];
    let refused = Stream::request(&instance, &query, &[]).await.err().unwrap();
    assert_eq!((refused.status, refused.code.as_str()), (Some(403), "FORBIDDEN"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_epoch_is_a_gap_and_moves_the_cursor() {
    let platform = Platform::start().await;
    let first = platform.instance().await;
    first.publish_numbers("a.b", 0..3).await;
    let mut stream = open(&first, &["a.b"], None).await;
    platform.forget_topic("a.b").await;
    let second = platform.instance().await;
    let position = second.publish("a.b", json!({ "n": 7 })).await;
    let gap = stream.message().await.unwrap();
    assert_eq!(gap.event.as_deref(), Some("gap"));
    assert_eq!((&gap.data["topic"], &gap.data["epoch"]), (&json!("a.b"), &json!(&*position.epoch)));
    let cursor = gap.id.expect("a gap says where to go on");
    assert_eq!(events(&mut stream, 1).await, [("a.b".to_owned(), 7)]);
    let mut again = open(&first, &["a.b"], Some(&cursor)).await;
    assert_eq!(again.subscribed.data["subscriptions"][0]["recovered"], true);
    assert_eq!(events(&mut again, 1).await, [("a.b".to_owned(), 7)]);
}
