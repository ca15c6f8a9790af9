//! The engine: everything that decides and replicates, as one state machine without IO.

use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec::Vec};
use core::{
    iter, mem,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use rand::Rng;

use crate::{
    check::{Decision, Ticket},
    clock::{Clock, ClockStatus},
    counts::{Ages, Known, OverAdmitted, Shard, Tally},
    exchange::{self, Exchange, ExchangeStats, PeerStatus, RegionView, Sentence, Shards},
    forecast::{Participant, Urgency},
    guard::{Guard, Guarding},
    ids::{Key, LimitId, NodeId, RegionIndex, RegionName, RegionNumber, Session},
    invariants::Invariant,
    memory::Memory,
    rights::{Regions, Split},
    store::{BUCKETS, StoreCommand, StoreReply},
    time::{ClusterTime, Label, Mono, Span, StoreTime},
    wire::FrameError,
};

pub use config::ConfigStatus;
use config::{ConfigSight, ConfigView};
pub use give_back::{GiveBackTicket, GivenBack};
pub use grants::GrantTicket;
pub use heal::{HealStatus, HealTicket};
use pace::Pace;
pub use places::PlacesTicket;
pub use refund::{RefundStats, RefundTicket};
pub use reserve::{RESERVED_MAX, ReserveStats, SettleTicket, Settled};

#[cfg(test)]
mod clock_tests;
mod config;
mod decide;
mod give_back;
mod grants;
mod heal;
#[cfg(test)]
mod hostile_tests;
mod named;
mod pace;
mod places;
mod refund;
mod reserve;
#[cfg(test)]
mod tests;
mod without_store;

/// How often cells and logs are looked after.
const UPKEEP: Span = Span::millis(100);
/// Cells and log items that one round of upkeep takes per shard.
const UPKEEP_BUDGET: usize = 4_096;

/// Places of cells that one round of upkeep looks at for the limits' exposure, over all shards.
const SURVEY_BUDGET: u32 = 8_192;
/// Of these, places that are looked at while checks of their shard wait.
const SURVEY_AT_ONCE: u32 = 512;
/// So long after all peers are in touch again, what they had to tell has come.
const HOLD_AFTER: Span = Span::secs(10);

/// What an engine is given once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This run of this node.
    pub session: Session,
    /// How often a peer is told what changed, 1 ms to 10 s.
    pub gossip: Span,
    /// In how many parts the counts are kept: a power of two, 1 to 1,024.
    pub shards: usize,
    /// Into how many buckets the store divides callers, each with epochs of its own: 1, or
    /// [`BUCKETS`] if it lies on several servers. A power of two, 1 to 1,024.
    pub buckets: usize,
    /// Cells (keys times live labels) that the node holds at most, beside those of checks that are under
    /// way; beyond, new keys are answered by `on_store_failure`, where `degrade` refuses them.
    pub cells_max: usize,
    /// Whether one node of each other region is told what changed, and passes it on inside; else all are.
    pub relays: bool,
    /// After which a call of the store is given up: its step is not carried out later, if the store's
    /// clock is known. `None`: calls are not given up.
    pub call_max: Option<Span>,
    /// Whether there are peers to be met: until the first is, how stale a global count is cannot be said.
    pub expects_peers: bool,
    /// The regions that share limits under rights, with their weights; only the own one, if there is no
    /// cluster.
    pub regions: Regions,
    /// When the cluster was founded: labels that began before are known whole by stores that are no older,
    /// as nothing was spent under rights before. `None`: a store that is new is closed until a label begins
    /// in its time.
    pub founded: Option<ClusterTime>,
    /// How long a store's server can go on without knowing that another has taken its place.
    pub fence: Span,
    /// After which nothing more is expected of a node that cannot be heard: it is taken for dead, and what
    /// it might use goes to the others.
    pub reclaim_after: Span,
    /// How far the own store's clock may be from the median of all regions' before that is an alarm.
    pub clock_error: Span,
    /// Panic where an invariant is broken, instead of counting it.
    pub strict_invariants: bool,
}

