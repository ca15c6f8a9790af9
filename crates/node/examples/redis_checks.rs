//! Checks a second on Redis beside what the bare script reaches under `redis-benchmark`: the same call, byte for byte.
//!
//! One run: a server of its own on one core, and on the other core in turn `redis-benchmark`, with a connection for
//! each client and with calls that do not wait for each other (`-P`), and a node's way of a check (plan, guard, call,
//! complete) by as many tasks over its one connection, each with a caller of its own and all with one. Prints medians
//! over some rounds, and the processor time of a check, the server's and the node's.

#![allow(clippy::disallowed_methods, reason = "what is measured here is real time")]

use std::{
    error::Error,
    ffi::OsString,
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::ffi::OsStringExt as _,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use futures_util::StreamExt as _;
use rand::{SeedableRng as _, rngs::StdRng};
use tidegate_core::{
    calls,
    engine::{Engine, Settings},
    ids::{Boot, NodeId, Secret, Session},
    policy::PolicySet,
    time::Span,
};
use tidegate_node::{
    api::Limiter as _,
    clock::Clock,
    guard::Mutexes,
    limiter::{self, Limiter},
    store::{RedisSettings, RedisStore, Store, StoreGuard},
    telemetry::Metrics,
};

type Failed = Box<dyn Error>;

const SECRET: Secret = Secret([7; 16]);
const SERVER_CORE: &str = "0";
const CLIENT_CORE: &str = "1";

/// Measures checks on Redis.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many limits a check has; without it, 1, 2 and 4.
    #[arg(long)]
    limits: Option<usize>,
    /// Clients that wait for an answer each.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Calls in a round of `redis-benchmark`.
    #[arg(long, default_value_t = 100_000)]
    calls: u64,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Set by the program for itself.
    #[arg(long, hide = true)]
    pinned: bool,
}

fn main() -> Result<(), Failed> {
    let arguments = Arguments::parse();
    if !arguments.pinned {
        let own = std::env::current_exe()?;
        let given = std::env::args_os().skip(1);
        let ended = Command::new("taskset")
            .args(["-c", CLIENT_CORE])
            .arg(own)
            .args(given)
            .arg("--pinned")
            .status()?;
        return if ended.success() { Ok(()) } else { Err("it could not be measured".into()) };
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Server::start()?;
        for limits in [1, 2, 4] {
            if arguments.limits.is_none_or(|wanted| wanted == limits) {
                of_limits(&server, limits, &arguments).await?;
            }
        }
        Ok(())
    })
}

/// What one round found.
#[derive(Debug, Clone, Copy)]
struct Leg {
    per_second: f64,
    /// µs of processor time a call: the server's, and the node's own.
    server: f64,
    own: f64,
}

