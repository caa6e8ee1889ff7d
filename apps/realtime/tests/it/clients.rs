//! The clients of the README's first five minutes: one update in PostgreSQL is seen by all of them.

use crate::{Dev, Follower, execute, folder, free_port, printed, realtime};
use std::path::{Path, PathBuf};
use tokio::process::Command;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The examples beside the packages that they import.
fn examples(folder: &Path) -> PathBuf {
    let packages = repository().join("sdk/node_modules");
    assert!(
        packages.join("socket.io-client").is_dir(),
        "run `npm ci` in sdk/ first, as `cargo xtask test` does"
    );
    let copy = folder.join("examples");
    std::fs::create_dir(&copy).unwrap();
    for name in ["socketio.mjs", "websocket.mjs", "stream.sh"] {
        std::fs::copy(repository().join("examples").join(name), copy.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(packages, copy.join("node_modules")).unwrap();
    copy
}

fn example(program: &str, script: PathBuf, url: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(script).arg("order.updated").env("REALTIME_URL", url).env_remove("REALTIME_TOKEN");
    command
}

#[tokio::test]
async fn an_update_in_psql_is_seen_by_every_client() {
    let (folder, port) = (folder(), free_port());
    let dev = Dev::start(folder.path(), port).await;
    let (url, examples) = (dev.text("url"), examples(folder.path()));
    let mut followers = vec![
        Follower::tail(folder.path(), &["order.updated"]).await,
        Follower::start(example("node", examples.join("socketio.mjs"), url), "following", false).await,
        Follower::start(example("node", examples.join("websocket.mjs"), url), "following", false).await,
        Follower::start(example("sh", examples.join("stream.sh"), url), "subscribed", true).await,
    ];
    execute(&mut dev.shop().await, "update orders set status = 'paid', total = 4711 where id = 1").await;
    for follower in &mut followers {
        let line = follower.wait_for("4711").await;
        assert!(line.contains("database.update") && line.contains(r#""status":"paid""#), "{line}");
    }
    drop(followers);
    dev.stop().await;
}

#[tokio::test]
async fn pages_and_the_sdk_are_served() {
    let (folder, port) = (folder(), free_port());
    let dev = Dev::start(folder.path(), port).await;
    let client = reqwest::Client::new();
    for (path, expected) in [
        ("/", "From a committed row"),
        ("/demo/", "Orders, live"),
        ("/demo/orders.js", "RealtimeClient"),
        ("/sdk/realtime.browser.js", "RealtimeClient"),
        ("/docs/cli.md", "realtime tail"),
        ("/api/openapi.json", "/api/database/mappings"),
    ] {
        let answer = client.get(format!("{}{path}", dev.text("url"))).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert!(answer.text().await.unwrap().contains(expected), "{path}");
    }
    dev.stop().await;
}

#[tokio::test]
async fn a_tail_ends_when_nobody_reads_it_and_when_it_is_told() {
    let (folder, port) = (folder(), free_port());
    let dev = Dev::start(folder.path(), port).await;
    // `head` closes the pipe after the first line; the second one ends the tail.
    let mut shell = Command::new("sh");
    let script =
        format!("{} tail a.b --json 2>following.txt | head -n 1; echo end", env!("CARGO_BIN_EXE_realtime"));
    let piped = shell.current_dir(folder.path()).args(["-c", &script]).output();
    let piped = tokio::spawn(piped);
    let following = folder.path().join("following.txt");
    crate::eventually("the tail follows", || {
        std::fs::read_to_string(&following).is_ok_and(|text| text.contains("following"))
    })
    .await;
    printed(folder.path(), &["publish", "a.b", r#"{"n":1}"#]).await;
    while !piped.is_finished() {
        printed(folder.path(), &["publish", "a.b", r#"{"n":2}"#]).await;
    }
    let output = String::from_utf8(piped.await.unwrap().unwrap().stdout).unwrap();
    assert!(output.contains(r#"{"n":1}"#) && output.ends_with("end\n"), "{output}");
    assert!(!std::fs::read_to_string(&following).unwrap().contains("error"));

    let short = realtime(folder.path()).args(["tail", "a.c", "--timeout", "0.2"]).output().await.unwrap();
    assert_eq!(short.status.code(), Some(0));
    let short = ["tail", "a.c", "--timeout", "0.2", "--count", "1"];
    assert_eq!(realtime(folder.path()).args(short).output().await.unwrap().status.code(), Some(1));
    dev.stop().await;
}
