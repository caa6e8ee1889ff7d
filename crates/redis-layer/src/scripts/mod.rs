//! The scripts that run on the server, and their load under a generation.
//!
//! A script's text ends with the generation for which it was loaded. A server forgets its scripts when it is started
//! anew, and a replica that becomes a master never had them: whoever runs one of these scripts therefore runs it on
//! a server that was looked at for that generation, or is told that it is not known.

use crate::{error::RedisError, generation::Fresh};
use fred::bytes_utils::Str;

/// The names by which the server knows the scripts.
#[derive(Clone, Debug)]
pub struct Scripts {
    /// Appends a batch of which nothing is to be recognized.
    pub append: Str,
    /// Appends a batch of which repeats are to be recognized.
    pub append_marked: Str,
    /// Reads heads.
    pub heads: Str,
    /// Bounds a history.
    pub trim: Str,
    /// Removes what all groups have read.
    pub sweep: Str,
    /// Names a group.
    pub open_group: Str,
    /// Reads a group's next entries.
    pub read_group: Str,
    /// Moves a group's place.
    pub acknowledge: Str,
    /// What documents need.
    pub documents: DocumentScripts,
}

/// How a document's value stands on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// A hash of texts.
    Plain,
    /// A value of RedisJSON.
    Json,
}

/// The scripts of documents, for servers that all have RedisJSON or for any others.
#[derive(Clone, Debug)]
pub struct DocumentScripts {
    /// How values stand.
    pub encoding: Encoding,
    /// Writes and looks at documents.
    pub write: Str,
    /// Reads a document.
    pub read: Str,
    /// Reads documents with their unflushed revisions.
    pub unflushed: Str,
    /// Forgets what was flushed.
    pub flushed: Str,
    /// Forgets documents of tenants that are gone.
    pub gone: Str,
    /// Says what waits to be flushed.
    pub waiting: Str,
}

/// Leases, which belong to no generation; sent with each call.
pub mod leases {
    /// Claims one that nobody holds.
    pub const CLAIM: &str = include_str!("lease_claim.lua");
    /// Makes a claim the lease.
    pub const HOLD: &str = include_str!("lease_hold.lua");
    /// Renews one.
    pub const RENEW: &str = include_str!("lease_renew.lua");
    /// Drops one.
    pub const DROP: &str = include_str!("lease_drop.lua");
}

/// Gives a partition a generation; run once, not kept.
pub const INSTALL: &str = include_str!("install.lua");

impl Scripts {
    /// Loads all scripts for `generation` on every node that `server` reaches.
    ///
    /// # Errors
    /// Where a node does not take one.
    pub async fn load(server: &Fresh, generation: &str) -> Result<Self, RedisError> {
        let load = async |text: &str| server.load(&format!("{text}-- {generation}\n")).await;
        let encoding = if server.has_json().await? { Encoding::Json } else { Encoding::Plain };
        let stands = match encoding {
            Encoding::Plain => include_str!("document_plain.lua"),
            Encoding::Json => include_str!("document_json.lua"),
        };
        let on_documents = async |text: &str| load(&format!("{stands}{text}")).await;
        Ok(Self {
            append: load(include_str!("append.lua")).await?,
            append_marked: load(include_str!("append_marked.lua")).await?,
            heads: load(include_str!("heads.lua")).await?,
            trim: load(include_str!("trim.lua")).await?,
            sweep: load(include_str!("sweep.lua")).await?,
            open_group: load(include_str!("open_group.lua")).await?,
            read_group: load(include_str!("read_group.lua")).await?,
            acknowledge: load(include_str!("acknowledge.lua")).await?,
            documents: DocumentScripts {
                encoding,
                write: on_documents(include_str!("documents.lua")).await?,
                read: on_documents(include_str!("document.lua")).await?,
                unflushed: on_documents(include_str!("unflushed.lua")).await?,
                flushed: load(include_str!("flushed.lua")).await?,
                gone: load(include_str!("gone.lua")).await?,
                waiting: load(include_str!("waiting.lua")).await?,
            },
        })
    }
}
