//! The engine: everything that decides and replicates, as one state machine without IO.

use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};

use rand::Rng;

use crate::{
    check::{Clock, Decision, Ticket},
    counts::{Known, Shard, Tally},
    exchange::{self, Exchange, ExchangeStats, PeerStatus, RegionView, Sentence, Shards},
    guard::{Guard, Guarding},
    ids::{Key, NodeId, RegionName, Session},
    invariants::Invariant,
    store::{StoreCommand, StoreReply},
    time::{ClusterTime, Label, Mono, Span},
    wire::FrameError,
};

mod decide;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

/// How often cells and logs are looked after.
const UPKEEP: Span = Span::millis(100);
/// Cells and log items that one round of upkeep takes per shard.
const UPKEEP_BUDGET: usize = 4_096;

/// What an engine is given once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This run of this node.
    pub session: Session,
    /// How often a peer is told what changed, 1 ms to 10 s.
    pub gossip: Span,
    /// In how many parts the counts are kept: a power of two, 1 to 1,024.
    pub shards: usize,
    /// Cells (keys times live labels) that the node holds at most, beside those of checks that are under
    /// way; beyond, new keys are answered by `on_store_failure`, where `degrade` refuses them.
    pub cells_max: usize,
    /// Whether there are peers to be met: until the first is, how stale a global count is cannot be said.
    pub expects_peers: bool,
    /// Panic where an invariant is broken, instead of counting it.
    pub strict_invariants: bool,
}

impl Settings {
    /// The defaults: gossip every 50 ms, 64 shards, 4 M cells, panics in debug builds only.
    pub fn new(session: Session) -> Self {
        Self {
            session,
            gossip: Span::millis(50),
            shards: 64,
            cells_max: 4_000_000,
            expects_peers: false,
            strict_invariants: cfg!(debug_assertions),
        }
    }
}

/// What became of a plan.
#[derive(Debug)]
pub enum Plan {
    /// No policy applies: nothing to ask, the request may pass.
    Unmatched,
    /// Ask the store, then [`Engine::complete`] the ticket.
    Ask(StoreCommand, Ticket),
    /// No room to count: do not ask the store, complete the ticket with [`Outcome::Cancelled`].
    Full(Ticket),
}

/// What became of a store call.
#[derive(Debug)]
pub enum Outcome {
    /// The store answered.
    Reply(StoreReply),
    /// No answer in time, or a broken connection: the step may have been carried out, or not.
    Unknown,
    /// The step was certainly not carried out.
    Cancelled,
    /// Too much was waiting already: the store was not asked.
    Shed,
}

/// What became of a ticket.
#[derive(Debug)]
pub enum Completion {
    /// The answer.
    Decided(Decision),
    /// The labels did not fit the store's clock: ask once more with these.
    Again(StoreCommand, Ticket),
}

/// Numbers about an engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// Cells held: keys times live labels.
    pub cells: usize,
    /// Bytes that the counts hold.
    pub memory_bytes: usize,
    /// What the exchange did not take, and what it told twice.
    pub exchange: ExchangeStats,
    /// Broken invariants, by invariant.
    pub broken: BTreeMap<Invariant, u64>,
    /// Checks that the store asked to label again.
    pub relabelled: u64,
}

/// Decides and replicates for one node.
///
/// Nothing in here reads a clock, opens a socket or draws an ambient random number. Methods come in
/// families:
///
/// - *decisions*: [`plan`](Self::plan), then ask the store, then [`complete`](Self::complete) exactly
///   once, by whoever owns the store call and not by a future that may be dropped;
/// - *inputs* `handle_*`: what the network and the timer bring;
/// - *outputs*: [`poll_frame`](Self::poll_frame) until `None`, then sleep until
///   [`next_deadline`](Self::next_deadline) or the next input; calling too early is harmless;
/// - *getters*.
///
/// Every method takes `now`, which must not run backwards by more than threads racing each other make it.
/// All take `&self`: parts are guarded one by one (see [`Guarding`]), each for a short, bounded time.
pub struct Engine<G: Guarding> {
    settings: Settings,
    shards: Box<[G::Of<Shard>]>,
    exchange: G::Of<Exchange>,
    clock: G::Of<Clock>,
    /// What the request path needs of the exchange, so that it never waits for a merge.
    views: G::Of<Views>,
    upkeep: G::Of<Upkeep>,
}

