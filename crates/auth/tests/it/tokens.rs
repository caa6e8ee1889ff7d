//! Tokens, API keys, signing keys and revocation.

use crate::instance;
use auth::{Authenticator, Claims, Identity, Issuer, NewApiKey, TokenRequest};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use shared_types::{
    AppId, Environment, Scope,
    rights::{Rights, TokenRole, Verb},
};
use std::{collections::BTreeMap, time::Duration};
use testkit::TestDatabase;

const SECRET: &str = "a platform secret for these tests only";

fn app() -> AppId {
    AppId::from_stored("app_default")
}

fn request(permissions: &[&str]) -> TokenRequest {
    TokenRequest {
        application_id: "app_default".to_owned(),
        sub: Some("alice".to_owned()),
        permissions: Some(permissions.iter().map(|&p| p.to_owned()).collect()),
        ..TokenRequest::default()
    }
}

async fn api_key(
    authenticator: &Authenticator,
    test: &TestDatabase,
    environment: Environment,
) -> (String, String) {
    let mut tx = test.pool.begin().await.unwrap();
    let new = NewApiKey { name: "server".to_owned(), permissions: None };
    let made = authenticator.make_api_key(&mut tx, &Scope::new(app(), environment), &new).await.unwrap();
    tx.commit().await.unwrap();
    authenticator.refresh().await.unwrap();
    (made.key, made.row.id)
}

async fn token(authenticator: &Authenticator, issuer: &Identity, request: &TokenRequest) -> String {
    authenticator.issue(Issuer::Identity(issuer), request).await.expect("issued").token
}

fn code<T: std::fmt::Debug>(result: Result<T, shared_types::Problem>) -> &'static str {
    result.expect_err("refused").code
}

/// Waits until another instance sees it, no longer than the two seconds that are promised.
async fn within_two_seconds(mut seen: impl FnMut() -> bool) {
    let looking = async {
        while !seen() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), looking).await.expect("visible within two seconds");
}

#[tokio::test]
async fn a_server_gets_tokens_within_what_its_key_holds() {
    let test = testkit::database().await;
    let authenticator = instance(&test, None).await;
    let (key, id) = api_key(&authenticator, &test, Environment::Staging).await;
    let server = authenticator.verify_api_key(&key).unwrap();
    assert_eq!(server.scope, Scope::new(app(), Environment::Staging));
    assert_eq!(server.name(), id);

    let mut wanted = request(&["subscribe", "publish"]);
    wanted.capabilities = Some(BTreeMap::from([("chat:*".to_owned(), vec!["subscribe".to_owned()])]));
    let (identity, claims) =
        authenticator.verify_claims(&token(&authenticator, &server, &wanted).await).unwrap();
    assert_eq!(identity.scope, server.scope);
    assert!(identity.rights.allows(Verb::Subscribe, "chat:1"));
    assert!(!identity.rights.allows(Verb::Publish, "chat:1"));
    assert_eq!(claims.exp - claims.iat.unwrap(), 3600);
    assert_eq!((claims.iss.as_deref(), claims.rev), (Some("realtime"), Some(0)));

    assert_eq!(code(authenticator.issue(Issuer::Identity(&server), &request(&["admin"])).await), "FORBIDDEN");
    let elsewhere = TokenRequest { environment: Some(Environment::Production), ..request(&["client"]) };
    assert_eq!(code(authenticator.issue(Issuer::Identity(&server), &elsewhere).await), "FORBIDDEN");
    for ttl in [0, -1, 86_401] {
        let long = TokenRequest { ttl_seconds: Some(ttl), ..request(&["client"]) };
        assert_eq!(code(authenticator.issue(Issuer::Identity(&server), &long).await), "VALIDATION_FAILED");
    }
    assert_eq!(
        code(authenticator.issue(Issuer::Identity(&identity), &request(&["subscribe"])).await),
        "FORBIDDEN"
    );

    for wrong in [key.replace("staging", "production"), format!("{key}0"), "rk_staging_x_y".to_owned()] {
        assert_eq!(code(authenticator.verify_api_key(&wrong)), "AUTH_FAILED");
    }
}

