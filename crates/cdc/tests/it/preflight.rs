//! The preflight: what it finds, and that its SQL mends it.

use crate::harness::{Harness, scope};
use cdc::{
    Manage, TargetUrl,
    preflight::{Finding, Preflight, Severity},
};
use database::tables::{cdc::MappingState, mappings};
use serde_json::json;

/// What the preflight finds of the harness's target.
pub async fn findings(harness: &Harness, manage: Manage) -> Vec<Finding> {
    let mappings = mappings::active(harness.pool(), &[scope()]).await.unwrap();
    let target = harness.targets.lock()[0].clone();
    let url = target.url.unwrap().parse::<TargetUrl>().unwrap().within(target.network);
    let preflight = Preflight {
        url: &url,
        slot_prefix: "test_slot",
        installation: harness.installation(),
        manage,
        forbidden: None,
        mappings: &mappings,
    };
    preflight.run().await
}

fn found<'f>(findings: &'f [Finding], code: &str) -> &'f Finding {
    let Some(finding) = findings.iter().find(|f| f.code == code) else {
        panic!("no {code} in {findings:#?}")
    };
    finding
}

fn errors(findings: &[Finding]) -> Vec<&str> {
    findings.iter().filter(|f| f.severity == Severity::Error).map(|f| f.code).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_found_and_its_sql_mends_it() {
    let harness = Harness::new(
        "create table orders (id int primary key, status text); create unlogged table fleeting (id int);
        create view shown as select 1 as id",
    )
    .await;
    harness.mapping(json!({ "when": { "changed": "status" } })).await;
    harness.mapping(json!({ "table": "fleeting", "topic": "b.c", "payload": {} })).await;
    harness.mapping(json!({ "table": "shown", "topic": "b.d", "payload": {} })).await;
    harness.mapping(json!({ "table": "nowhere", "topic": "b.e", "payload": {} })).await;
    harness.mapping(json!({ "topic": "b.f", "payload": { "x": "$row.colour" } })).await;
    let first = findings(&harness, Manage::Forbidden).await;
    for code in
        ["PUBLICATION_MISSING", "NOT_PUBLISHED", "NOT_LOGGED", "NOT_A_TABLE", "TABLE_MISSING", "MISFIT"]
    {
        assert_eq!(found(&first, code).severity, Severity::Error);
        assert!(found(&first, code).cure.is_some());
    }
    assert!(found(&first, "MISFIT").message.contains("colour"));
    assert_eq!(found(&first, "NOT_PUBLISHED").table.as_deref(), Some("orders"));
    harness.sql(found(&first, "PUBLICATION_MISSING").sql.as_deref().unwrap()).await;
    harness.sql(found(&first, "NOT_PUBLISHED").sql.as_deref().unwrap()).await;
    harness.sql(found(&first, "NOT_LOGGED").sql.as_deref().unwrap()).await;
    // A generated column is in the table, and not in its row changes.
    harness.sql("alter table orders add colour text generated always as (status) stored").await;
    let generated = findings(&harness, Manage::Forbidden).await;
    let misfit = found(&generated, "MISFIT");
    assert!(misfit.cure.as_deref().is_some_and(|cure| cure.contains("generated")), "{misfit:#?}");
    harness.sql("create table nowhere (id int primary key); alter table orders drop colour; alter table orders add colour text; drop view shown; create table shown (id int primary key)").await;
    let second = findings(&harness, Manage::Forbidden).await;
    assert!(errors(&second).iter().all(|code| *code == "NOT_PUBLISHED"), "{second:#?}");
    for finding in second.iter().filter(|f| f.code == "NOT_PUBLISHED") {
        harness.sql(finding.sql.as_deref().unwrap()).await;
    }
    let third = findings(&harness, Manage::Forbidden).await;
    assert_eq!(errors(&third), [""; 0], "{third:#?}");
    // Nothing but what its SQL did was changed.
    assert_eq!(
        harness
            .ask::<i64>("select count(*) from pg_replication_slots where database = current_database()")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_is_told_which() {
    let harness = Harness::new("create table orders (id int primary key, status text)").await;
    harness.mapping(json!({})).await;
    let role = format!("role_{}", harness.target.name);
    harness.sql(&format!("create role {role} login password 'secret'")).await;
    let mut url = url::Url::parse(&harness.target.url).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("secret")).unwrap();
    harness.targets.lock()[0].url = Ok(url.to_string());
    let first = findings(&harness, Manage::Allowed).await;
    let missing: Vec<&Finding> = first.iter().filter(|f| f.code == "PRIVILEGE").collect();
    assert_eq!(missing.len(), 3, "{first:#?}");
    for finding in missing {
        harness.sql(finding.sql.as_deref().unwrap()).await;
    }
    let second = findings(&harness, Manage::Allowed).await;
    assert_eq!(errors(&second), [""; 0], "{second:#?}");
    let running = harness.start_live().await;
    let third = findings(&harness, Manage::Allowed).await;
    let slot = &found(&third, "SLOT").message;
    assert!(slot.contains("exists") && !slot.contains(" 0 "), "{slot}");
    running.stop().await;
    harness.drop_slot().await;
    harness
        .sql(&format!("reassign owned by {role} to current_user; drop owned by {role}; drop role {role}"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_of_another_is_found_and_its_cure_mends_it() {
    let harness = Harness::new("create table orders (id int primary key, status text)").await;
    harness.mapping(json!({})).await;
    let role = format!("role_{}", harness.target.name);
    harness.sql(&format!("create role {role} login password 'secret' replication")).await;
    harness.sql(&format!("grant create on database {} to {role}", harness.target.name)).await;
    harness.sql(&format!("alter table orders owner to {role}")).await;
    harness.sql(&format!("create publication {}", harness.names().publication)).await;
    let mut url = url::Url::parse(&harness.target.url).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("secret")).unwrap();
    harness.targets.lock()[0].url = Ok(url.to_string());
    let first = findings(&harness, Manage::Allowed).await;
    assert_eq!(errors(&first), ["PRIVILEGE"], "{first:#?}");
    // The reader says the same.
    let running = harness.start();
    let status =
        harness.status_where("refused", |s| s.mappings.iter().any(|m| m.state == MappingState::Error)).await;
    let cure = status.mappings[0].cure.as_deref().unwrap();
    assert!(cure.contains("alter publication"), "{cure}");
    harness.sql(found(&first, "PRIVILEGE").sql.as_deref().unwrap()).await;
    let second = findings(&harness, Manage::Allowed).await;
    assert_eq!(errors(&second), [""; 0], "{second:#?}");
    harness.live().await;
    running.stop().await;
    harness.drop_slot().await;
    harness
        .sql(&format!("reassign owned by {role} to current_user; drop owned by {role}; drop role {role}"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_does_not_answer_is_a_finding() {
    let harness = Harness::new("select 1").await;
    harness.targets.lock()[0].url = Ok("postgres://nobody:secret@127.0.0.1:1/nowhere".to_owned());
    let found = findings(&harness, Manage::Allowed).await;
    assert_eq!(errors(&found), ["UNREACHABLE"]);
}
