//! The connections of a process: which server or cluster the URL names, directly or through Sentinels, and the clients
//! that reconnect by themselves.
//!
//! Owns clients and their tasks. Knows no keys. A command is sent once, and to one node: whether one that was on its way
//! when a connection broke took effect is for the caller to find out, and one that a cluster's node sent on is for the
//! caller to repeat.

use crate::{
    error::RedisError,
    keys::{Announcing, Partition},
    subscriptions::{self, Lapses},
};
use fred::{
    bytes_utils::Str,
    clients::Client,
    error::Error,
    interfaces::ClientLike,
    types::{
        Builder, ClusterHash, CustomCommand, RespVersion, Value,
        config::{Config, ReconnectPolicy, ServerConfig},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(5);
/// How long to wait between attempts to connect, in milliseconds.
const RETRY_MS: u32 = 100;
/// Messages that may wait between the library's reader and ours.
const MESSAGES: usize = 16_384;

/// The clients of one process.
pub struct Link {
    /// For appends: nothing slow goes this way.
    pub writes: Client,
    /// For everything else that is asked.
    pub reads: Client,
    /// For subscriptions only.
    pub subscriber: Client,
    /// Tells when the subscriber may be subscribed to nothing.
    pub lapses: Lapses,
    /// How live readers are reached.
    pub announcing: Announcing,
    /// What the clients were made from.
    pub config: Config,
    /// What keeps the clients connected; ends with the link.
    _tasks: JoinSet<()>,
}

/// Where the link appears once the server has been found.
pub type Links = watch::Receiver<Option<Arc<Link>>>;

/// Checks a URL without connecting.
///
/// # Errors
/// `Url`.
pub fn check_url(url: &str) -> Result<(), RedisError> {
    candidates(url).map(|_| ())
}

/// The link, waited for at most `patience`.
///
/// # Errors
/// `Unavailable`.
pub async fn linked(links: &Links, patience: Duration) -> Result<Arc<Link>, RedisError> {
    let mut links = links.clone();
    let found = tokio::time::timeout(patience, links.wait_for(Option::is_some)).await;
    match found {
        Ok(Ok(link)) => link.clone().ok_or_else(|| RedisError::Unavailable("not connected".to_owned())),
        _ => Err(RedisError::Unavailable("not connected".to_owned())),
    }
}

/// How long something is tried that may be done twice, before whoever waits for it is told that nobody answers.
const TRYING: Duration = Duration::from_secs(8);

/// Bounds the whole of what is tried several times.
///
/// # Errors
/// Those of the work, or `Unavailable`.
pub async fn bounded<T, E: From<RedisError>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let late = |_| Err(RedisError::Unavailable("no answer in time".to_owned()).into());
    tokio::time::timeout(TRYING, work).await.unwrap_or_else(late)
}

/// Finds the server, puts the link into `links`, and closes it after `stop` once all of `users` are gone.
pub async fn run(
    url: String,
    links: watch::Sender<Option<Arc<Link>>>,
    mut users: mpsc::Receiver<()>,
    stop: CancellationToken,
) {
    let mut said = false;
    loop {
        match open(&url).await {
            Ok(link) => {
                links.send_replace(Some(Arc::new(link)));
                break;
            }
            Err(error) if !said => {
                tracing::warn!(%error, "redis cannot be reached; trying on");
                said = true;
            }
            Err(error) => tracing::debug!(%error, "redis cannot be reached; trying on"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(u64::from(RETRY_MS))) => {}
        }
    }
    stop.cancelled().await;
    while users.recv().await.is_some() {}
    let link = links.send_replace(None);
    if let Some(link) = link {
        for client in [&link.writes, &link.reads, &link.subscriber] {
            let _ = tokio::time::timeout(CONNECT, client.quit()).await;
        }
    }
}

/// One configuration for each node that the URL names.
fn candidates(url: &str) -> Result<Vec<Config>, RedisError> {
    let all = Config::from_url_clustered(url)?;
    let first = if url.contains("-sentinel://") {
        Config::from_url_sentinel(url)?
    } else {
        Config::from_url_centralized(url)?
    };
    let others = all
        .server
        .hosts()
        .into_iter()
        .filter(|server| !first.server.hosts().contains(server))
        .map(|server| Config { server: ServerConfig::Centralized { server }, ..first.clone() });
    let others: Vec<Config> = if first.server.is_sentinel() { Vec::new() } else { others.collect() };
    Ok(std::iter::once(first.clone()).chain(others).collect())
}

async fn open(url: &str) -> Result<Link, RedisError> {
    let mut last = RedisError::Unavailable("no server is named".to_owned());
    for candidate in candidates(url)? {
        match ask_whether_cluster(&candidate).await {
            Ok(is_cluster) => {
                let config = if is_cluster { Config::from_url_clustered(url)? } else { candidate };
                return connect(config).await;
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask_whether_cluster(config: &Config) -> Result<bool, RedisError> {
    let client = once(config).await?;
    let info: String = client.custom(plain("INFO"), vec!["cluster"]).await?;
    let _ = client.quit().await;
    Ok(info.lines().any(|line| line.trim() == "cluster_enabled:1"))
}

/// A client that never reconnects: everything it is asked is asked of the server that it first met.
///
/// # Errors
/// `Unavailable`.
pub async fn once(config: &Config) -> Result<Client, RedisError> {
    let mut builder = builder(Config { fail_fast: true, ..config.clone() });
    // Appends wait for what it finds out; a server that dies meanwhile must not use up their patience.
    builder.with_performance_config(|performance| performance.default_command_timeout = CONNECT / 2);
    let client = builder.build()?;
    match tokio::time::timeout(CONNECT, client.init()).await {
        Ok(connected) => connected.map(|_| client).map_err(Into::into),
        Err(_) => Err(RedisError::Unavailable("no answer in time".to_owned())),
    }
}

async fn connect(config: Config) -> Result<Link, RedisError> {
    let config = Config { fail_fast: false, ..config };
    let announcing = if config.server.is_clustered() { Announcing::Sharded } else { Announcing::Plain };
    let mut builder = builder(config.clone());
    builder.set_policy(ReconnectPolicy::new_constant(0, RETRY_MS));
    let (writes, reads) = (builder.build()?, builder.build()?);
    // Under the newer protocol a subscribed connection still answers, which tells when a subscription holds.
    builder.with_config(|config| config.version = RespVersion::RESP3);
    let subscriber = builder.build()?;
    let mut tasks = JoinSet::new();
    let lapses = subscriptions::follow(&subscriber, &reads, announcing, &mut tasks);
    for client in [&writes, &reads, &subscriber] {
        // Called here, so that the client is connecting when it is waited for.
        let connecting = AbortOnDropHandle::new(client.connect());
        tasks.spawn(keep(client.clone(), connecting));
    }
    let link = Link { writes, reads, subscriber, lapses, announcing, config, _tasks: tasks };
    for client in [&link.writes, &link.reads, &link.subscriber] {
        tokio::time::timeout(CONNECT, client.wait_for_connect())
            .await
            .map_err(|_| RedisError::Unavailable("no answer in time".to_owned()))??;
    }
    Ok(link)
}

/// Keeps a client connected until it is told to quit. Its task reconnects by itself, but ends with an error that it does
/// not expect, and whatever it is asked would wait in vain from then on.
async fn keep(client: Client, mut connecting: AbortOnDropHandle<Result<(), Error>>) {
    loop {
        match connecting.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::warn!(%error, "a connection to redis ended; connecting anew"),
            Err(error) => tracing::error!(%error, "a connection to redis ended; connecting anew"),
        }
        tokio::time::sleep(Duration::from_millis(u64::from(RETRY_MS))).await;
        connecting = AbortOnDropHandle::new(client.connect());
    }
}

fn builder(config: Config) -> Builder {
    let mut builder = Builder::from_config(config);
    builder
        .with_connection_config(|connection| {
            connection.connection_timeout = CONNECT;
            connection.internal_command_timeout = CONNECT;
            connection.max_command_attempts = 1;
            // The library would follow `ASK` by taking another command's answer for that of `ASKING`, or end for good. A
            // command that was sent on is answered with an error; `MOVED` makes it look at the slots first.
            connection.max_redirections = 0;
            connection.tcp.nodelay = Some(true);
            connection.unresponsive.max_timeout = Some(COMMAND * 2);
        })
        .with_performance_config(|performance| {
            performance.default_command_timeout = COMMAND;
            performance.broadcast_channel_capacity = MESSAGES;
        });
    builder
}

/// A command that has no key.
pub fn plain(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, ClusterHash::Random, false)
}

/// A command whose first argument is its key.
pub fn on_key(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, ClusterHash::FirstKey, false)
}

/// A command on keys of a partition.
pub fn on(partition: Partition, name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, partition.slot(), false)
}

/// Runs a script that is loaded.
///
/// The library's own call waits for each answer before it sends the next; this one does not.
///
/// # Errors
/// `UnknownScript`, `Unavailable`, or `Internal`.
pub async fn run_script(
    client: &Client,
    script: &Str,
    partition: Partition,
    keys: Vec<String>,
    arguments: Vec<Value>,
) -> Result<Value, RedisError> {
    let mut all = Vec::with_capacity(2 + keys.len() + arguments.len());
    all.push(Value::String(script.clone()));
    all.push(Value::Integer(keys.len() as i64));
    all.extend(keys.into_iter().map(Value::from));
    all.extend(arguments);
    Ok(client.custom(on(partition, "EVALSHA"), all).await?)
}
