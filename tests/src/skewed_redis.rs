//! A Redis whose clock is off, and can be set.
//!
//! A server's clock is the machine's, so the clock is set where nodes read it: in the script of checks, which
//! is replaced on its way to the server by one that adds what a key says, and takes it off again where it
//! tells the server when a record ends. Nothing else that a node asks is about time.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

use crate::redis_server::RedisServer;

const SCRIPT: &str = include_str!("../../crates/node/src/store/step.lua");
/// The key that says how many seconds the clock is ahead.
const AHEAD: &str = "clock-ahead";
/// The key that says at how many microseconds since 1970 the clock stands still.
const AT: &str = "clock-at";

/// A `redis-server` of a test's own whose clock can be set.
#[derive(Debug)]
pub struct SkewedRedis {
    server: RedisServer,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl SkewedRedis {
    /// Starts one whose clock is right as yet.
    ///
    /// # Errors
    ///
    /// If the server does not start.
    pub async fn start() -> io::Result<Self> {
        let server = RedisServer::start().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, port) = (listener.local_addr()?, server.port());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, port));
            }
        });
        Ok(Self { server, address, task })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// The time of the machine, in seconds since 1970.
    ///
    /// # Panics
    ///
    /// If the server does not tell it.
    pub async fn true_time(&self) -> i64 {
        let time = self.server.ask::<(i64, i64)>(&["TIME"]).await;
        time.expect("the server knows the time").0
    }

    /// A connection by which its clock is made to stand still.
    ///
    /// # Panics
    ///
    /// If the server does not take it.
    pub async fn clock(&self) -> StillClock {
        StillClock(self.server.connection().await.expect("the server is there"))
    }

    /// Sets its clock: so many seconds ahead of the machine's from now on.
    ///
    /// # Panics
    ///
    /// If the server does not take it.
    pub async fn set_ahead(&self, seconds: i64) {
        let set = self.server.ask::<()>(&["SET", AHEAD, &seconds.to_string()]).await;
        set.expect("the server takes a key");
    }
}

/// A clock that stands still, and is set.
#[derive(Debug)]
pub struct StillClock(redis::aio::MultiplexedConnection);

impl StillClock {
    /// Sets it to so many microseconds since 1970.
    ///
    /// # Panics
    ///
    /// If the server does not take it.
    pub async fn set_at(&mut self, micros: u64) {
        let mut set = redis::cmd("SET");
        let set = set.arg(AT).arg(micros).query_async::<()>(&mut self.0).await;
        set.expect("the server takes a key");
    }
}

impl Drop for SkewedRedis {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The script with a clock of its own.
fn skewed() -> String {
    let put = |text: &str, old: &str, new: &str| {
        assert_eq!(text.matches(old).count(), 1, "`{old}` is in the script");
        text.replace(old, new)
    };
    let time = "local time = redis.call('TIME')\n";
    let ahead = format!("{time}local ahead = tonumber(redis.call('GET', '{AHEAD}') or 0)\n");
    let still = format!(
        "local still = tonumber(redis.call('GET', '{AT}') or 0)\n\
         if still > 0 then\n\
         ahead = math.floor(still / 1000000) - time[1]\n\
         time[2] = still % 1000000\n\
         end\n"
    );
    let text = put(SCRIPT, time, &format!("{ahead}{still}time[1] = time[1] + ahead\n"));
    let end = "math.ceil(d.expires / 1000)";
    put(&text, end, &format!("{end} - ahead * 1000"))
}

/// Passes commands on with the one script for the other, and answers as they are.
async fn forward(client: TcpStream, port: u16) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    tokio::select! {
        _ = pass_on(from_client, to_server) => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

async fn pass_on(client: OwnedReadHalf, mut server: OwnedWriteHalf) -> io::Result<()> {
    let skewed = skewed();
    let hash = |text: &str| redis::Script::new(text).get_hash().to_owned();
    let replaced = [(hash(SCRIPT), hash(&skewed)), (SCRIPT.to_owned(), skewed)];
    let mut client = BufReader::new(client);
    loop {
        let mut command = Vec::new();
        let words = number(&mut client, b'*').await?;
        command.extend(format!("*{words}\r\n").into_bytes());
        for _ in 0..words {
            let length = number(&mut client, b'$').await?;
            let mut word = vec![0; length + 2];
            client.read_exact(&mut word).await?;
            word.truncate(length);
            let other = replaced.iter().find(|(old, _)| old.as_bytes() == word);
            let word = other.map_or(&*word, |(_, new)| new.as_bytes());
            command.extend(format!("${}\r\n", word.len()).into_bytes());
            command.extend([word, b"\r\n"].concat());
        }
        server.write_all(&command).await?;
    }
}

/// Reads a line that is a sign and a number.
async fn number(client: &mut BufReader<OwnedReadHalf>, sign: u8) -> io::Result<usize> {
    let mut line = Vec::new();
    client.read_until(b'\n', &mut line).await?;
    let text = line.strip_prefix(&[sign]).and_then(|line| str::from_utf8(line).ok());
    let number = text.and_then(|text| text.trim_end().parse().ok());
    number.ok_or_else(|| io::Error::other(format!("no command: {line:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_can_be_given_another_clock() {
        assert!(skewed().len() > SCRIPT.len());
    }
}
