//! What the CDC measurements share: a table in the application's database, its mapping, its rows.
//!
//! Speaks SQL to the database and REST to the platform. Whatever it creates it removes in `finish`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::time::sleep;

use crate::link::{Endpoint, Interest, Link, Transport};
use crate::session::fresh_topic;
use crate::target::Running;

const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// Until a new mapping is live and its first row has arrived.
const LIVE_LIMIT: Duration = Duration::from_secs(60);

/// Connects to the application's database.
///
/// # Errors
/// It is not there.
pub async fn connect(url: &str) -> Result<PgConnection> {
    tokio::time::timeout(REQUEST_LIMIT, PgConnection::connect(url))
        .await
        .context("connecting to the application's database took too long")?
        .context("cannot connect to the application's database")
}

/// A table for one measurement.
#[derive(Debug, Clone)]
pub struct Table(pub String);

impl Table {
    /// Creates an empty one.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn create(database: &mut PgConnection, kind: &str) -> Result<Self> {
        let name = fresh_topic(kind)?.replace('.', "_");
        let columns = "id bigserial primary key, seq bigint, customer text not null, \
                       amount numeric(12,2) not null, status text not null, \
                       created_at timestamptz not null default now()";
        execute(database, format!("create table {name} ({columns})")).await?;
        Ok(Self(name))
    }

    /// Inserts rows `from..=to` in one transaction.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn insert(&self, database: &mut PgConnection, from: u64, to: u64) -> Result<()> {
        let rows = "g, 'customer ' || g % 1000, g % 5000 + 0.25, 'new'";
        let sql = format!(
            "insert into {} (seq, customer, amount, status) select {rows} from generate_series({from}, {to}) g",
            self.0
        );
        execute(database, sql).await
    }

    /// Inserts one row of this status, without a number.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn insert_marker(&self, database: &mut PgConnection, status: &str) -> Result<()> {
        let values = format!("'marker', 0, '{status}'");
        execute(database, format!("insert into {} (customer, amount, status) values ({values})", self.0))
            .await
    }

    /// Inserts rows `0..count`, so many a transaction; returns how long it took.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn fill(&self, database: &mut PgConnection, count: u64, batch: u64) -> Result<Duration> {
        let started = Instant::now();
        // The loader is not what is measured. Only its last commit waits for the disk, and with it all.
        execute(database, "set synchronous_commit = off".to_owned()).await?;
        let mut from = 0;
        while from < count {
            let to = (from + batch).min(count) - 1;
            if to + 1 == count {
                execute(database, "set synchronous_commit = on".to_owned()).await?;
            }
            self.insert(database, from, to).await?;
            from = to + 1;
        }
        Ok(started.elapsed())
    }

    /// Drops it.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn drop(&self, database: &mut PgConnection) -> Result<()> {
        execute(database, format!("drop table if exists {}", self.0)).await
    }
}

/// Runs one statement without results.
///
/// # Errors
/// The database refuses.
pub async fn execute(database: &mut PgConnection, sql: String) -> Result<()> {
    database.execute(AssertSqlSafe(sql.clone())).await.with_context(|| sql)?;
    Ok(())
}

/// The platform's REST API, as its administrator.
#[derive(Debug)]
pub struct Rest {
    client: reqwest::Client,
    base: String,
    token: String,
}

impl Rest {
    /// A client for this server.
    ///
    /// # Errors
    /// No token.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        let token = endpoint.token.clone().context("a token of the role admin is needed")?;
        let client = reqwest::Client::builder().timeout(REQUEST_LIMIT).build()?;
        Ok(Self { client, base: format!("http://{}", endpoint.address), token })
    }

    /// Creates a mapping of inserts to a topic; returns its id. `when` is its condition.
    ///
    /// # Errors
    /// The platform refuses.
    pub async fn create_mapping(&self, table: &Table, topic: &str, when: Option<Value>) -> Result<String> {
        let mut mapping = json!({
            "table": table.0, "topic": topic, "events": ["insert"], "environment": "development",
            "payload": {
                "seq": "$row.seq", "customer": "$row.customer", "amount": "$row.amount",
                "status": "$row.status", "createdAt": "$row.created_at",
            },
        });
        if let Some(when) = when {
            mapping["when"] = when;
        }
        let created = self.send(reqwest::Method::POST, "/api/database/mappings", Some(mapping)).await?;
        Ok(created["id"].as_str().context("a created mapping has an id")?.to_owned())
    }

    /// Deletes a mapping.
    ///
    /// # Errors
    /// The platform refuses.
    pub async fn delete_mapping(&self, id: &str) -> Result<()> {
        self.send(reqwest::Method::DELETE, &format!("/api/database/mappings/{id}"), None).await?;
        Ok(())
    }

    /// What the platform answers to `GET path`.
    ///
    /// # Errors
    /// The platform refuses or does not answer.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send(reqwest::Method::GET, path, None).await
    }

    /// What the platform answers to `POST path`.
    ///
    /// # Errors
    /// The platform refuses or does not answer.
    pub async fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.send(reqwest::Method::POST, path, Some(body)).await
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Result<Value> {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.base));
        request = request.bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "{method} {path} answered {status}: {text}");
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}

