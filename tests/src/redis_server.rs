//! A Redis server of a test's own.

use std::{
    fs::File,
    io,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::FromRedisValue;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time;

/// A `redis-server` on a loopback port of its own, by default without persistence; killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    directory: TempDir,
    port: u16,
    more: Vec<String>,
}

/// How often a starting server is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// How many ports are tried.
const TRIES: usize = 50;
/// How far behind its own port a server of a cluster has that of its bus.
pub const BUS_BEHIND: u16 = 10_000;
/// How long a server may take to start.
const START_MAX: Duration = Duration::from_secs(20);

impl RedisServer {
    /// Starts a server and waits until it answers.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts a server with further arguments, and waits until it answers.
    pub async fn start_with(more: &[&str]) -> io::Result<Self> {
        Self::start_where(|_| true, more).await
    }

    /// Starts one that may belong to a cluster: it has a port for its bus as well, which is 10,000 behind its own, as
    /// all versions have it.
    pub async fn start_in_cluster(more: &[&str]) -> io::Result<Self> {
        let has_bus = |port: u16| {
            let bus = port.checked_add(BUS_BEHIND);
            bus.is_some_and(|bus| TcpListener::bind(("127.0.0.1", bus)).is_ok())
        };
        let own = ["--cluster-enabled", "yes"];
        Self::start_where(has_bus, &[&own, more].concat()).await
    }

    /// The same on a port that fits.
    async fn start_where(fits: impl Fn(u16) -> bool, more: &[&str]) -> io::Result<Self> {
        let more: Vec<_> = more.iter().map(ToString::to_string).collect();
        // Another process may take the port between the probe and the start: then try another one.
        let mut last = io::Error::other("no port");
        for _ in 0..TRIES {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            if !fits(port) {
                continue;
            }
            let directory = tempfile::tempdir()?;
            let child = spawn(port, &directory, &more)?;
            let more = more.clone();
            let mut server = Self { child, directory, port, more };
            match server.wait_until_up().await {
                Ok(()) => return Ok(server),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Starts it again on the same port, with what it has on disk, after [`kill`](Self::kill).
    pub async fn restart(&mut self) -> io::Result<()> {
        self.child = spawn(self.port, &self.directory, &self.more)?;
        self.wait_until_up().await
    }

    /// Stops it in the middle of whatever it does, as `kill -STOP` does.
    pub fn pause(&self) -> io::Result<()> {
        Ok(kill_process(self.pid(), Signal::STOP)?)
    }

    /// Lets it go on.
    pub fn resume(&self) -> io::Result<()> {
        Ok(kill_process(self.pid(), Signal::CONT)?)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).expect("process ids are positive")
    }

    /// Asks it.
    pub async fn ask<T: FromRedisValue>(
        &self,
        words: &[impl AsRef<[u8]>],
    ) -> redis::RedisResult<T> {
        let mut connection = self.connection().await?;
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(word.as_ref());
        });
        command.query_async(&mut connection).await
    }

    /// A connection for the test's own commands.
    pub async fn connection(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        redis::Client::open(self.url())?.get_multiplexed_async_connection().await
    }

    async fn wait_until_up(&mut self) -> io::Result<()> {
        let answered = time::timeout(START_MAX, async {
            loop {
                if let Some(status) = self.child.try_wait()? {
                    return Err(io::Error::other(format!("redis-server ended: {status}")));
                }
                if let Ok(mut connection) = self.connection().await
                    && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
                {
                    return Ok(());
                }
                time::sleep(ASK_EVERY).await;
            }
        });
        answered.await.map_err(|_| io::Error::other("redis-server did not start in time"))?
    }
}

fn spawn(port: u16, directory: &TempDir, more: &[String]) -> io::Result<Child> {
    let log = File::create(directory.path().join("redis.log"))?;
    Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .args(more)
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .map_err(|e| {
            io::Error::new(e.kind(), format!("redis-server: {e}; ./scripts/test installs it"))
        })
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
