//! The database's parts on a real Postgres.

mod migrations;
