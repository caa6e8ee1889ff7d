//! Targets whose server is not as it should be: each a state with a message and a cure, tried again without a spin.

use crate::harness::{Harness, payload};
use database::tables::cdc::{ReaderState, ReaderStatus};
use local_postgres::{LocalPostgres, Options};
use outbound::{
    Guard, Policy,
    postgres::{Destination, SslMode, Tunnel},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    time::Duration,
};
use tempfile::TempDir;

const ORDERS: &str = "create table orders (id int primary key, status text)";

/// A server of its own with `settings`.
pub async fn server(settings: &[(&str, &str)]) -> (TempDir, LocalPostgres) {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = Options { settings, ..Options::throwaway(directory.path().join("pg")) };
    // The server may run as another user than this test.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let server = LocalPostgres::start(options).await.unwrap();
    (directory, server)
}

/// Waits for an error of `code`, which says what is wrong and what helps, and is not tried without a pause.
async fn trouble(harness: &Harness, code: &str) -> ReaderStatus {
    let status = harness
        .status_where(code, |s| s.state == ReaderState::Error && s.code.as_deref() == Some(code))
        .await;
    assert!(status.message.as_deref().is_some_and(|m| !m.is_empty()), "{status:#?}");
    assert!(status.cure.as_deref().is_some_and(|c| !c.is_empty()), "{status:#?}");
    let before = harness.metrics.cdc_interruptions.get();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let tried = harness.metrics.cdc_interruptions.get() - before;
    assert!(tried <= 5, "{tried} attempts within a second");
    status
}

/// A CA, and what it signed for `name`: CA, certificate, key.
fn certificates(name: &str) -> [String; 3] {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    [ca_pem, certificate.pem(), key.serialize_pem()]
}

