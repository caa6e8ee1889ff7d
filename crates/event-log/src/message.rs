//! What crosses instances without being kept: channel messages, presence, and what is said to one connection.

use crate::TopicKey;
use std::sync::Arc;

/// A message without position and history: it reaches whoever follows its key now, and nobody later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it is said.
    pub key: TopicKey,
    /// What is said, as JSON text.
    pub body: Arc<str>,
}
