//! A Redis Cluster: the records of each bucket of callers are on one of several servers, with a marker of their own.
//!
//! Which server that is this module knows by itself, since the client library's own client sends a command again
//! after a connection broke, and cannot be told apart to follow redirections only. Here a command is sent again only
//! after an answer that says that it was not carried out: that the slot is elsewhere, or on its way. Whatever else
//! comes, or does not come, is told to the caller as of any store.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, Value};
use tidegate_core::{
    breaker, calls,
    ids::{Secret, StoreEpoch},
    store::{BUCKETS, CallerBucket, StoreCommand, StoreReply},
    time::StoreTime,
};
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};

use super::{
    Names, PROBE_TIMEOUT, RedisSettings, hash, load_script, place::Seeds, read_answer, read_secret,
};
use crate::store::{Doubt, StoreError, StoreGuard};
use hop::Hop;
use map::{Address, Map, SLOTS, slot_of};
use primary::{Link, Primary};

mod hop;
mod keep;
mod map;
mod primary;
mod spread;

/// How often one command is sent at most. Two redirections are usual where a slot moves; each further one follows a
/// rest.
const SENT_MAX: u32 = 16;
/// The first rest before a command is sent again that was not carried out, as its slot is on its way; each is twice as
/// long as the one before.
const REST: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_millis(16);

/// Makes what stands before one server.
pub type GuardMaker = Box<dyn Fn() -> StoreGuard + Send + Sync>;

/// Whether a command may be sent to the server that has its records.
pub struct Door {
    /// What stands before the server.
    pub guard: Arc<StoreGuard>,
    /// Whether there is a connection to it.
    pub reachable: bool,
    /// Why there is none.
    pub trouble: Option<StoreError>,
}

/// A Redis Cluster that the nodes of a region share.
pub struct RedisCluster(Inner);

struct Inner {
    settings: RedisSettings,
    seeds: Seeds,
    names: Names,
    /// Hex of the script's SHA-1, by which it is called.
    hash: String,
    /// The slot of each bucket.
    slots: Box<[u16]>,
    routes: ArcSwap<Routes>,
    /// The newest epoch of each bucket that an answer was of, 0 before the first.
    epochs: Box<[AtomicU64]>,
    /// Wakes who asks whose the slots are.
    stale: Notify,
    /// Why nobody says whose the slots are.
    trouble: ArcSwapOption<StoreError>,
    /// Why what is spent by rights cannot be left to some server.
    doubt: watch::Sender<Option<Doubt>>,
    make_guard: GuardMaker,
}

/// Whose each slot is, and the connections to them.
#[derive(Default)]
struct Routes {
    map: Map,
    /// In the order of the map's.
    primaries: Vec<Arc<Primary>>,
}

impl Routes {
    fn owner(&self, slot: u16) -> Option<&Arc<Primary>> {
        self.primaries.get(self.map.owner(slot)?)
    }

    fn at(&self, address: &Address) -> Option<&Arc<Primary>> {
        self.primaries.get(self.map.at(address)?)
    }
}

/// What a server is asked.
enum Question<'a> {
    /// To carry out a command over callers of one bucket.
    Step(&'a StoreCommand, CallerBucket),
    Plain(Cmd),
}

impl RedisCluster {
    /// A store that is not connected yet: run [`keep_connected`](Self::keep_connected) beside it.
    ///
    /// # Errors
    ///
    /// A sentence on what is wrong with the URL.
    pub fn new(settings: RedisSettings, make_guard: GuardMaker) -> Result<Self, String> {
        let names = Names::in_cluster(&settings.namespace);
        let buckets = (0..BUCKETS).map(|bucket| CallerBucket(bucket as u16));
        Ok(Self(Inner {
            seeds: Seeds::new(&settings)?,
            hash: hash(),
            slots: buckets.map(|bucket| slot_of(&names.marker(bucket))).collect(),
            routes: ArcSwap::default(),
            epochs: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            stale: Notify::new(),
            trouble: ArcSwapOption::empty(),
            doubt: watch::Sender::new(Some(Doubt::NotSeen)),
            settings,
            names,
            make_guard,
        }))
    }

