//! Existing rows become events: read in chunks beside the stream, which sends them.
//!
//! Runs beside a session and ends with it. What it has done is in the platform's database, so that whoever reads next
//! goes on where it was.

use crate::{
    snapshots::{Destination, PREFIX, ReadChunk, ToStream, Verdict},
    status::Status,
    target::{
        self, TargetUrl,
        chunk::{self, Bounds, Chunk, Keyed},
    },
    trouble::{Trouble, USER},
};
use database::{
    Pool,
    tables::{
        cdc_backfills::{self, Work},
        mappings,
    },
};
use shared_types::Scope;
use sqlx::PgConnection;
use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// A mapping whose table is not in the stream yet.
const NOT_LIVE: &str = "NOT_LIVE";
/// How often it looks whether anything is asked for.
const LOOK: Duration = Duration::from_millis(500);
/// How long a backfill is put off after a trouble.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the stream may take to meet a chunk's second watermark: it may be far behind.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long it waits before a chunk is read again.
const PAUSE: Duration = Duration::from_millis(200);
/// Rows of a chunk at first: nobody knows how large they are.
const FIRST_ROWS: usize = 16;
/// How many times as many the next one may have, and at most.
const GROWTH: usize = 4;
const ROWS: usize = 500;
/// The bytes at which a chunk ends, and which the next one is made to fit.
const BYTES: usize = 4 << 20;

/// Reads what backfills ask for.
pub(crate) struct Backfill {
    pub pool: Pool,
    pub url: TargetUrl,
    pub scopes: Vec<Scope>,
    /// The stream.
    pub stream: mpsc::Sender<ToStream>,
    /// Which mappings are live.
    pub status: Arc<Status>,
}

/// What keeps a backfill from going on.
struct Stop {
    trouble: Trouble,
    /// Whether somebody has to do something before it can be asked for again.
    for_good: bool,
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        let for_good =
            matches!(trouble.code, "NO_KEY" | "TABLE_MISSING" | "MISFIT" | "PRIVILEGE" | "MAPPING_CHANGED");
        Self { trouble, for_good }
    }
}

/// The connection that chunks are read on, and how many rows the next one has.
struct Reading {
    connection: target::Connection,
    rows: usize,
}

