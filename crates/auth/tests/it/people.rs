//! The first person, signing in, sessions.

use crate::{instance, over};
use auth::{Attempt, Authenticator, NewPerson, SignedIn};
use database::pool::{PoolSettings, connect_lazy};
use futures::future::join_all;
use shared_types::{
    AppId,
    rights::{Action, Permission, Resource},
};

fn person() -> NewPerson {
    NewPerson {
        name: "Ada".to_owned(),
        email: "ada@example.com".to_owned(),
        password: "correct horse".to_owned(),
    }
}

fn from(address: &str) -> Attempt {
    Attempt { address: Some(address.to_owned()), user_agent: Some("tests".to_owned()) }
}

async fn set_up(authenticator: &Authenticator) -> SignedIn {
    authenticator.set_up(&person(), false, None, &from("10.0.0.1")).await.expect("set up")
}

#[tokio::test]
async fn setup_works_once_however_many_call() {
    let test = testkit::database().await;
    let authenticator = instance(&test, None).await;
    assert!(authenticator.setup_required().await.unwrap());
    let attempt = from("10.0.0.1");
    let people: Vec<NewPerson> =
        (0..8).map(|n| NewPerson { email: format!("person{n}@example.com"), ..person() }).collect();
    let outcomes = join_all(people.iter().map(|p| authenticator.set_up(p, false, None, &attempt))).await;
    let (done, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(done.len(), 1);
    assert!(refused.into_iter().all(|r| r.unwrap_err().problem.code == "SETUP_DONE"));
    let users: i64 = sqlx::query_scalar("select count(*) from users").fetch_one(&test.pool).await.unwrap();
    assert_eq!(users, 1);
    assert!(!authenticator.setup_required().await.unwrap());
}

#[tokio::test]
async fn setup_in_production_asks_for_the_printed_code() {
    let test = testkit::database().await;
    let (here, there) = (instance(&test, None).await, instance(&test, None).await);
    let attempt = from("10.0.0.1");
    for wrong in [None, Some(""), Some("00000-00000-00000-00000")] {
        let refusal = here.set_up(&person(), true, wrong, &attempt).await.unwrap_err();
        assert_eq!(refusal.problem.code, "SETUP_CODE_WRONG");
    }
    let code = there.setup_code();
    here.set_up(&person(), true, Some(&code), &attempt).await.expect("every instance knows the code");
    assert_eq!(
        here.set_up(&person(), true, Some(&code), &attempt).await.unwrap_err().problem.code,
        "SETUP_DONE"
    );
}

#[tokio::test]
async fn sessions_begin_are_listed_and_end() {
    let test = testkit::database().await;
    let authenticator = instance(&test, None).await;
    set_up(&authenticator).await;
    let signed_in =
        authenticator.log_in(" ADA@example.com ", "correct horse", &from("10.0.0.2")).await.unwrap();
    let stored: i64 = sqlx::query_scalar(
        "select count(*) from sessions where position($1 in encode(token_hash, 'escape')) > 0",
    )
    .bind(&signed_in.token)
    .fetch_one(&test.pool)
    .await
    .unwrap();
    assert_eq!(stored, 0, "only the hash is stored");

    let ada = authenticator.verify_session(&signed_in.token).await.unwrap();
    let app = AppId::from_stored("app_default");
    assert!(ada.permissions_in(&app).hold(Permission { resource: Resource::Keys, action: Action::Delete }));
    assert_eq!(authenticator.sessions(&ada, None, 10).await.unwrap().len(), 2);
    authenticator.end_session(&ada, &ada.session.id).await.unwrap();
    let ended = authenticator.verify_session(&signed_in.token).await.unwrap_err();
    assert_eq!(ended.code, "SESSION_EXPIRED");
    assert_eq!(authenticator.end_session(&ada, "sess_unknown").await.unwrap_err().code, "NOT_FOUND");
}

#[tokio::test]
async fn a_session_slides_but_ends_after_a_week() {
    let test = testkit::database().await;
    let authenticator = instance(&test, None).await;
    let token = set_up(&authenticator).await.token;
    let age = |sql: &'static str| sqlx::query(sql).execute(&test.pool);
    age("update sessions set last_used_at = now() - interval '11 hours', expires_at = now() + interval '1 hour'")
        .await
        .unwrap();
    authenticator.verify_session(&token).await.unwrap();
    let hours: f64 =
        sqlx::query_scalar("select extract(epoch from expires_at - now())::float8 / 3600 from sessions")
            .fetch_one(&test.pool)
            .await
            .unwrap();
    assert!((11.9..=12.1).contains(&hours), "slid to {hours} h");

    age("update sessions set created_at = now() - interval '167 hours', last_used_at = now() - interval '1 hour'")
        .await
        .unwrap();
    let used = authenticator.verify_session(&token).await.unwrap();
    let again = authenticator.verify_session(&token).await.unwrap();
    let left = again.session.expires_at - used.session.last_used_at;
    assert!(left <= 3 * 3_600_000, "at most a week altogether, {left} ms left");
    age("update sessions set expires_at = now()").await.unwrap();
    assert!(authenticator.verify_session(&token).await.is_err());
}

#[tokio::test]
async fn a_session_holds_while_the_database_takes_no_writes() {
    let test = testkit::database().await;
    let authenticator = instance(&test, None).await;
    let token = set_up(&authenticator).await.token;
    let hour_ago = "update sessions set last_used_at = now() - interval '1 hour'";
    sqlx::query(hour_ago).execute(&test.pool).await.unwrap();
    let read_only = format!("alter database {} set default_transaction_read_only = on", test.name);
    sqlx::query(sqlx::AssertSqlSafe(read_only)).execute(&test.pool).await.unwrap();
    let settings = PoolSettings { min_connections: 0, ..PoolSettings::new(&test.url) };
    let pool = connect_lazy(&settings).unwrap();
    assert!(sqlx::query(hour_ago).execute(&pool).await.is_err(), "it takes no writes");
    let person = over(pool, None).await.verify_session(&token).await.unwrap();
    assert_eq!(person.user.email, "ada@example.com");
}

#[tokio::test]
async fn failures_delay_only_their_own_address() {
    let test = testkit::database().await;
    let authenticator = instance(&test, None).await;
    set_up(&authenticator).await;
    let stranger = from("203.0.113.9");
    let guess = || authenticator.log_in("ada@example.com", "guess", &stranger);
    for attempt in join_all((0..10).map(|_| guess())).await {
        assert_eq!(attempt.unwrap_err().problem.code, "LOGIN_FAILED");
    }
    let counted: Vec<i32> = sqlx::query_scalar(
        "update login_failures set blocked_until = now() + interval '1 minute' where blocked_until is not null
         returning failures",
    )
    .fetch_all(&test.pool)
    .await
    .unwrap();
    assert_eq!(counted, [10, 10], "for the account from there, and for the address");
    for attempt in join_all((0..6).map(|_| guess())).await {
        assert_eq!(attempt.unwrap_err().problem.code, "LOGIN_DELAYED");
    }

    let held_back = authenticator.log_in("ada@example.com", "correct horse", &stranger).await.unwrap_err();
    assert!(held_back.retry_after_seconds.is_some_and(|s| s >= 1));
    let spraying = authenticator.log_in("bob@example.com", "guess", &stranger).await.unwrap_err();
    assert_eq!(spraying.problem.code, "LOGIN_DELAYED", "counted for the address too");
    authenticator
        .log_in("ada@example.com", "correct horse", &from("10.0.0.5"))
        .await
        .expect("not delayed elsewhere");

    sqlx::query("update login_failures set blocked_until = now()").execute(&test.pool).await.unwrap();
    authenticator.log_in("ada@example.com", "correct horse", &stranger).await.expect("after the delay");
    authenticator
        .log_in("ada@example.com", "correct horse", &stranger)
        .await
        .expect("and the count is taken back");
}

#[tokio::test]
async fn unknown_addresses_take_as_long_as_wrong_passwords() {
    let test = testkit::database().await;
    let authenticator = instance(&test, None).await;
    set_up(&authenticator).await;
    let timed = async |email: &str| {
        let begun = std::time::Instant::now();
        let refusal = authenticator.log_in(email, "wrong password", &from("10.0.0.7")).await.unwrap_err();
        (refusal.problem, begun.elapsed())
    };
    timed("warm@example.com").await;
    let (known, wrong) = timed("ada@example.com").await;
    let (unknown, absent) = timed("nobody@example.com").await;
    assert_eq!(known, unknown);
    // Hashing takes tens of milliseconds: without it the answer would come in a few.
    assert!(absent * 4 > wrong, "{absent:?} against {wrong:?}");
}

#[tokio::test]
async fn bad_people_are_refused_by_field() {
    let test = testkit::database().await;
    let authenticator = instance(&test, None).await;
    let long = "x".repeat(300);
    for (field, bad) in [
        ("name", NewPerson { name: " ".to_owned(), ..person() }),
        ("email", NewPerson { email: "nobody".to_owned(), ..person() }),
        ("email", NewPerson { email: "a b@example.com".to_owned(), ..person() }),
        ("password", NewPerson { password: "short".to_owned(), ..person() }),
        ("password", NewPerson { password: long, ..person() }),
    ] {
        let refusal = authenticator.set_up(&bad, false, None, &Attempt::default()).await.unwrap_err();
        assert_eq!(refusal.problem.details[0].path, field);
    }
}
