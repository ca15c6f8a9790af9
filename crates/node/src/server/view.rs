//! What a node says about itself, put together from its parts.

use std::{collections::BTreeMap, sync::Arc};

use tidegate_core::{
    Memory, PeerStatus,
    breaker::State as BreakerState,
    calls,
    engine::{Engine, Stats},
    policy::{Limit, Scope},
    time::Span,
};
use tokio::sync::watch;

use super::{
    agreement::{self, Differing},
    peers::Network,
    snapshots::Snapshots,
};
use crate::{
    api::{
        Admin, ClusterView, ConnectionState, Connections, Fault, FaultControl, FaultView, NodeView,
        Readiness, RegionView, TURNED_AWAY_MAX, UnknownRegion, bodies_refused,
    },
    clock::{self, Clock},
    faults::{Faults, FaultsRequest},
    guard::Mutexes,
    limiter::Limiter,
    membership::Member,
    memory::ProcessMemory,
    store::{Store, StoreError},
    telemetry::{
        ClockSample, ConfigSample, GuardSample, ListenerSample, Metrics, NodeSample, OverSample,
        PeerSample, StoreSample, Traffic,
    },
    transport::TransportStats,
};

/// A connected peer that has not been heard for longer is half open: it speaks every second.
const SILENCE_MAX: Span = Span::secs(3);

/// Connections of operators that may be open at a time.
const OPERATORS_MAX: usize = 256;

/// Connections that a node may have open beside those of its callers: of operators, and on both listeners
/// of those who are turned away.
pub const CONNECTIONS_BESIDE_CALLERS_MAX: usize = OPERATORS_MAX + 2 * TURNED_AWAY_MAX;

/// The connections of both listeners.
#[derive(Clone)]
pub(super) struct Doors {
    pub(super) http: Arc<Connections>,
    pub(super) admin: Arc<Connections>,
}

impl Doors {
    pub(super) fn new(callers_max: usize) -> Self {
        Self { http: Connections::new(callers_max), admin: Connections::new(OPERATORS_MAX) }
    }
}

/// The parts that know something.
pub(super) struct View {
    pub(super) version: &'static str,
    pub(super) engine: Arc<Engine<Mutexes>>,
    pub(super) limiter: Limiter,
    pub(super) store: Arc<Store>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) network: Arc<Network>,
    pub(super) faults: Option<Arc<Faults>>,
    pub(super) snapshots: Option<Arc<Snapshots>>,
    pub(super) doors: Doors,
    pub(super) draining: watch::Sender<bool>,
    pub(super) secret_agreed: watch::Sender<bool>,
}

/// One node of another region, from membership and exchange together.
struct Known {
    id: tidegate_core::ids::NodeId,
    member: Option<Member>,
    peer: Option<PeerStatus>,
}

impl Known {
    fn state(&self) -> ConnectionState {
        match &self.peer {
            Some(peer) if peer.connected => match peer.staleness {
                Some(staleness) if staleness < SILENCE_MAX => ConnectionState::Connected,
                _ => ConnectionState::HalfOpen,
            },
            _ => ConnectionState::Missing,
        }
    }
}

/// Connected is best.
fn best(states: impl Iterator<Item = ConnectionState>) -> ConnectionState {
    let rank = |state: &ConnectionState| match state {
        ConnectionState::Connected => 2,
        ConnectionState::HalfOpen => 1,
        ConnectionState::Missing => 0,
    };
    states.max_by_key(rank).unwrap_or(ConnectionState::Missing)
}

impl View {
    /// Nodes other than this one, by region.
    fn known(&self) -> BTreeMap<String, Vec<Known>> {
        let own = &self.engine.session().id;
        let mut known: BTreeMap<_, Known> = BTreeMap::new();
        for member in self.network.members() {
            let id = member.id.clone();
            known.insert(id.clone(), Known { id, member: Some(member), peer: None });
        }
        for peer in self.engine.peers(self.clock.now()) {
            let id = peer.session.id.clone();
            let place = known.entry(id.clone());
            place.or_insert(Known { id, member: None, peer: None }).peer = Some(peer);
        }
        let mut regions: BTreeMap<String, Vec<Known>> = BTreeMap::new();
        for node in known.into_values().filter(|node| node.id != *own) {
            regions.entry(node.id.region.to_string()).or_default().push(node);
        }
        regions
    }

