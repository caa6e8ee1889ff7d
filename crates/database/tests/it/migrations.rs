//! Migrations apply, are counted in batches, and reverse.

use database::migrate;
use sqlx::Row;

/// Every table, column, index and constraint of the public schema, as text.
async fn shape(pool: &database::Pool) -> Vec<String> {
    let sql = "
        select 'column ' || table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable as item
          from information_schema.columns where table_schema = 'public'
        union all select 'index ' || indexdef from pg_indexes where schemaname = 'public'
        union all select 'constraint ' || conname || ' ' || pg_get_constraintdef(oid)
          from pg_constraint where connamespace = 'public'::regnamespace
        order by 1";
    let rows = sqlx::query(sql).fetch_all(pool).await.expect("catalog");
    rows.iter()
        .map(|row| row.get::<String, _>("item"))
        .filter(|item| !item.contains("_sqlx_migrations"))
        .collect()
}

#[tokio::test]
async fn latest_and_rollback_leave_what_was_there_before() {
    let test = testkit::empty_database().await;
    assert!(migrate::pending(&test.pool).await.unwrap() > 0);
    let applied = migrate::latest(&test.pool).await.unwrap();
    let full = shape(&test.pool).await;
    assert_eq!(migrate::pending(&test.pool).await.unwrap(), 0);
    assert!(migrate::latest(&test.pool).await.unwrap().is_empty());

    let mut reverted = migrate::rollback(&test.pool).await.unwrap();
    reverted.reverse();
    assert_eq!(reverted, applied);
    let left: Vec<String> =
        shape(&test.pool).await.into_iter().filter(|item| !item.contains("migration_batches")).collect();
    assert!(left.is_empty(), "{left:#?}");

    migrate::latest(&test.pool).await.unwrap();
    assert_eq!(shape(&test.pool).await, full);
}

#[tokio::test]
async fn many_instances_migrate_at_once() {
    let test = testkit::empty_database().await;
    let runs = (0..4).map(|_| migrate::latest(&test.pool));
    let outcomes = futures::future::join_all(runs).await;
    let applied: Vec<usize> = outcomes.into_iter().map(|run| run.expect("migrates").len()).collect();
    assert_eq!(applied.iter().filter(|n| **n > 0).count(), 1, "{applied:?}");
}

#[tokio::test]
async fn the_default_application_has_its_environments() {
    let test = testkit::database().await;
    let environments: Vec<String> = sqlx::query_scalar(
        "select environment from environments where application_id = 'app_default' order by 1",
    )
    .fetch_all(&test.pool)
    .await
    .unwrap();
    assert_eq!(environments, ["development", "production", "staging"]);
}

#[tokio::test]
async fn make_writes_a_pair() {
    let directory = tempfile::tempdir().unwrap();
    let [up, down] = migrate::make(directory.path(), "add_colour").unwrap();
    assert!(up.exists() && down.exists());
    assert!(up.to_str().unwrap().ends_with("_add_colour.up.sql"));
    assert!(migrate::make(directory.path(), "../x").is_err());
}
