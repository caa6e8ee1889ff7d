//! Starting, stopping, being killed, and what is kept.

use crate::{Dev, Follower, eventually, execute, folder, free_port, is_alive, postgres_pid, printed, run};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_second_one_says_where_the_first_is() {
    let (folder, port) = (folder(), free_port());
    let dev = Dev::start(folder.path(), port).await;
    let second = run(folder.path(), &["dev", "--port", &free_port().to_string()]).await;
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("already running"), "{said}");
    assert!(said.contains(&format!("http://localhost:{port}")), "{said}");
    assert!(said.contains(&format!("pid {}", dev.ready["pid"])), "{said}");
    // And the first one goes on.
    printed(folder.path(), &["publish", "a.b", "{}"]).await;
    dev.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_said_before_anything_is_started() {
    let folder = folder();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run(folder.path(), &["dev", "--port", &port]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("port {port} is in use")) && said.contains("--port"), "{said}");
    assert!(!folder.path().join(".realtime/postgres").exists());
}

#[tokio::test]
async fn ctrl_c_leaves_nothing_behind_and_data_survives() {
    let (folder, port) = (folder(), free_port());
    let dev = Dev::start(folder.path(), port).await;
    let private = |name: &str| {
        let metadata = folder.path().join(".realtime").join(name).metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{name}");
    };
    ["dev.json", "secrets.json"].into_iter().for_each(private);
    execute(&mut dev.shop().await, "create table notes (body text); insert into notes values ('kept')").await;
    let published = printed(folder.path(), &["publish", "a.b", r#"{"kept":true}"#]).await;
    let token = printed(folder.path(), &["token", "--permissions", "client"]).await;
    let postgres = postgres_pid(folder.path());
    dev.stop().await;
    assert!(!is_alive(postgres));
    assert!(!folder.path().join(".realtime/dev.json").exists());

    let dev = Dev::start(folder.path(), port).await;
    let kept: String =
        sqlx::query_scalar("select body from notes").fetch_one(&mut dev.shop().await).await.unwrap();
    assert_eq!(kept, "kept");
    // Tokens of the last run hold, and its events are recovered by position.
    let (epoch, offset) = published.split_whitespace().nth(1).unwrap().rsplit_once(':').unwrap();
    let before = format!("{epoch}:{}", offset.parse::<u64>().unwrap() - 1);
    let tail = ["tail", "a.b", "--json", "--since", &before, "--count", "1", "--token", &token];
    assert!(printed(folder.path(), &tail).await.contains(r#"{"kept":true}"#));
    dev.stop().await;
}

#[tokio::test]
async fn a_second_signal_forces_the_end_and_leaves_nothing_behind_either() {
    let (folder, port) = (folder(), free_port());
    let dev = Dev::start(folder.path(), port).await;
    let postgres = postgres_pid(folder.path());
    dev.signal("TERM");
    // Withdrawn first: from here on it is stopping.
    eventually("it begins to stop", || !folder.path().join(".realtime/dev.json").exists()).await;
    dev.signal("TERM");
    assert_eq!(dev.end().await, Some(130));
    eventually("the server ends with its owner", || !is_alive(postgres)).await;
    Dev::start(folder.path(), port).await.stop().await;
}

#[tokio::test]
async fn after_kill_9_the_next_start_works_and_nothing_committed_is_missed() {
    let (folder, port) = (folder(), free_port());
    let dev = Dev::start(folder.path(), port).await;
    let mut tail = Follower::tail(folder.path(), &["order.updated", "--json"]).await;
    execute(&mut dev.shop().await, "update orders set total = 1001 where id = 1").await;
    tail.wait_for("1001").await;
    let postgres = postgres_pid(folder.path());
    dev.signal("KILL");
    assert_eq!(dev.end().await, None);
    eventually("the server ends with its owner", || !is_alive(postgres)).await;
    let orphaned = run(folder.path(), &["publish", "a.b", "{}"]).await;
    assert_ne!(orphaned.status.code(), Some(0), "dev.json of a killed process must not count");

    let dev = Dev::start(folder.path(), port).await;
    execute(&mut dev.shop().await, "update orders set total = 1002 where id = 1").await;
    // The same tail, over its own reconnection.
    tail.wait_for("1002").await;
    dev.stop().await;
}

#[tokio::test]
async fn a_mapping_made_through_the_api_makes_events_of_rows() {
    let (folder, port) = (folder(), free_port());
    let dev = Dev::start(folder.path(), port).await;
    let mut shop = dev.shop().await;
    execute(&mut shop, "create table tasks (id int primary key, title text, owner int)").await;
    let token = printed(folder.path(), &["token", "--permissions", "admin"]).await;
    let mapping = serde_json::json!({
        "table": "tasks", "topic": "task.changed", "events": ["insert", "update"],
        "payload": { "taskId": "$row.id", "title": "$row.title", "owner": "$row.owner" },
    });
    let (client, url) = (reqwest::Client::new(), dev.text("url").to_owned());
    let made = client
        .post(format!("{url}/api/database/mappings"))
        .bearer_auth(&token)
        .json(&mapping)
        .send()
        .await
        .unwrap();
    assert_eq!(made.status(), 201, "{}", made.text().await.unwrap());
    wait_until_live(&client, &url, &token, "tasks").await;

    let filter = r#"{"owner":7}"#;
    let mut tail =
        Follower::tail(folder.path(), &["task.changed", "--json", "--filter", filter, "--count", "2"]).await;
    execute(&mut shop, "insert into tasks values (1, 'Buy milk', 7), (2, 'Not mine', 8)").await;
    execute(&mut shop, "update tasks set title = 'Buy oat milk'").await;
    assert!(tail.wait_for("database.insert").await.contains("Buy milk"));
    assert!(tail.wait_for("database.update").await.contains(r#""owner":7"#));
    assert_eq!(tail.end().await, Some(0));
    dev.stop().await;
}

/// What is committed once a mapping is live is never missed.
async fn wait_until_live(client: &reqwest::Client, url: &str, token: &str, table: &str) {
    let deadline = std::time::Instant::now() + crate::PATIENCE;
    loop {
        let status =
            client.get(format!("{url}/api/database/cdc/status")).bearer_auth(token).send().await.unwrap();
        let status: serde_json::Value = status.json().await.unwrap();
        let mappings = status["mappings"].as_array().cloned().unwrap_or_default();
        if mappings.iter().any(|mapping| mapping["table"] == table && mapping["state"] == "live") {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{status}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_doctor_finds_a_running_one_healthy() {
    let (folder, port) = (folder(), free_port());
    let dev = Dev::start(folder.path(), port).await;
    let report = printed(folder.path(), &["doctor", "--json"]).await;
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    let names: Vec<&str> =
        report["findings"].as_array().unwrap().iter().filter_map(|f| f["name"].as_str()).collect();
    for wanted in ["server.ready", "postgres.migrations", "target.wal_level", "target.privileges"] {
        assert!(names.contains(&wanted), "{wanted} is not among {names:?}");
    }
    let status = printed(folder.path(), &["migrate", "status", "--json"]).await;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&status).unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|row| row["batch"].is_i64()), "{status}");
    dev.stop().await;
}
