//! The private Redis: persistent as the promise asks for, killed, restarted, and set back to an older file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::child::{self, Process};

/// Includes loading what it has kept.
const START_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What makes an acknowledged append survive the server's death.
const SETTINGS: [&str; 10] = [
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--no-appendfsync-on-rewrite",
    "no",
    "--maxmemory-policy",
    "noeviction",
    "--save",
    "",
];

/// The server. Dropping it ends it.
pub struct Redis {
    process: Option<Process>,
    directory: PathBuf,
    log: PathBuf,
    port: u16,
}

impl Redis {
    /// Starts it with its files in `directory`/redis.
    ///
    /// # Errors
    /// Redis is not installed, or does not start.
    pub async fn start(directory: &Path, log: PathBuf, port: u16) -> Result<Self> {
        let directory = directory.join("redis");
        std::fs::create_dir_all(&directory)?;
        let mut redis = Self { process: None, directory, log, port };
        redis.restart().await?;
        Ok(redis)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it and waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub async fn kill(&mut self) -> Result<()> {
        let process = self.process.take().context("redis runs")?;
        process.kill();
        process.ended(END_LIMIT).await?;
        Ok(())
    }

    /// Asks it to end, which writes out everything, and waits for that.
    ///
    /// # Errors
    /// It does not end.
    pub async fn stop(&mut self) -> Result<()> {
        let process = self.process.take().context("redis runs")?;
        process.terminate();
        process.ended(END_LIMIT).await?;
        Ok(())
    }

    /// Starts it over what it has kept and waits until that is loaded.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> Result<()> {
        let mut command = child::command("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"]);
        command.arg(&self.directory).args(SETTINGS);
        // Its output is its log, which is shown where something is wrong.
        command.args(["--logfile", &self.log.display().to_string()]);
        let mut process = Process::start_with_log("redis", command, Duration::ZERO, self.log.clone())?;
        process.discard_output();
        let deadline = Instant::now() + START_LIMIT;
        while !answers(self.port, process.pid()).await {
            if !process.is_alive() || Instant::now() > deadline {
                return Err(process.complaint("did not start"));
            }
            sleep(LOOK_EVERY).await;
        }
        self.process = Some(process);
        Ok(())
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| !process.is_alive())
    }

    fn is_down(&self) -> bool {
        self.process.is_none()
    }

    /// Keeps a copy of its files. It must be down, so that the copy is of one moment.
    ///
    /// # Errors
    /// It runs, or the files cannot be copied.
    pub fn copy_files(&self, to: &Path) -> Result<()> {
        if !self.is_down() {
            bail!("redis must be down for a copy of its files");
        }
        copy(&self.directory, to)
    }

    /// Puts a copy in place of its files. It must be down.
    ///
    /// # Errors
    /// It runs, or the files cannot be copied.
    pub fn restore_files(&self, from: &Path) -> Result<()> {
        if !self.is_down() {
            bail!("redis must be down for its files to be replaced");
        }
        std::fs::remove_dir_all(&self.directory)?;
        copy(from, &self.directory)
    }
}

/// Whether the server that answers on this port is this process, and has loaded its files.
async fn answers(port: u16, pid: u32) -> bool {
    let asked = timeout(ANSWER_LIMIT, info(port)).await;
    let Ok(Ok(info)) = asked else { return false };
    let says = |line: String| info.lines().any(|found| found.trim_end() == line);
    says(format!("process_id:{pid}")) && says("loading:0".to_owned())
}

async fn info(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"INFO\r\nQUIT\r\n").await?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_holds_everything() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("a"), place.path().join("b"));
        std::fs::create_dir_all(from.join("appendonlydir")).unwrap();
        std::fs::write(from.join("appendonlydir/part"), "x").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("appendonlydir/part")).unwrap(), "x");
    }
}
