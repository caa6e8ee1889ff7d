//! The reference of documents on Redis: the platform's HTTP server around a handler that only runs one
//! script, which issues the same Redis commands as the platform's for a write.
//!
//! No tokens, scopes, limits, validation, no JSON, no merge and no diff: what is stored is ready-made; no
//! flush. Whatever the platform does beyond this is its overhead. It runs as a process
//! of its own, started from this program.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{patch, post};
use axum::serve::ListenerExt as _;
use fred::bytes_utils::Str;
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::Config;
use fred::types::{Builder, ClusterHash, CustomCommand, Value};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::child::{self, Process};

const START_LIMIT: Duration = Duration::from_secs(30);
const SCRIPT: &str = include_str!("bare.lua");
/// Bytes of a document's data, of what is remembered of a revision, and of an event: as the platform's are
/// for documents of 1 KiB of which a merge changes one member.
const SIZES: [usize; 3] = [1024, 570, 1600];
/// How many of each are made.
const READY: u64 = 1024;
/// Records that a document's unflushed revisions hold at most; the platform's are flushed after a moment.
const RECORDS: u64 = 8;
/// As they are stored.
const POSITION: &str = "0123456789abcdef0123:100000";
const HEAD: &str = "01234567 100 1790000000000 1790000000000 - 0";

/// Where its Redis is.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// `redis://…`
    #[arg(long)]
    redis_url: String,
}

/// The server as a process. Dropping it ends it.
pub struct Server {
    process: Process,
    address: String,
}

impl Server {
    /// Starts it over this Redis.
    ///
    /// # Errors
    /// It does not start in time.
    pub async fn start(redis_url: &str) -> Result<Self> {
        let mut command = child::command(std::env::current_exe()?);
        command.args(["bare-documents", "--redis-url", redis_url]);
        let mut process = Process::start("the bare document server", command, Duration::ZERO)?;
        let ready = process.ready_line(START_LIMIT).await?;
        let port = ready["port"].as_u64().context("the ready line says its port")?;
        Ok(Self { process, address: format!("127.0.0.1:{port}") })
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.process.pid()
    }
}

#[derive(Clone)]
struct App {
    redis: Arc<Client>,
    script: Str,
    /// Each time others, as real ones are: of the same text the server's Lua would keep one copy only.
    ready: Arc<[[Str; 3]]>,
    written: Arc<AtomicU64>,
}

/// Serves until standard input closes. Prints one line `{"port":…}` once it listens.
///
/// # Errors
/// Redis is not there, or the port cannot be bound.
pub async fn serve(arguments: &Arguments) -> Result<()> {
    let mut builder = Builder::from_config(Config::from_url(&arguments.redis_url)?);
    builder.with_connection_config(|connection| connection.tcp.nodelay = Some(true));
    let redis = Arc::new(builder.build()?);
    redis.init().await.context("cannot connect to redis")?;
    let script = redis.custom(command("SCRIPT"), vec!["LOAD", SCRIPT]).await?;
    let ready = (0..READY).map(|number| SIZES.map(|size| Str::from(format!("{number:-<size$}")))).collect();
    let app = App { redis, script, ready, written: Arc::default() };
    let routes = Router::new()
        .route("/api/sync/{service}/documents", post(write_new))
        .route("/api/sync/{service}/documents/{id}/merge", patch(write))
        .with_state(app);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", serde_json::json!({ "port": listener.local_addr()?.port() }));
    let listener = listener.tap_io(|socket| {
        // Without it the measurement shows.
        let _ = socket.set_nodelay(true);
    });
    axum::serve(listener, routes).with_graceful_shutdown(until_closed()).await?;
    Ok(())
}

async fn until_closed() {
    let (mut stdin, mut ignored) = (tokio::io::stdin(), [0; 64]);
    while stdin.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}

fn command(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, ClusterHash::Random, false)
}

async fn write_new(state: State<App>, Path(service): Path<String>, body: Bytes) -> Response {
    let id = body.get(7..).and_then(|rest| rest.split(|byte| *byte == b'"').next()).unwrap_or_default();
    let id = String::from_utf8_lossy(id).into_owned();
    write(state, Path((service, id)), body).await
}

/// The body is read, as it is by whoever merges it.
async fn write(State(app): State<App>, Path((service, id)): Path<(String, String)>, _: Bytes) -> Response {
    match run(&app, &service, &id).await {
        Ok(document) => ([(header::CONTENT_TYPE, "application/json")], document).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn run(app: &App, service: &str, id: &str) -> Result<Bytes> {
    let number = app.written.fetch_add(1, Ordering::Relaxed);
    let [data, record, event] = &app.ready[number as usize % app.ready.len()];
    let (partition, scope) = (format!("realtime:{{{service}}}"), "app_default:development");
    let keys = [
        format!("{partition}:meta"),
        format!("{partition}:side-effects"),
        format!("{partition}:writer:bench"),
        format!("{partition}:unflushed"),
        format!("{partition}:head:{scope}:sync.{service}.updated"),
        format!("{partition}:history:{scope}:sync.{service}.updated"),
        format!("syncdoc:{{{service}}}:data:{scope}:{service}:{id}"),
        format!("syncdoc:{{{service}}}:unflushed:{scope}:{service}:{id}"),
    ];
    let mut words: Vec<Value> = vec![app.script.clone().into(), Value::Integer(keys.len() as i64)];
    words.extend(keys.into_iter().map(Value::from));
    words.extend([POSITION, HEAD].map(Value::from));
    words.push(Value::String(data.clone()));
    words.push(Value::from((number % RECORDS).to_string()));
    words.extend([record, event].map(|text| Value::String(text.clone())));
    words.push(format!("realtime:event:{scope}:sync.{service}.updated").into());
    words.push(format!("app_default\ndevelopment\n{service}\n{id}").into());
    words.push(Value::Integer(1_790_000_000_000));
    Ok(app.redis.custom(command("EVALSHA"), words).await?)
}