impl Settings {
    /// The defaults: gossip every 50 ms, 64 shards, 4 M cells, an alarm when the store's clock is off by
    /// half a second, 30 s until a node that cannot be heard is taken for dead, panics in debug builds only.
    pub fn new(session: Session) -> Self {
        let region = RegionNumber::of(&session.id.region);
        Self {
            regions: Regions::first(Split::even(&[region]).expect("one region is a split")),
            founded: None,
            fence: Span::ZERO,
            session,
            gossip: Span::millis(50),
            shards: 64,
            buckets: 1,
            cells_max: 4_000_000,
            relays: false,
            call_max: None,
            expects_peers: false,
            reclaim_after: Span::secs(30),
            clock_error: Span::millis(500),
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
    /// It was answered before under its name, without the store: it is answered the same.
    Known(Box<Decision>),
    /// Something else was asked for under its name.
    OtherRequest,
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
    /// The store was not asked: too much was waiting already, or, of a command that heals, it is left alone.
    Shed,
}

/// What became of a ticket.
#[derive(Debug)]
pub enum Completion {
    /// The answer.
    Decided(Decision),
    /// The labels did not fit the store's clock: ask once more with these.
    Again(StoreCommand, Ticket),
    /// Something else was asked for under its name: nothing was done.
    OtherRequest,
}

/// Numbers about an engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// Cells held: keys times live labels.
    pub cells: usize,
    /// Sessions whose counts are known, this one included.
    pub sessions: usize,
    /// What the tables hold.
    pub memory: Memory,
    /// What the exchange did not take, and what it told twice.
    pub exchange: ExchangeStats,
    /// Broken invariants, by invariant.
    pub broken: BTreeMap<Invariant, u64>,
    /// Checks that the store asked to label again.
    pub relabelled: u64,
    /// What was given back.
    pub refunds: RefundStats,
    /// Times that there was no room to watch a key's demand, so that its limit was decided as `plain`.
    pub unwatched: u64,
    /// By how much global limits were exceeded in labels that have ended.
    pub over_admitted: BTreeMap<LimitId, OverAdmitted>,
    /// By how much the limit of any one caller may be exceeded at most in its window, as the last round
    /// over all callers found: every 100 ms for up to 8,192 cells, proportionally less often for more.
    ///
    /// `None` as long as it is not known which other regions there are.
    pub over_admission_possible: Option<BTreeMap<LimitId, u64>>,
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
///   [`next_deadline`](Self::next_deadline) or the next input; calling too early is harmless. In the same
///   way [`poll_heal`](Self::poll_heal) and [`next_heal`](Self::next_heal), for who asks the store;
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
    heal: G::Of<heal::Heal>,
    grants: G::Of<grants::Grants>,
    reserved: G::Of<reserve::Reserved>,
    named: G::Of<named::Named>,
    pace: Pace,
    regions: Regions,
    own_region: RegionNumber,
    /// When this run began.
    began: Mono,
    /// Whether any limit was asked for that is spent by rights.
    has_rights: AtomicBool,
    /// Whether nothing may be spent by rights, for what the store's settings are.
    suspended: AtomicBool,
    /// Whether a peer that shares limits has another configuration of the same number.
    configured_otherwise: AtomicBool,
    /// What decisions are told apart by that would else be equal.
    chance: AtomicU64,
    /// The newest epoch of each of the store's buckets.
    epochs: Box<[heal::EpochSeen]>,
}

/// What is known of how fresh the other regions' counts are.
struct Views {
    regions: Vec<RegionView>,
    /// How many further regions share limits, none of whose nodes was ever met.
    unmet: usize,
    /// Regions that share limits, and none of whose nodes has ever told this one all that it knew; with the
    /// index under which something is known of them all the same.
    apart: Arc<[(RegionNumber, Option<RegionIndex>)]>,
    /// False while peers are expected and none has ever been met.
    complete: bool,
    /// Nodes of this region that are connected, this one included.
    live_nodes: u64,
    /// Whose demand weighs in forecasts.
    participants: Arc<[Participant]>,
    /// The other regions, by the number that rows of rights name them by.
    numbers: Arc<[(RegionNumber, RegionIndex)]>,
    /// A number of this session that is the same on every node.
    fingerprint: u64,
    /// Whether every configured region has told what it knew when the two met, and nothing of an earlier
    /// session of this region.
    all_have_answered: bool,
    /// How far regions have come with configurations.
    config: ConfigView,
}

/// What forecasts and grants need to know of the others.
struct Sighted {
    now: Mono,
    cluster: ClusterTime,
    participants: Arc<[Participant]>,
    /// The other regions.
    regions: Arc<[(RegionNumber, RegionIndex)]>,
    fingerprint: u64,
    config: ConfigSight,
    /// Regions that this node has not come to know since it began, as long as it waits for them.
    apart: Arc<[(RegionNumber, Option<RegionIndex>)]>,
}

impl Views {
    /// How old what is known of each other region is; as if it had never been heard where there was no room
    /// for all of it.
    fn ages(&self, now: Mono) -> Ages {
        let age = |view: &RegionView| view.staleness(now).filter(|_| view.is_whole(now));
        let met = self.regions.iter().map(|view| (view.region, age(view)));
        met.chain(iter::repeat_n((RegionIndex::UNMET, None), self.unmet)).collect()
    }

