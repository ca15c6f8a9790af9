//! The world: one queue of events, and what each does to nodes, stores, links and books.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_core::{
    breaker::Cause,
    check::Ticket,
    ids::{Boot, NodeId, RegionNumber, Session},
    policy::PolicySet,
    store::StoreCommand,
    time::{Span, StoreTime},
};

use crate::{
    central::Central,
    checker::{Book, Charge, Facts, Panel, Seen, SlotSeen, Step},
    guard::{Answer, Permit},
    ledger::{Ledger, TooMuch},
    network::Network,
    node::Node,
    queue::{Instant, Queue},
    rng::Stream,
    scenario::{ClockFault, Reload, Scenario},
    slots::Slots,
    store::RegionStore,
    subjects::Subjects,
    trace::Trace,
    workload::Source,
};

mod calls;
mod frames;
mod links;
mod lives;
mod refunds;
mod relays;
mod requests;
mod upkeep;

mod views;

/// How long after a fault its consequences may last.
const RECOVERY: Span = Span::secs(4);

/// Something that is due.
#[derive(Debug, Clone, Copy)]
enum Event {
    Arrival { source: usize },
    Ask { node: usize, life: usize, asked: Asked },
    Step { call: usize },
    Answer { call: usize },
    Deadline { call: usize },
    Refund { refund: usize },
    Wake { node: usize, life: usize },
    Frame { frame: usize },
    Dial { link: usize },
    Connected { link: usize, epoch: u64 },
    CutBegins { cut: usize },
    Silence { link: usize, epoch: u64, since: Instant },
    PeerLost { node: usize, life: usize, peer: usize },
    Stop { restart: usize },
    Start { node: usize },
    Pause { pause: usize },
    StoreSaved { loss: usize },
    StoreLost { loss: usize },
    StoreSetForward { region: usize },
    Healed,
    LoadBegins,
    Sweep,
    Sample,
    Quiet,
}

/// What one region's requests came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegionCount {
    /// Asked.
    pub offered: u64,
    /// Let through.
    pub admitted: u64,
    /// Refused by a limit, or by a policy for want of a store.
    pub refused: u64,
    /// Of those admitted or refused: without the store's word.
    pub without_store: u64,
    /// Of these: because too many calls were waiting for the store.
    pub shed: u64,
    /// No node of the region was alive.
    pub unanswered: u64,
}

/// What a request asks for, small enough for an event.
#[derive(Debug, Clone, Copy)]
struct Asked {
    subject: u32,
    cost: u32,
    /// Whether it came while measuring.
    measured: bool,
    /// After how many microseconds it is given back, if it is admitted; 0: never.
    refunded: u32,
}

/// A request at its node.
#[derive(Debug, Clone, Copy)]
struct Request {
    subject: usize,
    cost: u64,
    measured: bool,
    node: usize,
    life: usize,
    region: usize,
    /// Where the book stood when it was planned.
    planned: u64,
    /// After how many microseconds it is given back, if it is admitted; 0: never.
    refunded: u32,
}

/// What will be given back.
struct Refund {
    /// By which node, in which of its lives; `None`: by the central limiter.
    by: Option<(usize, usize)>,
    charges: Vec<Charge>,
}

/// What a check waits with for its store's word.
struct Pending {
    ticket: Ticket,
    permit: Permit,
    /// When the store was asked, last.
    asked: Instant,
}

/// A question to a store that is under way.
struct Call {
    request: Request,
    command: StoreCommand,
    /// Taken by the first answer, or by the deadline.
    pending: Option<Pending>,
    answer: Option<Answer>,
    /// Events that still name it.
    events: u8,
}

/// A frame under way.
struct Flight {
    link: usize,
    epoch: u64,
    from: usize,
    to: usize,
    bytes: Vec<u8>,
    /// Whether these are not the bytes that were sent.
    corrupt: bool,
    slots: Option<Vec<SlotSeen>>,
}