/// A table with its mapping, live.
#[derive(Debug)]
pub struct Mapped {
    /// The table.
    pub table: Table,
    /// The topic that its rows become events of.
    pub topic: String,
    mapping: String,
}

impl Mapped {
    /// Creates table and mapping, and inserts markers of the status `marker` until the first has become
    /// an event; returns with the topic's head then.
    ///
    /// # Errors
    /// Database or platform refuse, or no event arrives in time.
    pub async fn create(
        server: &Running,
        rest: &Rest,
        database: &mut PgConnection,
        kind: &str,
        when: Option<Value>,
        marker: &str,
    ) -> Result<Self> {
        let table = Table::create(database, kind).await?;
        let topic = fresh_topic(kind)?;
        let mapping = rest.create_mapping(&table, &topic, when).await?;
        let mapped = Self { table, topic, mapping };
        let mut head = Head::open(server, &mapped.topic).await?;
        let until = Instant::now() + LIVE_LIMIT;
        while head.offset().await? == 0 {
            if Instant::now() > until {
                bail!("no row of a new mapping became an event within {} s", LIVE_LIMIT.as_secs());
            }
            mapped.table.insert_marker(database, marker).await?;
            sleep(Duration::from_millis(200)).await;
        }
        head.settled().await?;
        Ok(mapped)
    }

    /// Removes mapping and table.
    ///
    /// # Errors
    /// Platform or database refuse.
    pub async fn finish(self, rest: &Rest, database: &mut PgConnection) -> Result<()> {
        rest.delete_mapping(&self.mapping).await?;
        self.table.drop(database).await
    }
}

/// The head of a topic's history: how many events it has ever had.
///
/// Asked by subscribing and unsubscribing, whose answer is the real head.
#[derive(Debug)]
pub struct Head {
    link: Link,
    topic: String,
}

impl Head {
    /// Connects.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn open(server: &Running, topic: &str) -> Result<Self> {
        Ok(Self { link: Link::open(&server.endpoint, Transport::Ws, None).await?, topic: topic.to_owned() })
    }

    /// The last offset, 0 for none.
    ///
    /// # Errors
    /// The server refuses or does not answer.
    pub async fn offset(&mut self) -> Result<u64> {
        let writer = self.link.writer();
        let interest = Interest { topic: &self.topic, filter: Some("{\"seq\":\"never\"}".to_owned()) };
        writer.queue_request("subscribe", &interest.fields(), Some(1));
        writer.flush().await?;
        let text = tokio::time::timeout(REQUEST_LIMIT, self.subscribed()).await.context("no answer")??;
        let subscription = text["subscriptionId"].as_str().context("a subscription has an id")?;
        writer.queue_request("unsubscribe", &format!("\"subscriptionId\":\"{subscription}\""), None);
        writer.flush().await?;
        text["offset"].as_u64().context("a subscription has an offset")
    }

    async fn subscribed(&mut self) -> Result<Value> {
        loop {
            let value: Value = serde_json::from_slice(&self.link.next_text().await?)?;
            match value["type"].as_str() {
                Some("subscribed") => return Ok(value),
                Some("error") => bail!("the server refused: {value}"),
                _ => {}
            }
        }
    }

    /// Waits until the head is at `expected`; how long it took, and the head a moment later (more than
    /// expected means that something was appended twice).
    ///
    /// # Errors
    /// It does not get there within `limit`.
    pub async fn reaches(&mut self, expected: u64, limit: Duration) -> Result<(Instant, u64)> {
        let until = Instant::now() + limit;
        loop {
            let offset = self.offset().await?;
            let now = Instant::now();
            if offset >= expected {
                return Ok((now, self.settled().await?));
            }
            if now > until {
                bail!("{offset} of {expected} events were appended within {} s", limit.as_secs());
            }
            // Two messages each time, well below the message rate of one connection.
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The head once it has not moved for a second.
    ///
    /// # Errors
    /// The server refuses or does not answer.
    pub async fn settled(&mut self) -> Result<u64> {
        loop {
            let before = self.offset().await?;
            sleep(Duration::from_secs(1)).await;
            if self.offset().await? == before {
                return Ok(before);
            }
        }
    }
}
