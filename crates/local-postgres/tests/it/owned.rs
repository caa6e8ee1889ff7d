//! Servers that belong to one process.

use local_postgres::{LocalPostgres, LocalPostgresError, Options};
use sqlx::{Connection, PgConnection};

use crate::programs::{Program, given_directory, report_and_wait};
use crate::{connect, eventually, is_alive, run, text};

#[tokio::test]
async fn data_port_and_password_survive_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let server = LocalPostgres::start(Options::new(place.path())).await.unwrap();
    let url = server.url("realtime");
    let mut connection = connect(&url).await;
    run(&mut connection, "create table notes (body text); insert into notes values ('kept')").await;
    connection.close().await.unwrap();
    let pid = server.pid();
    server.stop().await.unwrap();
    assert!(!is_alive(pid));

    let server = LocalPostgres::start(Options::new(place.path())).await.unwrap();
    assert_eq!(server.url("realtime"), url);
    assert_eq!(text(&mut connect(&url).await, "select body from notes").await, "kept");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn it_is_ready_for_logical_replication_and_closed_to_strangers() {
    let place = tempfile::tempdir().unwrap();
    let mut options = Options::throwaway(place.path());
    options.settings.push(("work_mem".to_owned(), "7MB".to_owned()));
    let server = LocalPostgres::start(options).await.unwrap();
    let mut connection = connect(&server.url("realtime")).await;
    for (query, expected) in [
        ("show wal_level", "logical"),
        ("show listen_addresses", "127.0.0.1"),
        ("show unix_socket_directories", ""),
        ("show server_encoding", "UTF8"),
        ("show max_replication_slots", "20"),
        ("show max_connections", "200"),
        ("show timezone", "UTC"),
        ("show fsync", "off"),
        ("show work_mem", "7MB"),
        ("select datcollate from pg_database where datname = current_database()", "C.UTF-8"),
    ] {
        assert_eq!(text(&mut connection, query).await, expected, "{query}");
    }
    let wrong = format!("postgresql://realtime:guess@127.0.0.1:{}/realtime", server.port());
    assert!(PgConnection::connect(&wrong).await.is_err());
    drop(connection);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_start_in_the_same_directory_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let server = LocalPostgres::start(Options::throwaway(place.path())).await.unwrap();
    let second = LocalPostgres::start(Options::throwaway(place.path())).await;
    assert!(matches!(second, Err(LocalPostgresError::InUse(_))));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_chosen_port_that_is_taken_is_an_error_with_the_server_s_words() {
    let place = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = Options::throwaway(place.path());
    options.port = Some(taken.local_addr().unwrap().port());
    let error = LocalPostgres::start(options).await.err().unwrap();
    assert!(error.to_string().contains("already in use"), "{error}");
}

#[tokio::test]
async fn a_stale_pid_file_with_somebody_else_s_process_id_is_no_obstacle() {
    let place = tempfile::tempdir().unwrap();
    let server = LocalPostgres::start(Options::throwaway(place.path())).await.unwrap();
    let pid_file = server.directory().join("cluster/postmaster.pid");
    server.kill_hard().await.unwrap();
    // As after a restart of a container, where the same small numbers come again.
    let mut lines: Vec<String> =
        std::fs::read_to_string(&pid_file).unwrap().lines().map(str::to_owned).collect();
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    lines[0] = stranger.id().to_string();
    std::fs::write(&pid_file, lines.join("\n")).unwrap();

    let server = LocalPostgres::start(Options::throwaway(place.path())).await.unwrap();
    server.stop().await.unwrap();
    assert!(is_alive(stranger.id() as i32), "a stranger's process was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn killed_hard_nothing_runs_and_committed_data_comes_back() {
    let place = tempfile::tempdir().unwrap();
    for round in 0..3_i32 {
        let server = LocalPostgres::start(Options::new(place.path())).await.unwrap();
        let mut connection = connect(&server.url("realtime")).await;
        run(&mut connection, "create table if not exists rounds (n int)").await;
        let seen: i64 =
            sqlx::query_scalar("select count(*) from rounds").fetch_one(&mut connection).await.unwrap();
        assert_eq!(seen, i64::from(round));
        sqlx::query("insert into rounds values ($1)").bind(round).execute(&mut connection).await.unwrap();
        let backend: i32 =
            sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await.unwrap();
        let pid = server.pid();
        server.kill_hard().await.unwrap();
        assert!(!is_alive(pid) && !is_alive(backend));
    }
}

#[tokio::test]
async fn dropping_it_ends_the_server() {
    let place = tempfile::tempdir().unwrap();
    let server = LocalPostgres::start(Options::throwaway(place.path())).await.unwrap();
    let pid = server.pid();
    drop(server);
    eventually("the server ends", || !is_alive(pid)).await;
}

#[tokio::test]
async fn it_ends_with_its_killed_owner_and_the_next_start_takes_over_at_once() {
    if let Some(directory) = given_directory() {
        let server = LocalPostgres::start(Options::new(directory)).await.unwrap();
        let mut connection = connect(&server.url("realtime")).await;
        run(
            &mut connection,
            "create table if not exists notes (body text); insert into notes values ('kept')",
        )
        .await;
        report_and_wait(&server.pid().to_string());
    }
    let place = tempfile::tempdir().unwrap();
    let owner = Program::start(
        "owned::it_ends_with_its_killed_owner_and_the_next_start_takes_over_at_once",
        place.path(),
    );
    let first: i32 = owner.report.parse().unwrap();
    assert!(is_alive(first));
    owner.kill();
    if cfg!(target_os = "linux") {
        eventually("the server ends with its owner", || !is_alive(first)).await;
    }

    let owner = Program::start(
        "owned::it_ends_with_its_killed_owner_and_the_next_start_takes_over_at_once",
        place.path(),
    );
    let second: i32 = owner.report.parse().unwrap();
    owner.kill();
    // The second server may still be writing its data out.
    let server = LocalPostgres::start(Options::new(place.path())).await.unwrap();
    assert!(!is_alive(second) && server.pid() != second);
    let mut connection = connect(&server.url("realtime")).await;
    assert_eq!(text(&mut connection, "select count(*)::text from notes").await, "2");
    drop(connection);
    server.stop().await.unwrap();
}
