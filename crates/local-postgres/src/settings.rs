//! What a caller may choose, and the server settings that follow from it.

use std::path::PathBuf;

/// Whether data has to survive a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Committed data survives everything.
    Durable,
    /// For tests: committed data survives the death of the server, but not of the machine, and nothing
    /// waits for the disk.
    Throwaway,
}

/// How a private server is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory for everything: data, log, password, port.
    pub data_dir: PathBuf,
    /// The port on 127.0.0.1. `None`: a free one, and the same again at the next start if it is still free.
    pub port: Option<u16>,
    /// The database to make if it does not exist.
    pub database: String,
    /// The superuser's name. Fixed by the first start of a data directory.
    pub user: String,
    /// More server settings; they win over ours.
    pub settings: Vec<(String, String)>,
    /// Whether data has to survive a crash of the machine.
    pub durability: Durability,
}

impl Options {
    /// A durable server in `data_dir` on a free port, with the database and user `realtime`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            port: None,
            database: "realtime".to_owned(),
            user: "realtime".to_owned(),
            settings: Vec::new(),
            durability: Durability::Durable,
        }
    }

    /// The same, for data that may be lost.
    pub fn throwaway(data_dir: impl Into<PathBuf>) -> Self {
        Self { durability: Durability::Throwaway, ..Self::new(data_dir) }
    }

    /// The text of the server's settings file.
    pub(crate) fn configuration(&self, port: u16) -> String {
        let mut settings: Vec<(&str, &str)> = vec![
            ("listen_addresses", "127.0.0.1"),
            // Its path would be limited to 107 bytes, which a project's directory easily exceeds.
            ("unix_socket_directories", ""),
            ("wal_level", "logical"),
            ("max_connections", "200"),
            ("max_replication_slots", "20"),
            ("max_wal_senders", "20"),
            // A slot that nobody reads any more must not fill the disk of somebody who tries things.
            ("max_slot_wal_keep_size", "4GB"),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("log_timezone", "UTC"),
            ("timezone", "UTC"),
        ];
        if self.durability == Durability::Throwaway {
            settings.extend([("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off")]);
        }
        settings.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let lines =
            settings.iter().map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")));
        format!("# Written at every start; changes here are lost.\nport = {port}\n")
            + &lines.collect::<String>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_quoted_and_the_caller_s_come_last() {
        let mut options = Options::throwaway("/x");
        options.settings = vec![
            ("max_connections".to_owned(), "7".to_owned()),
            ("search_path".to_owned(), "it's".to_owned()),
        ];
        let text = options.configuration(5);
        assert!(text.contains("\nport = 5\n") && text.contains("\nfsync = 'off'\n"));
        assert!(text.find("max_connections = '7'").unwrap() > text.find("max_connections = '200'").unwrap());
        assert!(text.ends_with("search_path = 'it''s'\n"));
        assert!(!Options::new("/x").configuration(5).contains("fsync"));
    }
}