    /// Connects to all servers, and from then on watches whose the slots are and whether the servers live. Never
    /// returns; drop it to stop.
    pub async fn keep_connected(&self) {
        Box::pin(self.0.keep_connected()).await;
    }

    /// Carries out one command. How many do so at a time is for callers to bound: see [`door`](Self::door). One over
    /// callers of several buckets passes the doors by itself.
    pub async fn apply(&self, command: &StoreCommand) -> Result<StoreReply, StoreError> {
        match bucket_of(command) {
            Some(bucket) => self.0.step(command, bucket, self.0.settings.timeout).await,
            None => Box::pin(self.spread(command)).await,
        }
    }

    /// What stands before the server that has a command's records; `None` for a command over several buckets.
    ///
    /// # Errors
    ///
    /// Why the command cannot be sent to any.
    pub fn door(&self, command: &StoreCommand) -> Result<Option<Door>, StoreError> {
        bucket_of(command).map(|bucket| self.door_of(bucket)).transpose()
    }

    fn door_of(&self, bucket: CallerBucket) -> Result<Door, StoreError> {
        let routes = self.0.routes.load();
        let primary = self.0.owner(&routes, self.0.slots[bucket.index()])?;
        let (guard, reachable) = (Arc::clone(&primary.guard), primary.is_reachable());
        Ok(Door { guard, reachable, trouble: primary.trouble() })
    }

    /// The clock of some server that answers.
    pub async fn read_clock(&self) -> Result<StoreTime, StoreError> {
        let routes = self.0.routes.load_full();
        let links = routes.primaries.iter().filter(|primary| primary.is_reachable());
        let link =
            links.filter_map(|primary| primary.link()).next().ok_or(StoreError::Unreachable)?;
        let mut connection = link.connection.clone();
        let time = redis::cmd("TIME");
        let answer = time.query_async::<(u64, u64)>(&mut connection);
        let answer = time::timeout(self.0.settings.timeout, answer).await;
        let (seconds, micros) = answer
            .map_err(|_| StoreError::Timeout)?
            .map_err(|error| StoreError::from_redis(&error))?;
        Ok(StoreTime(seconds.saturating_mul(1_000_000).saturating_add(micros)))
    }

    /// The secret that this region's records are kept under: `ours`, unless an earlier node left one.
    pub async fn agree_on_secret(&self, ours: Secret) -> Result<Secret, StoreError> {
        let key = self.0.names.secret();
        let mut set = redis::cmd("SET");
        set.arg(&key).arg(&ours.0[..]).arg("NX");
        let mut get = redis::cmd("GET");
        get.arg(&key);
        let (slot, mut found) = (slot_of(&key), Value::Nil);
        for command in [set, get] {
            let until = Instant::now() + PROBE_TIMEOUT;
            found = Box::pin(self.0.routed(slot, &Question::Plain(command), until)).await?;
        }
        let found = Vec::<u8>::from_redis_value(found);
        read_secret(&key, found.map_err(|e| StoreError::Unreadable(e.to_string()))?)
    }

    /// Whether any of its servers can be asked.
    pub fn is_reachable(&self) -> bool {
        self.0.routes.load().primaries.iter().any(|primary| primary.is_reachable())
    }

    /// Which servers cannot be asked, and whether there are slots that no server has, each as a sentence; empty if all
    /// callers are served.
    pub fn ailing(&self) -> Vec<String> {
        let routes = self.0.routes.load();
        if routes.primaries.is_empty() {
            return Vec::new();
        }
        let with_slots = routes.primaries.iter().enumerate();
        let with_slots = with_slots.filter(|(at, _)| routes.map.has_slots(*at));
        let mut said: Vec<_> = with_slots.filter_map(|(_, primary)| primary.ails()).collect();
        let uncovered = routes.map.uncovered();
        if uncovered > 0 {
            said.push(format!("{uncovered} of {SLOTS} slots of the cluster are served by nobody"));
        }
        said
    }

