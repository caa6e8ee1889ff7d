//! The log on Postgres behind it.
