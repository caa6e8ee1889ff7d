//! The replication connection: opened, read, confirmed.

use crate::{
    target::{CONNECT_TIMEOUT, Names, STATEMENT_TIMEOUT, TargetUrl, quoted},
    trouble::Trouble,
};
use bytes::{Buf, Bytes};
use futures::FutureExt;
use pg_walstream::{PgReplicationConnection, ReplicationError};
use tokio_util::sync::CancellationToken;

/// Makes the text of values the same whatever the database's settings.
const SESSION: [&str; 6] = [
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
    never: CancellationToken,
    received: u64,
    /// The cluster's system identifier.
    pub system: String,
    /// Its timeline.
    pub timeline: String,
}

impl ReplicationStream {
    /// Connects and begins to read the slot where it was confirmed last.
    ///
    /// # Errors
    /// The trouble that keeps it from it.
    pub async fn open(url: &TargetUrl, names: &Names) -> Result<Self, Trouble> {
        let (url, names) = (url.clone(), names.clone());
        // The client's commands block; a server that is gone ends them by the socket's own timeouts.
        let opening = tokio::task::spawn_blocking(move || begin(&url, &names));
        match tokio::time::timeout(CONNECT_TIMEOUT + STATEMENT_TIMEOUT, opening).await {
            Ok(Ok(opened)) => opened.map_err(|error| Trouble::of_stream(&error)),
            Ok(Err(_)) | Err(_) => Err(Trouble::unreachable("no answer in time")),
        }
    }

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

fn begin(url: &TargetUrl, names: &Names) -> Result<ReplicationStream, ReplicationError> {
    let mut connection = url.connect_replication(CONNECT_TIMEOUT)?;
    for setting in SESSION {
        connection.exec(setting)?;
    }
    let identity = connection.identify_system()?;
    let system = identity.get_value(0, 0).unwrap_or_default();
    let timeline = identity.get_value(0, 1).unwrap_or_default();
    let publication = quoted(&names.publication);
    let options = [("proto_version", "1"), ("publication_names", publication.as_str())];
    connection.start_replication(&names.slot, 0, &options)?;
    Ok(ReplicationStream { connection, never: CancellationToken::new(), received: 0, system, timeline })
}