async fn of_limits(server: &Server, limits: usize, arguments: &Arguments) -> Result<(), Failed> {
    let mut node = Node::start(limits, server.port).await?;
    let call = node.find_hot(limits, server).await?;
    let node = Arc::new(node);
    let mut legs: [(String, Vec<Leg>); 4] = [
        ("redis-benchmark".into(), Vec::new()),
        ("redis-benchmark -P 16".into(), Vec::new()),
        ("a node, many callers".into(), Vec::new()),
        ("a node, one caller".into(), Vec::new()),
    ];
    for round in 0..=arguments.rounds {
        let found = [
            bare(server, &call, arguments, 1).await?,
            bare(server, &call, arguments, 16).await?,
            node.load(server, arguments, false).await?,
            node.load(server, arguments, true).await?,
        ];
        // The first one warms up.
        if round > 0 {
            legs.iter_mut().zip(found).for_each(|((_, of), leg)| of.push(leg));
        }
    }
    let of = |legs: &[Leg], what: fn(&Leg) -> f64| {
        let mut figures: Vec<f64> = legs.iter().map(what).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    let bare = of(&legs[0].1, |leg| leg.per_second);
    for (name, legs) in &legs {
        let rate = of(legs, |leg| leg.per_second);
        writeln!(
            std::io::stdout(),
            "{limits} limit(s), {name:<22} {rate:>7.0} /s, {:.2} of the first; server {:>5.2} µs, own {:>5.2} µs",
            rate / bare,
            of(legs, |leg| leg.server),
            of(legs, |leg| leg.own),
        )?;
    }
    Ok(())
}

/// The call as it was sent, by `redis-benchmark`.
async fn bare(
    server: &Server,
    call: &[OsString],
    arguments: &Arguments,
    pipeline: usize,
) -> Result<Leg, Failed> {
    let (before, begun) = (server.cpu()?, Instant::now());
    let ended = tokio::process::Command::new("redis-benchmark")
        .args(["-p", &server.port.to_string(), "-q", "-n", &arguments.calls.to_string()])
        .args(["-c", &arguments.clients.to_string(), "-P", &pipeline.to_string()])
        .args(call)
        .stdout(Stdio::null())
        .status()
        .await?;
    if !ended.success() {
        return Err("redis-benchmark failed".into());
    }
    let (took, calls) = (begun.elapsed().as_secs_f64(), arguments.calls as f64);
    let server = (server.cpu()? - before) / calls;
    Ok(Leg { per_second: calls / took, server, own: 0.0 })
}

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> Result<Self, Failed> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new("taskset")
            .args(["-c", SERVER_CORE, "redis-server", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"])
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child, port })
    }

    /// µs of processor time since its start.
    fn cpu(&self) -> Result<f64, Failed> {
        let mut sum = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let nanos: f64 = text.split(' ').next().ok_or("no number")?.parse()?;
            sum += nanos / 1_000.0;
        }
        Ok(sum)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

struct Node {
    limiter: Limiter,
    /// The caller that all ask for.
    hot: String,
}