/// What is known of how fresh the other regions' counts are.
struct Views {
    regions: Vec<RegionView>,
    /// False while peers are expected and none has ever been met.
    complete: bool,
    /// Nodes of this region that are connected, this one included.
    live_nodes: u64,
}

struct Upkeep {
    next: Mono,
    broken: BTreeMap<Invariant, u64>,
    relabelled: u64,
}

struct ShardSet<'a, G: Guarding>(&'a [G::Of<Shard>]);

impl<G: Guarding> Shards for ShardSet<'_, G> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn with<R>(&self, index: usize, f: impl FnOnce(&mut Shard) -> R) -> R {
        self.0[index].with(f)
    }
}

impl<G: Guarding> Engine<G> {
    /// A new run of a node. `clock` is the wall clock at `now`; the store's replies correct it.
    ///
    /// # Panics
    ///
    /// If `settings.shards` is not a power of two from 1 to 1,024.
    pub fn new(
        settings: Settings,
        now: Mono,
        clock: ClusterTime,
        random: Box<dyn Rng + Send>,
    ) -> Self {
        let count = settings.shards;
        assert!(count.is_power_of_two() && count <= 1_024, "shards: a power of two up to 1,024");
        let per_shard = settings.cells_max.div_ceil(count).max(16);
        Self {
            shards: (0..count).map(|_| Guard::new(Shard::new(per_shard))).collect(),
            exchange: Guard::new(Exchange::new(settings.session.clone(), settings.gossip, random)),
            clock: Guard::new(Clock::new(now, clock)),
            views: Guard::new(Views {
                regions: Vec::new(),
                live_nodes: 1,
                complete: !settings.expects_peers,
            }),
            upkeep: Guard::new(Upkeep { next: now, broken: BTreeMap::new(), relabelled: 0 }),
            settings,
        }
    }

    // -- getters

    /// This run of this node.
    pub fn session(&self) -> &Session {
        &self.settings.session
    }

    /// The time that labels are cut from.
    pub fn cluster_time(&self, now: Mono) -> ClusterTime {
        self.clock.with(|clock| clock.cluster_time(now))
    }

    /// All peers ever connected, the newest session of each.
    pub fn peers(&self, now: Mono) -> Vec<PeerStatus> {
        self.exchange.with(|exchange| exchange.peers(now))
    }

    /// Nodes that are quarantined, and how much longer.
    pub fn quarantined(&self, now: Mono) -> Vec<(NodeId, Span)> {
        self.exchange.with(|exchange| exchange.quarantined(now))
    }

    /// Broken invariants, by invariant; empty as long as there is no bug.
    pub fn broken(&self) -> BTreeMap<Invariant, u64> {
        self.upkeep.with(|upkeep| upkeep.broken.clone())
    }

    /// Numbers about the engine.
    pub fn stats(&self) -> Stats {
        let (mut cells, mut memory_bytes) = (0, 0);
        for shard in &self.shards {
            shard.with(|shard| {
                cells += shard.len();
                memory_bytes += shard.memory_bytes();
            });
        }
        let exchange = self.exchange.with(|exchange| exchange.stats().clone());
        let (broken, relabelled) = self.upkeep.with(|u| (u.broken.clone(), u.relabelled));
        Stats { cells, memory_bytes, exchange, broken, relabelled }
    }

    /// What every session known here has of `key` in `label`, region by region: for checkers and tests.
    pub fn regions_of(&self, key: Key, label: Label) -> Vec<(RegionName, Tally)> {
        let by_region = self.with_shard(key, |shard| shard.by_region(key, label));
        self.exchange.with(|exchange| {
            by_region.into_iter().map(|(r, tally)| (exchange.region(r).clone(), tally)).collect()
        })
    }