    /// Why nothing can be asked at the moment, if so.
    pub fn trouble(&self) -> Option<StoreError> {
        let routes = self.0.routes.load();
        let of_servers = || routes.primaries.iter().find_map(|primary| primary.trouble());
        self.0.trouble().or_else(of_servers)
    }

    /// What speaks against the settings of any server. Of one that was not seen yet nothing is said, since nothing is
    /// asked of it.
    pub fn doubt(&self) -> watch::Receiver<Option<Doubt>> {
        self.0.doubt.subscribe()
    }

    /// The newest epochs of its buckets, as far as there were answers.
    pub fn epochs(&self) -> impl Iterator<Item = (CallerBucket, StoreEpoch)> {
        let epochs = self.0.epochs.iter().enumerate();
        epochs.filter_map(|(bucket, epoch)| {
            let epoch = epoch.load(Ordering::Relaxed);
            (epoch > 0).then_some((CallerBucket(bucket as u16), StoreEpoch(epoch)))
        })
    }

    /// How the ways to all servers stand, taken together: open if one is, and sums of what is counted.
    pub fn guard_state(&self) -> calls::State {
        let routes = self.0.routes.load();
        let each = routes.primaries.iter().map(|p| p.guard.state(p.is_reachable()));
        each.reduce(|all, one| calls::State {
            state: worse(all.state, one.state),
            opened: std::array::from_fn(|at| {
                let (cause, times) = all.opened[at];
                (cause, times + one.opened[at].1)
            }),
            calls: all.calls + one.calls,
            calls_limit: all.calls_limit + one.calls_limit,
        })
        .unwrap_or_else(|| (self.0.make_guard)().state(false))
    }
}

fn worse(one: breaker::State, other: breaker::State) -> breaker::State {
    use breaker::State::{Closed, HalfOpen, Open};
    match (one, other) {
        (Open, _) | (_, Open) => Open,
        (HalfOpen, _) | (_, HalfOpen) => HalfOpen,
        (Closed, Closed) => Closed,
    }
}

/// The bucket that all callers of a command are in, if it is one; of a command of no operations the one that it opens.
fn bucket_of(command: &StoreCommand) -> Option<CallerBucket> {
    let mut buckets = command.operations.iter().map(|o| CallerBucket::of(o.key.caller, BUCKETS));
    let opened = command.openings.first().map(|(bucket, _)| *bucket);
    let first = buckets.next().or(opened).unwrap_or_default();
    buckets.all(|bucket| bucket == first).then_some(first)
}

impl Inner {
    /// Has the server of a bucket carry out a command.
    async fn step(
        &self,
        command: &StoreCommand,
        bucket: CallerBucket,
        within: Duration,
    ) -> Result<StoreReply, StoreError> {
        let (slot, until) = (self.slots[bucket.index()], Instant::now() + within);
        // It is part of many other futures.
        let answer = Box::pin(self.routed(slot, &Question::Step(command, bucket), until)).await?;
        let reply = read_answer(command, answer)?;
        // A look that is over by now may have found an older one.
        self.epochs[bucket.index()].fetch_max(reply.epoch().0, Ordering::Relaxed);
        Ok(reply)
    }

