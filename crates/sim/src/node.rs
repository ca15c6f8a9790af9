//! A node: an engine with a clock of its own, for as long as it lives.

use tidegate_core::{
    check::{Purpose, Subject as Asked},
    engine::{Engine, Plan, Settings},
    ids::{Boot, NodeId, Session},
    policy::{ATTRIBUTES_MAX, PolicySet},
    rights::Regions,
    time::{ClusterTime, Mono, Span},
};

use crate::{
    guard::StoreGuard,
    locks::Ordered,
    queue::Instant,
    rng::Stream,
    scenario::{Scenario, drifted},
    subjects::{SECRET, Subject},
};

/// A node that has not heard of every peer serves without its store for so long at most.
const SYNC_MAX: Span = Span::secs(2);
/// The cluster was founded so long before virtual time begins: stores that begin with it are its first (to
/// an engine those of the first five seconds are), and a store that loses its memory under load is none.
const FOUNDED_BEFORE: Span = Span::millis(3_500);
/// So many attributes most requests have at most.
const FEW: usize = 4;
/// How often a node looks whether a store that cannot be reached can be healed.
const LOOK_EVERY: Span = Span::millis(100);
/// A node's timer rings no more often than this, as a real one's does.
const TIMER_GRAIN: Span = Span::millis(1);
/// Monotonic clocks begin anywhere: far enough apart that two mixed up cannot go unnoticed.
const MONO_APART: u64 = 1_000_000_000_000;

/// One run of one node.
pub struct Life {
    /// Its number among all lives.
    pub number: usize,
    /// Its session.
    pub session: Session,
    /// What decides and replicates.
    pub engine: Engine<Ordered>,
    /// What decides whether its store is asked.
    pub guard: StoreGuard,
    started: Instant,
    /// By how many millionths its monotonic clock runs too fast.
    drift_ppm: i64,
    /// When its timer rings next.
    pub wake_at: Instant,
    /// Until when its process stands still.
    pub paused_until: Instant,
    /// When it asks its store for its clock next: checks bring it too, but may be rare.
    pub read_clock_at: Instant,
    /// The latest time that its clock has shown to who looked.
    pub shown: ClusterTime,
    synced: bool,
}

/// A node, alive or not.
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// Its region.
    pub region: usize,
    /// The run that lasts.
    pub life: Option<Life>,
}

/// What a node's clocks show when it starts.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// The wall clock.
    pub wall: ClusterTime,
    /// By how many millionths the monotonic clock runs too fast.
    pub drift_ppm: i64,
}

impl Node {
    /// A node that has never run.
    pub const fn new(id: NodeId, region: usize) -> Self {
        Self { id, region, life: None }
    }

    /// Starts another run. Its boot number is what its wall clock shows in milliseconds, as a server's.
    pub fn start(
        &mut self,
        number: usize,
        scenario: &Scenario,
        now: Instant,
        clocks: Clocks,
        seed: u64,
    ) -> Session {
        let session = Session { id: self.id.clone(), boot: Boot(clocks.wall.0 / 1_000) };
        let Scenario { gossip, reclaim_after, store, topology, .. } = scenario;
        let settings = Settings {
            gossip: *gossip,
            reclaim_after: *reclaim_after,
            call_max: Some(store.timeout),
            relays: topology.relays,
            shards: 1,
            regions: scenario
                .faults
                .regions(now)
                .cloned()
                .unwrap_or_else(|| Regions::first(topology.split())),
            founded: Some(ClusterTime(scenario.schedule.epoch.0 - FOUNDED_BEFORE.0)),
            fence: store.fence,
            ..Settings::new(session.clone())
        };
        let random = Box::new(Stream::new(seed, "engine", number as u64).into_rng());
        let engine = Engine::new(settings, mono_at(number, Span::ZERO), clocks.wall, random);
        let life = Life {
            number,
            session: session.clone(),
            engine,
            guard: StoreGuard::new(store, Stream::new(seed, "breaker", number as u64)),
            started: now,
            drift_ppm: clocks.drift_ppm,
            wake_at: Instant(u64::MAX),
            paused_until: Instant(0),
            read_clock_at: now,
            shown: ClusterTime(0),
            synced: false,
        };
        self.life = Some(life);
        session
    }
}

/// The monotonic clock of a life, so long after its start.
const fn mono_at(number: usize, age: Span) -> Mono {
    Mono((number as u64 + 1) * MONO_APART + age.0)
}

impl Life {
    /// What its monotonic clock shows.
    pub fn mono(&self, now: Instant) -> Mono {
        let age = now.since(self.started);
        mono_at(self.number, Span(age.0.saturating_add_signed(drifted(age, self.drift_ppm))))
    }

    /// When its timer should ring: as its engine says, but not at once again. A store that cannot be
    /// reached is not healed, but looked at now and then.
    pub fn next_wake(&self, now: Instant, reachable: bool) -> Instant {
        let mono = self.mono(now);
        let deadline = self.engine.next_deadline(mono);
        let look = if reachable { mono } else { mono + LOOK_EVERY };
        let upkeep = [self.engine.next_heal(mono), self.engine.next_grants(mono)];
        let upkeep = upkeep.into_iter().flatten().map(|at| at.max(look)).min();
        let deadline = upkeep.map_or(deadline, |upkeep| upkeep.min(deadline));
        let age = deadline.since(mono_at(self.number, Span::ZERO));
        // A clock that drifts shows this age earlier or later. Early by a little is harmless.
        let true_age = age.0.saturating_add_signed(-drifted(age, self.drift_ppm));
        let late = Span(u64::from(self.drift_ppm != 0));
        let deadline = self.started + Span(true_age) + late;
        deadline.min(self.read_clock_at).max(now + TIMER_GRAIN)
    }

    /// Whether it asks its store already: once `peers` others have told all they know of its region's
    /// earlier runs, or after a while without them.
    pub fn is_ready(&mut self, now: Instant, peers: usize) -> bool {
        if !self.synced {
            let answered =
                || self.engine.peers(self.mono(now)).iter().filter(|p| p.answered).count();
            self.synced = now.since(self.started) >= SYNC_MAX || answered() >= peers;
        }
        self.synced
    }

    /// Plans one request of a subject.
    pub fn plan(&self, policies: &PolicySet, subject: &Subject, cost: u64, now: Instant) -> Plan {
        // Almost all have few, and a list of as many as there may be is long.
        let (mut few, mut many);
        let count = subject.attributes.len();
        let attributes = if count <= FEW {
            few = [("", ""); FEW];
            &mut few[..count]
        } else {
            many = [("", ""); ATTRIBUTES_MAX];
            &mut many[..count]
        };
        for (place, (name, value)) in attributes.iter_mut().zip(&subject.attributes) {
            *place = (name, value);
        }
        let asked = [Asked { attributes, cost }];
        self.engine
            .plan(policies, &SECRET, self.mono(now), &asked, Purpose::Charge)
            .expect("the scenario was checked for subjects that meet too many limits")
    }
}
