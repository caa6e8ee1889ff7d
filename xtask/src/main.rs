//! `cargo xtask`: everything that is done to the workspace rather than by it.
//!
//! Owns the order of builds, checks and test runners. It must not know what the parts do, and depends on
//! none of them, so that it compiles in seconds on a machine with nothing built.

mod bench;
mod check;
mod counts;
mod dev;
mod graph;
mod groups;
mod node;
mod openapi;
mod redisjson;
mod step;
mod system;
mod test;
mod unused;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use workspace::Workspace;

/// Tasks of the realtime platform's workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build what is missing and run the whole platform: `realtime dev` with the given arguments
    Dev {
        /// Arguments of `realtime dev`; see `cargo xtask dev -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run every test: Rust, SDK, end to end
    Test,
    /// Check formatting, lints, documentation, dependencies and generated files
    Check,
    /// Print the graph of our crates; fails if one uses what is not below it
    Graph,
    /// Measure everything on release builds and write the tables of docs/benchmarks.md
    Bench {
        /// Arguments of `bench all`; see `cargo xtask bench -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Kill backends, workers, Redis and PostgreSQL in turn under load, and account for everything
    Drill {
        /// `--debug-build`, and arguments of `bench drill`; see `cargo xtask drill -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Write docs/openapi.json from the server's own description
    Openapi,
}

fn main() -> ExitCode {
    groups::end_on_signals();
    let arguments = Arguments::parse();
    let done = Workspace::open().and_then(|workspace| match arguments.task {
        Task::Dev { arguments } => dev::run(&workspace, &arguments),
        Task::Test => test::run(&workspace),
        Task::Check => check::run(&workspace),
        Task::Graph => graph::run(&workspace),
        Task::Bench { arguments } => bench::run(&workspace, &arguments),
        Task::Drill { arguments } => bench::drill(&workspace, &arguments),
        Task::Openapi => openapi::run(&workspace),
    });
    groups::end_all();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