    /// The server that has a slot.
    fn owner<'a>(&self, routes: &'a Routes, slot: u16) -> Result<&'a Arc<Primary>, StoreError> {
        routes.owner(slot).ok_or_else(|| match self.trouble() {
            Some(trouble) if routes.primaries.is_empty() => trouble,
            _ if routes.primaries.is_empty() => StoreError::Unreachable,
            _ => StoreError::Unserved(format!("no server has slot {slot}")),
        })
    }

    /// Takes note of what servers' settings are.
    fn note_doubt(&self) {
        let routes = self.routes.load();
        let doubt = routes.primaries.iter().find_map(|primary| primary.doubt());
        self.doubt.send_if_modified(|known| std::mem::replace(known, doubt) != doubt);
    }

    fn trouble(&self) -> Option<StoreError> {
        self.trouble.load_full().map(|trouble| (*trouble).clone())
    }

    /// Asks the server that has a slot, or those that it names instead. A question is asked again only after an
    /// answer that says that nothing was carried out.
    async fn routed(
        &self,
        slot: u16,
        question: &Question<'_>,
        until: Instant,
    ) -> Result<Value, StoreError> {
        let (mut named, mut asking, mut rest) = (None, false, REST);
        let mut said = "it is on its way from one server to another";
        for sent in 0..SENT_MAX {
            let routes = self.routes.load_full();
            let found = named.take().and_then(|address| routes.at(&address).cloned());
            // Who is named but not known yet is asked when it is.
            asking &= found.is_some();
            let primary = match found {
                Some(primary) => primary,
                None => Arc::clone(self.owner(&routes, slot)?),
            };
            let link = match primary.usable() {
                Ok(link) => link,
                Err(error) if sent == 0 => return Err(error),
                Err(_) => {
                    said = "it was moved to a server that cannot be reached";
                    break;
                }
            };
            if Instant::now() >= until {
                break;
            }
            let answer = time::timeout_at(until, question.ask(self, &link, asking)).await;
            let error = match answer {
                Err(_) => return Err(StoreError::Timeout),
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
            };
            asking = false;
            match Hop::of(&error, &primary.address) {
                None => {
                    let error = StoreError::from_redis(&error);
                    if matches!(error, StoreError::Broken(_)) {
                        primary.lose(&link);
                        self.stale.notify_one();
                    }
                    return Err(error);
                }
                Some(Hop::Moved(to)) => {
                    self.stale.notify_one();
                    named = to.filter(|to| routes.at(to).is_some());
                }
                Some(Hop::Ask(to)) => {
                    named = to.filter(|to| routes.at(to).is_some());
                    asking = named.is_some();
                }
                Some(Hop::Again) => {}
                Some(Hop::Down) => {
                    self.stale.notify_one();
                    said = "the cluster is down, as the server says that has it";
                    break;
                }
            }
            // Two servers that each name the other do so for a moment only.
            if named.is_none() || sent >= 2 {
                time::sleep_until(until.min(Instant::now() + rest)).await;
                rest = REST_MAX.min(2 * rest);
            }
        }
        Err(StoreError::Unserved(format!("slot {slot}: {said}")))
    }
}

impl Question<'_> {
    async fn ask(&self, store: &Inner, link: &Link, asking: bool) -> RedisResult<Value> {
        let mut connection = link.connection.clone();
        let (command, bucket) = match self {
            Question::Plain(command) => return send(&mut connection, command, asking).await,
            Question::Step(command, bucket) => (*command, *bucket),
        };
        let newest = store.epochs[bucket.index()].load(Ordering::Relaxed);
        let history = link.history.load();
        let packed = store.names.step(bucket, &store.hash, (&history, newest), command);
        match send(&mut connection, &packed, asking).await {
            // A restarted server, or one that was never asked, does not know the script, and has not run it.
            Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                load_script(&mut connection).await?;
                send(&mut connection, &packed, asking).await
            }
            other => other,
        }
    }
}

/// Sends a command once; `asking`, as one for a slot that is on its way to the server.
async fn send(
    connection: &mut redis::aio::MultiplexedConnection,
    command: &Cmd,
    asking: bool,
) -> RedisResult<Value> {
    if !asking {
        return command.query_async(connection).await;
    }
    // In one piece: nobody else's command comes between the two.
    let mut both = redis::pipe();
    both.cmd("ASKING").add_command(command.clone());
    let mut answers = connection.send_packed_commands(&both, 0, 2).await?;
    answers.pop().unwrap_or(Value::Nil).extract_error()
}

impl fmt::Debug for RedisCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.settings.fmt(f)
    }
}
