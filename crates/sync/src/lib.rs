//! Documents: what the operations on them mean, and the service that carries them out.
//!
//! Owns: merge, mutations, the diff and its reverse (all pure, over JSON text), what each write makes of a document,
//! its revision and its event, and the sweep that deletes documents on time. Knows no database, no broker and no
//! HTTP: requests enter by [`Documents`], and leave through the [`document_store::DocumentStore`] it was given.

mod compare;
mod documents;
mod edit;
mod expiry;
mod merge;
mod mutate;
mod node;
mod operate;
mod pointer;

pub use compare::{Comparison, compare};
pub use documents::{Documents, DocumentsSettings, NewDocument, WriteOptions};
pub use merge::merge;
pub use mutate::{MAX_OPERATIONS, Mutations};