impl Backfill {
    /// Runs as long as the stream does.
    pub async fn run(&self) -> Infallible {
        let (mut reading, mut put_off) = (None, HashMap::<String, Instant>::new());
        loop {
            put_off.retain(|_, until| *until > Instant::now());
            let waiting: Vec<&str> = put_off.keys().map(String::as_str).collect();
            match cdc_backfills::next(&self.pool, &self.scopes, &waiting).await {
                Ok(Some(work)) => {
                    if let Some(pause) = self.go_on(&work, &mut reading).await {
                        put_off.insert(work.id, Instant::now() + pause);
                    }
                }
                Ok(None) => {
                    reading = None;
                    tokio::time::sleep(LOOK).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot look for backfills");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Sends one chunk, and notes how that went; answers for how long this backfill is put off, which holds up no other.
    async fn go_on(&self, work: &Work, reading: &mut Option<Reading>) -> Option<Duration> {
        let Err(Stop { trouble, for_good }) = self.chunk(work, reading).await else { return None };
        tracing::debug!(%trouble, backfill = work.id, "a backfill does not go on");
        let is_not_live = trouble.code == NOT_LIVE;
        if !is_not_live {
            *reading = None;
        }
        let Trouble { message, cure, .. } = &trouble.of_target(&self.url);
        let noted = if for_good {
            cdc_backfills::finish(&self.pool, work, Some((message, cure))).await
        } else {
            cdc_backfills::note_trouble(&self.pool, work, message, cure).await
        };
        if let Err(error) = noted {
            tracing::debug!(%error, backfill = work.id, "could not note what keeps a backfill");
        }
        Some(if is_not_live { LOOK } else { AGAIN })
    }

    /// Reads the next chunk between its watermarks, and waits until the stream has sent it.
    async fn chunk(&self, work: &Work, reading: &mut Option<Reading>) -> Result<(), Stop> {
        let found = mappings::get(&self.pool, &work.scope, &work.mapping).await.map_err(Trouble::platform)?;
        // It goes with its mapping.
        let Some(mapping) = found else { return Ok(()) };
        if !self.status.is_live(&work.scope, &work.mapping) {
            // What changes before its table is in the stream would be missed.
            return Err(not_live().into());
        }
        let table = mapping.definition.table.to_string();
        if work.table.as_ref().is_some_and(|begun| *begun != table) {
            return Err(another_table(&table).into());
        }
        let Reading { connection, rows } = self.reading(reading).await?;
        let keyed = target::limited(chunk::keyed(connection, &mapping.definition.table)).await?;
        fits(&mapping.definition, &keyed)?;
        let Some(end) = self.end(work, connection, &keyed).await? else {
            return Ok(self.finish(work).await?);
        };
        let keyed = Arc::new(keyed);
        let token = format!("{}/{}/{:08x}", work.id, work.chunk, rand::random::<u32>());
        self.tell(ToStream::Begin { token: token.clone(), keyed: keyed.clone() }).await?;
        target::limited(chunk::watermark(connection, PREFIX, &format!("{token}/low"))).await?;
        let (after, upto) = (work.after.as_deref(), work.upto.as_deref());
        let bounds = Bounds { after, upto, end: &end, rows: *rows, bytes: BYTES };
        let chunk = target::limited(chunk::read(connection, &keyed, bounds)).await;
        let Chunk { rows: read, running } = chunk.map_err(|trouble| unread(trouble, &keyed))?;
        let (count, bytes) = (read.len(), read.iter().map(chunk::size).sum::<usize>());
        let upto = match (&work.upto, read.last()) {
            (Some(upto), _) => upto.clone(),
            (None, Some(row)) => key_of(&keyed, row)?,
            (None, None) => return Ok(self.finish(work).await?),
        };
        let noted = cdc_backfills::note_read(&self.pool, work, &upto, keyed.estimate).await;
        if !noted.map_err(Trouble::platform)? {
            return Ok(());
        }
        *rows = (count * BYTES / bytes.max(1)).clamp(1, ROWS.min(*rows * GROWTH));
        let (answer, verdict) = oneshot::channel();
        let destination = Destination {
            scope: work.scope.clone(),
            mapping: work.mapping.clone(),
            definition: mapping.definition,
            run: work.id.clone(),
            chunk: u64::try_from(work.chunk).unwrap_or(0),
        };
        let chunk = ReadChunk { token: token.clone(), keyed, rows: read, running, destination, answer };
        self.tell(ToStream::Read(Box::new(chunk))).await?;
        target::limited(chunk::watermark(connection, PREFIX, &format!("{token}/high"))).await?;
        self.settle(work, count, verdict).await
    }

    /// Waits for the stream's verdict on a chunk of `count` rows, and notes it.
    async fn settle(
        &self,
        work: &Work,
        count: usize,
        verdict: oneshot::Receiver<Verdict>,
    ) -> Result<(), Stop> {
        match tokio::time::timeout(PATIENCE, verdict).await {
            Ok(Ok(Verdict::Sent)) => {
                let rows = i64::try_from(count).unwrap_or(i64::MAX);
                Ok(cdc_backfills::note_sent(&self.pool, work, rows).await.map_err(Trouble::platform)?)
            }
            Ok(Ok(Verdict::Again)) => {
                tokio::time::sleep(PAUSE).await;
                Ok(())
            }
            Ok(Err(_)) | Err(_) => {
                let cure = "see the reader's state; it goes on by itself";
                Err(Trouble::new("STREAM_BEHIND", "the stream did not come to the chunk's watermark", cure)
                    .into())
            }
        }
    }

    /// The connection to read on, opened where there is none.
    async fn reading<'r>(&self, reading: &'r mut Option<Reading>) -> Result<&'r mut Reading, Trouble> {
        if reading.is_none() {
            let mut connection = target::connect(&self.url).await?;
            target::limited(chunk::prepare(&mut connection)).await?;
            *reading = Some(Reading { connection, rows: FIRST_ROWS });
        }
        reading.as_mut().ok_or_else(|| Trouble::unreachable("the connection ended"))
    }

    /// The last key of all: what the table had when it was first looked at; `None` where it was empty.
    async fn end(
        &self,
        work: &Work,
        connection: &mut PgConnection,
        keyed: &Keyed,
    ) -> Result<Option<Vec<String>>, Trouble> {
        if let Some(end) = &work.end {
            return Ok(Some(end.clone()));
        }
        let key = target::limited(chunk::last_key(connection, keyed)).await;
        let Some(key) = key.map_err(|trouble| unread(trouble, keyed))? else { return Ok(None) };
        let end = texts(key)?;
        cdc_backfills::note_end(&self.pool, work, &keyed.relation.table.to_string(), &end)
            .await
            .map_err(Trouble::platform)?;
        Ok(Some(end))
    }

    async fn finish(&self, work: &Work) -> Result<(), Trouble> {
        tracing::info!(backfill = work.id, mapping = %work.mapping, "a backfill is done");
        cdc_backfills::finish(&self.pool, work, None).await.map_err(Trouble::platform)
    }

    async fn tell(&self, said: ToStream) -> Result<(), Trouble> {
        self.stream.send(said).await.map_err(|_| Trouble::unreachable("the stream has ended"))
    }
}

/// What keeps rows from being read; less than owning the table is enough for that.
fn unread(trouble: Trouble, keyed: &Keyed) -> Trouble {
    match trouble.code {
        "PRIVILEGE" => {
            let cure = format!("grant select on {} to {USER};", chunk::name(&keyed.relation.table));
            Trouble { cure, ..trouble }
        }
        _ => trouble,
    }
}

fn not_live() -> Trouble {
    Trouble::new(NOT_LIVE, "the mapping is not live yet", "see the mapping's state; it goes on by itself")
}

fn another_table(table: &str) -> Trouble {
    let message = format!("the mapping has been changed to look at {table}");
    Trouble::new("MAPPING_CHANGED", message, "ask for another backfill")
}

fn fits(definition: &shared_types::mapping::MappingDefinition, keyed: &Keyed) -> Result<(), Trouble> {
    let compiled = crate::evaluate::CompiledMapping::new(definition, &keyed.relation);
    match compiled.misfit(&keyed.relation) {
        Some(misfit) => Err(Trouble::new("MISFIT", misfit, "add the column, or change the mapping")),
        None => Ok(()),
    }
}

/// The key of a row.
fn key_of(keyed: &Keyed, row: &chunk::TextRow) -> Result<Vec<String>, Trouble> {
    texts(keyed.key.iter().map(|(place, _)| row.get(*place).cloned().flatten()).collect())
}

/// A key as texts. Key columns are never null.
fn texts(key: chunk::TextRow) -> Result<Vec<String>, Trouble> {
    let text = |bytes: Option<Box<[u8]>>| String::from_utf8(bytes?.into_vec()).ok();
    let key: Option<Vec<String>> = key.into_iter().map(text).collect();
    key.ok_or_else(|| Trouble::new("NO_KEY", "a key that is no text", "give the table another primary key"))
}