/// A run in progress.
pub struct World<'a> {
    scenario: &'a Scenario,
    seed: u64,
    queue: Queue<Event>,
    trace: Trace,
    events: u64,
    subjects: Subjects,
    nodes: Vec<Node>,
    stores: Vec<RegionStore>,
    network: Network,
    sources: Vec<Source>,
    balance: Stream,
    central: Central,
    ledger: Ledger,
    panel: Panel,
    calls: Slots<Call>,
    flights: Slots<Flight>,
    refunds: Slots<Refund>,
    /// Which requests are given back, and when.
    refunding: Stream,
    refunded: u64,
    sessions: BTreeMap<Session, usize>,
    /// Whom mangled frames seem to come from.
    nobody: Session,
    counts: Vec<RegionCount>,
    /// How often breakers of lives that are over have opened, by cause.
    opened: [u64; Cause::ALL.len()],
    /// Nodes of different regions, the second the relay of the first.
    relays: BTreeSet<(usize, usize)>,
    relays_died: u64,
    /// Steps that servers carried out which had been replaced.
    by_replaced: u64,
    quiet: bool,
    /// The key that was viewed last under load.
    next_view: usize,
    bytes_before_load: u64,
    bytes_under_load: u64,
    /// Empty lists that are filled for each request, so that their room is used again.
    steps: Vec<Step>,
    charges: Vec<Charge>,
}

/// What a run came to.
pub struct Finished {
    /// Hash over all that happened.
    pub trace_hash: u64,
    /// Events handled.
    pub events: u64,
    /// By region.
    pub counts: Vec<RegionCount>,
    /// How often the breakers before stores opened, by cause.
    pub opened: [u64; Cause::ALL.len()],
    /// What nodes gave back of what they had admitted.
    pub refunded: u64,
    /// How often a node died that another was telling for its siblings too.
    pub relays_died: u64,
    /// Steps that servers carried out which had been replaced.
    pub by_replaced: u64,
    /// Admissions by window.
    pub ledger: Ledger,
    /// What is counted.
    pub subjects: Subjects,
    /// The checkers.
    pub panel: Panel,
    /// UDP payload that frames between regions came to while there was load.
    pub bytes_between_regions: u64,
    /// Frames sent in the whole run.
    pub frames: u64,
}

impl<'a> World<'a> {
    /// A world at the beginning of a scenario.
    pub fn new(scenario: &'a Scenario, seed: u64) -> Result<Self, TooMuch> {
        let topology = &scenario.topology;
        let regions = topology.regions.len();
        let schedule = &scenario.schedule;
        let mut subjects = Subjects::new(&scenario.policies, &scenario.loads, regions);
        subjects.change(&scenario.reloads, schedule);
        let ledger = Ledger::new(&subjects, regions, schedule)?;
        let all_load = schedule.load_end.since(schedule.load_start);
        let stores = (0..regions).map(|region| {
            let faults =
                scenario.faults.store_faults.iter().filter(|f| f.region == region).copied();
            let random = Stream::new(seed, "store", region as u64);
            let error = scenario.faults.store_clock_error(region, Instant(0));
            let time = StoreTime(schedule.cluster_time(Instant(0)).0.saturating_add_signed(error));
            RegionStore::new(scenario.store, faults.collect(), time, random)
        });
        let book = Book::new(subjects.keys.clone(), regions, facts(scenario, &subjects));
        let mut world = Self {
            scenario,
            seed,
            queue: Queue::new(),
            trace: Trace::new(),
            events: 0,
            nodes: topology.nodes().into_iter().map(|(r, id)| Node::new(id, r)).collect(),
            stores: stores.collect(),
            network: Network::new(topology.clone(), seed),
            sources: Source::all(&scenario.loads, &subjects.first_of_load, seed, all_load),
            balance: Stream::new(seed, "balance", 0),
            central: Central::new(&subjects),
            ledger,
            panel: Panel::new(book),
            calls: Slots::default(),
            flights: Slots::default(),
            refunds: Slots::default(),
            refunding: Stream::new(seed, "refunds", 0),
            refunded: 0,
            sessions: BTreeMap::new(),
            nobody: nobody(),
            counts: vec![RegionCount::default(); regions],
            opened: [0; Cause::ALL.len()],
            relays: BTreeSet::new(),
            relays_died: 0,
            by_replaced: 0,
            quiet: false,
            next_view: 0,
            bytes_before_load: 0,
            bytes_under_load: 0,
            steps: Vec::new(),
            charges: Vec::new(),
            subjects,
        };
        world.prepare();
        Ok(world)
    }

