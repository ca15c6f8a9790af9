//! A Redis Sentinel of a test's own.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use redis::FromRedisValue;
use tempfile::TempDir;

/// A `redis-server --sentinel` on loopback that watches one primary; killed when dropped.
#[derive(Debug)]
pub struct Sentinel {
    child: Child,
    port: u16,
    _home: TempDir,
}

impl Sentinel {
    /// Watches the primary at a port, which it calls `main`, and needs nobody's consent.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn of(primary: u16) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let port =
            TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one").port();
        let file = home.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {primary} 1\n\
             sentinel down-after-milliseconds main 1500\nsentinel failover-timeout main 2000\n",
            home.path().display()
        );
        fs::write(&file, text).expect("a file");
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").stdout(Stdio::null());
        Self { child: command.spawn().expect("a sentinel"), port, _home: home }
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a store that it leads to.
    pub fn url(&self) -> String {
        format!("redis-sentinel://127.0.0.1:{}/main/0", self.port)
    }

    /// Asks it.
    ///
    /// # Errors
    ///
    /// What it, or the network, says.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, String> {
        let told = |error: redis::RedisError| error.to_string();
        let client = redis::Client::open(("127.0.0.1", self.port)).map_err(told)?;
        let mut connection = client.get_multiplexed_async_connection().await.map_err(told)?;
        let mut command = redis::cmd("SENTINEL");
        command.arg(words).query_async(&mut connection).await.map_err(told)
    }

    /// The port of the primary, as it says.
    ///
    /// # Errors
    ///
    /// What it, or the network, says.
    pub async fn primary(&self) -> Result<u16, String> {
        let words = ["get-master-addr-by-name", "main"];
        self.ask::<(String, u16)>(&words).await.map(|(_, port)| port)
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}
