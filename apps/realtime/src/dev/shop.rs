//! The example shop in the private database, and its mappings.
//!
//! An empty shop database gets the example; one that somebody has made tables in is left as it is. Mappings are made
//! together with the tables only, so that deleted ones stay deleted.

use super::databases::within;
use super::stack::scope;
use crate::demo::{MAPPINGS, SCHEMA};
use crate::exit::{Failure, Outcome};
use anyhow::Context;
use database::DatabaseError;
use database::tables::{applications, mappings};
use platform::Platform;
use shared_types::MappingId;
use shared_types::mapping::MappingDefinition;
use sqlx::{Connection, PgConnection};
use url::Url;

/// Whether the database at `target_url` is to get the example: it is empty, or `demo` asks for it.
///
/// # Errors
/// Those of the database.
pub async fn is_wanted(target_url: &str, demo: bool) -> Outcome<bool> {
    let work = async {
        let mut connection = PgConnection::connect(target_url).await?;
        let (any, orders): (bool, bool) = sqlx::query_as(
            "select exists (select from pg_tables where schemaname = 'public'),
                to_regclass('public.orders') is not null",
        )
        .fetch_one(&mut connection)
        .await?;
        connection.close().await?;
        Ok(!any || (demo && !orders))
    };
    within(work).await
}

/// Makes mappings and tables, in this order: what is cut off in between is made up for by the next start.
///
/// # Errors
/// Those of the databases.
pub async fn make(platform: &Platform, target_url: &str) -> Outcome {
    make_mappings(platform).await?;
    let work = async {
        let mut connection = PgConnection::connect(target_url).await?;
        let mut transaction = connection.begin().await?;
        sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await?;
        transaction.commit().await?;
        connection.close().await
    };
    within(work).await
}

/// Sets the database to follow, and answers which one is followed.
///
/// One that was named (`CDC_DATABASE_URL`) is followed from now on. The private shop is followed where nothing is set:
/// what somebody set through the API stays.
///
/// # Errors
/// Those of the platform's database; a target that was sealed with another key.
pub async fn set_target(platform: &Platform, target_url: &str, named: bool) -> Outcome<String> {
    let scope = scope();
    let mut transaction = platform.pool.begin().await.map_err(DatabaseError::from)?;
    let Some(application) = applications::lock(&mut transaction, scope.application()).await? else {
        tracing::warn!(app.id = %scope.application(), "the application was deleted; no target is set");
        return Ok(target_url.to_owned());
    };
    let mut config = application.config.0;
    let current = config.cdc.get(&scope.environment());
    let current = current.map(|target| applications::open_target(&platform.sealer, &scope, target));
    if let Some(url) = current.transpose()?
        && (url == target_url || !(named || is_same_server(&url, target_url)))
    {
        return Ok(url);
    }
    let sealed = applications::seal_target(&platform.sealer, &scope, target_url, None);
    config.cdc.insert(scope.environment(), sealed);
    applications::update(&mut *transaction, scope.application(), &application.name, &config).await?;
    transaction.commit().await.map_err(DatabaseError::from)?;
    Ok(target_url.to_owned())
}

/// Whether two URLs differ in nothing but the port: the private server's changes when somebody else took it. Its
/// password is random, so no other server is mistaken for it.
fn is_same_server(one: &str, other: &str) -> bool {
    let without_port = |url: &str| {
        let mut url = Url::parse(url).ok()?;
        url.set_port(None).ok()?;
        Some(url)
    };
    without_port(one).is_some_and(|one| Some(one) == without_port(other))
}

async fn make_mappings(platform: &Platform) -> Outcome {
    let definitions: Vec<serde_json::Value> =
        serde_json::from_str(MAPPINGS).context("the example's mappings are JSON")?;
    let mut transaction = platform.pool.begin().await.map_err(DatabaseError::from)?;
    for definition in &definitions {
        let definition = MappingDefinition::parse(definition).map_err(anyhow::Error::new)?;
        let known = mappings::by_topic(&mut *transaction, &scope(), &definition.topic, None, 1).await?;
        if known.is_empty() {
            mappings::create(&mut transaction, &scope(), &MappingId::generate(), &definition).await?;
        }
    }
    transaction.commit().await.map_err(|error| Failure::from(DatabaseError::from(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_port_of_the_private_server_may_differ() {
        let ours = "postgresql://realtime:abc@127.0.0.1:5001/shop";
        assert!(is_same_server("postgresql://realtime:abc@127.0.0.1:5002/shop", ours));
        assert!(!is_same_server("postgresql://realtime:xyz@127.0.0.1:5002/shop", ours));
        assert!(!is_same_server("postgresql://realtime:abc@127.0.0.1:5002/other", ours));
        assert!(!is_same_server("postgresql://realtime:abc@db.example.com:5002/shop", ours));
    }

    #[test]
    fn the_example_s_mappings_are_valid() {
        let definitions: Vec<serde_json::Value> = serde_json::from_str(MAPPINGS).unwrap();
        assert!(!definitions.is_empty());
        for definition in definitions {
            MappingDefinition::parse(&definition).unwrap();
        }
    }
}