    /// Other nodes, of this region too, that have other policies in force.
    pub(super) fn differing(&self) -> Vec<Differing> {
        let own = &self.engine.session().id;
        agreement::differing(&self.network.members(), own, &self.limiter.policies().hash)
    }

    fn region(name: String, nodes: &[Known], addresses: &BTreeMap<String, String>) -> RegionView {
        let connected = |node: &&Known| node.peer.as_ref().is_some_and(|peer| peer.connected);
        let staleness = |node: &Known| node.peer.as_ref().and_then(|peer| peer.staleness);
        let stalest = nodes.iter().filter(connected).map(staleness).max();
        let freshest = || nodes.iter().filter_map(staleness).min();
        let nearest = nodes
            .iter()
            .filter(connected)
            .filter_map(|node| node.peer.as_ref())
            .min_by_key(|peer| peer.round_trip.map_or(u64::MAX, |trip| trip.0));
        RegionView {
            region: name,
            state: best(nodes.iter().map(Known::state)),
            staleness_ms: stalest.unwrap_or_else(freshest).map(Span::as_millis_ceil),
            rtt_ms: nearest.and_then(|peer| peer.round_trip).map(Span::as_millis),
            clock_offset_ms: nearest.and_then(|peer| peer.clock_offset).map(|us| us / 1_000),
            nodes: nodes
                .iter()
                .map(|node| NodeView {
                    node: node.id.node.to_string(),
                    address: node.member.as_ref().map_or_else(
                        || addresses.get(&node.id.to_string()).cloned().unwrap_or_default(),
                        |member| member.address.to_string(),
                    ),
                    state: node.state(),
                    policy_hash: node
                        .member
                        .as_ref()
                        .map(|member| member.policy_hash.clone())
                        .filter(|hash| !hash.is_empty()),
                })
                .collect(),
        }
    }

    fn sample(&self) -> NodeSample {
        let now = self.clock.now();
        let peers = self.engine.peers(now);
        let stats = self.engine.stats();
        let clock = self.engine.clock_status(now);
        let config = self.engine.config_status(now);
        let traffic = |t: &tidegate_core::Traffic| Traffic {
            frames: t.frames,
            bytes: t.bytes,
            changes: t.changes,
        };
        let transport = self.network.stats();
        let clocks: BTreeMap<String, i64> = peers
            .iter()
            .filter_map(|peer| Some((peer.session.id.region.to_string(), peer.clock_offset?)))
            .collect();
        let mut frames_dropped: Vec<_> =
            stats.exchange.dropped.iter().map(|(reason, n)| (reason.name(), *n)).collect();
        frames_dropped.extend([
            ("queue_full", transport.dropped_queue_full),
            ("disconnected", transport.dropped_disconnected),
            ("unreadable", transport.dropped_malformed),
        ]);
        NodeSample {
            peers: peers
                .iter()
                .map(|peer| PeerSample {
                    region: peer.session.id.region.to_string(),
                    node: peer.session.id.node.to_string(),
                    connected: peer.connected,
                    staleness: peer.staleness.map(clock::duration),
                    received: traffic(&peer.received),
                    sent: traffic(&peer.sent),
                })
                .collect(),
            clocks: clocks
                .into_iter()
                .map(|(region, us)| ClockSample { region, offset_seconds: us as f64 / 1e6 })
                .collect(),
            clock_error: clock.error.map(|us| us as f64 / 1e6),
            clock_alarm: clock.alarm,
            rights_suspended: self.engine.rights_are_suspended(now),
            config: ConfigSample {
                acting: config.acting.0,
                adopted: config.own.map_or(0, |own| own.epoch.0),
                agreed: config.agreed,
            },
            policies_agree: self.differing().is_empty(),
            relabelled: stats.relabelled,
            unwatched: stats.unwatched,
            frames_dropped,
            tables: self.tables(stats.memory, &transport),
            peers_refused: transport.refused,
            quarantined: self
                .engine
                .quarantined(now)
                .into_iter()
                .map(|(node, _)| (node.region.to_string(), node.node.to_string()))
                .collect(),
            listeners: [("http", &self.doors.http), ("admin", &self.doors.admin)]
                .map(|(listener, connections)| {
                    let stats = connections.stats();
                    ListenerSample {
                        listener,
                        open: stats.open,
                        refused: stats.refused,
                        stalled: stats.stalled,
                    }
                })
                .to_vec(),
            bodies_refused: bodies_refused(),
            certificate_expires: self.network.validity().map(|validity| validity.not_after),
            broken_invariants: stats.broken.iter().map(|(i, n)| (i.name(), *n)).collect(),
            over: self.over(&stats),
            repair: stats.exchange.repair,
            slots_refused: stats.exchange.refused,
            store: self.store_sample(),
            keys: stats.cells as u64,
            process: ProcessMemory::now().ok(),
            guard: self.limiter.guard_state().map(guard_sample),
        }
    }