#[tokio::test]
async fn a_token_ends_in_the_second_that_it_names() {
    let test = testkit::database().await;
    let authenticator = instance(&test, None).await;
    let issued = authenticator.issue(Issuer::Open, &request(&["client"])).await.unwrap();
    let end = issued.expires_at_ms;
    assert!(authenticator.verify_token_at(&issued.token, end - 1).is_ok());
    assert_eq!(code(authenticator.verify_token_at(&issued.token, end)), "TOKEN_EXPIRED");
}

#[tokio::test]
async fn rotation_keeps_live_tokens_and_reaches_other_instances() {
    let test = testkit::database().await;
    let (here, there) = (instance(&test, None).await, instance(&test, None).await);
    let following = there.follow();
    let story = async {
        let old = here.issue(Issuer::Open, &request(&["client"])).await.unwrap().token;
        let keys = database::tables::signing_keys::list(&test.pool, &app(), None, 10).await.unwrap();
        let mut tx = test.pool.begin().await.unwrap();
        let made = here.rotate_signing_key(&mut tx, &app(), &keys[0].key_id).await.unwrap();
        tx.commit().await.unwrap();
        here.refresh().await.unwrap();

        let new = here.issue(Issuer::Open, &request(&["client"])).await.unwrap().token;
        within_two_seconds(|| there.verify_token(&new).is_ok()).await;
        assert!(there.verify_token(&old).is_ok(), "a deactivated key verifies what it signed");
        let header = jsonwebtoken::decode_header(&new).unwrap();
        assert_eq!(header.kid.as_deref(), Some(made.row.key_id.as_str()));

        let live = there.verify_token(&old).unwrap();
        here.delete_signing_key(&app(), &keys[0].key_id).await.unwrap();
        assert_eq!(code(here.verify_token(&old)), "AUTH_FAILED");
        within_two_seconds(|| there.verify_token(&old).is_err()).await;
        assert_eq!(code(there.still_holds(&live)), "TOKEN_REVOKED");
        assert!(there.verify_token(&new).is_ok());
    };
    tokio::select! { () = following => unreachable!("follows until dropped"), () = story => {} }
}

#[tokio::test]
async fn revocation_reaches_other_instances_and_later_tokens_hold() {
    let test = testkit::database().await;
    let (here, there) = (instance(&test, None).await, instance(&test, None).await);
    let following = there.follow();
    let story = async {
        let first = here.issue(Issuer::Open, &request(&["client"])).await.unwrap().token;
        within_two_seconds(|| there.verify_token(&first).is_ok()).await;
        let live = there.verify_token(&first).unwrap();
        let mut changes = there.changes();
        changes.borrow_and_update();
        here.revoke_subject(&app(), "alice").await.unwrap();
        tokio::time::timeout(Duration::from_secs(2), changes.changed()).await.expect("woken").unwrap();
        assert_eq!(code(there.still_holds(&live)), "TOKEN_REVOKED");
        assert_eq!(code(here.verify_token(&first)), "TOKEN_REVOKED");

        // In the same second: only the counter tells them apart.
        let second = here.issue(Issuer::Open, &request(&["client"])).await.unwrap().token;
        let (_, claims) = here.verify_claims(&second).unwrap();
        here.revoke_token(&app(), &claims.jti.unwrap()).await.unwrap();
        assert_eq!(code(here.verify_token(&second)), "TOKEN_REVOKED");
        within_two_seconds(|| there.verify_token(&second).is_err()).await;
    };
    tokio::select! { () = following => unreachable!("follows until dropped"), () = story => {} }
}

#[tokio::test]
async fn what_comes_from_a_revoked_key_or_token_is_revoked() {
    let test = testkit::database().await;
    let authenticator = instance(&test, None).await;
    let (key, id) = api_key(&authenticator, &test, Environment::Development).await;
    let server = authenticator.verify_api_key(&key).unwrap();
    let parent =
        authenticator.verify_token(&token(&authenticator, &server, &request(&["service"])).await).unwrap();
    let child = token(&authenticator, &parent, &request(&["client"])).await;
    assert!(authenticator.verify_token(&child).is_ok());

    authenticator.revoke_token(&app(), parent.jti.as_deref().unwrap()).await.unwrap();
    assert_eq!(code(authenticator.verify_token(&child)), "TOKEN_REVOKED");

    let other = token(&authenticator, &server, &request(&["client"])).await;
    authenticator.revoke_api_key(&app(), &id).await.unwrap();
    assert_eq!(code(authenticator.verify_api_key(&key)), "AUTH_FAILED");
    assert_eq!(code(authenticator.verify_token(&other)), "TOKEN_REVOKED");
}