    /// Whether it is known which other regions there are: none are configured, and nobody was met who could
    /// tell.
    fn know_the_others(&self) -> bool {
        self.complete || self.unmet > 0
    }
}

/// The slow round over all cells that looks for the limits' worst exposure.
#[derive(Default)]
struct Survey {
    /// The shard and the place in it to go on with.
    next: (usize, u32),
    /// What this round found so far, and what the last whole one did.
    so_far: BTreeMap<LimitId, u64>,
    worst: BTreeMap<LimitId, u64>,
}

struct Upkeep {
    next: Mono,
    /// Until when cells of ended labels are held: somebody's part of them is missing.
    hold_until: Option<Mono>,
    survey: Survey,
    broken: BTreeMap<Invariant, u64>,
    relabelled: u64,
    refunds: RefundStats,
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
    /// If `settings.shards` or `settings.buckets` is not a power of two from 1 to 1,024.
    pub fn new(
        settings: Settings,
        now: Mono,
        clock: ClusterTime,
        mut random: Box<dyn Rng + Send>,
    ) -> Self {
        let count = settings.shards;
        assert!(count.is_power_of_two() && count <= 1_024, "shards: a power of two up to 1,024");
        let buckets = settings.buckets;
        assert!(
            buckets.is_power_of_two() && buckets <= BUCKETS,
            "buckets: a power of two up to 1,024"
        );
        let per_shard = settings.cells_max.div_ceil(count).max(16);
        let chance = random.next_u64();
        let own_region = RegionNumber::of(&settings.session.id.region);
        let others = settings.regions.iter().filter(|region| *region != own_region);
        Self {
            shards: (0..count).map(|_| Guard::new(Shard::new(per_shard))).collect(),
            exchange: Guard::new(Exchange::new(
                settings.session.clone(),
                settings.gossip,
                settings.relays,
                settings.regions.clone(),
                random,
            )),
            clock: Guard::new(Clock::new(now, clock, settings.clock_error)),
            views: Guard::new(Views {
                regions: Vec::new(),
                unmet: settings.regions.iter().count().saturating_sub(1),
                apart: others.map(|region| (region, None)).collect(),
                live_nodes: 1,
                complete: !settings.expects_peers,
                participants: Arc::default(),
                numbers: Arc::default(),
                fingerprint: 0,
                all_have_answered: false,
                config: ConfigView::default(),
            }),
            upkeep: Guard::new(Upkeep {
                next: now,
                hold_until: None,
                survey: Survey::default(),
                broken: BTreeMap::new(),
                relabelled: 0,
                refunds: RefundStats::default(),
            }),
            heal: Guard::new(heal::Heal::default()),
            grants: Guard::new(grants::Grants::default()),
            reserved: Guard::new(reserve::Reserved::default()),
            named: Guard::new(named::Named::default()),
            pace: Pace::default(),
            regions: settings.regions.clone(),
            own_region,
            began: now,
            has_rights: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            configured_otherwise: AtomicBool::new(false),
            chance: AtomicU64::new(chance),
            epochs: (0..settings.buckets).map(|_| heal::EpochSeen::default()).collect(),
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

    /// How the own store's clock stands to those of the other regions.
    pub fn clock_status(&self, now: Mono) -> ClockStatus {
        self.clock.with(|clock| clock.status(now))
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
        let (mut cells, mut unwatched) = (0, 0);
        let mut memory = Memory::default();
        let mut over_admitted: BTreeMap<LimitId, OverAdmitted> = BTreeMap::new();
        for shard in &self.shards {
            shard.with(|shard| {
                cells += shard.len();
                memory.counts += size_of::<Shard>() + shard.memory_bytes();
                unwatched += shard.watched.refused();
                for (limit, over) in shard.over_admitted() {
                    over_admitted.entry(*limit).or_default().add(*over);
                }
            });
        }
        memory.reserved = self.reserved.with(|reserved| reserved.memory_bytes())
            + self.named.with(|named| named.memory_bytes());
        let (exchange, sessions) = self.exchange.with(|exchange| {
            (memory.sessions, memory.peers) = exchange.memory_bytes();
            (exchange.stats().clone(), exchange.sessions())
        });
        let known = self.views.with(|views| views.know_the_others());
        self.upkeep.with(|upkeep| Stats {
            cells,
            sessions,
            memory,
            exchange,
            broken: upkeep.broken.clone(),
            relabelled: upkeep.relabelled,
            refunds: upkeep.refunds,
            unwatched,
            over_admitted,
            over_admission_possible: known.then(|| upkeep.survey.worst.clone()),
        })
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

    /// A connection to a peer's session stands; another session of a node replaces the one before, so
    /// the caller must let in only one at a time. An error says that the peer is not taken; nothing was
    /// changed.
    pub fn handle_connected(&self, now: Mono, peer: &Session) -> Result<(), FrameError> {
        self.exchange.with(|exchange| {
            let result = exchange.handle_connected(now, peer, &self.shard_set());
            self.refresh(now, exchange);
            result
        })
    }

    /// The connection to a peer's session is gone. What it was told is kept for when it returns.
    pub fn handle_disconnected(&self, now: Mono, peer: &Session) {
        self.exchange.with(|exchange| {
            exchange.handle_disconnected(now, peer);
            self.refresh(now, exchange);
        });
    }

    /// Takes a frame from a connected peer. Errors are counted by reason; see [`FrameError`] for what
    /// each has left undone. None of them is a reason for the driver to stop listening to the peer: when it
    /// must, [`poll_sentence`](Self::poll_sentence) says so.
    pub fn handle_frame(&self, now: Mono, from: &Session, bytes: &[u8]) -> Result<(), FrameError> {
        let clock = self.clock.with(|clock| clock.reading(now));
        self.exchange.with(|exchange| {
            let result = exchange.handle_frame(now, clock, from, bytes, &self.shard_set());
            if exchange.take_demand_news() {
                // Whoever watches a key wants to know that nobody else is asked for it.
                self.pace.note(now, self.settings.gossip, Urgency::Later);
            }
            if exchange.take_rights_news() {
                self.has_rights.store(true, Ordering::Relaxed);
                self.pace.want_grants();
            }
            self.refresh(now, exchange);
            self.follow_clocks(now, exchange);
            result
        })
    }

    /// Takes a reading that the region's store made of its clock between `asked` and `now`. Every reply
    /// to a check brings one; where checks are rare, ask the store once a second, since what is known of
    /// its clock grows old.
    pub fn handle_store_clock(&self, asked: Mono, now: Mono, reading: StoreTime) {
        self.clock.with(|clock| clock.handle_store(asked, now, reading));
    }

    /// A connected peer sent something that is not even a frame, as no working node does.
    pub fn handle_unreadable(&self, now: Mono, from: &Session) {
        self.exchange.with(|exchange| {
            exchange.handle_claim(now, from, FrameError::Malformed);
            self.refresh(now, exchange);
        });
    }

    /// Looks after cells, logs and what waits for an acknowledgement; bounded, and harmless when early.
    pub fn handle_timeout(&self, now: Mono) {
        let (missing, grace) = self.exchange.with(|exchange| {
            exchange.handle_timeout(now);
            self.follow_clocks(now, exchange);
            (exchange.misses_a_peer(now), exchange.grace())
        });
        let hold = self.upkeep.with(|upkeep| {
            if missing {
                upkeep.hold_until = Some(now + HOLD_AFTER);
            }
            let due = upkeep.next <= now;
            if due {
                upkeep.next = now + UPKEEP;
            }
            due.then(|| upkeep.hold_until.is_some_and(|until| now < until))
        });
        let Some(hold) = hold else { return };
        let (cluster, may_forget) = self.clock.with(|clock| {
            clock.handle_timeout(now);
            (clock.cluster_time(now), clock.may_forget(now))
        });
        for shard in self.shards.iter().filter(|_| may_forget) {
            shard.with(|shard| shard.sweep(cluster, grace, hold, UPKEEP_BUDGET));
        }
        for shard in &self.shards {
            shard.with(|shard| shard.watched.sweep(now, UPKEEP_BUDGET as u32));
        }
        self.survey(now, cluster);
        let set = self.shard_set();
        self.exchange.with(|exchange| {
            exchange.tell_orphans(now, &set, UPKEEP_BUDGET);
            exchange.compare(now, cluster, &set);
            exchange.trim(&set, UPKEEP_BUDGET);
            exchange.collect_sessions(&set, UPKEEP_BUDGET as u32);
        });
    }

    /// Goes on with the round over all cells, a bounded part of it.
    fn survey(&self, now: Mono, cluster: ClusterTime) {
        let ages = self.views.with(|views| views.ages(now));
        let mut survey = self.upkeep.with(|upkeep| mem::take(&mut upkeep.survey));
        let mut budget = SURVEY_BUDGET;
        while budget > 0 {
            let (shard, from) = survey.next;
            let next = self.shards[shard].with(|shard| {
                let budget = budget.min(SURVEY_AT_ONCE);
                let on = shard.expose(cluster, &ages, (from, budget), &mut survey.so_far);
                (on, on.unwrap_or(shard.places()).saturating_sub(from))
            });
            let (next, looked) = next;
            budget = budget.saturating_sub(looked);
            survey.next = next.map_or((shard + 1, 0), |from| (shard, from));
            if survey.next.0 == self.shards.len() {
                survey.next = (0, 0);
                survey.worst = mem::take(&mut survey.so_far);
                break;
            }
        }
        self.upkeep.with(|upkeep| upkeep.survey = survey);
    }

    fn shard_set(&self) -> ShardSet<'_, G> {
        ShardSet(&self.shards)
    }

    fn follow_clocks(&self, now: Mono, exchange: &mut Exchange) {
        let Some(news) = exchange.poll_clocks(now) else { return };
        self.clock.with(|clock| {
            clock.handle_others(now, news.others);
            clock.handle_furthest(news.furthest);
            if let Some(time) = news.sibling {
                clock.handle_sibling(now, time);
            }
        });
    }

    fn refresh(&self, now: Mono, exchange: &Exchange) {
        let otherwise = exchange.configured_otherwise().next().is_some();
        self.configured_otherwise.store(otherwise, Ordering::Relaxed);
        self.views.with(|views| {
            views.regions = exchange.views();
            views.unmet = exchange.unmet();
            if !views.apart.is_empty() {
                let apart = views.apart.iter().map(|(region, _)| *region);
                let apart = apart.filter(|region| !exchange.has_answered(*region));
                views.apart = apart.map(|region| (region, exchange.index_of(region))).collect();
            }
            views.complete |= exchange.has_peers();
            views.live_nodes = exchange.live_nodes() as u64;
            views.participants = exchange.participants(now);
            views.numbers = exchange.numbers();
            views.fingerprint = exchange.own_fingerprint();
            views.config = ConfigView::of(&self.regions, exchange.adoptions(), self.own_region);
            views.all_have_answered |= exchange.have_answered() && !exchange.knows_gone_siblings();
        });
    }

    // -- outputs

    /// The next frame that is due, and the session it is for. Call until `None`.
    pub fn poll_frame(&self, now: Mono) -> Option<(Session, Vec<u8>)> {
        let clock = self.clock.with(|clock| clock.reading(now));
        self.exchange.with(|exchange| {
            if self.pace.take_urgent() {
                exchange.hurry(now);
            }
            let tempo = self.pace.tempo(now, self.settings.gossip);
            exchange.poll_frame(now, clock, tempo, &self.shard_set())
        })
    }

    /// Whether peers should hear at once of what a check brought: whoever drives the frames is to be woken
    /// before its deadline.
    pub fn is_urgent(&self) -> bool {
        self.pace.is_urgent()
    }

    /// The next peer that claimed what cannot be too often: close its connection, and refuse its node for
    /// that time. Call until `None` after frames were handled.
    pub fn poll_sentence(&self) -> Option<Sentence> {
        self.exchange.with(Exchange::poll_sentence)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and [`poll_frame`](Self::poll_frame) again.
    pub fn next_deadline(&self, now: Mono) -> Mono {
        let upkeep = self.upkeep.with(|upkeep| upkeep.next);
        let frame = self.exchange.with(|exchange| {
            if self.pace.take_urgent() {
                exchange.hurry(now);
            }
            exchange.next_deadline(now)
        });
        frame.map_or(upkeep, |frame| frame.min(upkeep)).max(now)
    }
}
