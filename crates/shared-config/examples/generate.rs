//! Writes `.env.example` and `docs/configuration.md`; with `--check` only says whether they are fresh.

use std::path::Path;
use std::process::ExitCode;

fn main() -> std::io::Result<ExitCode> {
    let check = std::env::args().any(|argument| argument == "--check");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let files = [
        (".env.example", shared_config::env_example()),
        ("docs/configuration.md", shared_config::configuration_markdown()),
    ];
    let mut stale = false;
    for (name, text) in files {
        let path = root.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|committed| committed == text) {
            continue;
        }
        if check {
            stale = true;
            eprintln!("{name} is stale: run `cargo run -p shared-config --example generate`");
        } else {
            std::fs::create_dir_all(path.parent().unwrap_or(&root))?;
            std::fs::write(&path, text)?;
            println!("wrote {name}");
        }
    }
    Ok(if stale { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
