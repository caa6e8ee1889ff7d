//! Ports that stay ours while nobody listens on them.

use anyhow::{Context, Result};

use super::launch::random;

/// Free loopback ports that the kernel gives to nobody's outgoing connection while a server is down: one of
/// those could keep it from listening again, and a client's own could even meet itself.
#[derive(Debug, Default)]
pub struct Ports {
    taken: Vec<u16>,
}

impl Ports {
    /// One that nobody listens on, other than all before.
    ///
    /// # Errors
    /// None is free.
    pub fn next(&mut self) -> Result<u16> {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let first: u16 = range.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(32_768);
        let candidates = 10_000..first.max(10_001);
        let skipped = usize::from(u16::from_le_bytes(random()?)) % candidates.len();
        let mut ports = candidates.clone().cycle().skip(skipped).take(candidates.len());
        let free = |port: &u16| {
            !self.taken.contains(port) && std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()
        };
        let port =
            ports.find(free).context("no free port below the kernel's range for outgoing connections")?;
        self.taken.push(port);
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_free() {
        let mut ports = Ports::default();
        let (first, second) = (ports.next().unwrap(), ports.next().unwrap());
        assert_ne!(first, second);
        assert!(std::net::TcpListener::bind(("127.0.0.1", second)).is_ok());
    }
}