/// Lets the server speak TLS with what is signed for `name`; answers the CA.
async fn speak_tls(harness: &Harness, name: &str) -> String {
    let [ca, certificate, key] = certificates(name);
    let data: String = harness.ask("show data_directory").await;
    let data = Path::new(&data);
    let owner = fs::metadata(data).unwrap();
    for (file, text) in [("server.crt", certificate), ("server.key", key)] {
        let path = data.join(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    harness.sql("alter system set ssl = on").await;
    harness.sql("select pg_reload_conf()").await;
    // A new connection sees it; those of the pool may be older.
    harness
        .until("TLS", || async {
            let url = format!("{}?sslmode=require", harness.target.url);
            <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.is_ok()
        })
        .await;
    ca
}

/// The target's URL by `host`, verified against `ca`.
fn verified(harness: &Harness, host: &str, ca: &str) -> String {
    let mut url = url::Url::parse(&harness.target.url).unwrap();
    url.set_host(Some(host)).unwrap();
    url.query_pairs_mut().append_pair("sslmode", "verify-full").append_pair("sslrootcert", ca);
    url.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_encrypted_and_the_server_verified() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (_directory, server) = server(&[]).await;
    let harness = Harness::on(&server, ORDERS).await;
    let ca = speak_tls(&harness, "localhost").await;
    harness.mapping(json!({})).await;
    let [another, ..] = certificates("localhost");
    harness.targets.lock()[0].url = Ok(verified(&harness, "localhost", &another));
    let running = harness.start();
    let status = trouble(&harness, "TLS").await;
    assert!(status.cure.unwrap().contains("sslrootcert"));
    // The right CA, but for another name.
    harness.targets.lock()[0].url = Ok(verified(&harness, "127.0.0.1", &ca));
    let named = |s: &ReaderStatus| s.message.as_deref().is_some_and(|m| m.contains("another name"));
    let status = harness.status_where("another name", named).await;
    assert!(!format!("{status:?}").contains("127.0.0.1"), "no hosts in what is shown");
    harness.targets.lock()[0].url = Ok(verified(&harness, "localhost", &ca));
    harness.live().await;
    harness.sql("insert into orders values (1, 'x')").await;
    assert_eq!(payload(&harness.events(1).await[0])["id"], json!(1));
    let encrypted = "select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'realtime-cdc' or backend_type = 'walsender'";
    assert!(harness.ask::<bool>(encrypted).await);
    harness.finish(running).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_read_by_way_of_a_checked_address() {
    let (_directory, server) = server(&[]).await;
    let harness = Harness::on(&server, ORDERS).await;
    let ca = speak_tls(&harness, "localhost").await;
    harness.mapping(json!({})).await;
    let mut url = url::Url::parse(&harness.target.url).unwrap();
    let (host, port) = ("localhost".to_owned(), url.port().unwrap());
    let destination = Destination { host, port, ssl_mode: SslMode::VerifyFull, ca: Some(ca) };
    // What a target of another policy does by itself; of this machine it would not.
    let tunnel = Tunnel::open(Guard::new(Policy::Any), destination).await.unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(tunnel.port())).unwrap();
    url.query_pairs_mut().append_pair("sslmode", "disable");
    harness.targets.lock()[0].url = Ok(url.to_string());
    let running = harness.start_live().await;
    harness.sql("insert into orders values (1, 'x')").await;
    harness.events(1).await;
    let encrypted = "select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'realtime-cdc' or backend_type = 'walsender'";
    assert!(harness.ask::<bool>(encrypted).await);
    harness.finish(running).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_on_this_machine_is_refused_where_the_policy_does_not_allow_it() {
    let harness = Harness::new(ORDERS).await;
    harness.mapping(json!({})).await;
    let (port, name) = (url::Url::parse(&harness.target.url).unwrap().port().unwrap(), &harness.target.name);
    let running = harness.start_live().await;
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254"] {
        {
            let target = &mut harness.targets.lock()[0];
            target.url = Ok(format!("postgres://postgres@{host}:{port}/{name}"));
            target.network = Policy::Public;
        }
        let status = harness.status_where("refused", |s| s.code.as_deref() == Some("ADDRESS_REFUSED")).await;
        assert_eq!(status.state, ReaderState::Error);
        assert!(!format!("{:?}", status.message).contains(host), "no hosts in what is shown");
        harness.targets.lock()[0].network = Policy::Any;
        harness.targets.lock()[0].url = Ok(harness.target.url.clone());
        harness.live().await;
    }
    harness.sql("insert into orders values (1, 'x')").await;
    harness.events(1).await;
    harness.finish(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_logical_decoding_is_a_state_with_a_cure() {
    let (_directory, server) = server(&[("wal_level", "replica")]).await;
    let harness = Harness::on(&server, ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start();
    let status = trouble(&harness, "WAL_LEVEL").await;
    assert_eq!(status.message.as_deref(), Some("wal_level is not logical (it is replica)"));
    assert!(status.cure.unwrap().starts_with("alter system set wal_level = 'logical'"));
    running.stop().await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_are_reached_are_states_that_pass() {
    let (_directory, server) = server(&[("max_replication_slots", "1"), ("max_wal_senders", "1")]).await;
    let harness = Harness::on(&server, ORDERS).await;
    harness.mapping(json!({})).await;
    harness.sql("select pg_create_logical_replication_slot('another', 'pgoutput')").await;
    let running = harness.start();
    let status = trouble(&harness, "SLOTS_FULL").await;
    assert!(status.cure.unwrap().contains("max_replication_slots"));
    harness.sql("select pg_drop_replication_slot('another')").await;
    harness.live().await;
    running.stop().await;
    // Somebody else takes the only walsender.
    let mut url = url::Url::parse(&harness.target.url).unwrap();
    url.query_pairs_mut().append_pair("replication", "database");
    let taken =
        tokio::task::spawn_blocking(move || pg_walstream::PgReplicationConnection::connect(url.as_str()));
    let taken = taken.await.unwrap().unwrap();
    let running = harness.start();
    let status = trouble(&harness, "CONNECTIONS_FULL").await;
    assert!(status.cure.unwrap().contains("max_wal_senders"));
    drop(taken);
    harness.live().await;
    harness.sql("insert into orders values (1, 'x')").await;
    harness.events(1).await;
    harness.finish(running).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_log_was_thrown_away_is_made_anew_and_the_gap_is_said() {
    let settings = [("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")];
    let (_directory, server) = server(&settings).await;
    let harness = Harness::on(&server, ORDERS).await;
    harness.mapping(json!({})).await;
    let running = harness.start_live().await;
    harness.sql("insert into orders values (1, 'x')").await;
    harness.events(1).await;
    // Long before that it is said.
    let in_danger = |s: &ReaderStatus| s.code.as_deref() == Some("SLOT_RETAINS");
    let mut writer = harness.target.pool.begin().await.unwrap();
    sqlx::query("insert into orders values (7, 'open')").execute(&mut *writer).await.unwrap();
    harness.sql("insert into orders select n, repeat('x', 900) from generate_series(1000, 2000) n").await;
    harness.sql("delete from orders where id >= 1000").await;
    let status = harness.status_where("in danger", in_danger).await;
    assert_eq!(status.state, ReaderState::Streaming);
    assert!(status.retained_share.is_some_and(|share| share >= 0.5), "{status:#?}");
    writer.rollback().await.unwrap();
    running.stop().await;
    let read = harness.log.entries().len();
    harness.sql("insert into orders values (2, 'lost')").await;
    let lost = "select coalesce((select wal_status = 'lost' from pg_replication_slots), false)";
    harness
        .until("lost", || async {
            harness
                .sql("insert into orders select n, repeat('x', 900) from generate_series(1000, 20000) n")
                .await;
            harness.sql("delete from orders where id >= 1000; select pg_switch_wal()").await;
            harness.sql("checkpoint").await;
            harness.ask::<bool>(lost).await
        })
        .await;
    let running = harness.start();
    let gap = harness
        .status_where("gap", |s| s.gap.is_some() && s.state == ReaderState::Streaming)
        .await
        .gap
        .unwrap();
    assert!(gap.reason.contains("max_slot_wal_keep_size"), "{gap:?}");
    assert!(!gap.to_lsn.is_empty());
    harness.live().await;
    harness.sql("insert into orders values (3, 'x')").await;
    let last = || harness.log.entries().last().map(|entry| payload(entry)["id"].clone());
    harness.until("the third", || async { last() == Some(json!(3)) }).await;
    let lost = harness.log.entries().iter().skip(read).filter(|e| payload(e)["id"] == json!(2)).count();
    assert_eq!(lost, 0);
    // Whoever leads next still says it.
    running.stop().await;
    let running = harness.start_live().await;
    assert_eq!(harness.status().await.unwrap().gap, Some(gap));
    harness.finish(running).await;
    server.stop().await.unwrap();
}
