//! The port through which documents are kept, and what every implementation must do.
//!
//! Owns: the shape of documents, revisions and edits, the rules of their names, and the contract suite (module
//! `contract`, feature `contract`) that every implementation passes. Knows no database and no broker, and not what an
//! edit does to a document's data: that enters as a pure function.

mod archive;
mod document;
mod error;
mod names;
mod port;

#[cfg(feature = "contract")]
pub mod contract;

pub use archive::{Archived, DocumentArchive, Flushed, Unflushed};
pub use document::{Change, Document, DocumentEvent, DocumentKey, Revision, Write};
pub use error::StoreError;
pub use names::{DocumentId, ServiceName};
pub use port::{
    DocumentPage, DocumentQuery, DocumentStore, Durability, Edit, KEPT_REVISIONS, RevisionPage,
    RevisionQuery, ServiceKey,
};
