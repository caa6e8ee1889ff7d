//! Redis servers of a test's own: one process, or a small cluster of them.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a command may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a server keeps over its death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Everything that it acknowledged.
    Always,
    /// All but the last seconds.
    EverySecond,
    /// Nothing.
    Nothing,
}

impl Persistence {
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Always => &["--appendonly", "yes", "--appendfsync", "always"],
            Self::EverySecond => &["--appendonly", "yes", "--appendfsync", "everysec"],
            Self::Nothing => &["--appendonly", "no"],
        }
    }
}

/// A Redis server on a port and in a directory of its own; ends with the value.
pub struct LocalRedis {
    child: Child,
    directory: TempDir,
    port: u16,
    settings: Vec<String>,
}

impl LocalRedis {
    /// Starts a server.
    ///
    /// # Panics
    /// Where `redis-server` is not installed or does not start.
    pub fn start(persistence: Persistence) -> Self {
        Self::start_with(persistence, &[])
    }

    /// Starts a server with more settings, as on its command line.
    ///
    /// # Panics
    /// As [`LocalRedis::start`].
    pub fn start_with(persistence: Persistence, more: &[&str]) -> Self {
        let directory = TempDir::new().expect("a directory for redis");
        let settings: Vec<String> =
            persistence.settings().iter().chain(more).map(|&text| text.to_owned()).collect();
        // Another process may take a free port before the server does: then the next one.
        for _ in 0..10 {
            let port = free_port();
            let mut child = spawn(port, directory.path(), &settings);
            if answers(port, &mut child) {
                return Self { child, directory, port, settings };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("redis-server did not start: {}", log_of(directory.path()));
    }

    /// `redis://…` of it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Kills it as a crash would.
    ///
    /// # Panics
    /// Where it cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("redis can be killed");
        self.child.wait().expect("redis ends");
    }

    /// Starts it again, in the same place, with what it has kept.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn restart(&mut self) {
        self.child = spawn(self.port, self.directory.path(), &self.settings);
        assert!(answers(self.port, &mut self.child), "redis starts again: {}", log_of(self.directory.path()));
    }

    /// Sends a command and answers what the server says, as `redis-cli` would print it, without types.
    ///
    /// # Panics
    /// Where the server does not answer.
    pub fn command(&self, words: &[&str]) -> Vec<String> {
        command(self.port, words).expect("redis answers")
    }
}

