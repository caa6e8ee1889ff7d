//! `realtime openapi`.

use crate::cli::OpenapiArgs;
use crate::exit::Outcome;
use crate::terminal;
use anyhow::Context;

/// Prints the description of the REST API, or writes it to a file.
pub fn run(args: &OpenapiArgs) -> Outcome {
    let text =
        serde_json::to_string_pretty(&backend::http::openapi()).context("cannot write the description")?;
    match &args.output {
        None => terminal::print(&text),
        Some(path) => {
            std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
            Ok(())
        }
    }
}
