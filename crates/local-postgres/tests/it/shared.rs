//! The server that all test programs of a run share.

use std::path::PathBuf;

use local_postgres::SharedPostgres;

use crate::programs::{Program, given_directory, report_and_wait};
use crate::{connect, eventually, is_alive, run, text};

#[tokio::test]
async fn databases_are_copied_from_a_template_and_dropped() {
    let server = SharedPostgres::acquire().await.unwrap();
    let name = |role: &str| format!("{role}_{}", std::process::id());
    let (template, copy) = (name("template"), name("copy"));
    server.create_database(&template, None).await.unwrap();
    let mut connection = connect(&server.url(&template)).await;
    run(&mut connection, "create table notes (body text); insert into notes values ('copied')").await;
    sqlx::Connection::close(connection).await.unwrap();

    server.create_database(&copy, Some(&template)).await.unwrap();
    let mut open = connect(&server.url(&copy)).await;
    assert_eq!(text(&mut open, "select body from notes").await, "copied");
    assert!(server.create_database(&copy, None).await.is_err());
    // With a connection still open.
    server.drop_database(&copy).await.unwrap();
    server.drop_database(&copy).await.unwrap();
    server.drop_database(&template).await.unwrap();
}

/// As a child it joins the server in the directory it is given, and reports the server's process id,
/// directory and URL.
#[tokio::test]
async fn programs_share_one_server_that_ends_after_the_last_was_killed() {
    const TEST: &str = "shared::programs_share_one_server_that_ends_after_the_last_was_killed";
    if let Some(directory) = given_directory() {
        let server = SharedPostgres::acquire_in(directory.as_ref()).await.unwrap();
        let mut connection = connect(&server.url("postgres")).await;
        run(&mut connection, "create table if not exists joined (n int)").await;
        let pid_file = server.directory().join("server/cluster/postmaster.pid");
        let pid = std::fs::read_to_string(pid_file).unwrap().lines().next().unwrap().to_owned();
        report_and_wait(&format!("{pid} {} {}", server.directory().display(), server.url("postgres")));
    }
    let place = tempfile::tempdir().unwrap();
    let start = || Program::start(TEST, place.path());
    let (first, second, third) = std::thread::scope(|scope| {
        let starts = [scope.spawn(start), scope.spawn(start), scope.spawn(start)];
        let [one, two, three] = starts.map(|start| start.join().unwrap());
        (one, two, three)
    });
    assert_eq!(first.report, second.report);
    assert_eq!(first.report, third.report);
    let first_report = first.report.clone();
    let server: i32 = first_report.split(' ').next().unwrap().parse().unwrap();

    // Its starter among them, two are gone; the server stays for the third, however long that takes.
    first.kill();
    second.kill();
    // Not always the one asked for: root's own directories are closed to the server's user.
    let directory = PathBuf::from(first_report.split(' ').nth(1).unwrap());
    let guardian_file = directory.join("guardian");
    let guardian =
        |file: &std::path::Path| std::fs::read_to_string(file).unwrap().trim().parse::<i32>().unwrap();
    let old_guardian = guardian(&guardian_file);
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(is_alive(server));

    // A killed guardian is replaced by whoever joins next.
    assert!(
        std::process::Command::new("kill")
            .args(["-9", &old_guardian.to_string()])
            .status()
            .unwrap()
            .success()
    );
    let fourth = start();
    assert_eq!(fourth.report, third.report);
    let new_guardian = guardian(&guardian_file);
    assert!(new_guardian != old_guardian && is_alive(new_guardian));

    third.kill();
    fourth.kill();
    eventually("the server ends after its last user", || !is_alive(server)).await;
    eventually("the guardian ends and removes the data", || {
        !is_alive(new_guardian) && !directory.join("server").exists()
    })
    .await;

    // And the next one starts anew.
    let fifth = start();
    let server: i32 = fifth.report.split(' ').next().unwrap().parse().unwrap();
    fifth.kill();
    eventually("the server ends again", || !is_alive(server)).await;
    eventually("the data is gone again", || !directory.join("server").exists()).await;
}