    /// By how much each global limit in force was and may be exceeded.
    fn over(&self, stats: &Stats) -> Vec<OverSample> {
        let policies = self.limiter.policies();
        let limits = policies
            .policies
            .iter()
            .flat_map(|policy| policy.limits.iter().map(move |limit| (&*policy.name, limit)));
        let global = limits.filter(|(_, limit)| limit.scope == Scope::Global);
        let rights = self.engine.rights_in_use();
        let sample = |(policy, limit): (&str, &Limit)| {
            let over = stats.over_admitted.get(&limit.id).copied().unwrap_or_default();
            OverSample {
                policy: policy.to_owned(),
                limit: limit.name.to_string(),
                admitted: over.admitted,
                unmeasured: over.unmeasured,
                possible: stats.over_admission_possible.as_ref().map(|possible| {
                    let exposure = possible.get(&limit.id).copied().unwrap_or_default();
                    self.engine.possible(limit, exposure)
                }),
                rights: limit
                    .has_rights()
                    .then(|| rights.get(&limit.id).copied().unwrap_or_default()),
            }
        };
        global.map(sample).collect()
    }

    fn store_sample(&self) -> StoreSample {
        let (heal, reserved) = (self.engine.heal_status(), self.engine.reserve_stats());
        StoreSample {
            reserved: [reserved.open as u64, reserved.unsettled],
            epoch: heal.epoch.map(|epoch| epoch.0),
            epochs: heal.epochs,
            old_answers: heal.old_answers,
            healed: heal.healed,
            may_evict: self.store.may_evict(),
            snapshots: self.snapshots.as_ref().map_or([0; 2], |keeper| keeper.counted()),
        }
    }

    fn tables(&self, of: Memory, transport: &TransportStats) -> Vec<(&'static str, u64)> {
        let mut tables = vec![
            ("counts", of.counts as u64),
            ("sessions", of.sessions as u64),
            ("reserved", of.reserved as u64),
            ("peers", of.peers as u64),
            ("queues", transport.queued_bytes),
            ("received", transport.received_bytes),
            ("gossip", self.network.gossip_bytes()),
        ];
        if let Some(faults) = &self.faults {
            tables.push(("delayed", faults.delayed_bytes() as u64));
        }
        if let Store::Memory(memory) = &*self.store {
            tables.push(("records", memory.memory_bytes() as u64));
        }
        tables
    }
}

fn guard_sample(guard: calls::State) -> GuardSample {
    GuardSample {
        state: match guard.state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        },
        opened: guard.opened.iter().map(|(cause, times)| (cause.name(), *times)).collect(),
        calls: guard.calls.into(),
        calls_limit: guard.calls_limit.into(),
    }
}

