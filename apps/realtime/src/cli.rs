//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0   it worked
  1   it did not
  2   the arguments cannot be understood
  69  a server that is needed does not answer
  77  not signed in, or without the right
  78  bad configuration
  130 `realtime dev` was killed by a second Ctrl-C

In a folder with a running `realtime dev`, URL and token are found by themselves.";

/// The realtime platform: from a row in PostgreSQL to a page, live.
#[derive(Debug, Parser)]
#[command(name = "realtime", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where and as whom.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which server, and as whom.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// The server [default: that of a running `realtime dev`, else http://localhost:3000]
    #[arg(long, global = true, env = "REALTIME_URL", value_name = "URL")]
    pub url: Option<url::Url>,
    /// A token or an API key [default: the token of a running `realtime dev`]
    #[arg(long, global = true, env = "REALTIME_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Print data as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process, with a PostgreSQL of its own
    Dev(DevArgs),
    /// Look after the platform's database schema
    #[command(subcommand)]
    Migrate(MigrateCommand),
    /// Get a token for a client
    Token(TokenArgs),
    /// Publish an event to a topic
    Publish(PublishArgs),
    /// Follow a topic's events
    Tail(TailArgs),
    /// Check this machine, the databases and Redis, and say what to mend
    Doctor,
    /// Make the outbox in a database
    #[command(subcommand)]
    Outbox(OutboxCommand),
    /// Look after change data capture
    #[command(subcommand)]
    Cdc(CdcCommand),
    /// Print the description of the REST API (OpenAPI, JSON)
    Openapi(OpenapiArgs),
}

/// Runs backend and workers in one process, on a PostgreSQL of its own below `.realtime/`.
///
/// Data survives restarts; Ctrl-C stops everything. The first start prints a token and what to try. Of the
/// environment and `.env`, the database and Redis variables are not used here: `--database-url` and
/// `--redis-url` say it. CDC_DATABASE_URL is.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  realtime dev
  realtime dev --demo
  realtime dev --port 4000 --data-dir /tmp/try
  realtime dev --database-url postgresql://me:secret@localhost/realtime
  realtime dev --json | jq -r .url")]
pub struct DevArgs {
    /// Port to listen on [default: PORT, else 3000]
    #[arg(long)]
    pub port: Option<u16>,
    /// Where data, secrets and the lock are kept
    #[arg(long, default_value = ".realtime", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Let the example shop take orders
    #[arg(long)]
    pub demo: bool,
    /// Your PostgreSQL for the platform, in place of the private one
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Your Redis
    #[arg(long, value_name = "URL")]
    pub redis_url: Option<String>,
}

/// What to do with the schema. The database is the one that DATABASE_URL names in the environment, else that of a
/// running `realtime dev`, else the configured one.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  realtime migrate status
  DATABASE_URL=postgresql://… realtime migrate latest
  realtime migrate make add_colour_to_topics")]
pub enum MigrateCommand {
    /// Apply what is pending
    Latest,
    /// List the migrations and which are applied
    Status,
    /// Revert the last batch
    Rollback,
    /// Write an empty pair of files into `migrations/`
    Make {
        /// Lower-case words joined by underscores
        name: String,
    },
}

/// What to do with the outbox of a database. `--url` is that of the database.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  realtime outbox install --url postgresql://me:secret@db.example:5432/shop
  realtime outbox install --print > migrations/0042_event_outbox.sql")]
pub enum OutboxCommand {
    /// Make the table, its indexes and its trigger, or bring them up to date
    ///
    /// The database is that of --url, else the one that a running `realtime dev` follows.
    Install {
        /// Only print the statements
        #[arg(long)]
        print: bool,
    },
}

/// Asks the server for a token and prints it, alone.
///
/// A running `realtime dev` gives one to everybody on its machine; other servers want an API key, or a token
/// that may issue tokens.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  realtime token
  realtime token --sub user_42 --permissions client,publish --ttl 600
  realtime token --url https://realtime.example.com --api-key rk_…
  TOKEN=$(realtime token)")]
pub struct TokenArgs {
    /// The application
    #[arg(long, default_value = "app_default", value_name = "ID")]
    pub app: String,
    /// The environment: development, staging or production [default: the caller's]
    #[arg(long, value_name = "ENVIRONMENT")]
    pub env: Option<String>,
    /// Whom the token is for
    #[arg(long)]
    pub sub: Option<String>,
    /// Roles and verbs, separated by commas [default: client]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub permissions: Vec<String>,
    /// Seconds until it expires, at most 86400 [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    pub ttl: Option<u64>,
    /// Names that the verbs are narrowed to, as JSON: {"order.*":["subscribe"]}
    #[arg(long, value_name = "JSON")]
    pub capabilities: Option<String>,
    /// The API key to ask with
    #[arg(long, env = "REALTIME_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,
}

/// Publishes an event and prints its id and position.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  realtime publish chat.lobby '{\"text\":\"hello\"}'
  realtime publish order.updated '{\"orderId\":1}' --type order.note --id note-1
  echo '{\"text\":\"hello\"}' | realtime publish chat.lobby -")]
pub struct PublishArgs {
    /// The topic
    pub topic: String,
    /// The payload, a JSON object; - reads it from standard input
    pub payload: String,
    /// The event's type [default: message]
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// The event's id: the same id is published once a topic
    #[arg(long)]
    pub id: Option<String>,
}

/// How much of documents' events is wanted.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ReturnMode {
    /// The document
    Full,
    /// What changed
    Diff,
    /// Both
    Both,
}

/// Prints a topic's events, one a line: time, topic, type, payload.
///
/// After a lost connection it goes on where it was; where events were lost for good, it says so on standard error.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  realtime tail order.updated
  realtime tail order.updated --filter '{\"status\":\"paid\"}'
  realtime tail order.updated --json --count 1 --timeout 10 | jq .payload
  realtime tail order.updated --since 0193…:41")]
pub struct TailArgs {
    /// The topic
    pub topic: String,
    /// Fields of the payload that must hold, as JSON
    #[arg(long, value_name = "JSON")]
    pub filter: Option<String>,
    /// Begin after this position, as printed by publish --json and in metadata
    #[arg(long, value_name = "EPOCH:OFFSET")]
    pub since: Option<String>,
    /// What events of documents carry
    #[arg(long, value_enum)]
    pub return_mode: Option<ReturnMode>,
    /// End after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this many seconds; with --count, exit code 1 if there were fewer
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
}

/// How change data capture stands for the token's application and environment. The token must be one of an admin.
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  realtime cdc check
  realtime cdc status --json | jq .lagBytes
  realtime cdc backfill map_… --wait")]
pub enum CdcCommand {
    /// Look at everything that would keep the target from being read, and say what mends it
    ///
    /// Changes nothing. Ends with 1 where anything has to be mended.
    Check,
    /// Print how its reader stands: state, lag, position, rates, mappings
    Status,
    /// Send the existing rows of a mapping's table as events
    Backfill {
        /// The mapping's id
        mapping: String,
        /// Wait until it has ended, saying how far it is
        #[arg(long)]
        wait: bool,
    },
}

/// Prints the description of the REST API.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  realtime openapi | jq .paths
  realtime openapi --output docs/openapi.json")]
pub struct OpenapiArgs {
    /// Write it to this file
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
