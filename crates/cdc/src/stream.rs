//! The replication connection: opened, read, confirmed.

use crate::{
    target::{CONNECT_TIMEOUT, Names, STATEMENT_TIMEOUT, TargetUrl, quoted},
    trouble::Trouble,
};
use bytes::{Buf, Bytes};
use futures::FutureExt;
use outbound::postgres::Tunnel;
use pg_walstream::{PgReplicationConnection, ReplicationError};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Makes the text of values the same whatever the database's settings.
pub(crate) const SESSION: [&str; 6] = [
    "set datestyle = 'ISO, YMD'",
    "set timezone = 'UTC'",
    "set intervalstyle = 'iso_8601'",
    "set extra_float_digits = 1",
    "set bytea_output = 'hex'",
    "set xmloption = 'content'",
];

/// What the server sends.
pub(crate) enum Frame {
    /// A message of the output plugin.
    Message {
        /// The message.
        bytes: Bytes,
        /// The end of the server's log when it was sent.
        wal_end: u64,
    },
    /// A sign of life: everything before `wal_end` has been sent.
    Keepalive {
        /// Up to where the server has read its log.
        wal_end: u64,
        /// It wants an answer now.
        reply: bool,
    },
}

/// A running replication stream.
pub(crate) struct ReplicationStream {
    connection: PgReplicationConnection,
    /// The way that it takes.
    _tunnel: Option<Tunnel>,
    never: CancellationToken,
    received: u64,
    /// The cluster's system identifier.
    pub system: String,
    /// Its timeline.
    pub timeline: String,
}

/// A stream that is being opened. The client's commands block, so that this happens on a thread of its own, which
/// dropping this cannot end: it only keeps the thread from taking the slot if it has not yet.
pub(crate) struct Opening {
    task: JoinHandle<Result<ReplicationStream, Trouble>>,
    given_up: Arc<AtomicBool>,
}

impl Opening {
    /// Connects and begins to read the slot where it was confirmed last.
    pub fn begin(url: &TargetUrl, names: &Names) -> Self {
        let (url, names) = (url.clone(), names.clone());
        let given_up = Arc::new(AtomicBool::new(false));
        let stop = given_up.clone();
        // A server that is gone ends its commands by the socket's own timeouts.
        Self { task: tokio::spawn(open(url, names, stop)), given_up }
    }

    /// Waits until it reads.
    ///
    /// # Errors
    /// The trouble that keeps it from it.
    pub async fn stream(&mut self) -> Result<ReplicationStream, Trouble> {
        match tokio::time::timeout(CONNECT_TIMEOUT + STATEMENT_TIMEOUT, &mut self.task).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) | Err(_) => Err(Trouble::unreachable("no answer in time")),
        }
    }

    /// Gives it up, and waits a while until it has let go of the slot.
    pub async fn abandon(mut self, patience: Duration) {
        self.given_up.store(true, Ordering::Relaxed);
        // What it opened meanwhile closes as it is dropped.
        let _ = tokio::time::timeout(patience, &mut self.task).await;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

impl ReplicationStream {
    /// The next frame. Nothing is lost where the future is dropped.
    ///
    /// # Errors
    /// The trouble that ended the stream.
    pub async fn next(&mut self) -> Result<Frame, Trouble> {
        loop {
            let read = self.connection.get_copy_data_async(&self.never).await;
            let mut bytes = read.map_err(|error| Trouble::of_stream(&error))?;
            match (bytes.first(), bytes.len()) {
                (Some(b'w'), 25..) => {
                    bytes.advance(1);
                    let start = bytes.get_u64();
                    let wal_end = bytes.get_u64();
                    bytes.advance(8);
                    self.received = self.received.max(start).max(wal_end);
                    return Ok(Frame::Message { bytes, wal_end });
                }
                (Some(b'k'), 18..) => {
                    bytes.advance(1);
                    let wal_end = bytes.get_u64();
                    bytes.advance(8);
                    self.received = self.received.max(wal_end);
                    return Ok(Frame::Keepalive { wal_end, reply: bytes.get_u8() == 1 });
                }
                _ => {}
            }
        }
    }

    /// The next frame where it is here already.
    ///
    /// # Errors
    /// As [`ReplicationStream::next`].
    pub fn next_now(&mut self) -> Option<Result<Frame, Trouble>> {
        self.next().now_or_never()
    }

    /// Tells the server that everything before `lsn` is done, and that this side lives.
    ///
    /// # Errors
    /// The trouble that ended the stream.
    pub async fn confirm(&mut self, lsn: u64) -> Result<(), Trouble> {
        let told = self.connection.send_standby_status_update(self.received.max(lsn), lsn, lsn, false);
        match tokio::time::timeout(STATEMENT_TIMEOUT, told).await {
            Ok(sent) => sent.map_err(|error| Trouble::of_stream(&error)),
            Err(_) => Err(Trouble::unreachable("it takes no answers")),
        }
    }
}

async fn open(url: TargetUrl, names: Names, given_up: Arc<AtomicBool>) -> Result<ReplicationStream, Trouble> {
    let tunnel = url.tunnel().await.map_err(|error| Trouble::outbound(&error))?;
    let port = tunnel.as_ref().map(Tunnel::port);
    let begun = tokio::task::spawn_blocking(move || begin(&url, &names, &given_up, port)).await;
    match begun {
        Ok(Ok(stream)) => Ok(ReplicationStream { _tunnel: tunnel, ..stream }),
        Ok(Err(error)) => Err(Trouble::through(tunnel.as_ref(), Trouble::of_stream(&error))),
        Err(_) => Err(Trouble::unreachable("no answer in time")),
    }
}

fn begin(
    url: &TargetUrl,
    names: &Names,
    given_up: &AtomicBool,
    tunnel: Option<u16>,
) -> Result<ReplicationStream, ReplicationError> {
    let mut connection = url.connect_replication(CONNECT_TIMEOUT, tunnel)?;
    for setting in SESSION {
        connection.exec(setting)?;
    }
    let identity = connection.identify_system()?;
    let system = identity.get_value(0, 0).unwrap_or_default();
    let timeline = identity.get_value(0, 1).unwrap_or_default();
    let publication = quoted(&names.publication);
    // Messages are how a backfill's watermarks come.
    let options = [("proto_version", "1"), ("publication_names", publication.as_str()), ("messages", "true")];
    if given_up.load(Ordering::Relaxed) {
        return Err(ReplicationError::Cancelled("it was given up".to_owned()));
    }
    connection.start_replication(&names.slot, 0, &options)?;
    let never = CancellationToken::new();
    Ok(ReplicationStream { connection, _tunnel: None, never, received: 0, system, timeline })
}
