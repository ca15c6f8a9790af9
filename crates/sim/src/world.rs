//! The world: one queue of events, and what each does to nodes, stores, links and books.

use std::collections::BTreeMap;

use tidegate_core::{
    check::{Decision, Ticket},
    engine::{Completion, Outcome, Plan},
    ids::Session,
    store::{Counts, StoreCommand, StoreReply},
    time::{Label, Span, StoreTime},
};

use crate::{
    central::Central,
    checker::{Book, Charge, LifeFacts, Panel, Seen, SlotSeen},
    frames,
    ledger::{Ledger, TooMuch},
    network::{Network, REDIAL, SILENCE_MAX},
    node::{Life, Node},
    queue::{Instant, Queue},
    rng::Stream,
    scenario::{Scenario, StoreFate},
    slots::Slots,
    store::RegionStore,
    subjects::Subjects,
    trace::Trace,
    workload::Source,
};

/// Keys whose views are compared; with more, the first stand for all.
const WATCHED_MAX: usize = 64;
/// How often views are compared once the load has ended, until they agree.
const QUIET_SAMPLE: Span = Span::millis(1);
/// How often stores forget what has expired, and how much they look at.
const SWEEP: Span = Span::millis(100);
const SWEEP_BUDGET: usize = 4_096;
/// How long after a fault its consequences may last.
const RECOVERY: Span = Span::secs(4);
/// A command whose label did not fit is asked once more, and no more.
const ASKED_MAX: u8 = 2;

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

    // -- requests

    fn next_arrival(&mut self, source: usize) {
        let schedule = &self.scenario.schedule;
        let at = self.sources[source].next(schedule.load_start);
        if at < schedule.load_end {
            self.queue.push(at, Event::Arrival { source });
        }
    }

    fn arrive(&mut self, now: Instant, source: usize) {
        let (subject, region) = (self.sources[source].subject(), self.sources[source].region);
        self.next_arrival(source);
        self.note(1, subject as u64, region as u64);
        self.counts[region].offered += 1;

        let true_time = self.scenario.schedule.cluster_time(now);
        let Self { central, subjects, ledger, .. } = self;
        central.offer(subjects, subject, region, true_time, |key, label, cost| {
            ledger.central(key, label, cost);
        });

        let alive = |node: &&Node| node.region == region && node.life.is_some();
        let count = self.nodes.iter().filter(alive).count();
        // One draw per request, so that a node's death does not shift who gets later ones.
        let drawn = self.balance.below(count.max(1) as u64) as usize;
        let chosen = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| alive(node))
            .map(|(n, _)| n)
            .nth(drawn);
        let Some(node) = chosen else {
            self.counts[region].unanswered += 1;
            return;
        };
        self.ask(now, node, subject);
    }

    fn ask(&mut self, now: Instant, node: usize, subject: usize) {
        let peers = self.nodes.len() - 1;
        let asked = &mut self.nodes[node];
        let region = asked.region;
        let Some(life) = &mut asked.life else { return };
        let request = Request { subject, node, life: life.number, region };
        let ready = life.is_ready(now, peers);
        match life.plan(&self.scenario.policies, &self.subjects.all[subject], now) {
            Plan::Unmatched => self.counts[region].admitted += 1,
            Plan::Ask(command, ticket) if ready => {
                self.submit(now, request, command, ticket, 1);
            }
            Plan::Ask(_, ticket) | Plan::Full(ticket) => {
                self.complete(now, request, ticket, Outcome::Cancelled, 1);
            }
        }
    }

    /// Puts a command on its way to the region's store.
    fn submit(
        &mut self,
        now: Instant,
        request: Request,
        command: StoreCommand,
        ticket: Ticket,
        asked: u8,
    ) {
        let fate = self.stores[request.region].fate(now);
        let planned = self.panel.book().mark();
        if fate.answers == [Some(Span::ZERO), None] && fate.step == Some(Span::ZERO) {
            let outcome = self.apply(now, request, &command, planned);
            self.complete(now, request, ticket, outcome, asked);
            return;
        }
        let timeout = self.scenario.store.timeout;
        let in_time = fate.answers[0].is_some_and(|after| after <= timeout);
        let due = [
            fate.step.map(|after| (after, 0)),
            fate.answers[0].map(|after| (after, 1)),
            fate.answers[1].map(|after| (after, 1)),
            (!in_time).then_some((timeout, 2)),
        ];
        let events = due.iter().flatten().count() as u8;
        let ticket = Some(ticket);
        let call = Call { request, command, ticket, reply: None, planned, asked, events };
        let call = self.calls.insert(call);
        for (after, kind) in due.into_iter().flatten() {
            let event = match kind {
                0 => Event::Step { call },
                1 => Event::Answer { call },
                _ => Event::Deadline { call },
            };
            self.queue.push(now + after, event);
        }
    }

    /// The store's step, for a command that is there now.
    fn apply(
        &mut self,
        now: Instant,
        request: Request,
        command: &StoreCommand,
        planned: u64,
    ) -> Outcome {
        let time = self.store_time(now);
        let Ok(reply) = self.stores[request.region].apply(command, time) else {
            return Outcome::Cancelled;
        };
        if let StoreReply::Done { admitted, operations, .. } = &reply {
            self.note(2, request.subject as u64, u64::from(*admitted));
            if *admitted {
                let subject = &self.subjects.all[request.subject];
                let charged = subject
                    .met
                    .iter()
                    .zip(&command.operations)
                    .zip(operations)
                    .filter(|(_, reply)| reply.passes)
                    .map(|((met, operation), _)| Charge {
                        key: met.key_in(request.region),
                        label: operation.label,
                        cost: subject.cost,
                    });
                let charges: Vec<Charge> = charged.collect();
                let seen = Seen::Stepped { life: request.life, planned, charges: &charges };
                self.panel.see(now, &seen);
            }
        }
        Outcome::Reply(reply)
    }

    /// One event less that names the call; frees it after the last.
    fn release(&mut self, call: usize) {
        if let Some(named) = self.calls.get_mut(call) {
            named.events -= 1;
            if named.events == 0 {
                self.calls.remove(call);
            }
        }
    }

    fn step(&mut self, now: Instant, call: usize) {
        if let Some(Call { request, command, planned, .. }) = self.calls.get_mut(call) {
            let (request, planned) = (*request, *planned);
            let command = std::mem::take(command);
            let outcome = self.apply(now, request, &command, planned);
            if let Some(call) = self.calls.get_mut(call) {
                call.reply = Some(outcome);
            }
        }
        self.release(call);
    }

    fn answer(&mut self, now: Instant, call: usize) {
        // A second answer, or one after the deadline, finds the ticket gone and is ignored.
        let taken = self.calls.get_mut(call).and_then(|call| {
            let outcome = call.reply.take()?;
            Some((call.request, call.asked, call.ticket.take()?, outcome))
        });
        self.release(call);
        if let Some((request, asked, ticket, outcome)) = taken {
            self.complete(now, request, ticket, outcome, asked);
        }
    }

    fn give_up(&mut self, now: Instant, call: usize) {
        let taken = self
            .calls
            .get_mut(call)
            .and_then(|call| Some((call.request, call.asked, call.ticket.take()?)));
        self.release(call);
        if let Some((request, asked, ticket)) = taken {
            self.complete(now, request, ticket, Outcome::Unknown, asked);
        }
    }

    fn complete(
        &mut self,
        now: Instant,
        request: Request,
        ticket: Ticket,
        outcome: Outcome,
        asked: u8,
    ) {
        let life = self.nodes[request.node].life.as_ref().filter(|l| l.number == request.life);
        let Some(life) = life else {
            // The node died with its question: nobody is answered.
            self.counts[request.region].unanswered += 1;
            return;
        };
        let store = match &outcome {
            Outcome::Reply(StoreReply::Done { admitted, .. }) => Some(*admitted),
            _ => None,
        };
        match life.engine.complete(life.mono(now), ticket, outcome) {
            Completion::Decided(decision) => self.decide(now, request, store, &decision),
            Completion::Again(command, ticket) if asked < ASKED_MAX => {
                self.submit(now, request, command, ticket, asked + 1);
            }
            Completion::Again(_, ticket) => {
                self.complete(now, request, ticket, Outcome::Cancelled, asked + 1);
            }
        }
    }

    fn decide(&mut self, now: Instant, request: Request, store: Option<bool>, decision: &Decision) {
        let Request { subject, life, region, node } = request;
        let met = &self.subjects.all[subject].met;
        let charged = met
            .iter()
            .zip(&decision.limits)
            .filter(|(_, verdict)| decision.allowed && verdict.allowed)
            .map(|(met, verdict)| Charge {
                key: met.key_in(region),
                label: verdict.label,
                cost: verdict.cost,
            });
        let charges: Vec<Charge> = charged.collect();
        let first = charges.first().map_or(0, |charge| charge.label.0);
        self.note(3, (node as u64) << 1 | u64::from(decision.allowed), first);
        for charge in &charges {
            self.ledger.admitted(charge.key, charge.label, charge.cost);
        }
        let count = &mut self.counts[region];
        count.admitted += u64::from(decision.allowed);
        count.refused += u64::from(!decision.allowed);
        count.without_store += u64::from(store.is_none());
        let seen = Seen::Answered { life, store, allowed: decision.allowed, charges: &charges };
        self.panel.see(now, &seen);
        self.schedule_wake(now, node);
    }

    // -- frames

    /// Sets a node's timer to what its engine wants.
    fn schedule_wake(&mut self, now: Instant, node: usize) {
        let Some(life) = &mut self.nodes[node].life else { return };
        let at = life.next_wake(now);
        if at < life.wake_at {
            life.wake_at = at;
            self.queue.push(at, Event::Wake { node, life: life.number });
        }
    }

    fn wake(&mut self, now: Instant, node: usize, life: usize) {
        let Some(awake) = self.nodes[node].life.as_mut().filter(|l| l.number == life) else {
            return;
        };
        if awake.wake_at != now {
            return; // an earlier ring has replaced this one
        }
        awake.wake_at = Instant(u64::MAX);
        let mono = awake.mono(now);
        awake.engine.handle_timeout(mono);
        while let Some(life) = &self.nodes[node].life
            && let Some((to, bytes)) = life.engine.poll_frame(mono)
        {
            self.send(now, node, life.number, &to, &bytes);
        }
        self.schedule_wake(now, node);
    }

    fn send(&mut self, now: Instant, node: usize, life: usize, to: &Session, bytes: &[u8]) {
        self.note(4, node as u64, bytes.len() as u64);
        self.trace.bytes(bytes);
        let slots = self.read(life, bytes);
        match &slots {
            Some(slots) => self.panel.see(now, &Seen::Sent { from: life, slots }),
            None => self.panel.see(now, &Seen::Strange { from: life }),
        }
        let Some(peer) = self.nodes.iter().position(|other| other.id == to.id) else { return };
        let at = self.network.between(node, peer);
        let link = self.network.link(at);
        // A frame for a session that is no more goes nowhere.
        let current = self.nodes[peer].life.as_ref().is_some_and(|life| life.session == *to);
        if !link.up || !current {
            return;
        }
        let epoch = link.epoch;
        for arrival in self.network.send(node, peer, bytes.len(), now).into_iter().flatten() {
            let flight = Flight {
                link: at,
                epoch,
                from: node,
                to: peer,
                bytes: bytes.to_vec(),
                slots: slots.clone(),
            };
            let frame = self.flights.insert(flight);
            self.queue.push(arrival, Event::Frame { frame });
        }
    }

    /// Reads a frame as the checkers see it; `None` if there is anything strange about it.
    fn read(&self, sender: usize, bytes: &[u8]) -> Option<Vec<SlotSeen>> {
        let lives = &self.panel.book().lives;
        let told = frames::slots_of(bytes)?;
        told.into_iter()
            .map(|slot| {
                let life = match &slot.of {
                    Some(session) => *self.sessions.get(session)?,
                    None => sender,
                };
                let key = self.subjects.key_index(&slot.key, lives[life].region)?;
                Some(SlotSeen { life, key, label: slot.label, tally: slot.tally })
            })
            .collect()
    }

    fn deliver(&mut self, now: Instant, frame: usize) {
        let Some(flight) = self.flights.remove(frame) else { return };
        self.note(5, flight.from as u64, flight.to as u64);
        let link = self.network.link(flight.link);
        if !link.up || link.epoch != flight.epoch {
            return;
        }
        let (Some(from), Some(to)) = (&self.nodes[flight.from].life, &self.nodes[flight.to].life)
        else {
            return;
        };
        let taken = to.engine.handle_frame(to.mono(now), &from.session, &flight.bytes);
        let (from, to) = (from.number, to.number);
        if let (Ok(()), Some(slots)) = (taken, &flight.slots) {
            self.panel.see(now, &Seen::Delivered { from, to, slots });
        }
        self.note(6, u64::from(taken.is_ok()), 0);
        self.schedule_wake(now, flight.to);
    }

    // -- links

    fn dial(&mut self, now: Instant, link: usize) {
        let ends = self.network.link(link).ends;
        if self.network.link(link).up {
            return;
        }
        let alive = ends.iter().all(|end| self.nodes[*end].life.is_some());
        if alive && self.network.is_whole(link, now) {
            // A handshake takes a round trip and a half.
            let trip = self.network.round_trip(link);
            let epoch = self.network.link(link).epoch;
            let at = now + trip + trip.divided_by(2);
            self.queue.push(at, Event::Connected { link, epoch });
        } else if alive {
            self.queue.push(now + REDIAL, Event::Dial { link });
        }
        // Without both ends there is nobody to dial: a start does.
    }

    fn connect(&mut self, now: Instant, at: usize, epoch: u64) {
        let link = self.network.link(at);
        if link.up || link.epoch != epoch {
            return;
        }
        if !self.network.is_whole(at, now) {
            self.queue.push(now + REDIAL, Event::Dial { link: at });
            return;
        }
        self.note(7, at as u64, epoch);
        let link = self.network.link(at);
        link.up = true;
        link.epoch += 1;
        let (ends, believes) = (link.ends, link.believes);
        for (side, (end, other)) in [(ends[0], ends[1]), (ends[1], ends[0])].into_iter().enumerate()
        {
            let (Some(life), Some(peer)) = (&self.nodes[end].life, &self.nodes[other].life) else {
                continue;
            };
            let mono = life.mono(now);
            if believes[side].is_some_and(|believed| believed != peer.number)
                && let Some(session) = self.session_of(believes[side])
            {
                life.engine.handle_disconnected(mono, session);
            }
            // A session that is refused tells nothing and is told nothing: the checkers will see.
            let taken = life.engine.handle_connected(mono, &peer.session);
            let number = peer.number;
            self.note(8, end as u64, u64::from(taken.is_ok()));
            self.network.link(at).believes[side] = Some(number);
            self.schedule_wake(now, end);
        }
    }

    fn session_of(&self, life: Option<usize>) -> Option<&Session> {
        self.sessions.iter().find(|(_, number)| Some(**number) == life).map(|(session, _)| session)
    }

    fn begin_cut(&mut self, now: Instant, cut: usize) {
        let cut = self.scenario.topology.cuts[cut];
        for link in self.network.between_regions(cut.from, cut.to) {
            let epoch = self.network.link(link).epoch;
            self.queue.push(now + SILENCE_MAX, Event::Silence { link, epoch, since: now });
        }
    }

    /// Breaks a link over which nothing can have passed since `since`, in at least one direction.
    fn fall_silent(&mut self, now: Instant, at: usize, epoch: u64, since: Instant) {
        let [a, b] = self.network.link(at).ends.map(|end| self.nodes[end].region);
        let lasts = self.scenario.topology.cuts.iter().any(|cut| {
            let here = (cut.from, cut.to) == (a, b) || (cut.from, cut.to) == (b, a);
            here && cut.start <= since && now < cut.end
        });
        let link = self.network.link(at);
        if link.epoch != epoch {
            return; // another connection by now
        }
        if link.up && lasts {
            self.network.break_link(at);
            self.forget_peers(now, at);
            self.queue.push(now + REDIAL, Event::Dial { link: at });
        } else if !link.up {
            self.forget_peers(now, at); // a dead end has been missed for long enough
        }
    }

    /// Tells both ends of a link that the other is gone.
    fn forget_peers(&mut self, now: Instant, at: usize) {
        self.note(9, at as u64, 0);
        let (ends, believes) = {
            let link = self.network.link(at);
            (link.ends, std::mem::take(&mut link.believes))
        };
        for (end, believed) in ends.into_iter().zip(believes) {
            if let (Some(life), Some(session)) = (&self.nodes[end].life, self.session_of(believed))
            {
                life.engine.handle_disconnected(life.mono(now), session);
                self.schedule_wake(now, end);
            }
        }
    }

    // -- nodes

    fn start(&mut self, now: Instant, node: usize) {
        let number = self.panel.book().lives.len();
        self.note(10, node as u64, number as u64);
        let clock = self.scenario.schedule.cluster_time(now);
        let started = &mut self.nodes[node];
        let region = started.region;
        let session = started.start(number, self.scenario.gossip, now, clock, self.seed);
        self.sessions.insert(session, number);
        self.panel.see(now, &Seen::Started(LifeFacts { node, region, since: now }));
        for link in self.network.of_node(node) {
            self.queue.push(now, Event::Dial { link });
        }
        self.schedule_wake(now, node);
    }

    fn stop(&mut self, now: Instant, restart: usize) {
        let restart = self.scenario.restarts[restart];
        let node = restart.node;
        let Some(life) = self.nodes[node].life.take() else { return };
        let store_lost = restart.store == StoreFate::Lost;
        self.note(11, node as u64, u64::from(store_lost));
        if store_lost {
            self.stores[self.nodes[node].region].lose_memory();
        }
        for at in self.network.of_node(node) {
            self.network.break_link(at);
            let link = self.network.link(at);
            let side = usize::from(link.ends[1] == node);
            link.believes[side] = None;
            let epoch = link.epoch;
            self.queue.push(now + SILENCE_MAX, Event::Silence { link: at, epoch, since: now });
        }
        self.examine(now, &life);
        self.panel.see(now, &Seen::Stopped { life: life.number, store_lost });
        self.queue.push(now + restart.down, Event::Start { node });
    }

    // -- upkeep and observation

    /// At the end of a life: tells what its engine found broken.
    fn examine(&mut self, now: Instant, life: &Life) {
        for (invariant, times) in life.engine.stats().broken {
            self.panel.see(now, &Seen::Broken { life: life.number, invariant, times });
        }
    }

    fn sweep(&mut self, now: Instant) {
        let time = self.store_time(now);
        self.stores.iter_mut().for_each(|store| store.sweep(time, SWEEP_BUDGET));
        self.queue.push(now + SWEEP, Event::Sweep);
    }

    /// Views every node's counts: now and then under load, often in quiet.
    fn sample(&mut self, now: Instant) {
        let schedule = &self.scenario.schedule;
        let true_time = schedule.cluster_time(now);
        let last = schedule.cluster_time(Instant(schedule.load_end.0 - 1));
        let within = schedule.converge_within();
        let mut regions = vec![Counts::default(); self.counts.len()];
        for key in 0..self.subjects.keys.len().min(WATCHED_MAX) {
            let facts = &self.subjects.keys[key];
            // Merges into a window end with the next one: a short one is over before counts converge.
            if self.quiet && facts.window.length() < within {
                continue;
            }
            let label = facts.window.label_at(if self.quiet { last } else { true_time });
            for node in &self.nodes {
                let Some(life) = &node.life else { continue };
                if facts.region.is_some_and(|only| only != node.region) {
                    continue;
                }
                view(&self.scenario.topology, life, facts.key, label, &mut regions);
                let life = life.number;
                self.panel.see(now, &Seen::Viewed { life, key, label, regions: &regions });
            }
        }
        self.panel.see(now, &Seen::Sampled);
        // Once they agree it is enough to see now and then that they still do.
        let impatient = self.quiet && self.panel.converged_after().is_none();
        let pause = if impatient { QUIET_SAMPLE } else { self.scenario.gossip };
        if self.quiet || now + pause < schedule.load_end {
            self.queue.push(now + pause, Event::Sample);
        }
    }
}

/// What a node knows of a key, region by region.
fn view(
    topology: &crate::topology::Topology,
    life: &Life,
    key: tidegate_core::ids::Key,
    label: Label,
    regions: &mut [Counts],
) {
    regions.fill(Counts::default());
    for (name, tally) in life.engine.regions_of(key, label) {
        if let Some(region) = topology.region(name.as_str()) {
            regions[region] = regions[region].plus(tally.counts);
        }
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