impl Drop for LocalRedis {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cluster of three masters without replicas.
pub struct LocalRedisCluster {
    nodes: Vec<LocalRedis>,
}

impl LocalRedisCluster {
    /// Starts the nodes and gives each a third of the slots.
    ///
    /// # Panics
    /// As [`LocalRedis::start`], or where they do not find each other.
    pub fn start() -> Self {
        let settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        let nodes: Vec<LocalRedis> =
            (0..3).map(|_| LocalRedis::start_with(Persistence::Always, &settings)).collect();
        let bounds = [0_u32, 5_461, 10_923, 16_384];
        for (number, node) in nodes.iter().enumerate() {
            let (first, last) = (bounds[number].to_string(), (bounds[number + 1] - 1).to_string());
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
        }
        for node in &nodes[1..] {
            node.command(&["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port.to_string()]);
        }
        let cluster = Self { nodes };
        cluster.wait_until_whole();
        cluster
    }

    fn wait_until_whole(&self) {
        let is_whole = |node: &LocalRedis| {
            let info = node.command(&["CLUSTER", "INFO"]).join("\n");
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        let deadline = Instant::now() + PATIENCE;
        while !self.nodes.iter().all(is_whole) {
            assert!(Instant::now() < deadline, "the cluster's nodes find each other");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `redis://…` of one node.
    pub fn url(&self) -> String {
        self.nodes[0].url()
    }

    /// The nodes.
    pub fn nodes(&mut self) -> &mut [LocalRedis] {
        &mut self.nodes
    }
}

/// A Sentinel that watches one server, by the name `main`, and replaces it by its replica.
pub struct LocalSentinel {
    child: Child,
    _directory: TempDir,
    port: u16,
}

impl LocalSentinel {
    /// Starts one that takes `master` for down after a second.
    ///
    /// # Panics
    /// Where `redis-server` is not installed or does not start.
    pub fn start(master: &LocalRedis) -> Self {
        let directory = TempDir::new().expect("a directory for the sentinel");
        for _ in 0..10 {
            let port = free_port();
            let settings = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {} 1\n\
                 sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 4000\n",
                master.port
            );
            let file = directory.path().join("sentinel.conf");
            std::fs::write(&file, settings).expect("the sentinel's settings");
            let log = File::options().create(true).append(true).open(directory.path().join("log"));
            let mut child = Command::new("redis-server")
                .arg(&file)
                .args(["--sentinel", "--dir"])
                .arg(directory.path())
                .stdin(Stdio::null())
                .stdout(log.expect("a log"))
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-server is installed");
            if answers(port, &mut child) {
                return Self { child, _directory: directory, port };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("the sentinel did not start: {}", log_of(directory.path()));
    }

    /// `redis-sentinel://…` of the server that it watches.
    pub fn url(&self) -> String {
        format!("redis-sentinel://127.0.0.1:{}?sentinelServiceName=main", self.port)
    }

    /// Sends a command to the Sentinel itself.
    ///
    /// # Panics
    /// Where it does not answer.
    pub fn command(&self, words: &[&str]) -> Vec<String> {
        command(self.port, words).expect("the sentinel answers")
    }

    /// Waits until it knows a replica that could take over.
    ///
    /// # Panics
    /// Where it finds none.
    pub fn wait_for_replica(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.command(&["SENTINEL", "REPLICAS", "main"]).contains(&"ok".to_owned()) {
            assert!(Instant::now() < deadline, "the sentinel finds the replica");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for LocalSentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    // A cluster's node also takes the port 10,000 above.
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        if port < 55_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

fn spawn(port: u16, directory: &Path, settings: &[String]) -> Child {
    let log = File::options().create(true).append(true).open(directory.join("log")).expect("a log");
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(directory)
        .args(settings)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

/// Waits until the server answers; `false` where it ends instead.
fn answers(port: u16, child: &mut Child) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return false;
        }
        // Another server on this port would answer too, with another process id.
        let info = command(port, &["INFO", "server"]).unwrap_or_default().join("\n");
        if info.lines().any(|line| line.trim_end() == format!("process_id:{}", child.id())) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn log_of(directory: &Path) -> String {
    let path: PathBuf = directory.join("log");
    std::fs::read_to_string(path).unwrap_or_default()
}

/// One command over a connection of its own.
fn command(port: u16, words: &[&str]) -> std::io::Result<Vec<String>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes())?;
    let mut lines = Vec::new();
    read_answer(&mut stream, &mut lines)?;
    Ok(lines)
}

/// Reads one answer, nested ones flattened.
fn read_answer(stream: &mut TcpStream, lines: &mut Vec<String>) -> std::io::Result<()> {
    let line = read_line(stream)?;
    let (kind, rest) = line.split_at(1.min(line.len()));
    let length = rest.parse::<i64>().unwrap_or_default();
    match kind {
        "*" => (0..length).try_for_each(|_| read_answer(stream, lines)),
        "$" if length >= 0 => {
            let mut text = vec![0; length.unsigned_abs() as usize + 2];
            stream.read_exact(&mut text)?;
            text.truncate(text.len() - 2);
            lines.push(String::from_utf8_lossy(&text).into_owned());
            Ok(())
        }
        "$" => Ok(()),
        _ => {
            lines.push(rest.to_owned());
            Ok(())
        }
    }
}

fn read_line(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    line.truncate(line.len() - 2);
    Ok(String::from_utf8_lossy(&line).into_owned())
}
