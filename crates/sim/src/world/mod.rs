//! The world: one queue of events, and what each does to nodes, stores, links and books.

use std::collections::BTreeMap;

use tidegate_core::{
    check::Ticket,
    engine::Outcome,
    ids::Session,
    store::StoreCommand,
    time::{Span, StoreTime},
};

use crate::{
    central::Central,
    checker::{Book, Panel, Seen, SlotSeen},
    ledger::{Ledger, TooMuch},
    network::Network,
    node::Node,
    queue::{Instant, Queue},
    rng::Stream,
    scenario::Scenario,
    slots::Slots,
    store::RegionStore,
    subjects::Subjects,
    trace::Trace,
    workload::Source,
};

mod frames;
mod heal;
mod links;
mod lives;
mod requests;
mod views;

/// How long after a fault its consequences may last.
const RECOVERY: Span = Span::secs(4);

/// Something that is due.
#[derive(Debug, Clone, Copy)]
enum Event {
    Arrival { source: usize },
    Step { call: usize },
    Answer { call: usize },
    Deadline { call: usize },
    Wake { node: usize, life: usize },
    Frame { frame: usize },
    Dial { link: usize },
    Connected { link: usize, epoch: u64 },
    CutBegins { cut: usize },
    Silence { link: usize, epoch: u64, since: Instant },
    Stop { restart: usize },
    Start { node: usize },
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
    /// No node of the region was alive.
    pub unanswered: u64,
}

/// A request at its node.
#[derive(Debug, Clone, Copy)]
struct Request {
    subject: usize,
    node: usize,
    life: usize,
    region: usize,
}

/// A question to a store that is under way.
struct Call {
    request: Request,
    command: StoreCommand,
    /// Taken by the first answer, or by the deadline.
    ticket: Option<Ticket>,
    reply: Option<Outcome>,
    /// Where the book stood when it was planned.
    planned: u64,
    asked: u8,
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
    sessions: BTreeMap<Session, usize>,
    counts: Vec<RegionCount>,
    quiet: bool,
    /// The key that was viewed last under load.
    next_view: usize,
    bytes_under_load: u64,
}

/// What a run came to.
pub struct Finished {
    /// Hash over all that happened.
    pub trace_hash: u64,
    /// Events handled.
    pub events: u64,
    /// By region.
    pub counts: Vec<RegionCount>,
    /// Admissions by window.
    pub ledger: Ledger,
    /// What is counted.
    pub subjects: Subjects,
    /// The checkers.
    pub panel: Panel,
    /// Bytes of frames between regions while there was load.
    pub bytes_between_regions: u64,
    /// Frames sent in the whole run.
    pub frames: u64,
}

impl<'a> World<'a> {
    /// A world at the beginning of a scenario.
    pub fn new(scenario: &'a Scenario, seed: u64) -> Result<Self, TooMuch> {
        let topology = &scenario.topology;
        let regions = topology.regions.len();
        let subjects = Subjects::new(&scenario.policies, &scenario.loads, regions);
        let ledger = Ledger::new(&subjects, &scenario.schedule)?;
        let stores = (0..regions).map(|region| {
            let faults = scenario.store_faults.iter().filter(|f| f.region == region).copied();
            let random = Stream::new(seed, "store", region as u64);
            RegionStore::new(scenario.store, faults.collect(), random)
        });
        let book =
            Book::new(subjects.keys.clone(), regions, scenario.schedule, disturbances(scenario));
        let mut world = Self {
            scenario,
            seed,
            queue: Queue::new(),
            trace: Trace::new(),
            events: 0,
            nodes: topology.nodes().into_iter().map(|(r, id)| Node::new(id, r)).collect(),
            stores: stores.collect(),
            network: Network::new(topology.clone(), seed),
            sources: Source::all(&scenario.loads, &subjects.first_of_load, seed),
            balance: Stream::new(seed, "balance", 0),
            central: Central::new(&subjects),
            ledger,
            panel: Panel::new(book),
            calls: Slots::default(),
            flights: Slots::default(),
            sessions: BTreeMap::new(),
            counts: vec![RegionCount::default(); regions],
            quiet: false,
            next_view: 0,
            bytes_under_load: 0,
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
        for (restart, facts) in self.scenario.restarts.iter().enumerate() {
            self.queue.push(facts.at, Event::Stop { restart });
        }
        self.queue.push(Instant(0), Event::Sweep);
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
            ledger: self.ledger,
            subjects: self.subjects,
            panel: self.panel,
            bytes_between_regions: self.bytes_under_load,
            frames: self.network.frames,
        }
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Arrival { source } => self.arrive(now, source),
            Event::Step { call } => self.step(now, call),
            Event::Answer { call } => self.answer(now, call),
            Event::Deadline { call } => self.give_up(now, call),
            Event::Wake { node, life } => self.wake(now, node, life),
            Event::Frame { frame } => self.deliver(now, frame),
            Event::Dial { link } => self.dial(now, link),
            Event::Connected { link, epoch } => self.connect(now, link, epoch),
            Event::CutBegins { cut } => self.begin_cut(now, cut),
            Event::Silence { link, epoch, since } => self.fall_silent(now, link, epoch, since),
            Event::Stop { restart } => self.stop(now, restart),
            Event::Start { node } => self.start(now, node),
            Event::Sweep => self.sweep(now),
            Event::Sample => self.sample(now),
            Event::Quiet => {
                self.quiet = true;
                self.bytes_under_load = self.network.bytes_between_regions;
                self.panel.see(now, &Seen::Quiet);
                self.sample(now);
            }
        }
    }

    /// Writes into the trace: which kind of thing, and two numbers about it.
    fn note(&mut self, kind: u8, a: u64, b: u64) {
        self.trace.bytes(&[kind]);
        self.trace.number(a);
        self.trace.number(b);
    }

    fn store_time(&self, now: Instant) -> StoreTime {
        StoreTime(self.scenario.schedule.cluster_time(now).0)
    }
}

/// Times in which something is broken, with the time to recover. Where frames are lost at random, no
/// window's counts are certain to be everywhere soon.
fn disturbances(scenario: &Scenario) -> Vec<(Instant, Instant)> {
    if scenario.topology.weather.loss > 0.0 {
        return vec![(Instant(0), Instant(u64::MAX))];
    }
    let cuts = scenario.topology.cuts.iter().map(|cut| (cut.start, cut.end));
    let restarts = scenario.restarts.iter().map(|restart| (restart.at, restart.at + restart.down));
    cuts.chain(restarts).map(|(from, to)| (from, to + RECOVERY)).collect()
}