    /// Asks for everything that is certain to come.
    fn prepare(&mut self) {
        let schedule = self.scenario.schedule;
        for node in 0..self.nodes.len() {
            self.queue.push(Instant(0), Event::Start { node });
        }
        for source in 0..self.sources.len() {
            self.next_arrival(source);
        }
        for (cut, facts) in self.scenario.topology.cuts.iter().enumerate() {
            self.queue.push(facts.start, Event::CutBegins { cut });
        }
        let faults = &self.scenario.faults;
        for (restart, facts) in faults.restarts.iter().enumerate() {
            self.queue.push(facts.at, Event::Stop { restart });
        }
        for (pause, facts) in faults.pauses.iter().enumerate() {
            self.queue.push(facts.at, Event::Pause { pause });
        }
        for (loss, facts) in faults.store_losses.iter().enumerate() {
            if let Some(back) = facts.back {
                let saved = Instant(facts.at.0.saturating_sub(back.0));
                self.queue.push(saved, Event::StoreSaved { loss });
            }
            self.queue.push(facts.at, Event::StoreLost { loss });
        }
        for fault in &faults.clocks {
            if let ClockFault::Store { region, at, offset: 1.., .. } = *fault {
                self.queue.push(at, Event::StoreSetForward { region });
            }
        }
        self.queue.push(self.panel.book().facts.healed, Event::Healed);
        self.queue.push(Instant(0), Event::Sweep);
        self.queue.push(schedule.load_start, Event::LoadBegins);
        self.queue.push(schedule.load_start, Event::Sample);
        self.queue.push(schedule.load_end, Event::Quiet);
    }

    /// Runs to the scenario's end.
    pub fn run(mut self) -> Finished {
        let end = self.scenario.schedule.end;
        while let Some((now, event)) = self.queue.pop_before(end) {
            self.events += 1;
            self.trace.number(now.0);
            self.handle(now, event);
        }
        for node in 0..self.nodes.len() {
            if let Some(life) = self.nodes[node].life.take() {
                self.examine(end, &life);
            }
        }
        self.panel.finish(end);
        Finished {
            trace_hash: self.trace.value(),
            events: self.events,
            counts: self.counts,
            opened: self.opened,
            refunded: self.refunded,
            relays_died: self.relays_died,
            by_replaced: self.by_replaced,
            ledger: self.ledger,
            subjects: self.subjects,
            panel: self.panel,
            bytes_between_regions: self.bytes_under_load,
            frames: self.network.frames,
        }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        if let Some(until) = self.asleep_until(now, event) {
            self.queue.push(until, event);
            return;
        }
        match event {
            Event::Ask { node, life, asked } => self.ask(now, node, life, asked),
            Event::Arrival { source } => self.arrive(now, source),
            Event::Step { call } => self.step(now, call),
            Event::Answer { call } => self.answer(now, call),
            Event::Deadline { call } => self.give_up(now, call),
            Event::Refund { refund } => self.refund(now, refund),
            Event::Wake { node, life } => self.wake(now, node, life),
            Event::Frame { frame } => self.deliver(now, frame),
            Event::Dial { link } => self.dial(now, link),
            Event::Connected { link, epoch } => self.connect(now, link, epoch),
            Event::CutBegins { cut } => self.begin_cut(now, cut),
            Event::Silence { link, epoch, since } => self.fall_silent(now, link, epoch, since),
            Event::PeerLost { node, life, peer } => self.lose_peer(now, node, life, peer),
            Event::Stop { restart } => self.stop(now, restart),
            Event::Pause { pause } => self.pause(now, pause),
            Event::StoreSaved { loss } => self.save_store(now, loss),
            Event::StoreLost { loss } => self.lose_store(now, loss),
            Event::StoreSetForward { region } => {
                // Records that live for less time than was passed over are gone: as if all were.
                self.panel.see(now, &Seen::StoreExpired { region });
            }
            Event::Healed => self.panel.see(now, &Seen::Healed),
            Event::LoadBegins => self.bytes_before_load = self.network.bytes_between_regions,
            Event::Start { node } => self.start(now, node),
            Event::Sweep => self.sweep(now),
            Event::Sample => self.sample(now),
            Event::Quiet => {
                self.quiet = true;
                self.bytes_under_load = self.network.bytes_between_regions - self.bytes_before_load;
                self.panel.see(now, &Seen::Quiet);
                self.sample(now);
            }
        }
    }