impl Node {
    async fn start(limits: usize, port: u16) -> Result<Self, Failed> {
        let limit = |n: usize| {
            format!(
                "[[policy.limit]]\nname = \"limit-{n}\"\nquantity = 1_000_000_000_000\nwindow = \"{n}h\"\n"
            )
        };
        let limits: String = (1..=limits).map(limit).collect();
        let text = format!("[[policy]]\nname = \"p\"\nkey = [\"api_key\"]\n{limits}");
        let policies = PolicySet::parse(&text).map_err(|mistakes| format!("{mistakes:?}"))?;
        let clock = Clock::start();
        let session = Session { id: NodeId::new("eu", "eu-0")?, boot: Boot(1) };
        let random = Box::new(StdRng::seed_from_u64(1));
        let (now, guess) = (clock.now(), clock.cluster_guess());
        let engine = Engine::<Mutexes>::new(Settings::new(session), now, guess, random);
        // This machine may be busy with other things: nothing is to be answered without the store.
        let mut guarded = calls::Settings { timeout: Span::secs(5), ..calls::Settings::default() };
        guarded.breaker.p95 = None;
        let guard = StoreGuard::new(guarded, clock, Box::new(StdRng::seed_from_u64(2)));
        let settings = RedisSettings {
            url: format!("redis://127.0.0.1:{port}/0"),
            tls: None,
            timeout: Duration::from_secs(5),
            namespace: "tidegate".into(),
        };
        let store = Arc::new(Store::Redis(RedisStore::new(settings)?.into()));
        tokio::spawn({
            let store = Arc::clone(&store);
            async move {
                if let Store::Redis(store) = &*store {
                    store.keep_connected().await;
                }
            }
        });
        let begun = Instant::now();
        while !store.is_reachable() {
            if begun.elapsed() > Duration::from_secs(10) {
                return Err("the server cannot be reached".into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let settings = limiter::Settings { secret: SECRET, remember: Span::secs(3_600) };
        let (policies, metrics) = (Arc::new(policies), Arc::new(Metrics::new()));
        let engine = Arc::new(engine);
        let limiter = Limiter::new(engine, store, Some(guard), policies, settings, metrics, clock);
        limiter.start();
        Ok(Self { limiter, hot: String::new() })
    }

    async fn check(&self, key: &str) -> Result<(), Failed> {
        let attributes = [("api_key", key), ("route", "/api/orders")];
        let decision = self.limiter.check(&attributes, 1).await?;
        if decision.allowed && !decision.degraded {
            Ok(())
        } else {
            Err(format!("{decision:?}").into())
        }
    }

    /// Finds a caller whose calls can be made by `redis-benchmark`: an argument has no zero byte. Returns the words of
    /// a call, as the server got them.
    async fn find_hot(&mut self, limits: usize, server: &Server) -> Result<Vec<OsString>, Failed> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/0", server.port))?;
        let monitor = client.get_async_monitor().await?;
        let mut seen = monitor.into_on_message::<String>();
        for n in 0.. {
            let key = format!("key-h{n:06}");
            self.check(&key).await?;
            // What the node asks besides has no record: the marker is the only key.
            let keys = (1 + limits).to_string().into_bytes();
            let words = loop {
                let words = words(&seen.next().await.ok_or("nothing was seen")?);
                if words.first().is_some_and(|name| name == b"EVALSHA")
                    && words.get(2) == Some(&keys)
                {
                    break words;
                }
            };
            if words.iter().flatten().all(|byte| *byte != 0) {
                self.hot = key;
                return Ok(words.into_iter().map(OsString::from_vec).collect());
            }
        }
        Err("every caller has a zero byte".into())
    }

    /// As many tasks as clients, each of which waits for an answer before it asks again: for one caller, or each for
    /// its own.
    async fn load(
        self: &Arc<Self>,
        server: &Server,
        arguments: &Arguments,
        one: bool,
    ) -> Result<Leg, Failed> {
        let left = Arc::new(AtomicU64::new(arguments.calls));
        let (before, own, begun) = (server.cpu()?, own_cpu()?, Instant::now());
        let tasks = (0..arguments.clients).map(|client| {
            let key = if one { self.hot.clone() } else { format!("key-{client:07}") };
            let (node, left) = (Arc::clone(self), Arc::clone(&left));
            tokio::spawn(async move {
                while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    node.check(&key).await.map_err(|error| error.to_string())?;
                }
                Ok::<_, String>(())
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await??;
        }
        let (took, calls) = (begun.elapsed().as_secs_f64(), arguments.calls as f64);
        let server = (server.cpu()? - before) / calls;
        let own = (own_cpu()? - own) / calls;
        Ok(Leg { per_second: calls / took, server, own })
    }
}

/// µs of processor time of this thread, which is the only one that works.
fn own_cpu() -> Result<f64, Failed> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos: f64 = text.split(' ').next().ok_or("no number")?.parse()?;
    Ok(nanos / 1_000.0)
}

/// The words of a command as `MONITOR` tells them: in quotes, with escapes.
fn words(told: &str) -> Vec<Vec<u8>> {
    let (mut words, mut word) = (Vec::new(), None::<Vec<u8>>);
    let mut bytes = told.bytes();
    while let Some(byte) = bytes.next() {
        match (byte, &mut word) {
            (b'"', None) => word = Some(Vec::new()),
            (b'"', Some(_)) => words.extend(word.take()),
            (b'\\', Some(word)) => word.extend(match bytes.next() {
                Some(b'x') => {
                    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                    let (high, low) = (digit(bytes.next()), digit(bytes.next()));
                    high.zip(low).map(|(high, low)| (16 * high + low) as u8)
                }
                Some(b'n') => Some(b'\n'),
                Some(b'r') => Some(b'\r'),
                Some(b't') => Some(b'\t'),
                Some(b'a') => Some(7),
                Some(b'b') => Some(8),
                other => other,
            }),
            (byte, Some(word)) => word.push(byte),
            (_, None) => {}
        }
    }
    words
}
