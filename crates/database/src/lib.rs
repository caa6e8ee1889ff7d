//! PostgreSQL: the pool, the migrations, one file for each table, and the event log and the documents
//! on PostgreSQL.
//!
//! Owns every SQL statement of the platform. Knows no HTTP and no transport. Plain functions over an executor,
//! the scope first.

pub mod documents;
mod error;
pub mod event_log;
mod keyed;
pub mod leader;
pub mod migrate;
pub mod pool;
pub mod presence;
pub mod sealing;
pub mod tables;

pub use error::DatabaseError;
pub use pool::Pool;
