//! The platform's configuration.
//!
//! Owns every environment variable that the platform reads: its name, rule, default and description
//! ([`variables`]), from which parsing, `.env.example` and `docs/configuration.md` all come. It must not
//! know what the values are used for, and opens no connection. Data enters as environment variables and
//! a `.env` file and leaves as one typed [`Config`], or as [`ConfigErrors`] that names every problem.

mod config;
mod document;
mod networks;
mod problem;
mod read;
mod secret;
mod source;
pub mod variables;

pub use config::{
    CdcConfig, Config, CorsOrigins, Environment, EventLogConfig, Limits, LogLevel, PostgresConfig,
    RedisConfig, SyncWriteMode,
};
pub use document::{configuration_markdown, env_example};
pub use networks::Networks;
pub use problem::{ConfigErrors, Problem};
pub use secret::{Secret, SecretKey};
pub use source::{Vars, process_vars};

/// The exit code of a program that was configured badly (`EX_CONFIG` of sysexits.h).
pub const EXIT_CODE: u8 = 78;
