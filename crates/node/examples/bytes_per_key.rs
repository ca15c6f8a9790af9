//! How many bytes a live key takes: in a node's counts, in the memory store, and in Redis.
//!
//! Counts and memory store are measured twice: by what they say of themselves, and by what the allocator says
//! that it has handed out (in its sizes, so with what it adds to each piece). Each measurement has a process of
//! its own.

#![allow(clippy::disallowed_methods, reason = "awaits a server of its own")]

use std::{
    error::Error,
    io::Write as _,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use clap::{Parser, ValueEnum};
use futures_util::{StreamExt as _, stream};
use rand::{SeedableRng as _, rngs::StdRng};
use tidegate_core::{
    check::{Purpose, Subject, Ticket},
    engine::{Completion, Engine, Outcome, Plan, Settings},
    guard::OneThread,
    ids::{Boot, NodeId, Secret, Session, StoreEpoch},
    policy::PolicySet,
    store::{Action, OperationReply, StoreCommand, StoreReply, Table},
    time::{ClusterTime, Mono, Span, StoreTime},
};
use tidegate_node::{
    memory::ProcessMemory,
    store::{RedisSettings, RedisStore},
};

type Failed = Box<dyn Error>;

/// One global limit, which always has room.
const POLICIES: &str = include_str!("../../../bench/one-limit.toml");
const SECRET: Secret = Secret([7; 16]);
/// Half past some hour, so that no label ends meanwhile.
const START: ClusterTime = ClusterTime(1_700_001_000_000_000);
const REGIONS: [&str; 3] = ["eu", "us", "ap"];
/// Keys that each region admits between two rounds of frames.
const KEYS_AT_A_TIME: u64 = 10_000;

/// Measures bytes per key.
#[derive(Debug, Parser)]
struct Arguments {
    /// Measure one of them in this process; without it, each in a process of its own.
    #[arg(value_enum)]
    what: Option<What>,
    /// Keys in the counts and in the memory store.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Keys in Redis.
    #[arg(long, default_value_t = 200_000)]
    redis_keys: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Counts,
    MemoryStore,
    Redis,
}

fn main() -> Result<(), Failed> {
    let arguments = Arguments::parse();
    match arguments.what {
        Some(What::Counts) => counts(arguments.keys),
        Some(What::MemoryStore) => memory_store(arguments.keys),
        Some(What::Redis) => tokio::runtime::Runtime::new()?.block_on(redis(arguments.redis_keys)),
        None => {
            for what in ["counts", "memory-store", "redis"] {
                let keys = ["--keys".into(), arguments.keys.to_string()];
                let redis_keys = ["--redis-keys".into(), arguments.redis_keys.to_string()];
                let own = std::env::current_exe()?;
                let ended = Command::new(own).arg(what).args(keys).args(redis_keys).status()?;
                if !ended.success() {
                    return Err(format!("{what} could not be measured").into());
                }
            }
            Ok(())
        }
    }
}

/// Three single-node regions that each admit every key, and tell each other.
fn counts(keys: u64) -> Result<(), Failed> {
    let policies = PolicySet::parse(POLICIES).map_err(|mistakes| format!("{mistakes:?}"))?;
    let engines: Vec<Engine<OneThread>> =
        REGIONS.iter().map(|region| engine(region)).collect::<Result<_, _>>()?;
    for engine in &engines {
        for peer in engines.iter().filter(|peer| peer.session() != engine.session()) {
            engine.handle_connected(Mono(0), peer.session())?;
        }
    }
    let empty = ProcessMemory::now()?.allocated;
    let mut now = Mono(0);
    for first in (0..keys).step_by(KEYS_AT_A_TIME as usize) {
        for engine in &engines {
            for key in first..keys.min(first + KEYS_AT_A_TIME) {
                let (command, ticket) = plan(engine, &policies, now, key)?;
                let reply = Outcome::Reply(always_admitted(&command));
                let Completion::Decided(_) = engine.complete(now, ticket, reply) else {
                    return Err("the clocks do not agree".into());
                };
            }
        }
        now += Span::millis(50);
        exchange(&engines, now)?;
    }
    // Everything is told and acknowledged, and logs are trimmed.
    for _ in 0..200 {
        now += Span::millis(50);
        exchange(&engines, now)?;
    }
    let grown = ProcessMemory::now()?.allocated - empty;
    let all = (keys * engines.len() as u64) as f64;
    let own: usize = engines.iter().map(|engine| engine.stats().memory.counts).sum();
    if engines.iter().any(|engine| engine.stats().cells as u64 != keys) {
        return Err("a region does not know every key".into());
    }
    say(&format!(
        "counts, one global limit, three single-node regions, {keys} keys: {:.0} bytes per key by the \
         allocator, {:.0} by the engine's own account",
        grown as f64 / all,
        own as f64 / all,
    ))
}

fn engine(region: &str) -> Result<Engine<OneThread>, Failed> {
    let session = Session { id: NodeId::new(region, &format!("{region}-0"))?, boot: Boot(1) };
    let random = Box::new(StdRng::seed_from_u64(1));
    Ok(Engine::new(Settings::new(session), Mono(0), START, random))
}

fn plan(
    engine: &Engine<OneThread>,
    policies: &PolicySet,
    now: Mono,
    key: u64,
) -> Result<(StoreCommand, Ticket), Failed> {
    let key = format!("key-{key}");
    let attributes = [("api_key", key.as_str()), ("route", "/api/orders")];
    let subject = Subject { attributes: &attributes, cost: 1 };
    match engine.plan(policies, &SECRET, now, &[subject], Purpose::Charge)? {
        Plan::Ask(command, ticket) => Ok((command, ticket)),
        other => Err(format!("nothing to ask: {other:?}").into()),
    }
}

/// The answer of a store that has room and remembers nothing: only the counts are measured here.
fn always_admitted(command: &StoreCommand) -> StoreReply {
    let operations = command.operations.iter().map(|operation| {
        let mut counts = operation.floor;
        if let Action::Charge { cost } = operation.action {
            counts.used += cost;
        }
        OperationReply::new(true, counts)
    });
    let now = StoreTime(START.0);
    StoreReply::Done {
        admitted: true,
        now,
        epoch: StoreEpoch(1),
        adopted: None,
        operations: operations.collect(),
    }
}

/// Carries every frame that is due to whom it is for.
fn exchange(engines: &[Engine<OneThread>], now: Mono) -> Result<(), Failed> {
    for engine in engines {
        engine.handle_timeout(now);
        while let Some((to, frame)) = engine.poll_frame(now) {
            let peer = engines.iter().find(|peer| *peer.session() == to).ok_or("a stranger")?;
            peer.handle_frame(now, engine.session(), &frame)?;
        }
    }
    Ok(())
}

/// The memory store's table, which takes one record per key.
fn memory_store(keys: u64) -> Result<(), Failed> {
    let policies = PolicySet::parse(POLICIES).map_err(|mistakes| format!("{mistakes:?}"))?;
    let engine = engine(REGIONS[0])?;
    let mut table = Table::new(keys as usize, StoreEpoch(1));
    let empty = ProcessMemory::now()?.allocated;
    for key in 0..keys {
        // The ticket is dropped, so that the counts stay empty.
        let (command, _) = plan(&engine, &policies, Mono(0), key)?;
        table.apply(&command, StoreTime(START.0))?;
    }
    let grown = ProcessMemory::now()?.allocated - empty;
    say(&format!(
        "memory store, one record per key, {keys} keys: {:.0} bytes per key by the allocator, {:.0} by \
         the table's own account",
        grown as f64 / keys as f64,
        table.memory_bytes() as f64 / keys as f64,
    ))
}

/// A server of its own, written to through the store that a node uses.
async fn redis(keys: u64) -> Result<(), Failed> {
    let policies = PolicySet::parse(POLICIES).map_err(|mistakes| format!("{mistakes:?}"))?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let _server = RedisServer::start(port)?;
    let url = format!("redis://127.0.0.1:{port}/0");
    let timeout = Duration::from_secs(5);
    let settings =
        RedisSettings { url: url.clone(), tls: None, timeout, namespace: "tidegate".into() };
    let store = Arc::new(RedisStore::new(settings)?);
    let connected = Arc::clone(&store);
    tokio::spawn(async move { connected.keep_connected().await });
    while !store.is_reachable() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let now = tidegate_node::clock::unix_time();
    let clock = ClusterTime(u64::try_from(now.as_micros())?);
    let session = Session { id: NodeId::new("eu", "eu-0")?, boot: Boot(1) };
    let random = Box::new(StdRng::seed_from_u64(1));
    let engine = Engine::<OneThread>::new(Settings::new(session), Mono(0), clock, random);

    let empty = used_memory(&mut connection).await?;
    let mut answers = stream::iter(0..keys)
        .map(|key| {
            let planned = plan(&engine, &policies, Mono(0), key).map(|(command, _)| command);
            let store = Arc::clone(&store);
            async move { Ok::<_, Failed>(store.apply(&planned?).await?) }
        })
        .buffer_unordered(256);
    let mut written = 0;
    while let Some(answer) = answers.next().await {
        written += u64::from(matches!(answer?, StoreReply::Done { admitted: true, .. }));
    }
    let grown = used_memory(&mut connection).await? - empty;
    if written != keys {
        return Err(format!("only {written} of {keys} keys were admitted").into());
    }
    say(&format!(
        "Redis, one fixed window per key, {keys} keys: {:.0} bytes per key by used_memory",
        grown as f64 / keys as f64,
    ))
}

/// A Redis server that ends with this value.
struct RedisServer(Child);

impl RedisServer {
    fn start(port: u16) -> Result<Self, Failed> {
        let port = port.to_string();
        let child = Command::new("redis-server")
            .args(["--port", &port, "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server cannot be started: {error}"))?;
        Ok(Self(child))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to do.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

async fn used_memory(connection: &mut redis::aio::MultiplexedConnection) -> Result<u64, Failed> {
    let info: String = redis::cmd("INFO").arg("memory").query_async(connection).await?;
    let value = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    Ok(value.ok_or("INFO has no used_memory")?.trim().parse()?)
}

fn say(line: &str) -> Result<(), Failed> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
