//! What a server says of itself, asked over a connection that never changes its server.

use crate::{
    connection::{self, Link, on, plain},
    error::RedisError,
    keys::Partition,
    scripts::INSTALL,
};
use fred::{
    bytes_utils::Str,
    clients::Client,
    interfaces::{ClientLike, ClusterInterface},
    types::{Value, config::Server},
};
use std::collections::HashMap;

/// The settings without which an acknowledged event can be lost: name, wanted value, and what happens otherwise.
pub const PERSISTENCE: [(&str, &str, &str); 4] = [
    ("appendonly", "yes", "nothing that is acknowledged is on disk"),
    ("appendfsync", "always", "a killed Redis loses up to 2 seconds of what it acknowledged"),
    ("no-appendfsync-on-rewrite", "no", "while the file is rewritten, what is acknowledged is not on disk"),
    ("maxmemory-policy", "noeviction", "under memory pressure events and documents are evicted"),
];

/// One node that takes writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Changes with every start.
    pub run_id: String,
    /// Changes when the node becomes a master.
    pub replication_id: String,
    /// Whether it was a replica since its start.
    pub is_promoted: bool,
    /// What of the settings can lose data; `None` where they cannot be read.
    pub weaknesses: Option<Vec<String>>,
    /// Bytes used, and bytes at most (0: without bound).
    pub memory: (u64, u64),
}

impl Node {
    /// The node as the witness keeps it.
    pub fn identity(&self) -> String {
        format!("{}:{}", self.run_id, self.replication_id)
    }
}

/// What a partition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its generation, where it has one.
    pub generation: Option<String>,
    /// Its last sequence.
    pub sequence: u64,
}

impl Held {
    fn read(meta: &str) -> Self {
        let mut words = meta.split(' ').map(str::to_owned);
        let generation = words.next();
        Self { generation, sequence: words.next().and_then(|word| word.parse().ok()).unwrap_or_default() }
    }
}

/// How long a server may take to say goodbye.
const CLOSE: std::time::Duration = std::time::Duration::from_millis(250);

/// A connection that ends with the server it was made to.
pub struct Fresh {
    client: Client,
    nodes: Vec<Option<Server>>,
}

impl Fresh {
    /// Connects anew.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn connect(link: &Link) -> Result<Self, RedisError> {
        let client = connection::once(&link.config).await?;
        let nodes = masters(&client);
        Ok(Self { client, nodes })
    }

    /// All nodes that take writes.
    ///
    /// # Errors
    /// Where one does not answer.
    pub async fn nodes(&self) -> Result<Vec<Node>, RedisError> {
        nodes(&self.client, &self.nodes).await
    }

    /// What all partitions hold.
    ///
    /// # Errors
    /// Where one does not answer.
    pub async fn held(&self) -> Result<Vec<Held>, RedisError> {
        let all = Partition::all().map(async |partition| {
            let meta: Option<String> =
                self.client.custom(on(partition, "GET"), vec![partition.meta()]).await?;
            Ok::<_, RedisError>(meta.map_or_else(Held::default, |meta| Held::read(&meta)))
        });
        futures::future::try_join_all(all).await
    }

    /// Gives every partition `generation`.
    ///
    /// # Errors
    /// Where one does not take it; others may have it then.
    pub async fn install(&self, generation: &str) -> Result<(), RedisError> {
        let all = Partition::all().map(async |partition| {
            let asked = [INSTALL, "1", &partition.meta(), generation].map(str::to_owned).to_vec();
            self.client.custom::<Value, _>(on(partition, "EVAL"), asked).await.map(|_| ())
        });
        futures::future::try_join_all(all).await?;
        Ok(())
    }

    /// Loads a script on all nodes; answers its name.
    ///
    /// # Errors
    /// Where one does not take it.
    pub async fn load(&self, text: &str) -> Result<Str, RedisError> {
        let mut name = Str::default();
        for node in &self.nodes {
            name = ask(&self.client, node.as_ref(), "SCRIPT", &["LOAD", text]).await?;
        }
        Ok(name)
    }

    /// Whether all nodes have RedisJSON, as far as they say.
    ///
    /// # Errors
    /// Where one does not answer.
    pub async fn has_json(&self) -> Result<bool, RedisError> {
        for node in &self.nodes {
            let found =
                ask::<Value>(&self.client, node.as_ref(), "COMMAND", &["INFO", "JSON.SET", "JSON.GET"]);
            let is_known = match found.await {
                Ok(Value::Array(commands)) => {
                    commands.len() == 2 && commands.iter().all(|command| !command.is_null())
                }
                Ok(_) => false,
                // The user may not ask: then it is done without.
                Err(RedisError::Internal(_)) => false,
                Err(error) => return Err(error),
            };
            if !is_known {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends the connection.
    pub async fn close(self) {
        let _ = tokio::time::timeout(CLOSE, self.client.quit()).await;
    }
}

/// The nodes that take writes; the one that there is where there is no cluster.
fn masters(client: &Client) -> Vec<Option<Server>> {
    match client.cached_cluster_state().filter(|_| client.is_clustered()) {
        Some(state) => state.unique_primary_nodes().into_iter().map(Some).collect(),
        None => vec![None],
    }
}

/// Asks the nodes of the process's own link.
///
/// # Errors
/// Where one does not answer.
pub async fn present(link: &Link) -> Result<Vec<Node>, RedisError> {
    nodes(&link.reads, &masters(&link.reads)).await
}

async fn nodes(client: &Client, servers: &[Option<Server>]) -> Result<Vec<Node>, RedisError> {
    let mut nodes =
        futures::future::try_join_all(servers.iter().map(|server| node(client, server.as_ref()))).await?;
    nodes.sort_by(|a, b| a.run_id.cmp(&b.run_id));
    Ok(nodes)
}

async fn node(client: &Client, server: Option<&Server>) -> Result<Node, RedisError> {
    let info: String = ask(client, server, "INFO", &["server", "replication", "memory"]).await?;
    let fields: HashMap<&str, &str> =
        info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    if field("role") != "master" {
        return Err(RedisError::Unavailable("the node takes no writes: it is a replica".to_owned()));
    }
    let number = |name: &str| field(name).parse().unwrap_or_default();
    Ok(Node {
        run_id: field("run_id").to_owned(),
        replication_id: field("master_replid").to_owned(),
        is_promoted: field("master_replid2").bytes().any(|byte| byte != b'0'),
        weaknesses: weaknesses(client, server).await,
        memory: (number("used_memory"), number("maxmemory")),
    })
}

/// What of the settings can lose data; `None` where `CONFIG` is not allowed, as on managed services.
async fn weaknesses(client: &Client, server: Option<&Server>) -> Option<Vec<String>> {
    let mut weak = Vec::new();
    for (name, wanted, otherwise) in PERSISTENCE {
        let found: HashMap<String, String> = ask(client, server, "CONFIG", &["GET", name]).await.ok()?;
        let found = found.get(name)?;
        if found != wanted {
            weak.push(format!("{name} is {found}: {otherwise}"));
        }
    }
    Some(weak)
}

async fn ask<T: fred::types::FromValue>(
    client: &Client,
    server: Option<&Server>,
    name: &'static str,
    arguments: &[&str],
) -> Result<T, RedisError> {
    let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect::<Vec<_>>();
    let answer = match server {
        Some(server) => client.with_cluster_node(server).custom(plain(name), arguments).await,
        None => client.custom(plain(name), arguments).await,
    };
    Ok(answer?)
}