impl Admin for View {
    fn ready(&self) -> Readiness {
        let (reachable, synced) = (self.store.is_reachable(), self.limiter.has_started());
        let open = |guard: calls::State| guard.state == BreakerState::Open;
        let ailing = self.store.ailing();
        let store = match (reachable, self.limiter.guard_state()) {
            (false, _) => "unreachable",
            (true, _) if !ailing.is_empty() => "partial",
            (true, Some(guard)) if open(guard) => "open",
            (true, _) => "ok",
        };
        let agreed = *self.secret_agreed.borrow();
        let draining = *self.draining.borrow();
        let mut reasons = Vec::new();
        if !reachable {
            reasons.push(match self.store.trouble() {
                Some(refused @ StoreError::Refused(_)) => refused.to_string(),
                _ => "the store cannot be reached: see `store.url`".to_owned(),
            });
        } else if store == "open" {
            let why = "the store fails or is slow, and is not asked for a while: see the log";
            reasons.push(why.to_owned());
        } else if !agreed {
            reasons.push("the region's secret is not known yet".to_owned());
        } else if !synced {
            reasons.push("waiting for seeds to tell what they know of this region".to_owned());
        }
        // For people, as what follows: it does not make the node unready. Most of its callers are served.
        if reachable {
            reasons.extend(ailing);
        }
        reasons.extend(self.engine.quarantined(self.clock.now()).iter().map(|(node, left)| {
            let seconds = left.as_secs_ceil();
            format!("{node} is quarantined for another {seconds} s: it claimed what cannot be")
        }));
        // Nor does this: whoever starts a copy must not be able to stop the node that it is one of.
        if let Some(peer) = self.network.refused_for_namesake() {
            let name = &self.engine.session().id;
            reasons.push(format!(
                "{peer} refuses this node, since another process runs as {name} (the log says where): give \
                 each its own `node` and certificate, or stop one"
            ));
        }
        // Nor this: all nodes would be, while a new file reaches one after the other.
        let policy_hash = &self.limiter.policies().hash;
        reasons.extend(self.differing().iter().map(|Differing { node, hash }| {
            format!(
                "{node} has other policies in force (hash {hash}) than this node ({policy_hash}): give both \
                 the same policy file"
            )
        }));
        if draining {
            reasons.push("the node is stopping".to_owned());
        }
        let own = self.engine.session().id.region.to_string();
        let regions = self.known().into_iter().filter(|(region, _)| *region != own);
        Readiness {
            // A store that is left alone for a while makes no node unready: all nodes of a region would be at
            // once, and nobody would be there to answer by `on_store_failure`.
            ready: reachable && synced && !draining,
            store: store.to_owned(),
            sync: if synced { "done" } else { "running" }.to_owned(),
            peers: regions
                .map(|(region, nodes)| (region, best(nodes.iter().map(Known::state))))
                .collect(),
            reasons,
        }
    }

    fn cluster(&self) -> ClusterView {
        let session = self.engine.session();
        let policy_hash = self.limiter.policies().hash.to_string();
        let addresses: BTreeMap<String, String> = self
            .network
            .connections()
            .into_iter()
            .map(|info| (info.session.id.to_string(), info.address.to_string()))
            .collect();
        let own = session.id.region.to_string();
        ClusterView {
            region: own.clone(),
            node: session.id.node.to_string(),
            boot: session.boot.0,
            version: self.version.to_owned(),
            agree: self.differing().is_empty(),
            regions: self
                .known()
                .into_iter()
                .filter(|(region, _)| *region != own)
                .map(|(region, nodes)| Self::region(region, &nodes, &addresses))
                .collect(),
            policy_hash,
        }
    }

    fn faults(&self) -> Option<&dyn FaultControl> {
        self.faults.as_deref().map(|faults| faults as &dyn FaultControl)
    }

    fn render_metrics(&self) -> String {
        self.metrics.render(self.sample())
    }
}

impl FaultControl for Faults {
    fn set(&self, to: &str, fault: Fault) -> Result<(), UnknownRegion> {
        let request = FaultsRequest {
            to: to.to_owned(),
            cut: fault.cut.unwrap_or(false),
            delay_ms: fault.delay_ms,
            jitter_ms: fault.jitter_ms,
            loss: fault.loss,
        };
        // Ranges were checked before.
        Self::set(self, &request).map(drop).map_err(|_| UnknownRegion(to.to_owned()))
    }

    fn table(&self) -> Vec<FaultView> {
        let rules = self.snapshot().to.into_iter();
        rules
            .map(|(to, rule)| FaultView {
                to,
                cut: rule.cut,
                delay_ms: rule.delay_ms,
                jitter_ms: rule.jitter_ms,
                loss: rule.loss,
            })
            .collect()
    }

    fn clear(&self) {
        Self::clear(self);
    }
}