    fn with_shard<R>(&self, key: Key, f: impl FnOnce(&mut Shard) -> R) -> R {
        self.shards[exchange::shard_of(key.caller, self.shards.len())].with(f)
    }

    fn known(&self, key: Key, label: Label) -> Known {
        self.with_shard(key, |shard| shard.known(key, label))
    }

    // -- inputs

    /// A connection to a peer's session stands; a newer session of a node replaces the older one. An
    /// error says that the peer is not taken; nothing was changed.
    pub fn handle_connected(&self, now: Mono, peer: &Session) -> Result<(), FrameError> {
        self.exchange.with(|exchange| {
            let result = exchange.handle_connected(now, peer, &self.shard_set());
            self.refresh(exchange);
            result
        })
    }

    /// The connection to a peer's session is gone. What it was told is kept for when it returns.
    pub fn handle_disconnected(&self, now: Mono, peer: &Session) {
        self.exchange.with(|exchange| {
            exchange.handle_disconnected(now, peer);
            self.refresh(exchange);
        });
    }

    /// Takes a frame from a connected peer. Errors are counted by reason; see [`FrameError`] for what
    /// each has left undone. None of them is a reason for the driver to stop listening to the peer: when it
    /// must, [`poll_sentence`](Self::poll_sentence) says so.
    pub fn handle_frame(&self, now: Mono, from: &Session, bytes: &[u8]) -> Result<(), FrameError> {
        let cluster = self.cluster_time(now);
        self.exchange.with(|exchange| {
            let result = exchange.handle_frame(now, cluster, from, bytes, &self.shard_set());
            self.refresh(exchange);
            result
        })
    }

    /// A connected peer sent something that is not even a frame, as no working node does.
    pub fn handle_unreadable(&self, now: Mono, from: &Session) {
        self.exchange.with(|exchange| {
            exchange.handle_claim(now, from, FrameError::Malformed);
            self.refresh(exchange);
        });
    }

    /// Looks after cells, logs and what waits for an acknowledgement; bounded, and harmless when early.
    pub fn handle_timeout(&self, now: Mono) {
        self.exchange.with(|exchange| exchange.handle_timeout(now));
        let due = self.upkeep.with(|upkeep| {
            let due = upkeep.next <= now;
            if due {
                upkeep.next = now + UPKEEP;
            }
            due
        });
        if !due {
            return;
        }
        let cluster = self.cluster_time(now);
        let grace = Span::secs(2).max(self.settings.gossip.times(10));
        for shard in &self.shards {
            shard.with(|shard| shard.sweep(cluster, grace, UPKEEP_BUDGET));
        }
        let set = self.shard_set();
        self.exchange.with(|exchange| {
            exchange.tell_orphans(now, &set, UPKEEP_BUDGET);
            exchange.trim(&set, UPKEEP_BUDGET);
        });
    }

    fn shard_set(&self) -> ShardSet<'_, G> {
        ShardSet(&self.shards)
    }

    fn refresh(&self, exchange: &Exchange) {
        self.views.with(|views| {
            views.regions = exchange.views();
            views.complete |= exchange.has_peers();
            views.live_nodes = exchange.live_nodes() as u64;
        });
    }

    // -- outputs

    /// The next frame that is due, and the session it is for. Call until `None`.
    pub fn poll_frame(&self, now: Mono) -> Option<(Session, Vec<u8>)> {
        let cluster = self.cluster_time(now);
        self.exchange.with(|exchange| exchange.poll_frame(now, cluster, &self.shard_set()))
    }

    /// The next peer that claimed what cannot be too often: close its connection, and refuse its node for
    /// that time. Call until `None` after frames were handled.
    pub fn poll_sentence(&self) -> Option<Sentence> {
        self.exchange.with(Exchange::poll_sentence)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and [`poll_frame`](Self::poll_frame) again.
    pub fn next_deadline(&self, now: Mono) -> Mono {
        let upkeep = self.upkeep.with(|upkeep| upkeep.next);
        let frame = self.exchange.with(|exchange| exchange.next_deadline(now));
        frame.map_or(upkeep, |frame| frame.min(upkeep)).max(now)
    }
}
