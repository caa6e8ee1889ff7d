//! What the commands say and return when they cannot do what they were asked.

use crate::{Dev, folder, free_port, realtime, run};

#[tokio::test]
async fn exit_codes_are_those_of_the_documentation() {
    let folder = folder();
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let database = nowhere.replace("http", "postgresql").replace("//", "//me:x@") + "/shop";
    let cases: [(&[&str], i32, &str); 10] = [
        (&["publish", "a.b"], 2, "PAYLOAD"),
        (&["publish", "a.b", "[1]"], 2, "JSON object"),
        (&["tail", "a.b", "--since", "no"], 2, "--since"),
        (&["tail", "a.b", "--filter", "{"], 2, "--filter"),
        (&["tail", "a.b", "--url", &nowhere], 69, &nowhere),
        (&["publish", "a.b", "{}", "--url", &nowhere], 69, &nowhere),
        (&["migrate", "status"], 78, "POSTGRES_USER"),
        (&["outbox", "install"], 2, "--url postgresql://"),
        (&["outbox", "install", "--url", &nowhere], 2, "postgresql://"),
        (&["outbox", "install", "--url", &database], 69, "no answer from the database"),
    ];
    for (arguments, code, said) in cases {
        let output = run(folder.path(), arguments).await;
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(said), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty(), "{arguments:?} prints data");
        assert!(!errors.contains('\x1b'), "{arguments:?} colours a pipe");
    }
}

#[tokio::test]
async fn a_bad_configuration_is_reported_whole() {
    let folder = folder();
    let mut command = realtime(folder.path());
    let output = command.arg("dev").envs([("LOG_LEVEL", "loud"), ("PORT", "many")]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(78));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("LOG_LEVEL") && errors.contains("PORT"), "{errors}");

    let mut command = realtime(folder.path());
    let output = command.arg("dev").env("NODE_ENV", "production").output().await.unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8(output.stderr).unwrap().contains("NODE_ENV is production"));
}

#[tokio::test]
async fn what_a_token_may_not_is_77() {
    let (folder, port) = (folder(), free_port());
    let dev = Dev::start(folder.path(), port).await;
    let client = crate::printed(folder.path(), &["token"]).await;
    for (arguments, code) in [
        (["publish", "a.b", "{}", "--token", &client], "FORBIDDEN"),
        (["tail", "a.b", "--timeout=5", "--token", "nonsense"], "AUTH_FAILED"),
    ] {
        let output = run(folder.path(), &arguments).await;
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(77), "{arguments:?}: {errors}");
        assert!(errors.contains(code), "{errors}");
    }
    dev.stop().await;
}

#[tokio::test]
async fn a_database_that_is_named_is_meant() {
    let (folder, port) = (folder(), free_port());
    let dev = Dev::start(folder.path(), port).await;
    let own = crate::printed(folder.path(), &["migrate", "status"]).await;
    assert!(own.contains(" 0 pending"), "{own}");
    let mut command = realtime(folder.path());
    let other = format!("postgresql://me:x@127.0.0.1:{}/other", free_port());
    let output = command.args(["migrate", "status"]).env("DATABASE_URL", other).output().await.unwrap();
    assert_eq!(output.status.code(), Some(69), "that of realtime dev was asked instead");

    // The one that is followed, where none is named; twice is as good as once.
    for _ in 0..2 {
        let installed = crate::printed(folder.path(), &["outbox", "install", "--json"]).await;
        assert_eq!(installed, r#"{"database":"shop","pending":0}"#);
    }
    crate::execute(&mut dev.shop().await, "select id, processed_at from event_outbox").await;
    let mut command = realtime(folder.path());
    let output = command.args(["token"]).env("REALTIME_TOKEN", "").output().await.unwrap();
    assert!(output.status.success(), "an empty variable is an unset one");
    dev.stop().await;
}

#[tokio::test]
async fn the_outboxs_statements_need_no_database() {
    let folder = folder();
    let printed = crate::printed(folder.path(), &["outbox", "install", "--print"]).await;
    assert!(printed.contains("create table if not exists event_outbox"));
}

#[tokio::test]
async fn the_description_of_the_api_needs_no_server() {
    let folder = folder();
    let output = run(folder.path(), &["openapi"]).await;
    let description: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(description["paths"]["/api/events"]["post"].is_object());
    assert_eq!(run(folder.path(), &["openapi", "--output", "api.json"]).await.status.code(), Some(0));
    assert_eq!(std::fs::read(folder.path().join("api.json")).unwrap(), output.stdout);
}

#[tokio::test]
async fn every_command_explains_itself() {
    let folder = folder();
    for command in ["dev", "migrate", "token", "publish", "tail", "outbox", "openapi"] {
        let output = run(folder.path(), &[command, "--help"]).await;
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains("Examples:"), "{command}");
    }
    let help = run(folder.path(), &["--help"]).await;
    assert!(String::from_utf8(help.stdout).unwrap().contains("Exit codes:"));
}