#[tokio::test]
async fn one_applications_key_never_vouches_for_another() {
    let test = testkit::database().await;
    let authenticator = instance(&test, None).await;
    let other = AppId::from_stored("app_other");
    let mut tx = test.pool.begin().await.unwrap();
    let config = Default::default();
    database::tables::applications::insert(&mut tx, &other, "Other", &config).await.unwrap();
    let made = authenticator.make_signing_key(&mut tx, &other).await.unwrap();
    tx.commit().await.unwrap();
    authenticator.refresh().await.unwrap();

    let ours = authenticator.issue(Issuer::Open, &request(&["client"])).await.unwrap().token;
    let (_, mut claims) = authenticator.verify_claims(&ours).unwrap();
    let sign = |claims: &Claims, alg, kid: Option<&str>, secret: &str| {
        let mut header = Header::new(alg);
        header.kid = kid.map(str::to_owned);
        encode(&header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    let kid = Some(made.row.key_id.as_str());
    assert_eq!(
        code(authenticator.verify_token(&sign(&claims, Algorithm::HS256, kid, &made.secret))),
        "AUTH_FAILED"
    );
    claims.aud = "app_other".to_owned();
    assert!(authenticator.verify_token(&sign(&claims, Algorithm::HS256, kid, &made.secret)).is_ok());
    for forged in [
        sign(&claims, Algorithm::HS384, kid, &made.secret),
        sign(&claims, Algorithm::HS256, None, &made.secret),
        sign(&claims, Algorithm::HS256, kid, "guessed"),
        ours.replace('.', ""),
        String::new(),
        "a.b.c".to_owned(),
    ] {
        assert_eq!(code(authenticator.verify_token(&forged)), "AUTH_FAILED");
    }
    let none = format!("eyJhbGciOiJub25lIn0.{}.", ours.split('.').nth(1).unwrap());
    assert_eq!(code(authenticator.verify_token(&none)), "AUTH_FAILED");
}

#[tokio::test]
async fn jwt_secret_signs_where_there_is_no_managed_key() {
    let test = testkit::database().await;
    let authenticator = instance(&test, Some(SECRET)).await;
    let issued = authenticator.issue(Issuer::Open, &request(&["service"])).await.unwrap().token;
    assert_eq!(jsonwebtoken::decode_header(&issued).unwrap().kid, None);
    assert_eq!(authenticator.verify_token(&issued).unwrap().rights, Rights::of_role(TokenRole::Service));
    assert_eq!(code(instance(&test, None).await.verify_token(&issued)), "AUTH_FAILED");

    // A token of the customer's own making has no counter: the second of its issue decides.
    let claims = serde_json::json!({
        "aud": "app_default", "sub": "bob", "iat": 1_700_000_000, "exp": 4_000_000_000_i64,
        "permissions": ["client"],
    });
    let foreign =
        encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))
            .unwrap();
    assert_eq!(
        authenticator.verify_token(&foreign).unwrap().scope,
        Scope::new(app(), Environment::Development)
    );
    authenticator.revoke_subject(&app(), "bob").await.unwrap();
    assert_eq!(code(authenticator.verify_token(&foreign)), "TOKEN_REVOKED");
}

#[tokio::test]
async fn nobody_is_let_in_before_the_first_look() {
    let test = testkit::database().await;
    let token = instance(&test, None).await.issue(Issuer::Open, &request(&["client"])).await.unwrap().token;
    let settings = auth::AuthSettings {
        pool: test.pool.clone(),
        sealer: std::sync::Arc::new(database::sealing::Sealer::new(&[3; 32])),
        jwt_secret: None,
    };
    let blind = Authenticator::new(settings);
    assert_eq!(code(blind.verify_token(&token)), "UNAVAILABLE");
    blind.refresh().await.unwrap();
    assert!(blind.verify_token(&token).is_ok());
}
