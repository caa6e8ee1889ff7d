//! One file for each table (or small group of tables): plain functions over a Postgres executor.
