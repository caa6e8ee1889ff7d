//! The generated files and the `.env` file.

use std::path::{Path, PathBuf};
use std::process::Command;

use shared_config::variables::VARIABLES;
use shared_config::{Config, configuration_markdown, env_example, process_vars};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn committed_files_are_fresh() {
    for (name, text) in [(".env.example", env_example()), ("docs/configuration.md", configuration_markdown())]
    {
        let committed = std::fs::read_to_string(root().join(name)).unwrap();
        assert_eq!(committed, text, "{name}: run `cargo run -p shared-config --example generate`");
    }
}

#[test]
fn every_variable_is_in_both_files_once() {
    let (example, markdown) = (env_example(), configuration_markdown());
    for variable in VARIABLES {
        let assignment = format!("{}=", variable.name);
        let lines = example.lines().filter(|line| line.trim_start_matches("# ").starts_with(&assignment));
        assert_eq!(lines.count(), 1, "{}", variable.name);
        assert_eq!(markdown.matches(&format!("| `{}` |", variable.name)).count(), 1, "{}", variable.name);
    }
}

#[test]
fn every_default_keeps_its_own_rule() {
    let defaults = VARIABLES.iter().filter_map(|v| Some((v.name.to_owned(), v.default?.to_owned())));
    let mut vars: shared_config::Vars = defaults.collect();
    vars.insert("DATABASE_URL".to_owned(), "postgres://h/d".to_owned());
    Config::from_vars(&vars).unwrap();
}

/// Set in the child process of the next test, whose own run it would otherwise start again.
const IN_CHILD: &str = "SHARED_CONFIG_TEST_CHILD";

#[test]
fn the_example_file_works_and_the_environment_wins_over_it() {
    if std::env::var_os(IN_CHILD).is_some() {
        let vars = process_vars().unwrap();
        let config = Config::from_vars(&vars).unwrap();
        println!("child: {} {}", config.port, config.postgres.url());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(".env"), env_example() + "\nPORT=4000\nLOG_LEVEL=warn\n").unwrap();
    let run = |environment: &[(&str, &str)]| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "generated::the_example_file_works_and_the_environment_wins_over_it",
                "--exact",
                "--nocapture",
            ])
            .env_clear()
            .env(IN_CHILD, "1")
            .envs(environment.iter().copied())
            .current_dir(directory.path())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let file_only = run(&[]);
    assert!(
        file_only.contains("child: 4000 postgresql://realtime:change-me@localhost:5432/realtime"),
        "{file_only}"
    );
    let environment_too = run(&[("PORT", "5000"), ("DATABASE_URL", "postgres://h/d")]);
    assert!(environment_too.contains("child: 5000 postgres://h/d"), "{environment_too}");
}
