//! One module for each command that is small.

mod cdc;
mod migrate;
mod openapi;
mod outbox;
mod publish;
mod tail;
mod token;

use crate::cli::{Cli, Command};
use crate::exit::{Code, Failure, Outcome};
use crate::{dev, doctor};
use serde_json::Value;

/// Runs what the command line says.
///
/// # Errors
/// How it failed, with the exit code.
pub async fn run(cli: Cli) -> Outcome {
    let server = &cli.server;
    match cli.command {
        Command::Dev(args) => dev::run(args, server.json).await,
        Command::Migrate(command) => migrate::run(&command, server.json).await,
        Command::Token(args) => token::run(args, server).await,
        Command::Publish(args) => publish::run(args, server).await,
        Command::Tail(args) => tail::run(args, server).await,
        Command::Doctor => doctor::run(server).await,
        Command::Cdc(command) => cdc::run(command, server).await,
        Command::Outbox(command) => outbox::run(&command, server).await,
        Command::Openapi(args) => openapi::run(&args),
    }
}

/// Reads an argument that must be a JSON object.
fn json_object(name: &str, text: &str) -> Outcome<Value> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Failure::new(Code::Usage, format!("{name} must be a JSON object"))),
        Err(error) => Err(Failure::new(Code::Usage, format!("{name} is no JSON: {error}"))),
    }
}