    /// Writes into the trace: which kind of thing, and two numbers about it.
    fn note(&mut self, kind: u8, a: u64, b: u64) {
        self.trace.number(u64::from(kind));
        self.trace.number(a);
        self.trace.number(b);
    }

    /// Until when an event must wait because the process that it is for stands still.
    fn asleep_until(&mut self, now: Instant, event: Event) -> Option<Instant> {
        let (node, life) = match event {
            Event::Wake { node, life } | Event::Ask { node, life, .. } => (node, life),
            Event::Answer { call } | Event::Deadline { call } => {
                let request = self.calls.get_mut(call)?.request;
                (request.node, request.life)
            }
            Event::Refund { refund } => self.refunds.get_mut(refund)?.by?,
            Event::Frame { frame } => {
                let node = self.flights.get_mut(frame)?.to;
                (node, self.nodes[node].life.as_ref()?.number)
            }
            _ => return None,
        };
        let life = self.nodes[node].life.as_ref().filter(|here| here.number == life)?;
        (now < life.paused_until).then_some(life.paused_until)
    }

    /// The policies that a node goes by.
    fn policies(&self, now: Instant, node: usize) -> &'a PolicySet {
        let read = Reload::of(&self.scenario.reloads, node, self.nodes.len(), now);
        read.unwrap_or(&self.scenario.policies)
    }

    /// What a region's store's clock shows.
    fn store_time(&self, region: usize, now: Instant) -> StoreTime {
        let error = self.scenario.faults.store_clock_error(region, now);
        StoreTime(self.scenario.schedule.cluster_time(now).0.saturating_add_signed(error))
    }
}

/// A session that no node has.
fn nobody() -> Session {
    let id = NodeId::new("nowhere", "nobody").expect("names");
    Session { id, boot: Boot(0) }
}

/// What the checkers must know of a scenario.
fn facts(scenario: &Scenario, subjects: &Subjects) -> Facts {
    let Scenario { schedule, faults, topology, .. } = scenario;
    // Where frames are lost at random, no window's counts are certain to be everywhere soon.
    let mut disturbed: Vec<_> = if topology.weather.loss > 0.0 {
        vec![(Instant(0), Instant(u64::MAX))]
    } else {
        faults.delays(topology)
    };
    disturbed.iter_mut().for_each(|(_, to)| *to = *to + RECOVERY);
    let healed = scenario.healed();
    // A store without room for every key refuses some for good.
    let held = |region: usize| {
        subjects.keys.iter().filter(|key| key.region.is_none_or(|r| r == region)).count()
    };
    let roomy = (0..topology.regions.len()).all(|region| held(region) <= scenario.store.records);
    Facts {
        schedule: *schedule,
        disturbed,
        faulty: healed.is_some(),
        healed: healed.unwrap_or(schedule.load_start).max(schedule.load_start),
        recover_within: scenario.recover_within,
        roomy,
        store: scenario.store,
        weights: weights_of(scenario),
        reclaim_after: scenario.reclaim_after,
    }
}

/// The weights of all configurations, by region.
fn weights_of(scenario: &Scenario) -> Vec<Vec<u32>> {
    let regions = &scenario.topology.regions;
    let first = regions.iter().map(|region| region.weight).collect();
    let later = scenario.faults.configs.iter().map(|(_, config)| {
        regions.iter().map(|region| config.weight(RegionNumber::of(&region.name))).collect()
    });
    std::iter::once(first).chain(later).collect()
}
